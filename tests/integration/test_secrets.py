"""No planted secret appears in anything that the commands print, write or send."""

import base64
import json
import os
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from repot_pipelines.compiled import find_compiled
from repot_pipelines.local.process import run_in_process
from repot_pipelines.local.run import SAMPLE_FOLDER
from repot_pipelines.local.scratch import scratch_folder
from repot_pipelines.presets import PRESETS
from tests.integration.command_line import repot
from tests.integration.kfp_api.command_line import run_repot
from tests.integration.kfp_api.server import KfpApi
from tests.web_server import WebServer, running_web_server

PASSWORD, SIGNATURE, TOKEN = "planted/pass word", "planted+signature=", "planted-token"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "PLANTEDACCESSKEYID",
    "AWS_SECRET_ACCESS_KEY": "planted-secret/access+key",
    "AWS_SESSION_TOKEN": "planted-session-token",
    "KF_PIPELINES_TOKEN": "planted-server-token",
    "MY_DATABASE_PASSWORD": "planted-database-password",
}
QUERY = urllib.parse.urlencode({"X-Amz-Signature": SIGNATURE, "access_token": TOKEN, "v": "1"})
PRIVATE_KEY = (
    rsa.generate_private_key(public_exponent=65537, key_size=2048)
    .private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    .decode()
)


@pytest.fixture
def web() -> Iterator[WebServer]:
    with running_web_server() as server:
        yield server


@pytest.fixture(autouse=True)
def planted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.chdir(tmp_path)


def signed(url: str) -> str:
    """Return the address with user, password, signature and token."""
    user_info = f"planted-user:{urllib.parse.quote(PASSWORD, safe='')}"
    return f"{url.replace('://', f'://{user_info}@')}?{QUERY}#planted-fragment"


def secret_texts() -> list[str]:
    """Return every form in which a planted secret can appear."""
    lines = [line for line in PRIVATE_KEY.splitlines() if not line.startswith("-")]
    values = [PASSWORD, SIGNATURE, TOKEN, "planted-fragment", *ENVIRONMENT.values(), *lines[:2]]
    basic = base64.b64encode(f"planted-user:{PASSWORD}".encode()).decode()
    quoted = [urllib.parse.quote(value, safe="") for value in values]
    return sorted({*values, *quoted, *map(urllib.parse.quote_plus, values), basic})


def leaks(text: str) -> list[str]:
    return [secret for secret in secret_texts() if secret in text]


def leaking_files(folder: Path) -> list[str]:
    """Return the files below a folder that contain a planted secret."""
    texts = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert texts
    secrets = [secret.encode() for secret in secret_texts()]
    return [str(path) for path, text in texts.items() if any(s in text for s in secrets)]


def run_options(checkpoint: str) -> list[str]:
    return ["run", "--sample", "--checkpoint", checkpoint, "--recipe", "head", "--epochs", "1"]


@pytest.mark.parametrize(
    "options",
    [["--debug"], pytest.param(["--verbose", "--debug"], marks=pytest.mark.slow)],
)
def test_failed_run_shows_no_secret(web: WebServer, tmp_path: Path, options: list[str]) -> None:
    done = repot(*run_options(signed(f"{web.url}/missing.pth")), *options, cwd=tmp_path)

    assert done.returncode == 1
    assert "/missing.pth must be downloaded; the server answered 404" in done.stderr
    assert "Traceback" in done.stderr
    assert leaks(done.stdout + done.stderr) == []
    assert leaking_files(tmp_path) == []
    assert len(web.requests) == 1  # the server got the query
    assert QUERY in web.requests[0]


def test_pictures_at_a_signed_address_are_rejected_without_showing_it(tmp_path: Path) -> None:
    for arguments in (
        ["run", signed("https://host.invalid/pictures")],
        ["run", "--sample", "--storage-uri", signed("https://host.invalid/storage")],
        ["predict", signed("https://host.invalid/model"), "x.jpg"],
        ["doctor", "--storage-uri", signed("https://host.invalid/storage")],
    ):
        done = repot(*arguments, "--debug", cwd=tmp_path)

        assert done.returncode in (1, 2), done.stdout
        assert "host.invalid" in done.stdout + done.stderr
        assert leaks(done.stdout + done.stderr) == []


def test_checkpoint_command_shows_and_stores_no_secret(
    web: WebServer, tmp_path: Path, lite0_weights_uri: str
) -> None:
    url = signed(web.serve("/w.h5", Path(lite0_weights_uri, "weights.h5").read_bytes()))
    options = ["--backbone", "efficientnet_lite0", "--output-directory", "weights", "--debug"]

    wrong = run_repot("checkpoint", url, *options, "--sha256", "0" * 64)
    done = run_repot("checkpoint", url, *options)

    assert wrong.exit_code == 1
    assert "must have SHA-256" in wrong.errors
    assert "Traceback" in wrong.errors
    assert done.exit_code == 0, done.errors
    output = wrong.output + wrong.errors + done.output + done.errors
    assert leaks(output) == []
    assert leaking_files(tmp_path) == []


