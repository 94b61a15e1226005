"""The rows of a manifest, whatever its format, and the pictures that they name.

A picture that is named relatively is looked for from the manifest's folder. Each format turns its
lines into `Row`s; here they are checked together: every picture exists and is named once.
"""

import math
import os
import posixpath
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from stat import S_ISREG
from typing import Literal

from repot import storage
from repot.errors import UsageError
from repot.file_parts import FilePart
from repot.manifest import Split
from repot.planner.file_table import FoundFile
from repot.planner.inputs.inventory import CandidatePicture, PictureTable
from repot.planner.inputs.problems import WrongRows
from repot.records import Box

_NUM_READERS = 16
# Up to this many objects are looked up one by one; for more, their folders are listed.
_MAX_LOOKUPS = 64
# Up to this many folders of a bucket are listed one by one.
_MAX_FOLDERS = 200
# A column with more values than this names single pictures, unless the values are numbers.
_MAX_VALUES = 1000
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
# Azure's names of a file in a datastore. What follows is its path in there.
_DATASTORE = re.compile(r"azureml://.*?/paths/|AmlDatastore://", re.IGNORECASE)
_WINDOWS_PATH = re.compile(r"[A-Za-z]:[\\/]|\\\\")

FoundContent = tuple[str, FilePart | None]
"""What a picture is read from: a file, or a part of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """What one row states.

    Attributes:
        number: Its line number.
        name: The picture, as it is written.
        label, split, group, boxes, columns: See `CandidatePicture`.
    """

    number: int
    name: str
    label: str
    split: Split | Literal[""] = ""
    group: str = ""
    boxes: tuple[Box, ...] = ()
    columns: tuple[tuple[str, str], ...] = ()

    @property
    def where(self) -> str:
        """Return how messages name the row."""
        return f"line {self.number}"


def find_pictures(
    rows: Sequence[Row],
    manifest_uri: str,
    wrong: WrongRows,
    listed: Mapping[str, FoundFile] | None = None,
    *,
    several_labels: bool = False,
    named: dict[FoundContent, tuple[int, str]] | None = None,
) -> list[CandidatePicture]:
    """Return the picture of every row; several rows with boxes of one picture are merged.

    Args:
        rows: The rows.
        manifest_uri: Their file.
        wrong: Collects what is wrong with them.
        listed: The files beside the manifest by their path from its folder, if they are known.
            Then rows name only these.
        several_labels: Whether boxes of one picture may have several labels.
        named: Line number and manifest of the rows that were read before, by the picture that they
            name. A picture that is there already is wrong; others are added.
    """
    names = _resolve_names(rows, manifest_uri, wrong, set(listed) if listed is not None else None)
    merged = _merge(rows, names, wrong, several_labels=several_labels)
    if listed is not None:
        found = {name: listed[name] for name in merged if name in listed}
    else:
        found = _look_up(list(merged), manifest_uri)
    candidates = []
    for name, row in merged.items():
        if name not in found:
            wrong.add(row.where, f"there is no file {name}", number=row.number)
            continue
        if named is not None:
            content = (found[name].uri, found[name].part)
            first = named.setdefault(content, (row.number, manifest_uri))
            if first != (row.number, manifest_uri):
                problem = f"it names the picture of line {first[0]} of {first[1]} again, {row.name}"
                wrong.add(row.where, problem, number=row.number)
                continue
        candidates.append(
            CandidatePicture(
                file=found[name],
                label=row.label,
                split=row.split,
                group=row.group,
                boxes=row.boxes,
                columns=row.columns,
            )
        )
    return candidates


def keep_useful_columns(pictures: PictureTable) -> None:
    """Keep only those columns that can divide the pictures: categories and numbers.

    A column that names or describes each picture is left out: one with more than _MAX_VALUES
    values that are not all numbers.
    """
    values: dict[str, set[str]] = defaultdict(set)
    # Many pictures share one tuple, see `repot.planner.inputs.manifests`.
    distinct = set(pictures.columns.values())
    for columns in distinct:
        for name, value in columns:
            values[name].add(value)
    left_out = {
        name
        for name, found in values.items()
        if len(found) > _MAX_VALUES and not all(map(_is_number, found))
    }
    if not left_out:
        return
    kept = {
        columns: tuple(item for item in columns if item[0] not in left_out) for columns in distinct
    }
    pictures.columns = {
        number: kept[columns] for number, columns in pictures.columns.items() if kept[columns]
    }


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _merge(
    rows: Iterable[Row], names: Iterable[str | None], wrong: WrongRows, *, several_labels: bool
) -> dict[str, Row]:
    """Return one row per picture, by the picture's location."""
    merged: dict[str, Row] = {}
    # The boxes of pictures with several rows: all rows may name one picture.
    boxes: dict[str, dict[Box, None]] = {}
    for row, name in zip(rows, names, strict=True):
        if name is None:
            continue
        first = merged.setdefault(name, row)
        if first is row:
            continue
        known = boxes.setdefault(name, dict.fromkeys(first.boxes))
        if not (row.boxes and first.boxes):
            problem = f"it names the picture of {first.where} again"
        elif not known.keys().isdisjoint(row.boxes):
            problem = f"it names the picture of {first.where} again, with the same box"
        elif (first.split, first.group) != (row.split, row.group):
            problem = f"the picture has another split or group in {first.where}"
        elif first.label != row.label and not several_labels:
            problem = f"the picture has another label, {first.label!r}, in {first.where}"
        else:
            known.update(dict.fromkeys(row.boxes))
            continue
        wrong.add(row.where, problem, number=row.number)
    for name, each in boxes.items():
        merged[name] = replace(merged[name], boxes=tuple(each))
    return merged


