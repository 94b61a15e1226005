"""The pictures of each shard of a dataset: listed by the planner, read by the shard builders.

    <dataset>/work/<shard>.json.gz   the pictures of one shard, in the order of its records

A work list is compressed JSON with one array per field, and with what all its pictures have in
common stated once: 30 to 40 bytes per picture. Earlier versions wrote work/<shard>.json, with one
object per picture: 274 bytes per picture. They are still read.
"""

import dataclasses
import gzip
import hashlib
import json
import zlib
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from repot import storage
from repot.errors import DataError, NotFoundError
from repot.file_parts import FilePart
from repot.layout import PLAN_NAME, WORK_FOLDER
from repot.manifest import Manifest, Receipt, Split
from repot.records import Box

_COMPRESSION = 1
_ETAG_PREFIX = "etag:"
_NEW_NAMES = {"crc32c": "checksum"}
"""Fields that earlier versions stored under other names."""
_DAMAGES = (TypeError, LookupError, AttributeError, ValueError, OSError, EOFError, zlib.error)
"""What reading a damaged work list raises."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SourcePicture:
    """A picture file that becomes one record.

    Attributes:
        uri: Location of the file.
        path: Path relative to PICTURES.
        label: Name of its class.
        class_id: Number of its class, in 1..N.
        size_bytes: Size when the file was listed.
        checksum: CRC32C of its bytes, 8 hex digits; for an object of a store that has none, what
            `etag_checksum` returns.
        version: Version when the file was listed, see `repot.storage.ObjectInfo`.
        part: Where the picture is in the file; None if it is the whole file. Size and checksum are
            then those of the picture, and the version is that of the file.
        text: What the label means, for people; "" if the label's name says it. If it is not "", the
            record has both.
        boxes: The picture's bounding boxes; None if the record has no features for them.
        crop: The record has only this part of the picture; None for the whole picture.
        group: Names the pictures that no division of train may separate, 32 hex digits; "" if the
            picture may be anywhere.
        columns: What else a manifest states of the picture: names and values of columns, sorted;
            for evaluation, which scores the pictures of each value.
    """

    uri: str
    path: str
    label: str
    class_id: int
    size_bytes: int
    checksum: str
    version: str
    part: FilePart | None = None
    text: str = ""
    boxes: tuple[Box, ...] | None = None
    crop: Box | None = None
    group: str = ""
    columns: tuple[tuple[str, str], ...] = ()

    @property
    def content(self) -> str:
        """Return what identifies the picture's bytes, whatever its name: see `content_key`."""
        return content_key(self.checksum, self.size_bytes, self.crop)


_FIELDS = tuple(field.name for field in dataclasses.fields(SourcePicture))


def content_key(checksum: str, size_bytes: int, crop: Box | None) -> str:
    """Return what identifies a picture by its bytes, and by what it is cropped to.

    It starts with letters and a colon, so that no spreadsheet takes it for a number.

    Args:
        checksum: See `SourcePicture`.
        size_bytes: Size of the picture.
        crop: What it is cropped to.
    """
    if not is_etag_checksum(checksum):
        checksum = f"crc32c:{checksum}"
    content = f"{checksum}:{size_bytes}"
    if not crop:
        return content
    edges = crop.xmin, crop.ymin, crop.xmax, crop.ymax
    return ":".join([content, *(f"{edge:g}" for edge in edges)])


def etag_checksum(version: str) -> str:
    """Return what stands for the CRC32C of an object of s3:// that has none: its ETag.

    An ETag identifies the content: it is the MD5 of an object that was uploaded in one request and
    is not encrypted with a key of its own. Otherwise equal contents may have different ETags, but
    different contents never have equal ones.
    https://docs.aws.amazon.com/AmazonS3/latest/API/API_Object.html
    """
    return f"{_ETAG_PREFIX}{version}"


