"""A file without an end, named by an option or a variable, is an error and takes no memory."""

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from repot.user_files import MAX_BYTES, read_user_file
from tests.integration.kfp_api.command_line import run_repot

LOCATIONS = ("gs://pictures", "--storage-uri", "gs://repot/here")
HOST = ("--host", "http://127.0.0.1:9")
TOO_LONG = f"it must have at most {MAX_BYTES:,} bytes; it has more"


@pytest.fixture(autouse=True)
def limited_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Allow one more gibibyte, so that a regression fails instead of filling the machine."""
    for name in [name for name in os.environ if name.startswith(("KF_", "STORAGE_", "GOOGLE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    used_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used_bytes + (1 << 30), hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.mark.parametrize(
    ("arguments", "variables", "message"),
    [
        (("submit", *LOCATIONS), {"KUBECONFIG": "/dev/zero"}, f"/dev/zero: {TOO_LONG}"),
        (
            ("doctor",),
            {"KUBECONFIG": "/dev/zero"},
            f"kubeconfig /dev/zero cannot be read: {TOO_LONG}",
        ),
        (
            ("predict", "gs://bucket/model", "x.jpg"),
            {"GOOGLE_APPLICATION_CREDENTIALS": "/dev/zero"},
            f"GOOGLE_APPLICATION_CREDENTIALS must name a key file; got /dev/zero: {TOO_LONG}",
        ),
        (
            ("submit", *LOCATIONS, *HOST, "--iap-client-id", "client"),
            {"GOOGLE_APPLICATION_CREDENTIALS": "/dev/zero"},
            f"Cannot get an identity token for the proxy: /dev/zero: {TOO_LONG}",
        ),
        (
            ("submit", *LOCATIONS, *HOST, "--token-file", "/dev/zero"),
            {},
            "SA_TOKEN_PATH) must name a readable file of 1 byte to 1 MiB; got /dev/zero",
        ),
        (
            ("submit", *LOCATIONS, *HOST, "--ca-file", "/dev/zero"),
            {},
            "--ca-file must name a readable file of 1 byte to 1 MiB; got /dev/zero",
        ),
        (
            ("submit", *LOCATIONS, *HOST, "--params", "/dev/zero"),
            {},
            f"The parameter file /dev/zero must be readable YAML or JSON; {TOO_LONG}",
        ),
        (
            ("submit", *LOCATIONS, "--dry-run", "--prices", "/dev/zero"),
            {},
            f"The price table /dev/zero must be readable; {TOO_LONG}",
        ),
    ],
)
def test_endless_file_is_an_error(
    arguments: tuple[str, ...],
    variables: dict[str, str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    result = run_repot(*arguments)

    assert result.exit_code in (1, 2)
    assert message in " ".join((result.errors + result.output).split())


@pytest.mark.parametrize(("size", "is_read"), [(9, True), (10, True), (11, False)])
def test_longest_file_is_read(tmp_path: Path, size: int, is_read: bool) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * size)

    if is_read:
        assert read_user_file(path, 10) == b"x" * size
    else:
        with pytest.raises(OSError, match="it must have at most 10 bytes; it has more"):
            read_user_file(path, 10)
