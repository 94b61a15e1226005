"""Detect what a file or a folder is, from its content: an archive, a manifest, shards.

Only the first bytes of a file are read, and of a folder those of a few files at its top.
"""

import gzip
import io
import itertools
import re
from collections.abc import Iterator
from typing import Literal

from repot import file_formats, storage
from repot.errors import UsageError
from repot.manifest import Split
from repot.planner.file_table import FileTable, FoundFile
from repot.planner.folders import has_picture_name, is_system_file
from repot.planner.inputs import archives, tfrecords
from repot.planner.inputs.manifests import ManifestFormat, manifest_format
from repot.planner.inputs.problems import SPLIT_NAMES
from repot.planner.inputs.stored_file import read_head
from repot.planner.inputs.tables import decode_text

ShardKind = Literal["tfrecord", "tar", "gzip", "bzip2", "xz"]

HEAD_BYTES = 1 << 16
"""Bytes of a text file from which its format is detected."""
# Files at the top of a folder whose content is looked at, at most.
_MAX_PROBES = 8
_PARQUET = b"PAR1"
_WORD = re.compile(r"[a-z]+")
_WHAT_IT_MAY_BE = (
    "PICTURES must be a folder of label folders, a zip or tar file of one, a manifest (CSV or JSON "
    "Lines), WebDataset tar files, or TFRecord shards"
)


def read_start(info: storage.ObjectInfo) -> tuple[bytes, archives.ArchiveKind | None]:
    """Return the first bytes of a file, and what kind of archive it is; None if it is none.

    Those of a text that is compressed with gzip are the first ones of the text.
    """
    head = read_head(info, HEAD_BYTES)
    kind = archives.archive_kind(head)
    if kind == "gzip" and archives.archive_kind(text := _gunzip_head(head)) != "tar":
        return text, None
    return head, kind


