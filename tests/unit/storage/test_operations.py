"""Text, JSON and folder operations on local files; the backends have their own tests."""

from pathlib import Path

import pytest

from repot import storage
from repot.errors import NotFoundError, StorageError

FILES = {"a.txt": b"a", "b/c d.txt": b"c", "b/e/é.txt": b"", ".hidden": b"h"}


def names_in(folder: str | Path) -> list[str]:
    """Return the names of everything in a folder, repot's hidden files included."""
    return sorted(path.name for path in Path(folder).iterdir())


def write_files(folder: Path) -> None:
    for name, data in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def read_files(folder: Path) -> dict[str, bytes]:
    uris = [info.uri for info in storage.list_objects(str(folder))]
    return {storage.relative_name(uri, str(folder)): storage.read_bytes(uri) for uri in uris}


def test_equal_json_values_give_equal_bytes(tmp_path: Path) -> None:
    uri = f"{tmp_path}/x"
    storage.write_json(uri, {"b": [1, 2.5], "a": "é"})
    assert storage.read_bytes(uri) == b'{\n  "a": "\\u00e9",\n  "b": [\n    1,\n    2.5\n  ]\n}\n'
    assert storage.read_json(uri) == {"a": "é", "b": [1, 2.5]}


@pytest.mark.parametrize("data", [b"", b"{", b'{"a": 1} x', b"\xff{}"])
def test_invalid_json_names_the_file(data: bytes, tmp_path: Path) -> None:
    storage.write_bytes(f"{tmp_path}/x", data)
    with pytest.raises(StorageError, match=f"{tmp_path}/x must be"):
        storage.read_json(f"{tmp_path}/x")


def test_nan_is_rejected_in_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        storage.write_json(f"{tmp_path}/x", float("nan"))
    assert names_in(tmp_path) == []


def test_as_local_file_of_a_local_object_is_the_file_itself(tmp_path: Path) -> None:
    storage.write_bytes(f"{tmp_path}/x", b"1")
    with storage.as_local_file(f"{tmp_path}/x") as path:
        assert path == tmp_path / "x"


def test_folder_is_unchanged_after_upload_copy_and_download(tmp_path: Path) -> None:
    write_files(tmp_path / "source")
    storage.upload_folder(tmp_path / "source", f"{tmp_path}/stored")
    storage.copy_folder(f"{tmp_path}/stored", f"{tmp_path}/copy")
    storage.download_folder(f"{tmp_path}/copy", tmp_path / "target")
    assert read_files(tmp_path / "target") == FILES


def test_copy_folder_keeps_other_files_of_the_target(tmp_path: Path) -> None:
    write_files(tmp_path / "source")
    storage.write_bytes(f"{tmp_path}/target/other", b"")
    storage.write_bytes(f"{tmp_path}/target/a.txt", b"old")
    storage.copy_folder(f"{tmp_path}/source", f"{tmp_path}/target")
    assert read_files(tmp_path / "target") == FILES | {"other": b""}


def test_folder_without_files_raises_not_found_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("empty", "missing"):
        with pytest.raises(NotFoundError, match=f"{tmp_path}/{name} must contain files"):
            storage.copy_folder(f"{tmp_path}/{name}", f"{tmp_path}/target")
        with pytest.raises(NotFoundError):
            storage.upload_folder(tmp_path / name, f"{tmp_path}/target")
        with pytest.raises(NotFoundError):
            storage.download_folder(f"{tmp_path}/{name}", tmp_path / "target")


def test_copy_folder_raises_the_error_of_one_file(tmp_path: Path) -> None:
    write_files(tmp_path / "source")
    storage.write_bytes(f"{tmp_path}/target/b", b"a file where a folder must be")
    with pytest.raises(StorageError, match=r"target/b/c d\.txt cannot be written"):
        storage.copy_folder(f"{tmp_path}/source", f"{tmp_path}/target")


def test_delete_folder_deletes_links_but_not_their_targets(tmp_path: Path) -> None:
    write_files(tmp_path / "folder")
    storage.write_bytes(f"{tmp_path}/kept/x", b"")
    (tmp_path / "folder" / "link").symlink_to(tmp_path / "kept")
    (tmp_path / "alias").symlink_to(tmp_path / "kept")
    for name in ("folder", "alias", "missing"):
        storage.delete_folder(f"{tmp_path}/{name}")
    assert names_in(tmp_path) == ["kept"]
    assert names_in(tmp_path / "kept") == ["x"]


@pytest.mark.parametrize("uri", ["/", "gs://bucket", "s3://bucket"])
def test_delete_folder_rejects_whole_disks_and_buckets(uri: str) -> None:
    with pytest.raises(StorageError, match="not the whole bucket or disk"):
        storage.delete_folder(uri)
