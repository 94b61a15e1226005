"""List the files in a zip or tar file, each with where its bytes are and their checksum.

Nothing is extracted: a member is a range of the archive, which any builder reads by itself. A
compressed tar has no such ranges, so it is unpacked once, to an uncompressed tar in the storage.

Archives are untrusted. Names are only labels and names in messages; absolute ones and those with
".." are errors. The sizes that a zip file declares are limits for decompression, its members must
not overlap (one compressed block could stand for thousands of files), and a compressed tar may not
grow beyond MAX_EXPANSION.
"""

import bz2
import dataclasses
import gzip
import io
import itertools
import lzma
import struct
import tarfile
import tempfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

from repot import layout, storage
from repot.errors import UsageError, convert_disk_errors, join_names
from repot.file_parts import FilePart, Method, inflate
from repot.picture_result import MAX_FILE_BYTES
from repot.planner.checksums import file_state
from repot.planner.file_table import FoundFile
from repot.planner.folders import is_system_file
from repot.planner.inputs.stored_file import cached_index, open_stored
from repot.planner.inputs.webdataset import sidecar_label
from repot.progress import ProgressCounter

ArchiveKind = Literal["zip", "tar", "gzip", "bzip2", "xz"]

HEAD_BYTES = 512
"""How many bytes `archive_kind` needs."""
MAX_EXPANSION = 200
"""A compressed tar may be this many times larger when it is unpacked. Photographs do not shrink;
drawings as BMP shrink to a fiftieth."""

_SIGNATURES: dict[bytes, ArchiveKind] = {
    b"PK\3\4": "zip",
    b"PK\5\6": "zip",
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
}
_TAR_MAGIC = (257, b"ustar")
_TAR_BLOCK_BYTES = 512
_BLOCK_BYTES = 1 << 20
# Source: APPNOTE.TXT 6.3.10 of PKWARE, 4.3.7.
_LOCAL_HEADER = struct.Struct("<4sHHHHHIIIHH")
_ENCRYPTED = 0x1
_ZIP_METHODS: dict[int, Method] = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflated"}
_MAX_MEMBERS = 20_000_000

_Entry = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """A file in an archive.

    Attributes:
        file: The file.
        sidecar_label: The label that it states for a picture with its name, see
            `repot.planner.inputs.webdataset`; None if it states none.
    """

    file: FoundFile
    sidecar_label: str | None


def archive_kind(head: bytes) -> ArchiveKind | None:
    """Return what kind of archive begins with these bytes; None if it is none."""
    start, magic = _TAR_MAGIC
    if head[start : start + len(magic)] == magic:
        return "tar"
    return next((kind for mark, kind in _SIGNATURES.items() if head.startswith(mark)), None)


def list_archive(
    info: storage.ObjectInfo,
    kind: ArchiveKind,
    *,
    listings_uri: str | None,
    unpacked_uri: str,
) -> list[Member]:
    """Return every file in an archive.

    Args:
        info: The archive.
        kind: What `archive_kind` returned.
        listings_uri: Folder of cached listings; None disables the cache.
        unpacked_uri: Folder for an archive that must be unpacked first.

    Raises:
        UsageError: The archive is damaged, encrypted, a bomb, or has unsafe names.
        StorageError: It cannot be read, or cannot be unpacked.
    """
    if kind not in ("zip", "tar"):
        info = _unpack(info, kind, unpacked_uri)
    read = _read_zip if kind == "zip" else _read_tar
    entries = cached_index(info, "archive", listings_uri, lambda: list(read(info)))
    # A file that was added again replaces the earlier one, as when the archive is unpacked.
    entries = list({entry["name"]: entry for entry in entries}.values())
    _check_names(info.uri, entries)
    return [
        Member(file=_found_file(info, entry), sidecar_label=entry.get("label")) for entry in entries
    ]


def without_common_folder(members: list[Member]) -> list[Member]:
    """Return the members without a top folder that only wraps the label folders.

    It is removed if it is the only folder, and contains label folders: archives are often made of
    the folder itself instead of what is in it.
    """
    paths = [member.file.path for member in members]
    tops = {path.partition("/")[0] for path in paths if "/" in path and not is_system_file(path)}
    if len(tops) != 1 or not any(path.count("/") >= 2 for path in paths):
        return members
    (top,) = tops

    def inner(file: FoundFile) -> FoundFile:
        return dataclasses.replace(file, path=file.path.removeprefix(f"{top}/"))

    return [dataclasses.replace(member, file=inner(member.file)) for member in members]


def _found_file(info: storage.ObjectInfo, entry: _Entry) -> FoundFile:
    return FoundFile(
        uri=info.uri,
        path=entry["name"],
        size_bytes=entry["size"],
        checksum=entry["crc32c"],
        version=info.version,
        kind=entry.get("kind", ""),
        part=FilePart(
            offset=entry["offset"], num_bytes=entry["stored"], method=entry.get("method", "stored")
        ),
    )