def _resolve_names(
    rows: Sequence[Row], manifest_uri: str, wrong: WrongRows, listed: set[str] | None
) -> list[str | None]:
    """Return the location of every row's picture, or its path if the listed files are known."""
    folder_uri = storage.parent(manifest_uri)
    num_skipped: int | None = None
    locations: list[str | None] = []
    for row in rows:
        name = row.name
        if datastore := _DATASTORE.match(name):
            path = name[datastore.end() :]
            if num_skipped is None:
                num_skipped = _folders_to_skip(path, folder_uri, listed)
            name = "/".join(path.split("/")[num_skipped:])
        try:
            locations.append(_resolve(name, folder_uri, is_listed=listed is not None))
        except UsageError as err:
            wrong.add(row.where, str(err), number=row.number)
            locations.append(None)
    return locations


def _folders_to_skip(path: str, folder_uri: str, listed: set[str] | None) -> int:
    """Return how many folders of a path in a datastore lie above the manifest's own folder."""
    parts = path.split("/")
    for count in range(len(parts)):
        inner = "/".join(parts[count:])
        exists = (
            inner in listed
            if listed is not None
            else storage.exists(storage.join(folder_uri, inner))
        )
        if exists:
            return count
    return 0


def _resolve(name: str, folder_uri: str, *, is_listed: bool) -> str:
    """Return the location of a picture.

    Raises:
        UsageError: It cannot be read from here.
    """
    if not name or "\0" in name:
        raise UsageError("it names no picture")
    if _WINDOWS_PATH.match(name):
        raise UsageError(f"the picture {name!r} is on a disk of Windows; use relative paths")
    if _SCHEME.match(name) or name.startswith(("/", "~")):
        if is_listed:
            raise UsageError(f"the picture must be beside the manifest; got {name!r}")
        uri = storage.normalise(name)
        if storage.is_local(uri) and not storage.is_local(folder_uri):
            raise UsageError(
                f"a manifest in a bucket must not name files of a machine; got {name!r}"
            )
        return uri
    if "/" not in name:
        name = name.replace("\\", "/")  # written on Windows
    if is_listed:
        return unicodedata.normalize("NFC", posixpath.normpath(name))
    if storage.is_local(folder_uri):
        return os.path.normpath(folder_uri + "/" + name)
    return _resolve_in_bucket(name, folder_uri)


def _resolve_in_bucket(name: str, folder_uri: str) -> str:
    """Return the object of a relative path; other names in a bucket are literal."""
    parts = name.split("/")
    if not {".", ".."} & set(parts):
        return storage.join(folder_uri, name)
    scheme, _, rest = folder_uri.partition("://")
    bucket, _, folder = rest.partition("/")
    path = posixpath.normpath(posixpath.join(folder, name))
    if path.startswith(".."):
        raise UsageError(f"the picture must be in the manifest's bucket; got {name!r}")
    return f"{scheme}://{bucket}/{path}"


def _look_up(uris: Sequence[str], manifest_uri: str) -> dict[str, FoundFile]:
    """Return the files that exist, by their location."""
    folder = storage.folder_prefix(storage.parent(manifest_uri))
    local = [uri for uri in uris if storage.is_local(uri)]
    found = {uri: info for uri in local if (info := _stat_local(uri))}
    by_bucket: dict[str, list[str]] = defaultdict(list)
    for uri in uris:
        if not storage.is_local(uri):
            scheme, _, rest = uri.partition("://")
            by_bucket[f"{scheme}://{rest.partition('/')[0]}"].append(uri)
    for bucket_uris in by_bucket.values():
        found |= _look_up_objects(bucket_uris)
    return {
        uri: FoundFile(
            uri=uri,
            path=unicodedata.normalize("NFC", uri.removeprefix(folder)),
            size_bytes=info.size_bytes,
            # The same as a listing shows, so that the dataset is the same however it is found: some
            # services have a CRC32C only in the metadata of objects that repot wrote.
            checksum=(info.crc32c if info.has_crc32c else None) or "",
            version=info.version,
            has_crc32c=info.has_crc32c,
            stamp=info.stamp,
        )
        for uri, info in found.items()
    }


def _stat_local(uri: str) -> storage.ObjectInfo | None:
    try:
        status = os.stat(uri)  # noqa: PTH116 (a Path per file doubles the time)
    except OSError:
        return None
    return storage.local_info(uri, status) if S_ISREG(status.st_mode) else None


def _look_up_objects(uris: Sequence[str]) -> dict[str, storage.ObjectInfo]:
    """Return the objects of one bucket that exist; their folders are listed if they are many."""
    if len(uris) <= _MAX_LOOKUPS:
        with ThreadPoolExecutor(_NUM_READERS) as readers:
            infos = readers.map(storage.stat, uris)
            return {uri: info for uri, info in zip(uris, infos, strict=True) if info}
    wanted = set(uris)
    with ThreadPoolExecutor(_NUM_READERS) as readers:
        listings = readers.map(storage.list_objects, _folders_to_list(uris))
        return {info.uri: info for infos in listings for info in infos if info.uri in wanted}


def _folders_to_list(uris: Sequence[str]) -> list[str]:
    """Return folders that together contain all objects, none inside another."""
    folders = sorted({storage.parent(uri) for uri in uris}, key=storage.folder_prefix)
    if len(folders) > _MAX_FOLDERS:
        # Character by character: the last slash in it ends the common folder.
        common = os.path.commonprefix(folders)  # noqa: RUF071
        folders = [storage.parent(f"{common}x")]
    outer: list[str] = []
    for folder in folders:
        if not any(folder.startswith(storage.folder_prefix(each)) for each in outer[-1:]):
            outer.append(folder)
    return outer
