"""Read PICTURES, whatever it is: detect the format from the content, and list the pictures.

A location is a folder or a file. A file is an archive, a manifest or a TFRecord shard. A folder
contains label folders, or metadata files of Hugging Face, or tar files in the WebDataset format, or
TFRecord shards. An archive that is not in the WebDataset format is read like a folder.
"""

import dataclasses
import gzip
import io
import re
import unicodedata
from array import array
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Literal, cast

from repot import file_formats, progress, storage
from repot.errors import NoBucketError, UsageError
from repot.file_parts import read_part
from repot.manifest import Rejection, Split
from repot.planner.file_table import FileTable, FoundFile
from repot.planner.folders import (
    PICTURE_SUFFIXES,
    assign_labels,
    find_split_folders,
    is_system_file,
)
from repot.planner.inputs import archives, tfrecords, webdataset
from repot.planner.inputs.inventory import CandidatePicture, Inventory, PictureTable
from repot.planner.inputs.manifests import ManifestFormat, manifest_format, read_manifest_rows
from repot.planner.inputs.problems import WrongRows
from repot.planner.inputs.rows import FoundContent, Row, find_pictures, keep_useful_columns
from repot.planner.inputs.stored_file import read_head
from repot.planner.inputs.tables import decode_text, read_file_text
from repot.planner.listing import PictureRoots, check_folder, list_root
from repot.records import BOX_EDGES, Box

_ShardKind = Literal["tfrecord", "tar", "gzip", "bzip2", "xz"]

