from collections.abc import Iterator
from pathlib import Path

import pytest

from repot import storage
from repot.checkpoint_files import find_files, find_version, is_web
from repot.errors import CheckpointError
from tests.conftest import free_port
from tests.web_server import WebServer, running_web_server


@pytest.fixture
def web() -> Iterator[WebServer]:
    with running_web_server() as server:
        yield server


def names(uri: str | Path) -> list[str]:
    return [Path(found).name for found in find_files(str(uri)).uris]


def touch(folder: Path, *file_names: str) -> None:
    folder.mkdir(exist_ok=True)
    for name in file_names:
        (folder / name).write_bytes(name.encode())


def test_single_file_is_a_checkpoint(tmp_path: Path) -> None:
    touch(tmp_path, "weights.keras")

    assert find_files(str(tmp_path / "weights.keras")).uris == (str(tmp_path / "weights.keras"),)


@pytest.mark.parametrize("name", ["m-1", "m-1.index", "m-1.data-00000-of-00002"])
def test_prefix_or_part_of_a_v2_checkpoint_finds_all_its_files(tmp_path: Path, name: str) -> None:
    touch(
        tmp_path,
        "m-1.index",
        "m-1.data-00000-of-00002",
        "m-1.data-00001-of-00002",
        "m-1.meta",
        "m-10.index",
    )

    assert names(tmp_path / name) == [
        "m-1.data-00000-of-00002",
        "m-1.data-00001-of-00002",
        "m-1.index",
    ]


def test_checkpoint_file_with_an_outdated_absolute_path_finds_the_newest_checkpoint(
    tmp_path: Path,
) -> None:
    touch(tmp_path, "m-1", "m-2.index", "m-2.data-00000-of-00001")
    (tmp_path / "checkpoint").write_text(
        'model_checkpoint_path: "/moved/away/m-2"\nall_model_checkpoint_paths: "/moved/away/m-1"\n'
    )

    assert names(tmp_path) == ["m-2.data-00000-of-00001", "m-2.index"]


def test_folder_written_by_repot_is_its_weights(tmp_path: Path) -> None:
    touch(tmp_path, "weights.h5", "checkpoint.json")

    assert names(tmp_path) == ["weights.h5"]


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ("model_checkpoint_path: 'x'", "must name a checkpoint"),
        ('model_checkpoint_path: "/a/m-3"', "there is no .*/m-3"),
    ],
)
def test_checkpoint_file_without_an_existing_checkpoint_is_an_error(
    tmp_path: Path, state: str, message: str
) -> None:
    (tmp_path / "checkpoint").write_text(state)

    with pytest.raises(CheckpointError, match=message):
        find_files(str(tmp_path))


def test_checkpoint_in_a_bucket_is_found_by_folder_and_by_prefix(gcs: str) -> None:
    for name in ("m-1.index", "m-1.data-00000-of-00001"):
        storage.write_bytes(f"{gcs}/train/{name}", b"x")
    storage.write_text(f"{gcs}/train/checkpoint", 'model_checkpoint_path: "m-1"')

    assert (
        names(f"{gcs}/train")
        == names(f"{gcs}/train/m-1")
        == ["m-1.data-00000-of-00001", "m-1.index"]
    )


def test_find_files_does_not_contact_web_servers() -> None:
    assert find_files("HTTPS://nowhere.invalid/w.h5").uris == ("HTTPS://nowhere.invalid/w.h5",)


def test_version_of_a_file_changes_with_its_content(tmp_path: Path) -> None:
    weights = tmp_path / "w.h5"
    storage.write_bytes(str(weights), b"one")
    first = find_version(str(weights))
    assert first
    assert find_version(str(weights)) == first

    storage.write_bytes(str(weights), b"two")

    assert find_version(str(weights)) not in ("", None, first)


def test_version_of_a_v2_checkpoint_changes_with_any_of_its_objects(gcs: str) -> None:
    storage.write_bytes(f"{gcs}/m/model.ckpt.index", b"i")
    storage.write_bytes(f"{gcs}/m/model.ckpt.data-00000-of-00001", b"one")
    first = find_version(f"{gcs}/m/model.ckpt")

    storage.write_bytes(f"{gcs}/m/model.ckpt.data-00000-of-00001", b"two")

    assert first
    assert find_version(f"{gcs}/m/model.ckpt") not in ("", None, first)


def test_version_of_a_missing_file_is_an_error() -> None:
    with pytest.raises(CheckpointError, match="there is none at /nowhere/w"):
        find_version("/nowhere/w.h5")


@pytest.mark.parametrize(("etag", "expected"), [('"3-abc"', '"3-abc"'), ("", ""), (None, None)])
def test_version_on_the_web_is_the_etag(
    web: WebServer, etag: str | None, expected: str | None
) -> None:
    url = web.serve("/w.h5", b"abc")
    if etag is not None:
        web.etags["/w.h5"] = etag

    assert find_version(url) == expected
    assert not web.requests


def test_version_on_an_unreachable_server_is_unknown() -> None:
    assert find_version(f"http://127.0.0.1:{free_port()}/w.h5") is None


def test_is_web_accepts_http_and_https_only() -> None:
    assert [is_web(uri) for uri in ("http://h/x", "https://h/x", "gs://b/x", "/x")] == [
        True,
        True,
        False,
        False,
    ]
