"""Read PICTURES, whatever it is, and list the pictures with their labels.

A location is a folder or a file. A file is an archive, a manifest or a TFRecord shard. A folder
contains label folders, or metadata files of Hugging Face, or tar files in the WebDataset format, or
TFRecord shards, or a manifest for each split. An archive that is not in the WebDataset format is
read like a folder. `repot.planner.inputs.detect` tells them apart; each has a module of its own.
"""

import dataclasses
from array import array
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Literal, cast

from repot import progress, storage
from repot.errors import NoBucketError, UsageError
from repot.manifest import SPLITS, Rejection, Split
from repot.planner.file_table import FileTable, FoundFile
from repot.planner.folders import assign_labels
from repot.planner.inputs import archives, detect, huggingface, tfrecords, webdataset
from repot.planner.inputs.inventory import CandidatePicture, Inventory, PictureTable
from repot.planner.inputs.manifests import ManifestFormat, read_manifest_rows
from repot.planner.inputs.problems import WrongRows
from repot.planner.inputs.rows import FoundContent, find_pictures, keep_useful_columns
from repot.planner.inputs.stored_file import read_head
from repot.planner.inputs.tables import read_file_text
from repot.planner.listing import PictureRoots, check_folder, list_root

_FOLDER_FORMATS = ("folders", "huggingface", "webdataset", "tfrecord")


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
    # Some splits may be folders, and others manifests: then only a part has files of folders.
    split_folders: dict[str, Split] | None = None
    if not roots.pictures_uri:
        split_folders = {split: split for split in SPLITS}
    return _to_inventory(content, options, split_folders)


def check_location(uri: str) -> None:
    """Check that there is a file, or a folder with a file in it.

    Raises:
        UsageError: There is none.
        StorageError: The location cannot be looked up.
    """
    if _find_file(uri) is None:
        check_folder(uri)