def is_etag_checksum(checksum: str) -> bool:
    """Return whether a checksum is that of `etag_checksum`, and no CRC32C."""
    return checksum.startswith(_ETAG_PREFIX)


def content_hash(content: str) -> int:
    """Return the place of a picture in the `stable` layout, in [0, 2**64), by its content."""
    return int.from_bytes(hashlib.sha256(content.encode()).digest()[:8])


def stable_shard(place: int, num_shards: int) -> int:
    """Return the index of the shard with a place: each has an equal range of all places."""
    return place * num_shards >> 64


def write_work_list(dataset_uri: str, shard: str, pictures: Sequence[SourcePicture]) -> None:
    """Write the pictures of one shard, in the order of its records."""
    storage.write_bytes(_work_uri(dataset_uri, shard), _encode_work_list(pictures))


def read_work_list(
    dataset_uri: str, shard: str, places: Sequence[int] | None = None
) -> list[SourcePicture]:
    """Read the pictures of one shard, in the order of its records.

    Args:
        dataset_uri: Folder of the dataset.
        shard: Name of the shard.
        places: Return only the pictures at these places; None for all.

    Raises:
        DataError: The shard is not in the plan, or its work list is invalid.
    """
    uri = _work_uri(dataset_uri, shard)
    try:
        return _decode_work_list(storage.read_bytes(uri), places)
    except NotFoundError:
        pictures = _read_old_work_list(dataset_uri, shard)
        return pictures if places is None else [pictures[place] for place in places]
    except _DAMAGES as err:
        raise _invalid_work_list(uri, err) from err


def read_sources(
    dataset_uri: str, manifest: Manifest, split: Split, numbers: Iterable[int]
) -> dict[int, SourcePicture]:
    """Return where examples of a split came from, by their numbers in the order of the shards.

    An example is missing in the result if that is unknown: the work list of its shard is gone, or
    does not tell which of its pictures became records.

    Raises:
        DataError: A work list is invalid.
        StorageError: A work list cannot be read.
    """
    wanted, sources, first = sorted(set(numbers)), {}, 0
    rejected = {rejection.path for rejection in manifest.rejected}
    for receipt in manifest.split_shards(split):
        end = first + receipt.num_records
        inside = wanted[bisect_left(wanted, first) : bisect_left(wanted, end)]
        pictures = read_shard_sources(dataset_uri, receipt, rejected) if inside else None
        if pictures:
            sources.update({n: pictures[n - first] for n in inside})
        first = end
    return sources


def read_shard_sources(
    dataset_uri: str, receipt: Receipt, rejected: Collection[str]
) -> list[SourcePicture] | None:
    """Return where the records of a shard came from, in order; None if that is unknown.

    Args:
        dataset_uri: Folder of the dataset.
        receipt: The shard.
        rejected: Paths of all rejected files, as a set.

    Raises:
        DataError: The work list is invalid.
        StorageError: It cannot be read.
    """
    if not _has_work_list(dataset_uri, receipt.shard):
        return None
    pictures = [
        picture
        for picture in read_work_list(dataset_uri, receipt.shard)
        if picture.path not in rejected
    ]
    return pictures if len(pictures) == receipt.num_records else None


def _read_old_work_list(dataset_uri: str, shard: str) -> list[SourcePicture]:
    """Read a work list of an earlier version of repot: one JSON object per picture."""
    uri = _old_work_uri(dataset_uri, shard)
    try:
        work_list = storage.read_json(uri)
    except NotFoundError as err:
        raise DataError(
            f"A shard must be in the plan; {dataset_uri} has no work list for {shard}."
        ) from err
    try:
        return [_from_old(picture) for picture in work_list["pictures"]]
    except _DAMAGES as err:
        raise _invalid_work_list(uri, err) from err


