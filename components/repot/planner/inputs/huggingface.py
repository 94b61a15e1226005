"""Hugging Face imagefolder: folders whose metadata files name the pictures in them.

    metadata.csv     or metadata.jsonl, in the folder itself or in any folder below it; `file_name`
                     is the path of a picture from there
    train/<...>      pictures of a split, if the rows state none

A picture that no metadata file names is left out.
Source: https://huggingface.co/docs/datasets/image_dataset.
"""

import bisect
import dataclasses
from collections.abc import Mapping, Sequence

from repot import storage
from repot.errors import UsageError
from repot.file_parts import read_part
from repot.manifest import Rejection, Split
from repot.planner.file_table import FileTable, FoundFile
from repot.planner.folders import find_split_folders, is_system_file
from repot.planner.inputs.detect import HEAD_BYTES, to_info
from repot.planner.inputs.inventory import CandidatePicture
from repot.planner.inputs.manifests import manifest_format, read_manifest_rows
from repot.planner.inputs.problems import WrongRows
from repot.planner.inputs.rows import FoundContent, Row, find_pictures
from repot.planner.inputs.stored_file import read_head
from repot.planner.inputs.tables import decode_text

_METADATA_NAMES = ("metadata.csv", "metadata.jsonl")


def find_metadata(files: FileTable) -> list[FoundFile]:
    """Return the metadata files in a folder, at any depth."""
    if not files.paths.mentions("metadata."):
        return []
    return [
        files[number]
        for number, path in enumerate(files.paths)
        if path.rpartition("/")[2] in _METADATA_NAMES
        and number not in files.kinds
        and _is_metadata(files[number])
    ]


def read_pictures(
    files: FileTable,
    metadata: Sequence[FoundFile],
    named: dict[FoundContent, tuple[int, str]],
    *,
    has_split_folders: bool,
) -> tuple[list[CandidatePicture], list[Rejection]]:
    """Return the pictures that metadata files name, and rejections of all other files.

    Args:
        files: The files of the folder, sorted by path.
        metadata: The metadata files among them.
        named: See `repot.planner.inputs.rows.find_pictures`.
        has_split_folders: Whether train/, validation/ and test/ in the folder are splits.

    Raises:
        UsageError: Rows are wrong.
        StorageError: A file cannot be read.
    """
    split_folders = find_split_folders(files.paths) if has_split_folders else {}
    candidates: list[CandidatePicture] = []
    for file in metadata:
        folder = file.path.rpartition("/")[0]
        inner = f"{folder}/" if folder else ""
        wrong = WrongRows(file.path if file.part else file.uri)
        text = decode_text(_read(file), file.uri)
        rows = [
            _with_folder_split(row, inner, split_folders)
            for row in read_manifest_rows(text, "huggingface", file.uri, wrong)
        ]
        beside = _files_below(files, inner)
        candidates += find_pictures(rows, file.uri, wrong, beside, named=named)
        wrong.raise_if_any()
    metadata_paths = {file.path for file in metadata}
    named_paths = {candidate.file.path for candidate in candidates}
    rejected = [
        Rejection(
            path=path,
            label="",
            split="",
            reason="system_file"
            if path in metadata_paths or is_system_file(path)
            else "not_in_manifest",
        )
        for path in files.paths
        if path not in named_paths
    ]
    return candidates, rejected


def _is_metadata(file: FoundFile) -> bool:
    """Return whether a file with the name of a metadata file is one."""
    try:
        head = _read(file) if file.part else read_head(to_info(file), HEAD_BYTES)
        text = decode_text(head[:HEAD_BYTES], file.uri, is_head=True)
    except UsageError:
        return False
    return manifest_format(text) == "huggingface"


def _read(file: FoundFile) -> bytes:
    if file.part:
        return read_part(file.uri, file.part, size_bytes=file.size_bytes, version=file.version)
    return storage.read_bytes(file.uri)


def _files_below(files: FileTable, folder: str) -> dict[str, FoundFile]:
    """Return the files in a folder by their paths from there; `folder` ends with a slash, or is "".

    They follow each other, so that a folder for each label takes no more time than one for all.
    """
    numbers = range(len(files))
    if folder:
        end = f"{folder[:-1]}0"  # "0" is the character after the slash
        first, last = (
            bisect.bisect_left(numbers, border, key=files.paths.__getitem__)
            for border in (folder, end)
        )
        numbers = numbers[first:last]
    return {files.paths[number].removeprefix(folder): files[number] for number in numbers}


def _with_folder_split(row: Row, folder: str, split_folders: Mapping[str, Split]) -> Row:
    """Return a row with the split whose folder contains its picture, if it states none."""
    top = (folder + row.name).partition("/")[0]
    return (
        row
        if row.split or top not in split_folders
        else dataclasses.replace(row, split=split_folders[top])
    )