def _to_inventory(
    content: _Content, options: ReadOptions, split_folders: Mapping[str, Split] | None
) -> Inventory:
    inventory = assign_labels(
        content.files.sorted(),
        listed_labels=options.listed_labels,
        empty_folders=sorted(content.empty_folders),
        nested=options.nested,
        split_folders=split_folders,
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
        label_order=_label_order(content.class_ids, set(pictures.labels)),
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


def _label_order(
    class_ids: Mapping[str, Collection[int]], labels: Collection[str]
) -> tuple[str, ...]:
    """Return the labels by their class ids in the shards, if each has one of its own.

    Args:
        class_ids: The class ids of each label in shards; empty if no input is a shard.
        labels: The labels of all pictures, of which other inputs may have more.
    """
    if not class_ids:
        return ()
    ids = {label: min(numbers) for label, numbers in class_ids.items()}
    is_unique = all(len(numbers) == 1 for numbers in class_ids.values())
    if not is_unique or len(set(ids.values())) < len(ids) or ids.keys() != labels:
        progress.notice(
            "plan",
            "The shards number their labels differently, or not all of them; they are numbered "
            "again, by name.",
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
    head, kind = detect.read_start(info)
    wanted = options.input_format
    if kind and wanted in ("auto", "folders", "webdataset", "huggingface"):
        _read_archive(content, prefix, info, kind, options)
    elif tfrecords.is_tfrecord(head) and archives.archive_kind(read_head(info, 2)):
        raise UsageError(
            f"A TFRecord shard must not be compressed; {info.uri} is, with gzip. Unpack it with "
            "gunzip."
        )
    elif wanted == "tfrecord" or (wanted == "auto" and tfrecords.is_tfrecord(head)):
        _read_shard(content, prefix, info, PurePosixPath(info.uri).name, options)
    elif kind or wanted in ("folders", "webdataset"):
        found = f"a {kind} archive" if kind else detect.describe_head(head)
        raise UsageError(
            f"{info.uri} must have input_format={wanted}; it is {found}. Choose another "
            "--input-format, or auto."
        )
    else:
        text_format = cast(ManifestFormat, wanted)
        if wanted == "auto":
            text_format = detect.detect_manifest(head, info.uri)
        _read_manifest(content, prefix, info, text_format, options)


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


def _read_manifests(
    content: _Content,
    manifests: Mapping[Split, tuple[FoundFile, ManifestFormat]],
    options: ReadOptions,
) -> None:
    """Add the pictures of one manifest for each split; what is wrong is reported at once."""
    problems: list[str] = []
    for split, (file, text_format) in manifests.items():
        try:
            _read_manifest(content, f"{split}/", detect.to_info(file), text_format, options)
        except UsageError as err:
            problems += err.problems
    if problems:
        raise UsageError(problems)


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
    _read_tree(content, prefix, info.uri, FileTable(with_prefix).sorted(), options)


def _list_archive(
    info: storage.ObjectInfo, kind: archives.ArchiveKind, options: ReadOptions
) -> list[archives.Member]:
    return archives.list_archive(
        info, kind, listings_uri=options.listings_uri, unpacked_uri=options.unpacked_uri
    )


def _read_tree(
    content: _Content, prefix: str, uri: str, files: FileTable, options: ReadOptions
) -> None:
    """Add what a folder, or an archive of one, contains; the files are sorted by path."""
    wanted = options.input_format
    if wanted in ("auto", "huggingface"):
        if metadata := huggingface.find_metadata(files):
            _read_huggingface(content, prefix, files, metadata)
            return
        if wanted == "huggingface":
            raise UsageError(
                "With input_format=huggingface, a folder must contain metadata.csv or "
                f"metadata.jsonl with file_name; {uri} has none. Choose another --input-format."
            )
    if shards := detect.find_shards(files, wanted):
        _read_shards(content, prefix, files, shards, options)
        return
    if wanted in ("webdataset", "tfrecord"):
        raise UsageError(
            f"With input_format={wanted}, a folder must contain such files; there is none at "
            f"the top of {uri}. Choose another --input-format, or auto."
        )
    is_searched = wanted == "auto" and not prefix
    if is_searched and (manifests := detect.find_split_manifests(files, uri)):
        _read_manifests(content, manifests, options)
        return
    if content.files:
        content.files.extend(files)
    else:
        content.files = files


def _read_huggingface(
    content: _Content, prefix: str, files: FileTable, metadata: Sequence[FoundFile]
) -> None:
    """Add the pictures that metadata files name."""
    candidates, rejected = huggingface.read_pictures(
        files, metadata, content.named, has_split_folders=not prefix
    )
    content.rejected += rejected
    if prefix:
        split = _prefix_split(prefix)
        candidates = [dataclasses.replace(each, split=split) for each in candidates]
    content.candidates.extend(candidates)


def _read_shards(
    content: _Content,
    prefix: str,
    files: FileTable,
    shards: Sequence[tuple[FoundFile, detect.ShardKind]],
    options: ReadOptions,
) -> None:
    """Add the pictures of TFRecord shards or WebDataset tar files, and reject other files."""
    read = {file.path for file, _ in shards}
    content.rejected += [
        Rejection(path=path, label="", split="", reason="outside_labels")
        for path in files.paths
        if path not in read
    ]
    for file, kind in shards:
        info = detect.to_info(file)
        name = file.path.removeprefix(prefix)
        if kind == "tfrecord":
            _read_shard(content, prefix, info, name, options)
        else:
            _read_samples(content, prefix, info.uri, name, _list_archive(info, kind, options))


def _read_samples(
    content: _Content, prefix: str, uri: str, name: str, members: Sequence[archives.Member]
) -> None:
    """Add the samples of one tar file in the WebDataset format."""
    wrong = WrongRows(uri, "sample")
    content.is_split_by_name |= not prefix
    split = _prefix_split(prefix) or detect.split_of_name(name)
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
    found = tfrecords.read_shard(
        info,
        path=f"{prefix}{name}",
        split=_prefix_split(prefix) or detect.split_of_name(name),
        listed_labels=options.listed_labels or (),
        listings_uri=options.listings_uri,
    )
    for picture in found:
        label = picture.candidate.label
        content.candidates.append(picture.candidate)
        content.class_ids[label].add(picture.class_id)
        content.has_boxes |= picture.has_boxes
        if picture.text:
            content.texts[label] = picture.text


def _prefix_split(prefix: str) -> Split | Literal[""]:
    return cast(Split | Literal[""], prefix.removesuffix("/"))