def _check_names(uri: str, entries: list[_Entry]) -> None:
    unsafe = [
        entry["name"]
        for entry in entries
        if entry["name"].startswith("/") or ".." in entry["name"].split("/")
    ]
    if unsafe:
        raise UsageError(
            "An archive must have relative names without '..'; "
            f"got {join_names(map(repr, unsafe), 3)} in {uri}. Make it again, from the folder that "
            "contains the label folders."
        )


def _entry(name: str, *, part: FilePart, size: int, data: bytes | None, kind: str = "") -> _Entry:
    """Return the index entry of a member; `data` is None if it was not read."""
    entry: _Entry = {
        "name": unicodedata.normalize("NFC", name.removeprefix("./")),
        "offset": part.offset,
        "stored": part.num_bytes,
        "size": size,
        # A member that is too large to be read is rejected by its size, whatever its checksum.
        "crc32c": "00000000" if data is None else storage.crc32c_hex(data),
    }
    if part.method != "stored":
        entry["method"] = part.method
    if kind:
        entry["kind"] = kind
    label = None if data is None else sidecar_label(name, data)
    if label is not None:
        entry["label"] = label
    return entry


def _read_zip(info: storage.ObjectInfo) -> Iterator[_Entry]:
    with open_stored(info) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                members = [each for each in archive.infolist() if not each.is_dir()]
        except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error) as err:
            raise _damaged(info.uri, "zip", str(err)) from err
        members.sort(key=lambda member: member.header_offset)
        _check_members(info.uri, members)
        has_slashes = any("/" in member.filename for member in members)
        counter = ProgressCounter("read archive", len(members), unit="files")
        for member in members:
            # Some programs for Windows write backslashes.
            name = member.filename if has_slashes else member.filename.replace("\\", "/")
            yield _read_zip_member(file, info.uri, member, name)
            counter.add()


def _check_members(uri: str, members: list[zipfile.ZipInfo]) -> None:
    """Check that the members of a zip file can be read one by one, without a surprise in size."""
    if encrypted := [each.filename for each in members if each.flag_bits & _ENCRYPTED]:
        raise UsageError(
            f"An archive must not be encrypted; got {join_names(map(repr, encrypted), 3)} in {uri}."
            " Make it again without a password."
        )
    if rare := [each.filename for each in members if each.compress_type not in _ZIP_METHODS]:
        raise UsageError(
            "The files of a zip archive must be stored or compressed with deflate; "
            f"got {join_names(map(repr, rare), 3)} in {uri}. Make it again with another program."
        )
    for member, following in itertools.pairwise(members):
        end = member.header_offset + _LOCAL_HEADER.size + member.compress_size
        if following.header_offset < end:
            raise UsageError(
                f"The files of an archive must not overlap; got {member.filename!r} and "
                f"{following.filename!r} in {uri}. Make it again; such an archive may be an attack."
            )


def _read_zip_member(file: BinaryIO, uri: str, member: zipfile.ZipInfo, name: str) -> _Entry:
    file.seek(member.header_offset)
    header = file.read(_LOCAL_HEADER.size)
    if len(header) < _LOCAL_HEADER.size or not header.startswith(b"PK\3\4"):
        raise _damaged(uri, "zip", f"{member.filename!r} has no header")
    # The lengths may differ from those in the central directory.
    name_length, extra_length = _LOCAL_HEADER.unpack(header)[-2:]
    part = FilePart(
        offset=member.header_offset + _LOCAL_HEADER.size + name_length + extra_length,
        num_bytes=member.compress_size,
        method=_ZIP_METHODS[member.compress_type],
    )
    if max(member.file_size, member.compress_size) > MAX_FILE_BYTES:
        return _entry(name, part=part, size=member.file_size, data=None)
    file.seek(part.offset)
    stored = file.read(part.num_bytes)
    data = stored if part.method == "stored" else inflate(stored, member.file_size)
    if len(data) != member.file_size or zlib.crc32(data) != member.CRC:
        raise _damaged(uri, "zip", f"{member.filename!r} does not match its checksum")
    return _entry(name, part=part, size=len(data), data=data)


