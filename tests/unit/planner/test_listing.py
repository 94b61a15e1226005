import contextlib
import os
import socket
import unicodedata
from pathlib import Path

import pytest

from repot import storage
from repot.errors import UsageError
from repot.planner.file_table import FileTable
from repot.planner.inputs.read import ReadOptions, read_inventory
from repot.planner.listing import PictureRoots, find_overlap, list_root

DECOMPOSED = unicodedata.normalize("NFD", "é")
COMPOSED = unicodedata.normalize("NFC", "é")


def _write(folder: Path, *paths: str) -> None:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(path)


def test_files_are_sorted_by_normalised_path(tmp_path: Path) -> None:
    _write(tmp_path, "b/2.jpg", f"{DECOMPOSED}/1.jpg", "b/1.jpg", "b/Z.jpg", "a.txt", "b/c/d.jpg")
    files = list_root("", str(tmp_path)).files
    assert [file.path for file in files] == [
        "a.txt",
        "b/1.jpg",
        "b/2.jpg",
        "b/Z.jpg",
        "b/c/d.jpg",
        f"{COMPOSED}/1.jpg",
    ]
    assert files[-1].uri == f"{tmp_path}/{DECOMPOSED}/1.jpg"
    assert files[0].size_bytes == 5
    assert files[0].checksum == ""


@pytest.mark.parametrize("splits", [("train", "validation"), ("train", "validation", "test")])
def test_roots_of_splits_list_the_same_files_as_their_parent(
    tmp_path: Path, splits: tuple[str, ...]
) -> None:
    for number, split in enumerate(splits):
        _write(tmp_path, f"{split}/a/{number}.jpg", f"{split}/b c/{number}.jpg")
    roots = PictureRoots(**{f"{split}_uri": f"{tmp_path}/{split}" for split in splits})
    together = FileTable()
    for prefix, uri in roots.folders.items():
        together.extend(list_root(prefix, uri).files)
    assert list(together.sorted()) == list(list_root("", str(tmp_path)).files)


@pytest.mark.parametrize(
    ("roots", "message"),
    [
        ({"train_uri": "/a", "validation_uri": "/b", "test_uri": "/b"}, "for validation and test"),
        ({"train_uri": "/a", "validation_uri": "/a"}, "for train and validation"),
        ({"pictures_uri": "/a", "test_uri": "/b"}, "must be in one place"),
        ({"train_uri": "/a", "test_uri": "/b"}, "must be in one place"),
    ],
)
def test_roots_that_are_no_splits_are_a_problem(roots: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        PictureRoots(**roots)


def test_gcs_files_have_checksum_and_generation(gcs: str) -> None:
    storage.write_bytes(f"{gcs}/p/a/{DECOMPOSED}.jpg", b"123456789")
    storage.write_bytes(f"{gcs}/pictures/a/1.jpg", b"")
    (file,) = list_root("", f"{gcs}/p").files
    assert file.path == f"a/{COMPOSED}.jpg"
    assert file.checksum == "e3069283"  # The check value of CRC-32C (Castagnoli).
    assert storage.read_bytes(file.uri, version=file.version) == b"123456789"


def test_missing_and_empty_folders_are_named(tmp_path: Path, gcs: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    cases = {
        f"{tmp_path}/none": "there is no",
        f"{tmp_path}/empty": "is empty",
        f"{tmp_path}/file": "is a file",
        f"{gcs}/none": "nothing under",
    }
    for uri, message in cases.items():
        with pytest.raises(UsageError, match=message) as caught:
            list_root("", uri)
        assert uri in str(caught.value)


def test_all_missing_and_empty_folders_are_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    roots = PictureRoots(train_uri=f"{tmp_path}/none", validation_uri=f"{tmp_path}/empty")
    with pytest.raises(UsageError) as caught:
        read_inventory(roots, ReadOptions())
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_missing_bucket_is_a_usage_error(scheme: str, request: pytest.FixtureRequest) -> None:
    request.getfixturevalue("gcs" if scheme == "gs" else "s3")
    bucket = f"{scheme}://no-such-bucket"
    with pytest.raises(UsageError, match=rf"must exist; .*there is no bucket {bucket}"):
        list_root("", f"{bucket}/pictures")


@pytest.mark.parametrize(
    "uris",
    [
        {},
        {"train_uri": "/t"},
        {"validation_uri": "/v"},
        {"pictures_uri": "/p", "train_uri": "/t"},
        {"pictures_uri": "/p", "train_uri": "/t", "validation_uri": "/v"},
        {"train_uri": "/t", "validation_uri": "/t"},
    ],
)
def test_roots_must_be_one_folder_or_one_per_split(uris: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="must"):
        PictureRoots(**uris)


@pytest.mark.parametrize(
    ("dataset_uri", "is_inside"),
    [("/p", True), ("/p/out/", True), ("/pictures", False), ("/", False), ("gs://p/out", False)],
)
def test_dataset_inside_a_pictures_folder_is_found(dataset_uri: str, is_inside: bool) -> None:
    one = PictureRoots(pictures_uri="/p")
    two = PictureRoots(train_uri="/t", validation_uri="/p")
    assert bool(find_overlap(one, dataset_uri)) is is_inside
    assert bool(find_overlap(two, dataset_uri)) is is_inside


def test_empty_folders_are_listed(tmp_path: Path) -> None:
    _write(tmp_path, "a/1.jpg")
    for folder in (f"{DECOMPOSED}", "b/c/d", "a/sub"):
        (tmp_path / folder).mkdir(parents=True)
    listing = list_root("", str(tmp_path))
    assert listing.empty_folders == ("a/sub", "b/c/d", COMPOSED)
    assert [file.path for file in listing.files] == ["a/1.jpg"]


@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_empty_folders_in_a_bucket_are_listed(scheme: str, request: pytest.FixtureRequest) -> None:
    bucket = request.getfixturevalue("gcs" if scheme == "gs" else "s3")
    for name in ("a/", "a/1.jpg", "pears/", "plums/sub/", "plums.txt", "a/sub/"):
        write_placeholder(f"{bucket}/p/{name}")
    write_placeholder(f"{bucket}/p/")
    listing = list_root("", f"{bucket}/p")
    assert listing.empty_folders == ("a/sub", "pears", "plums/sub")
    assert [file.path for file in listing.files] == ["a/1.jpg", "plums.txt"]


def write_placeholder(uri: str) -> None:
    """Write an empty object under a name that may end with a slash, as consoles do."""
    storage.write_bytes(uri, b"")


def test_special_files_are_listed_and_not_opened(tmp_path: Path) -> None:
    _write(tmp_path, "a/1.jpg")
    os.mkfifo(tmp_path / "a" / "pipe.jpg")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "a" / "self").symlink_to("self")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as unix_socket, contextlib.chdir(tmp_path):
        unix_socket.bind("socket")
    listing = list_root("", str(tmp_path))
    assert {file.path: file.kind for file in listing.files} == {
        "a/1.jpg": "",
        "a/loop": "a link to a folder that contains it",
        "a/pipe.jpg": "a named pipe",
        "a/self": "",  # a file that cannot be read, like any broken link
        "socket": "a socket",
        "zero.jpg": "a device",
    }