_HEAD_BYTES = 1 << 16
_METADATA_NAMES = ("metadata.csv", "metadata.jsonl")
# Files at the top of a folder whose content is looked at, at most.
_MAX_PROBES = 8
_WORD = re.compile(r"[a-z]+")
_SPLIT_WORDS: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "val": "validation",
    "valid": "validation",
    "test": "test",
}
_FOLDER_FORMATS = ("folders", "huggingface", "webdataset", "tfrecord")
_WHAT_IT_MAY_BE = (
    "PICTURES must be a folder of label folders, a zip or tar file of one, a manifest (CSV or JSON "
    "Lines), WebDataset tar files, or TFRecord shards"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadOptions:
    """How PICTURES is read.

    Attributes:
        input_format: One of `repot.settings.INPUT_FORMATS`; "auto" detects it.
        listed_labels: The lines of the labels file; None uses all labels.
        nested: Whether files in subfolders of a label folder belong to the label.
        crop_to_boxes: Whether one picture may have boxes of several labels.
        listings_uri: Folder of cached listings; None disables the cache.
        unpacked_uri: Folder for archives that must be unpacked; "" refuses them.
    """

    input_format: str = "auto"
    listed_labels: Sequence[str] | None = None
    nested: bool = False
    crop_to_boxes: bool = False
    listings_uri: str | None = None
    unpacked_uri: str = ""


@dataclass(kw_only=True, slots=True)
class _Content:
    """What the locations contain: files that their folders label, and pictures with labels."""

    files: FileTable = field(default_factory=FileTable)
    empty_folders: list[str] = field(default_factory=list)
    candidates: PictureTable = field(default_factory=PictureTable)
    named: dict[FoundContent, tuple[int, str]] = field(default_factory=dict)
    rejected: list[Rejection] = field(default_factory=list)
    class_ids: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    texts: dict[str, str] = field(default_factory=dict)
    has_boxes: bool = False
    is_split_by_name: bool = False


def read_inventory(roots: PictureRoots, options: ReadOptions) -> Inventory:
    """Return every picture with its label, and every other file with why it is left out.

    Raises:
        UsageError: A location is missing or empty, or is none of the formats, or rows of a manifest
            are wrong; all of this is reported at once.
        StorageError: Something cannot be read.
    """
    content = _Content()
    problems: list[str] = []
    for prefix, uri in roots.folders.items():
        try:
            _read_root(content, prefix, uri, options)
        except UsageError as err:
            problems += err.problems
    if problems:
        raise UsageError(problems)
    return _to_inventory(content, options)


def check_location(uri: str) -> None:
    """Check that there is a file, or a folder with a file in it.

    Raises:
        UsageError: There is none.
        StorageError: The location cannot be looked up.
    """
    if _find_file(uri) is None:
        check_folder(uri)


def _to_inventory(content: _Content, options: ReadOptions) -> Inventory:
    inventory = assign_labels(
        content.files.sorted(),
        listed_labels=options.listed_labels,
        empty_folders=sorted(content.empty_folders),
        nested=options.nested,
    )
    labelled = content.candidates
    keep_useful_columns(labelled)
    if content.is_split_by_name and set(labelled.splits) == {"train"}:
        # As a folder train/ alone is no split: there is nothing to validate on.
        labelled.splits = labelled.splits.replace(lambda _: "")
    labelled, rejected = _select_listed(labelled, options.listed_labels)
    pictures = inventory.candidates or labelled
    if inventory.candidates and labelled:
        pictures.extend(labelled)
    num_unsplit = sum(not split for split in pictures.splits)
    if 0 < num_unsplit < len(pictures):
        progress.notice(
            "plan",
            f"{num_unsplit} of {len(pictures)} pictures have no split and are split like pictures "
            "of an input without splits. State a split for all of them to decide it yourself.",
            is_warning=True,
        )
    return dataclasses.replace(
        inventory,
        is_split=num_unsplit == 0 if labelled else inventory.is_split,
        candidates=pictures.sorted(),
        rejected=tuple(
            sorted([*inventory.rejected, *content.rejected, *rejected], key=lambda each: each.path)
        ),
        has_folders=not content.candidates,
        label_order=_label_order(content),
        texts=content.texts,
        has_boxes=content.has_boxes or bool(labelled.boxes),
    )


def _select_listed(
    pictures: PictureTable, listed_labels: Sequence[str] | None
) -> tuple[PictureTable, list[Rejection]]:
    """Return the pictures whose labels are listed, and rejections of the others.

    A label that is a number and not listed stands for the line with that number, counted from 0, as
    classes are in SageMaker and WebDataset.
    """
    if listed_labels is None:
        return pictures, []
    known = set(listed_labels)

    def named(label: str) -> str:
        is_number = label not in known and label.isdecimal() and int(label) < len(listed_labels)
        return listed_labels[int(label)] if is_number else label

    pictures.labels = pictures.labels.replace(named)
    selected, rejected = array("Q"), []
    for number, label in enumerate(pictures.labels):
        if label in known:
            selected.append(number)
            continue
        path, split = pictures.files.paths[number], pictures.splits[number]
        rejected.append(Rejection(path=path, label=label, split=split, reason="label_not_listed"))
    return pictures.take(selected) if rejected else pictures, rejected


def _label_order(content: _Content) -> tuple[str, ...]:
    """Return the labels by their class ids in the shards, if each has one of its own."""
    if not content.class_ids or len(content.files):
        return ()
    ids = {label: min(numbers) for label, numbers in content.class_ids.items()}
    is_unique = all(len(numbers) == 1 for numbers in content.class_ids.values())
    if not is_unique or len(set(ids.values())) < len(ids):
        progress.notice(
            "plan",
            "The shards number their labels differently; they are numbered again, by name.",
            is_warning=True,
        )
        return ()
    return tuple(sorted(ids, key=lambda label: ids[label]))


def _read_root(content: _Content, prefix: str, uri: str, options: ReadOptions) -> None:
    """Add what one location contains."""
    info = _find_file(uri)
    if info is not None:
        _read_file(content, prefix, info, options)
        return
    listing = list_root(prefix, uri)
    if options.input_format not in ("auto", *_FOLDER_FORMATS):
        raise UsageError(
            f"With input_format={options.input_format}, PICTURES must be a file; {uri} is a folder."
            " Give the manifest in it."
        )
    _read_tree(content, prefix, uri, listing.files, options)
    content.empty_folders += listing.empty_folders


def _find_file(uri: str) -> storage.ObjectInfo | None:
    """Return the file at a location; None if it is a folder, or nothing."""
    is_bucket = not storage.is_local(uri) and uri.count("/") < 3
    if is_bucket or uri.endswith("/"):
        return None
    try:
        info = storage.stat(uri)
    except NoBucketError:
        return None  # listing the folder reports it
    # An object store can have both, such as a folder and its placeholder.
    return None if info is not None and info.size_bytes == 0 and _is_folder(uri) else info


def _is_folder(uri: str) -> bool:
    return any(isinstance(entry, storage.ObjectInfo) for entry in storage.scan_folder(uri))


def _read_file(
    content: _Content, prefix: str, info: storage.ObjectInfo, options: ReadOptions
) -> None:
    """Add what a file contains: an archive, shard or manifest."""
    head = read_head(info, _HEAD_BYTES)
    kind = archives.archive_kind(head)
    if kind == "gzip" and archives.archive_kind(inner := _gunzip_head(head)) != "tar":
        head, kind = inner, None
    wanted = options.input_format
    if kind and wanted in ("auto", "folders", "webdataset", "huggingface"):
        _read_archive(content, prefix, info, kind, options)
    elif wanted == "tfrecord" or (wanted == "auto" and tfrecords.is_tfrecord(head)):
        _read_shard(content, prefix, info, PurePosixPath(info.uri).name, options)
    elif kind or wanted in ("folders", "webdataset"):
        found = f"a {kind} archive" if kind else _describe_head(head)
        raise UsageError(
            f"{info.uri} must have input_format={wanted}; it is {found}. Choose another "
            "--input-format, or auto."
        )
    else:
        text_format = (
            _detect_manifest(head, info.uri) if wanted == "auto" else cast(ManifestFormat, wanted)
        )
        _read_manifest(content, prefix, info, text_format, options)


def _gunzip_head(head: bytes) -> bytes:
    with gzip.GzipFile(fileobj=io.BytesIO(head)) as file:
        try:
            return file.read1(_HEAD_BYTES)
        except (OSError, EOFError):
            return b""


def _detect_manifest(head: bytes, uri: str) -> ManifestFormat:
    """Return the format of a text file.

    Raises:
        UsageError: It is none that is known.
    """
    if not head:
        raise UsageError(f"{_WHAT_IT_MAY_BE}; {uri} is an empty file. Check the name.")
    named = file_formats.name_format(head)
    if named or head.startswith((b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM")):
        found = named[0] if named else "a single picture"
        raise UsageError(f"{_WHAT_IT_MAY_BE}; {uri} is {found}. Give one of those.")
    text = decode_text(head, uri, is_head=True)
    found_format = manifest_format(text)
    if found_format is None:
        raise UsageError(
            f"{_WHAT_IT_MAY_BE}; {uri} is {_describe_head(head)}. A CSV file must begin with the "
            "names of its columns, path or uri and label among them. If it is another format, name "
            "it with --input-format (setting input_format)."
        )
    return found_format


def _describe_head(head: bytes) -> str:
    first = head.split(b"\n", 1)[0].strip()[:80]
    try:
        return f"a file whose first line is {first.decode()!r}"
    except UnicodeDecodeError:
        return f"a file that begins with the bytes {first[:16].hex(' ')}"


def _read_manifest(
    content: _Content,
    prefix: str,
    info: storage.ObjectInfo,
    text_format: ManifestFormat,
    options: ReadOptions,
) -> None:
    wrong = WrongRows(info.uri)
    rows = read_manifest_rows(read_file_text(info), text_format, info.uri, wrong)
    candidates = find_pictures(
        rows, info.uri, wrong, several_labels=options.crop_to_boxes, named=content.named
    )
    wrong.raise_if_any()
    if not candidates:
        raise UsageError(f"A manifest must name pictures; {info.uri} has no rows. Add some.")
    content.candidates.extend(_with_prefix(candidate, prefix) for candidate in candidates)


def _with_prefix(candidate: CandidatePicture, prefix: str) -> CandidatePicture:
    """Return a picture of a location that is one split, or the picture itself."""
    if not prefix:
        return candidate
    return dataclasses.replace(
        candidate,
        file=dataclasses.replace(candidate.file, path=prefix + candidate.file.path),
        split=cast(Split, prefix.removesuffix("/")),
    )


def _read_archive(
    content: _Content,
    prefix: str,
    info: storage.ObjectInfo,
    kind: archives.ArchiveKind,
    options: ReadOptions,
) -> None:
    members = _list_archive(info, kind, options)
    if not members:
        raise UsageError(f"An archive must contain pictures; {info.uri} is empty. Make it again.")
    wanted = options.input_format
    if wanted == "webdataset" or (wanted == "auto" and webdataset.is_webdataset(members)):
        _read_samples(content, prefix, info.uri, PurePosixPath(info.uri).name, members)
        return
    files = [member.file for member in archives.without_common_folder(members)]
    with_prefix = (dataclasses.replace(file, path=prefix + file.path) for file in files)
    _read_tree(content, prefix, info.uri, FileTable(with_prefix), options)


def _list_archive(
    info: storage.ObjectInfo, kind: archives.ArchiveKind, options: ReadOptions
) -> list[archives.Member]:
    return archives.list_archive(
        info, kind, listings_uri=options.listings_uri, unpacked_uri=options.unpacked_uri
    )


def _read_samples(
    content: _Content, prefix: str, uri: str, name: str, members: Sequence[archives.Member]
) -> None:
    """Add the samples of one tar file in the WebDataset format."""
    wrong = WrongRows(uri, "sample")
    content.is_split_by_name |= not prefix
    split = _prefix_split(prefix) or _split_of_name(name)
    inner = f"{prefix}{name}/"
    within = [
        dataclasses.replace(
            member, file=dataclasses.replace(member.file, path=inner + member.file.path)
        )
        for member in members
    ]
    candidates, rejected = webdataset.read_samples(within, split, wrong)
    wrong.raise_if_any()
    content.candidates.extend(candidates)
    content.rejected += rejected


def _read_shard(
    content: _Content, prefix: str, info: storage.ObjectInfo, name: str, options: ReadOptions
) -> None:
    """Add the pictures of one TFRecord shard."""
    content.is_split_by_name |= not prefix
    split = _prefix_split(prefix) or _split_of_name(name)
    lines = options.listed_labels or ()
    for number, entry in enumerate(tfrecords.list_shard(info, options.listings_uri)):
        class_id = entry["class_id"]
        # A record without a text has only the number of its line in the labels file.
        named = lines[class_id - 1] if 0 < class_id <= len(lines) else str(class_id)
        label = unicodedata.normalize("NFC", (entry["label"] or named).strip())
        content.class_ids[label].add(class_id)
        if "text" in entry:
            content.texts[label] = entry["text"]
        base = PurePosixPath(entry["name"]).name or f"{number}.jpg"
        boxes = entry.get("boxes")
        content.has_boxes |= boxes is not None
        content.candidates.append(
            CandidatePicture(
                file=FoundFile(
                    uri=info.uri,
                    path=f"{prefix}{name}/{number}/{unicodedata.normalize('NFC', base)}",
                    size_bytes=entry["size"],
                    checksum=entry["crc32c"],
                    version=info.version,
                    part=tfrecords.entry_part(entry),
                ),
                label=label,
                split=split,
                boxes=tuple(
                    Box(**dict(zip(BOX_EDGES, edges, strict=True))) for edges in boxes or ()
                ),
            )
        )


def _prefix_split(prefix: str) -> Split | Literal[""]:
    return cast(Split | Literal[""], prefix.removesuffix("/"))


def _split_of_name(name: str) -> Split | Literal[""]:
    """Return the split that the path of a shard names, such as train-00000-of-00128; "" if none."""
    words = _WORD.findall(name.lower())
    splits = {_SPLIT_WORDS[word] for word in words if word in _SPLIT_WORDS}
    return splits.pop() if len(splits) == 1 else ""


def _read_tree(
    content: _Content, prefix: str, uri: str, files: FileTable, options: ReadOptions
) -> None:
    """Add what a folder, or an archive of one, contains."""
    wanted = options.input_format
    metadata = [
        files[number]
        for number, path in enumerate(files.paths if files.paths.mentions("metadata.") else ())
        if path.rpartition("/")[2] in _METADATA_NAMES
    ]
    if wanted in ("auto", "huggingface"):
        formats = [
            (file, found)
            for file in metadata
            if not file.kind and (found := _metadata_format(file))
        ]
        if formats:
            _read_metadata(content, prefix, files, formats)
            return
        if wanted == "huggingface":
            raise UsageError(
                "With input_format=huggingface, a folder must contain metadata.csv or "
                f"metadata.jsonl with file_name; {uri} has none. Choose another --input-format."
            )
    shards = _find_shards(files, wanted)
    if not shards:
        if wanted in ("webdataset", "tfrecord"):
            raise UsageError(
                f"With input_format={wanted}, a folder must contain such files; there is none at "
                f"the top of {uri}. Choose another --input-format, or auto."
            )
        if wanted == "auto" and _read_split_manifests(content, prefix, uri, files, options):
            return
        if content.files:
            content.files.extend(files)
        else:
            content.files = files
        return
    read = {file.path for file, _ in shards}
    content.rejected += [
        Rejection(path=path, label="", split="", reason="outside_labels")
        for path in files.paths
        if path not in read
    ]
    for file, kind in shards:
        info = _to_info(file)
        name = file.path.removeprefix(prefix)
        if kind == "tfrecord":
            _read_shard(content, prefix, info, name, options)
        else:
            _read_samples(content, prefix, info.uri, name, _list_archive(info, kind, options))


def _read_split_manifests(
    content: _Content, prefix: str, uri: str, files: FileTable, options: ReadOptions
) -> bool:
    """Add the pictures of manifests that are named after splits, such as train.lst and test.lst.

    Returns:
        Whether there are such manifests. Label folders come first.

    Raises:
        UsageError: There is a manifest at the top, but it is not named after a split.
    """
    label_folders: set[str] = set()
    for path in files.paths:
        if "/" in path and _has_picture_name(path):
            label_folders.add(path.partition("/")[0])
        if len(label_folders) > 1 or prefix:
            return False
    top = [file for file in _top_files(files) if not _has_picture_name(file.path)][:_MAX_PROBES]
    found = {
        file: text_format
        for file in top
        if "/" not in file.path and (text_format := _probe_manifest(file))
    }
    if not found:
        return False
    splits = {file: _split_of_name(file.path) for file in found}
    if "" in splits.values() or len(set(splits.values())) < max(2, len(found)):
        names = ", ".join(repr(file.path) for file in found)
        raise UsageError(
            f"PICTURES must be the manifest itself, or a folder with one for each split, named "
            f"after it, such as train.csv and validation.csv; {uri} contains {names}. Give the "
            "manifest instead of the folder."
        )
    for file, text_format in found.items():
        _read_manifest(content, f"{splits[file]}/", _to_info(file), text_format, options)
    return True


def _probe_manifest(file: FoundFile) -> ManifestFormat | None:
    """Return the format of a manifest; None if a file is something else."""
    head = read_head(_to_info(file), _HEAD_BYTES)
    try:
        return manifest_format(decode_text(head, file.uri, is_head=True)) if head else None
    except UsageError:
        return None


def _find_shards(files: FileTable, wanted: str) -> list[tuple[FoundFile, _ShardKind]]:
    """Return the shards at the top of a folder, or of its folders for splits, with their kinds.

    Label folders with pictures come first: what lies beside them is left out as ever.
    """
    if wanted == "folders" or (
        wanted == "auto" and any(_has_picture_name(path) and "/" in path for path in files.paths)
    ):
        return []
    shards: list[tuple[FoundFile, _ShardKind]] = []
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


def _top_files(files: FileTable) -> Iterator[FoundFile]:
    for number, path in enumerate(files.paths):
        folder = path.rpartition("/")[0]
        is_top = not folder or ("/" not in folder and folder.lower() in _SPLIT_WORDS)
        if is_top and not is_system_file(path):
            file = files[number]
            if not file.kind and not file.part:
                yield file


def _has_picture_name(path: str) -> bool:
    # Without a path object, which would take seconds for a million files.
    return path[path.rfind(".") :].lower() in PICTURE_SUFFIXES


def _shard_kind(file: FoundFile) -> _ShardKind | None:
    """Return what kind of shard a file is; None if it is none."""
    if _has_picture_name(file.path):
        return None
    head = read_head(_to_info(file), archives.HEAD_BYTES)
    if tfrecords.is_tfrecord(head):
        return "tfrecord"
    kind = archives.archive_kind(head)
    return None if kind is None or kind == "zip" else kind


def _to_info(file: FoundFile) -> storage.ObjectInfo:
    return storage.ObjectInfo(
        uri=file.uri, size_bytes=file.size_bytes, crc32c=file.checksum or None, version=file.version
    )


def _metadata_format(file: FoundFile) -> ManifestFormat | None:
    """Return the format of a metadata file of Hugging Face; None if it is something else."""
    try:
        head = _read_listed(file) if file.part else read_head(_to_info(file), _HEAD_BYTES)
        text = decode_text(head[:_HEAD_BYTES], file.uri, is_head=True)
    except UsageError:
        return None
    found = manifest_format(text)
    return found if found == "huggingface" else None


def _read_listed(file: FoundFile) -> bytes:
    if file.part:
        return read_part(file.uri, file.part, size_bytes=file.size_bytes, version=file.version)
    return storage.read_bytes(file.uri)


def _read_metadata(
    content: _Content,
    prefix: str,
    files: FileTable,
    metadata: Sequence[tuple[FoundFile, ManifestFormat]],
) -> None:
    """Add the pictures that metadata files name, and reject all others."""
    split_folders = find_split_folders(files.paths) if not prefix else {}
    named: set[str] = set()
    for file, text_format in metadata:
        folder = file.path.rpartition("/")[0]
        inner = f"{folder}/" if folder else ""
        listed = {
            path.removeprefix(inner): files[number]
            for number, path in enumerate(files.paths)
            if path.startswith(inner)
        }
        wrong = WrongRows(file.path if file.part else file.uri)
        text = decode_text(_read_listed(file), file.uri)
        rows = [
            _with_folder_split(row, inner, split_folders)
            for row in read_manifest_rows(text, text_format, file.uri, wrong)
        ]
        candidates = find_pictures(rows, file.uri, wrong, listed, named=content.named)
        wrong.raise_if_any()
        named.update(candidate.file.path for candidate in candidates)
        if prefix:
            candidates = [
                dataclasses.replace(each, split=_prefix_split(prefix)) for each in candidates
            ]
        content.candidates.extend(candidates)
    manifests_paths = {file.path for file, _ in metadata}
    content.rejected += [
        Rejection(
            path=path,
            label="",
            split="",
            reason="system_file"
            if path in manifests_paths or is_system_file(path)
            else "not_in_manifest",
        )
        for path in files.paths
        if path not in named
    ]


def _with_folder_split(row: Row, folder: str, split_folders: Mapping[str, Split]) -> Row:
    """Return a row with the split whose folder contains its picture, if it states none."""
    top = (folder + row.name).partition("/")[0]
    return (
        row
        if row.split or top not in split_folders
        else dataclasses.replace(row, split=split_folders[top])
    )