def _read_tar(info: storage.ObjectInfo) -> Iterator[_Entry]:
    parts: dict[str, _Entry] = {}
    counter = ProgressCounter("read archive", info.size_bytes >> 20, unit="MiB")
    num_read = 0
    with open_stored(info) as file:
        try:
            with tarfile.open(fileobj=file, mode="r:") as archive:
                for member in archive:
                    if member.isdir():
                        continue
                    entry = _read_tar_member(file, member, parts)
                    parts[member.name] = entry
                    yield entry
                    counter.add((file.tell() >> 20) - num_read)
                    num_read = file.tell() >> 20
                    # tarfile keeps every member that it has read.
                    archive.members.clear()  # type: ignore[attr-defined]
                    if len(parts) > _MAX_MEMBERS:
                        raise _damaged(info.uri, "tar", f"it has more than {_MAX_MEMBERS:,} files")
                end = archive.offset
        except (tarfile.TarError, EOFError, ValueError) as err:
            raise _damaged(info.uri, "tar", str(err)) from err
        # tarfile takes a damaged header for the end of the archive.
        file.seek(end)
        if file.read(_TAR_BLOCK_BYTES).strip(b"\0"):
            raise _damaged(info.uri, "tar", f"the header at byte {end} is not valid")


def _read_tar_member(file: BinaryIO, member: tarfile.TarInfo, earlier: dict[str, _Entry]) -> _Entry:
    nowhere = FilePart(offset=0, num_bytes=0)
    if member.islnk() and member.linkname in earlier:
        # A file with two names on the disk has its content under the first one.
        name = unicodedata.normalize("NFC", member.name.removeprefix("./"))
        return {**earlier[member.linkname], "name": name}
    if not member.isreg() or member.issparse():
        kind = "a sparse file" if member.isreg() else _tar_kind(member)
        return _entry(member.name, part=nowhere, size=0, data=b"", kind=kind)
    part = FilePart(offset=member.offset_data, num_bytes=member.size)
    if member.size > MAX_FILE_BYTES:
        return _entry(member.name, part=part, size=member.size, data=None)
    file.seek(part.offset)
    data = file.read(part.num_bytes)
    if len(data) < part.num_bytes:
        raise EOFError(f"it ends in the middle of {member.name!r}")
    return _entry(member.name, part=part, size=member.size, data=data)


def _tar_kind(member: tarfile.TarInfo) -> str:
    if member.issym() or member.islnk():
        return "a link to a file that is not in the archive as such"
    return "a named pipe" if member.isfifo() else "a device"


def _unpack(info: storage.ObjectInfo, kind: ArchiveKind, unpacked_uri: str) -> storage.ObjectInfo:
    """Return an uncompressed copy of a compressed tar file in the storage, made at first use."""
    if not unpacked_uri:
        raise UsageError(
            f"A compressed tar file must be unpacked before it is read here; got {info.uri}. "
            "Give an uncompressed tar file, or the folder."
        )
    state = file_state(info.uri, info.version)
    name = layout.content_id([info.uri, info.size_bytes, state.text if state else ""])
    uri = storage.join(unpacked_uri, f"{name}.tar")
    unpacked = storage.stat(uri)
    if unpacked is not None:
        return unpacked
    with tempfile.TemporaryDirectory(prefix="repot-unpack-") as folder:
        path = Path(folder, "unpacked.tar")
        with convert_disk_errors(Path(folder)), path.open("wb") as target:
            _decompress(info, kind, target)
        return storage.upload(path, uri)


def _decompress(info: storage.ObjectInfo, kind: ArchiveKind, target: BinaryIO) -> None:
    limit = info.size_bytes * MAX_EXPANSION + (1 << 20)
    counter = ProgressCounter("unpack archive", info.size_bytes >> 20, unit="MiB")
    num_bytes, num_read = 0, 0
    with open_stored(info) as file, _decompressor(kind, file) as source:
        try:
            while block := source.read(_BLOCK_BYTES):
                if num_bytes == 0 and archive_kind(block[:HEAD_BYTES]) != "tar":
                    raise UsageError(
                        f"A compressed archive must be a tar file; {info.uri} contains something "
                        "else. Unpack it, and give what is in it."
                    )
                num_bytes += len(block)
                if num_bytes > limit:
                    raise UsageError(
                        f"An archive must not be more than {MAX_EXPANSION} times larger when it is "
                        f"unpacked; {info.uri} is. Unpack it yourself if you trust it, and give "
                        "the folder."
                    )
                target.write(block)
                counter.add((file.tell() >> 20) - num_read)
                num_read = file.tell() >> 20
        except (EOFError, OSError, zlib.error, lzma.LZMAError) as err:
            if isinstance(err, OSError) and err.errno is not None:
                raise
            raise _damaged(info.uri, kind, str(err)) from err


def _decompressor(kind: ArchiveKind, file: BinaryIO) -> io.BufferedIOBase:
    openers: dict[str, Any] = {"gzip": gzip.open, "bzip2": bz2.open, "xz": lzma.open}
    return cast(io.BufferedIOBase, openers[kind](file, "rb"))


def _damaged(uri: str, kind: str, detail: str) -> UsageError:
    return UsageError(f"{uri} must be a complete {kind} archive; {detail}. Copy or make it again.")