def _from_old(value: Mapping[str, Any]) -> SourcePicture:
    part, boxes, crop = value.get("part"), value.get("boxes"), value.get("crop")
    fields = {_NEW_NAMES.get(name, name): content for name, content in value.items()}
    typed = {
        "part": FilePart(**part) if part else None,
        "boxes": None if boxes is None else tuple(Box(**box) for box in boxes),
        "crop": Box(**crop) if crop else None,
        "columns": tuple(value.get("columns", {}).items()),
    }
    return SourcePicture(**{**fields, **typed})


def _invalid_work_list(uri: str, problem: Exception) -> DataError:
    return DataError(
        f"{uri} must be a valid work list; got {problem}. Delete it and {PLAN_NAME}, and run again."
    )


def _work_uri(dataset_uri: str, shard: str) -> str:
    return storage.join(dataset_uri, WORK_FOLDER, f"{shard}.json.gz")


def _old_work_uri(dataset_uri: str, shard: str) -> str:
    return storage.join(dataset_uri, WORK_FOLDER, f"{shard}.json")


def _has_work_list(dataset_uri: str, shard: str) -> bool:
    return storage.exists(_work_uri(dataset_uri, shard)) or storage.exists(
        _old_work_uri(dataset_uri, shard)
    )


def _encode_work_list(pictures: Sequence[SourcePicture]) -> bytes:
    """Return the file of a work list; equal lists give equal bytes."""
    arrays = {name: [getattr(picture, name) for picture in pictures] for name in _FIELDS}
    # Most locations are that of the folder and the path in it: the folder is stated once.
    first = pictures[0] if pictures else None
    prefix = first.uri.removesuffix(first.path) if first else ""
    arrays["uri"] = [
        None if picture.uri == prefix + picture.path else picture.uri for picture in pictures
    ]
    arrays["part"] = [part and dataclasses.asdict(part) for part in arrays["part"]]
    arrays["boxes"] = [
        None if boxes is None else [dataclasses.asdict(box) for box in boxes]
        for boxes in arrays["boxes"]
    ]
    arrays["crop"] = [crop and dataclasses.asdict(crop) for crop in arrays["crop"]]
    common = {
        name: values[0]
        for name, values in arrays.items()
        if values and values.count(values[0]) == len(values)
    }
    work_list = {
        "num_pictures": len(pictures),
        "prefix": prefix,
        "common": common,
        "arrays": {name: arrays[name] for name in _FIELDS if name not in common},
    }
    text = json.dumps(work_list, separators=(",", ":"))
    return gzip.compress(text.encode("ascii"), compresslevel=_COMPRESSION, mtime=0)


def _decode_work_list(data: bytes, places: Sequence[int] | None) -> list[SourcePicture]:
    """Return the pictures, or some, of a work list; raise one of _DAMAGES if it is damaged."""
    work_list = json.loads(gzip.decompress(data))
    number, prefix = work_list["num_pictures"], work_list["prefix"]
    if not number:
        return []
    stored: dict[str, list[Any]] = work_list["arrays"]
    if places is not None:
        number = len(places)
        stored = {name: [values[place] for place in places] for name, values in stored.items()}
    stored |= {name: [value] * number for name, value in work_list["common"].items()}
    arrays: dict[str, Any] = {_NEW_NAMES.get(name, name): stored[name] for name in stored}
    arrays["uri"] = [
        prefix + path if uri is None else uri
        for uri, path in zip(arrays["uri"], arrays["path"], strict=True)
    ]
    read: dict[str, Callable[[Any], Any]] = {
        "part": lambda part: part and FilePart(**part),
        "boxes": lambda boxes: None if boxes is None else tuple(Box(**box) for box in boxes),
        "crop": lambda crop: crop and Box(**crop),
        "columns": lambda pairs: tuple((key, text) for key, text in pairs),
    }
    for name in read.keys() & arrays.keys():
        arrays[name] = map(read[name], arrays[name])
    # A field that is not stored has its default: an earlier version did not know it.
    return [
        SourcePicture(**dict(zip(arrays, row, strict=True)))
        for row in zip(*arrays.values(), strict=True)
    ]