@pytest.mark.parametrize(
    "command",
    [
        ("submit",),
        ("submit", "--dry-run"),
        ("schedule", "apply", "nightly", "--cron", "0 2 * * *"),
        ("ci", "--skip-sample", "--comment-file", "comment.md"),
    ],
)
@pytest.mark.parametrize("source", ["option", "assignment", "file"])
def test_credentials_in_a_parameter_are_never_sent_to_a_server(
    tmp_path: Path, command: tuple[str, ...], source: str
) -> None:
    url = signed("https://host.invalid/w.h5")
    Path("run.json").write_text(json.dumps({"checkpoint": url}))
    options = {
        "option": ["--checkpoint", url],
        "assignment": ["-p", f"checkpoint={url}"],
        "file": ["--params", "run.json"],
    }[source]
    with KfpApi() as api:
        api.token = ENVIRONMENT["KF_PIPELINES_TOKEN"]
        where = ("gs://pictures", "--storage-uri", "gs://repot/here", "--host", api.address)
        done = run_repot(*command, *where, *options, "--debug")

        assert done.exit_code == 2
        assert "checkpoint must not contain credentials, because Kubeflow Pipelines" in done.errors
        assert "Copy the file to a bucket" in done.errors
        assert "https://***@host.invalid/w.h5" in done.errors
        assert api.changes == []
    Path("run.json").unlink()
    assert leaks(done.output + done.errors) == []
    if command[0] == "ci":
        assert leaking_files(tmp_path) == []


def test_credentials_of_the_server_are_not_shown() -> None:
    with KfpApi() as api:
        address = api.address.replace("://", "://planted-user:planted-token@")
        where = ("gs://pictures", "--storage-uri", "gs://repot/here", "--host", address)

        done = run_repot("submit", *where, "--debug")

    assert leaks(done.output + done.errors) == []


def test_long_query_of_a_checkpoint_gives_a_warning() -> None:
    where = ("gs://pictures", "--storage-uri", "gs://repot/here")
    url = "https://host.invalid/w.h5?" + "r4nd0m-" * 3

    done = run_repot("submit", *where, "--checkpoint", url, "--dry-run")

    assert done.exit_code == 0, done.errors
    assert "warning: checkpoint contains a long query; if it holds a token" in done.errors


def test_rejected_google_key_is_not_shown(
    web: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.serve("/token", b'{"error": "invalid_grant"}', status=400)
    key = {
        "type": "service_account",
        "client_email": "robot@project.iam.gserviceaccount.com",
        "private_key": PRIVATE_KEY,
        "token_uri": f"{web.url}/token",
    }
    key_file = tmp_path / "key.json"
    key_file.write_text(json.dumps(key))
    for variables in (
        {"GOOGLE_APPLICATION_CREDENTIALS": str(key_file)},
        {"REPOT_GOOGLE_KEY": json.dumps({**key, "client_email": None})},
    ):
        with monkeypatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            patch.delenv("STORAGE_EMULATOR_HOST", raising=False)
            done = repot("predict", "gs://bucket-of-nobody/model", "x.jpg", "--debug", cwd=tmp_path)

        assert done.returncode == 1
        assert "Traceback" in done.stderr
        assert leaks(done.stdout + done.stderr) == []


def test_rejected_s3_keys_are_not_shown(
    web: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", web.url)
    train, validation = str(SAMPLE_FOLDER / "train"), str(SAMPLE_FOLDER / "validation")
    labels = tmp_path / "labels.txt"
    labels.write_text("fruit\nmammals\nroadsigns\nvehicles\n")

    done = repot(
        *("shards", "--train-directory", train, "--validation-directory", validation),
        *("--output-directory", "s3://bucket-of-nobody/data", "--labels-file", str(labels)),
        "--debug",
        cwd=tmp_path,
    )

    assert done.returncode in (1, 2)
    assert "s3://bucket-of-nobody" in done.stderr
    assert leaks(done.stdout + done.stderr) == []
    assert leaking_files(tmp_path) == []


@pytest.mark.slow
def test_successful_run_shows_and_stores_no_secret(
    web: WebServer, tmp_path: Path, lite0_weights_uri: str
) -> None:
    url = signed(web.serve("/w.h5", Path(lite0_weights_uri, "weights.h5").read_bytes()))

    done = repot(*run_options(url), cwd=tmp_path)
    picture = str(next((SAMPLE_FOLDER / "validation" / "fruit").iterdir()))
    predicted = repot("predict", "repot-output", picture, "--format", "jsonl", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert predicted.returncode == 0, predicted.stderr
    assert leaks(done.stdout + done.stderr + predicted.stdout + predicted.stderr) == []
    log = tmp_path / "repot-output" / "pipeline.log"
    assert "***@" in log.read_text()  # KFP did print the address
    assert log.stat().st_mode & 0o777 == 0o600
    assert leaking_files(tmp_path) == []

    arguments = {
        **PRESETS["laptop"],
        "recipe": "head",
        "checkpoint": url,
        "epochs": 1,
        "pictures_uri": str(SAMPLE_FOLDER),
        "storage_uri": str(tmp_path / "repot-storage"),
    }
    with scratch_folder() as scratch, (tmp_path / "child.log").open("wb") as child_log:
        result = run_in_process(
            find_compiled(),
            arguments,
            runner="subprocess",
            scratch=scratch,
            log=child_log,
            on_event=lambda _: None,
        )
        assert result.return_code == 0
        # It holds the arguments, in a folder that only the user can read.
        (scratch.path / "request.json").unlink()
        assert scratch.path.stat().st_mode & 0o777 == 0o700
        assert (scratch.path / "artifacts").is_dir()
        assert leaking_files(scratch.path) == []
    assert leaking_files(tmp_path) == []


def test_leak_check_finds_a_leak(tmp_path: Path) -> None:
    (tmp_path / "file").write_text(f"x {urllib.parse.quote_plus(PASSWORD)} y")

    assert leaking_files(tmp_path) == [str(tmp_path / "file")]
    assert leaks(f"user={base64.b64encode(f'planted-user:{PASSWORD}'.encode()).decode()}")
