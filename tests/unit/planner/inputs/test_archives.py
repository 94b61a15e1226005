"""Archives: what is in them, where it is, and what is refused."""

import io
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from repot import storage
from repot.errors import DataError, UsageError
from repot.file_parts import read_part
from repot.planner import checksums
from repot.planner.inputs import archives, stored_file
from repot.planner.inputs.inventory import Inventory
from repot.planner.inputs.read import ReadOptions, read_inventory
from repot.planner.listing import PictureRoots
from repot.planner.plan import plan_dataset
from repot.settings import DatasetSettings
from tests.unit.conftest import make_jpeg

FILES = {f"{label}/{number}.jpg": make_jpeg(10 * number) for label in "ab" for number in (1, 2)}


def _inventory(uri: str | Path, unpacked: str | Path = "", listings: str = "") -> Inventory:
    options = ReadOptions(unpacked_uri=str(unpacked), listings_uri=listings or None)
    return read_inventory(PictureRoots(pictures_uri=str(uri)), options)


def _problem(path: Path, unpacked: str | Path = "") -> str:
    with pytest.raises(UsageError) as caught:
        _inventory(path, unpacked)
    return str(caught.value)


def _zip(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def _tar(files: dict[str, bytes], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _contents(inventory: Inventory) -> dict[str, bytes]:
    contents = {}
    for candidate in inventory.candidates:
        file = candidate.file
        assert file.part
        data = read_part(file.uri, file.part, size_bytes=file.size_bytes, version=file.version)
        assert file.checksum == storage.crc32c_hex(data)
        contents[file.path] = data
    return contents


@pytest.mark.parametrize("place", ["local", "gcs", "s3"])
@pytest.mark.parametrize(
    "data", [_zip(FILES), _tar(FILES), _tar(FILES, "w:gz")], ids=["zip", "tar", "tar.gz"]
)
def test_members_are_read_by_range_from_any_store(
    data: bytes, place: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder = str(tmp_path if place == "local" else request.getfixturevalue(place))
    storage.write_bytes(f"{folder}/any name", data)
    inventory = _inventory(f"{folder}/any name", f"{folder}/unpacked")
    assert _contents(inventory) == FILES
    assert {each.file.uri == f"{folder}/any name" for each in inventory.candidates} == {
        not data.startswith(b"\x1f\x8b")
    }


def test_compressed_archive_is_unpacked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.tgz").write_bytes(_tar(FILES, "w:gz"))
    assert "must be unpacked before it is read here" in _problem(tmp_path / "x.tgz")
    first = _inventory(tmp_path / "x.tgz", tmp_path / "unpacked")
    monkeypatch.setattr(archives, "_decompress", lambda *_: pytest.fail("unpacked again"))
    again = _inventory(tmp_path / "x.tgz", tmp_path / "unpacked")
    assert list(again.candidates) == list(first.candidates)


def test_unchanged_archive_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_file, "SETTLED_NS", -3600 * 10**9)
    (tmp_path / "x.zip").write_bytes(_zip(FILES))
    listings = f"{tmp_path}/listings"
    first = _inventory(tmp_path / "x.zip", listings=listings)
    with monkeypatch.context() as patched:
        patched.setattr(archives, "_read_zip", lambda _: pytest.fail("read again"))
        again = _inventory(tmp_path / "x.zip", listings=listings)
        assert list(again.candidates) == list(first.candidates)
    (tmp_path / "x.zip").write_bytes(_zip({**FILES, "a/3.jpg": b"3"}))
    assert len(_inventory(tmp_path / "x.zip", listings=listings).candidates) == 5
    assert checksums.SETTLED_NS > 0


@pytest.mark.parametrize("make", [_zip, _tar])
def test_folder_around_the_labels_is_ignored(
    make: Callable[[dict[str, bytes]], bytes], tmp_path: Path
) -> None:
    files = {f"./flowers/{name}": data for name, data in FILES.items()}
    extra = {
        "flowers/LICENSE.txt": b"text",
        "__MACOSX/flowers/._x": b"",
        "flowers/a/.DS_Store": b"",
        ".DS_Store": b"",
        "README.md": b"text",
    }
    (tmp_path / "x").write_bytes(make({**files, **extra}))
    inventory = _inventory(tmp_path / "x")
    assert _contents(inventory) == FILES
    assert {each.path: each.reason for each in inventory.rejected} == {
        ".DS_Store": "system_file",
        "LICENSE.txt": "outside_labels",
        "README.md": "outside_labels",
        "__MACOSX/flowers/._x": "system_file",
        "a/.DS_Store": "system_file",
    }


@pytest.mark.parametrize("make", [_zip, _tar])
@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/a/passwd", "a/../../x.jpg"])
def test_names_that_leave_the_archive_are_refused(
    name: str, make: Callable[[dict[str, bytes]], bytes], tmp_path: Path
) -> None:
    (tmp_path / "x").write_bytes(make({**FILES, name: b"x"}))
    assert f"must have relative names without '..'; got {name!r}" in _problem(tmp_path / "x")


@pytest.mark.filterwarnings("ignore:Duplicate name")  # of zipfile
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_file_that_was_added_again_replaces_the_earlier_one(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(_zip(FILES) if kind == "zip" else _tar(FILES))
    if kind == "zip":
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("a/1.jpg", b"again")
    else:
        with tarfile.open(path, "a") as tar:
            info = tarfile.TarInfo("./a/1.jpg")
            info.size = 5
            tar.addfile(info, io.BytesIO(b"again"))
    inventory = _inventory(path)
    assert len(inventory.candidates) == len(FILES)
    assert _contents(inventory) == {**FILES, "a/1.jpg": b"again"}


def test_archive_without_label_folders_tells_what_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(_zip({"in.zip": _zip(FILES)}))
    with pytest.raises(DataError, match=r"got none\. In no label folder: 'in\.zip'\. Give"):
        plan_dataset(
            PictureRoots(pictures_uri=f"{tmp_path}/x.zip"),
            dataset_folder=lambda _: f"{tmp_path}/data",
            listings_uri=None,
            settings=DatasetSettings(),
        )


def test_backslashes_of_windows_are_slashes(tmp_path: Path) -> None:
    data = _zip({name.replace("/", "\\"): content for name, content in FILES.items()})
    (tmp_path / "x").write_bytes(data)
    assert set(_contents(_inventory(tmp_path / "x"))) == set(FILES)


def test_links_in_a_tar_file(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x", "w") as archive:
        for name, data in FILES.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for name, kind, target in (
            ("b/hard.jpg", tarfile.LNKTYPE, "a/1.jpg"),
            ("b/soft.jpg", tarfile.SYMTYPE, "/etc/passwd"),
            ("b/pipe.jpg", tarfile.FIFOTYPE, ""),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            archive.addfile(info)
    inventory = _inventory(tmp_path / "x")
    assert _contents(inventory) == {**FILES, "b/hard.jpg": FILES["a/1.jpg"]}
    assert {each.path: each.reason for each in inventory.rejected} == {
        "b/pipe.jpg": "not_a_file",
        "b/soft.jpg": "not_a_file",
    }


def _overlapping() -> bytes:
    """Return a zip file with two names for one compressed file."""
    data = bytearray(_zip({"a/1.jpg": b"x" * 1000, "b/1.jpg": b"x" * 1000}))
    first = data.index(b"PK\1\2")
    second = data.index(b"PK\1\2", first + 4)
    data[second + 42 : second + 46] = data[first + 42 : first + 46]
    return bytes(data)


def _encrypted() -> bytes:
    data = bytearray(_zip(FILES))
    for mark, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.index(mark) + offset] |= 1
    return bytes(data)


def _larger_than_declared() -> bytes:
    """Return a zip file whose member expands to more than it declares."""
    data = bytearray(_zip({"a/1.jpg": bytes(100_000), "b/1.jpg": b"x"}))
    for mark, offset in ((b"PK\3\4", 22), (b"PK\1\2", 24)):
        start = data.index(mark) + offset
        data[start : start + 4] = struct.pack("<I", 1000)
    return bytes(data)


def _broken_header() -> bytes:
    """Return a tar file whose second header is damaged, which tarfile takes for the end."""
    data = bytearray(_tar(FILES))
    second = data.index(b"a/2.jpg")
    data[second + 150] ^= 0xFF
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (_overlapping(), "The files of an archive must not overlap; got 'a/1.jpg' and 'b/1.jpg'"),
        (_encrypted(), "An archive must not be encrypted; got 'a/1.jpg'"),
        (_zip(FILES, zipfile.ZIP_LZMA), "must be stored or compressed with deflate"),
        (_larger_than_declared(), "'a/1.jpg' does not match its checksum"),
        (_zip(FILES)[:-30], "must be a complete zip archive"),
        (_zip(FILES, zipfile.ZIP_STORED).replace(b"JFIF", b"JFIX"), "does not match its checksum"),
        (_tar(FILES)[:1700], "must be a complete tar archive"),
        (_broken_header(), "must be a complete tar archive; the header at byte"),
        (_zip({}), "is empty"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_damaged_and_hostile_archives_are_refused(
    data: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / "x").write_bytes(data)
    assert message in _problem(tmp_path / "x")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (_tar(FILES, "w:gz")[:-20], "must be a complete gzip archive"),
        (_tar(FILES, "w:xz")[:-20], "must be a complete xz archive"),
        (_tar({"a/1.jpg": bytes(20 << 20)}, "w:gz"), "more than 200 times larger"),
    ],
)
def test_damaged_and_hostile_compressed_archives_leave_nothing(
    data: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / "x").write_bytes(data)
    assert message in _problem(tmp_path / "x", tmp_path / "unpacked")
    assert not (tmp_path / "unpacked").exists()


def test_too_large_member_is_listed_but_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "MAX_FILE_BYTES", 50_000)
    for make in (_zip, _tar):
        (tmp_path / "x").write_bytes(make({**FILES, "a/huge.jpg": bytes(60_000)}))
        huge = next(
            each.file
            for each in _inventory(tmp_path / "x").candidates
            if each.file.name == "huge.jpg"
        )
        assert (huge.size_bytes, huge.checksum) == (60_000, "00000000")