def detect_manifest(head: bytes, uri: str) -> ManifestFormat:
    """Return the format of a text file.

    Raises:
        UsageError: It is none that is known.
    """
    if not head.strip(b"\0"):
        raise UsageError(f"{_WHAT_IT_MAY_BE}; {uri} is an empty file. Check the name.")
    if head.startswith(_PARQUET):
        raise UsageError(
            f"{_WHAT_IT_MAY_BE}; {uri} is a Parquet file. Export its pictures, or write its rows "
            "as CSV."
        )
    named = file_formats.name_format(head)
    if named or head.startswith((b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM")):
        found = named[0] if named else "a single picture"
        raise UsageError(f"{_WHAT_IT_MAY_BE}; {uri} is {found}. Give one of those.")
    text = decode_text(head, uri, is_head=True)
    found_format = manifest_format(text)
    if found_format is None and text.lstrip().startswith(("{", "[")):
        raise UsageError(
            f"A manifest in JSON must be JSON Lines, one object per line with path or uri and "
            f"label; {uri} is {describe_head(head)}. Write each picture as a line of its own, such "
            'as {"path": "1.jpg", "label": "cat"}.'
        )
    if found_format is None:
        raise UsageError(
            f"{_WHAT_IT_MAY_BE}; {uri} is {describe_head(head)}. A CSV file must begin with the "
            "names of its columns, path or uri and label among them. If it is another format, name "
            "it with --input-format (setting input_format)."
        )
    return found_format


def describe_head(head: bytes) -> str:
    """Return a few words about a file, by its first bytes, for messages."""
    first = head.split(b"\n", 1)[0].strip()[:80]
    try:
        return f"a file whose first line is {first.decode()!r}"
    except UnicodeDecodeError:
        return f"a file that begins with the bytes {first[:16].hex(' ')}"


def split_of_name(name: str) -> Split | Literal[""]:
    """Return the split that the path of a shard names, such as train-00000-of-00128; "" if none."""
    words = _WORD.findall(name.lower())
    splits = {SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES} - {""}
    return splits.pop() if len(splits) == 1 else ""


def find_shards(files: FileTable, wanted: str) -> list[tuple[FoundFile, ShardKind]]:
    """Return the shards at the top of a folder, or of its folders for splits, with their kinds.

    Label folders with pictures come first: what lies beside them is left out as ever.
    """
    if wanted == "folders" or (
        wanted == "auto" and any(has_picture_name(path) and "/" in path for path in files.paths)
    ):
        return []
    shards: list[tuple[FoundFile, ShardKind]] = []
    for number, file in enumerate(_top_files(files)):
        kind = _shard_kind(file)
        if kind and wanted in ("auto", "tfrecord" if kind == "tfrecord" else "webdataset"):
            shards.append((file, kind))
        if number + 1 >= _MAX_PROBES and not shards:
            break
    kinds = {kind == "tfrecord" for _, kind in shards}
    if len(kinds) > 1:
        names = [
            next(file.path for file, kind in shards if (kind == "tfrecord") == is_tfrecord)
            for is_tfrecord in (True, False)
        ]
        raise UsageError(
            f"A folder must contain either TFRecord shards or tar files; got {names[0]!r} and "
            f"{names[1]!r}. Name one of the two with --input-format, tfrecord or webdataset."
        )
    return shards


def find_split_manifests(
    files: FileTable, uri: str
) -> dict[Split, tuple[FoundFile, ManifestFormat]]:
    """Return the manifests that are named after splits, such as train.lst and test.lst.

    Label folders come first: beside several of them, there are none. A folder that is named like a
    split and directly contains pictures is no label folder here.

    Raises:
        UsageError: There is a manifest at the top, but it is not named after a split.
    """
    label_folders: set[str] = set()
    for path in files.paths:
        folder = path.rpartition("/")[0]
        if folder and folder.lower() not in SPLIT_NAMES and has_picture_name(path):
            label_folders.add(folder.partition("/")[0])
        if len(label_folders) > 1:
            return {}
    found = [
        (split_of_name(file.path), (file, text_format))
        for file in itertools.islice(_top_files(files), _MAX_PROBES)
        if "/" not in file.path and (text_format := _probe_manifest(file))
    ]
    by_split = {split: manifest for split, manifest in found if split}
    if found and len(by_split) < max(2, len(found)):
        names = ", ".join(repr(file.path) for _, (file, _) in found)
        raise UsageError(
            f"PICTURES must be the manifest itself, or a folder with one for each split, named "
            f"after it, such as train.csv and validation.csv; {uri} contains {names}. Give the "
            "manifest instead of the folder."
        )
    return by_split


def to_info(file: FoundFile) -> storage.ObjectInfo:
    """Return a listed file as the storage knows it."""
    return storage.ObjectInfo(
        uri=file.uri, size_bytes=file.size_bytes, crc32c=file.checksum or None, version=file.version
    )


def _gunzip_head(head: bytes) -> bytes:
    with gzip.GzipFile(fileobj=io.BytesIO(head)) as file:
        try:
            return file.read1(HEAD_BYTES)
        except (OSError, EOFError):
            return b""


def _probe_manifest(file: FoundFile) -> ManifestFormat | None:
    """Return the format of a manifest; None if a file is something else."""
    head = read_head(to_info(file), HEAD_BYTES)
    try:
        return manifest_format(decode_text(head, file.uri, is_head=True)) if head else None
    except UsageError:
        return None


def _top_files(files: FileTable) -> Iterator[FoundFile]:
    """Yield the files at the top of a folder, or of its folders for splits, except pictures."""
    for number, path in enumerate(files.paths):
        folder = path.rpartition("/")[0]
        is_top = not folder or SPLIT_NAMES.get(folder.lower(), "") != ""
        if is_top and not has_picture_name(path) and not is_system_file(path):
            file = files[number]
            if not file.kind and not file.part:
                yield file


def _shard_kind(file: FoundFile) -> ShardKind | None:
    """Return what kind of shard a file is; None if it is none."""
    head = read_head(to_info(file), archives.HEAD_BYTES)
    if tfrecords.is_tfrecord(head):
        return "tfrecord"
    kind = archives.archive_kind(head)
    return None if kind is None or kind == "zip" else kind
