from pathlib import Path

import pytest

from repot import storage
from repot.errors import NotFoundError, StorageError

FILES = {"a.txt": b"a", "b/c d.txt": b"c", "b/e/é.txt": b"", ".hidden": b"h"}


def names_in(folder: str | Path) -> list[str]:
    """Return the names of all that is in a folder, of repot's passing files too."""
    return sorted(path.name for path in Path(folder).iterdir())


def write_files(folder: Path) -> None:
    for name, data in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def read_files(folder: Path) -> dict[str, bytes]:
    uris = [info.uri for info in storage.list_objects(str(folder))]
    return {storage.relative_name(uri, str(folder)): storage.read_bytes(uri) for uri in uris}


def test_folder_goes_up_across_and_down_unchanged(tmp_path: Path) -> None:
    write_files(tmp_path / "here")
    storage.upload_folder(tmp_path / "here", f"{tmp_path}/stored")
    storage.copy_folder(f"{tmp_path}/stored", f"{tmp_path}/copy")
    storage.download_folder(f"{tmp_path}/copy", tmp_path / "there")
    assert read_files(tmp_path / "there") == FILES


def test_copy_leaves_what_is_only_in_the_target(tmp_path: Path) -> None:
    write_files(tmp_path / "here")
    storage.write_bytes(f"{tmp_path}/there/other", b"")
    storage.write_bytes(f"{tmp_path}/there/a.txt", b"old")
    storage.copy_folder(f"{tmp_path}/here", f"{tmp_path}/there")
    assert read_files(tmp_path / "there") == FILES | {"other": b""}


def test_folder_without_files_is_not_found(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("empty", "none"):
        with pytest.raises(NotFoundError, match=f"{tmp_path}/{name} must contain files"):
            storage.copy_folder(f"{tmp_path}/{name}", f"{tmp_path}/there")
        with pytest.raises(NotFoundError):
            storage.upload_folder(tmp_path / name, f"{tmp_path}/there")
        with pytest.raises(NotFoundError):
            storage.download_folder(f"{tmp_path}/{name}", tmp_path / "there")


def test_failure_of_one_file_is_raised(tmp_path: Path) -> None:
    write_files(tmp_path / "here")
    storage.write_bytes(f"{tmp_path}/there/b", b"a file where a folder must be")
    with pytest.raises(StorageError, match=r"there/b/c d\.txt cannot be written"):
        storage.copy_folder(f"{tmp_path}/here", f"{tmp_path}/there")


def test_delete_folder_deletes_links_and_not_what_they_lead_to(tmp_path: Path) -> None:
    write_files(tmp_path / "here")
    storage.write_bytes(f"{tmp_path}/kept/x", b"")
    (tmp_path / "here" / "link").symlink_to(tmp_path / "kept")
    (tmp_path / "alias").symlink_to(tmp_path / "kept")
    for name in ("here", "alias", "none"):
        storage.delete_folder(f"{tmp_path}/{name}")
    assert names_in(tmp_path) == ["kept"]
    assert names_in(tmp_path / "kept") == ["x"]


@pytest.mark.parametrize("uri", ["/", "gs://bucket"])
def test_delete_folder_spares_whole_disks_and_buckets(uri: str) -> None:
    with pytest.raises(StorageError, match="not the whole bucket or disk"):
        storage.delete_folder(uri)
