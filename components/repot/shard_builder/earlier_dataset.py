"""What an earlier dataset in the `stable` layout has of a picture: its record, or a rejection.

A picture is found by its content, in the shard where the hash of its content places it: first in
its own split, then in the others. A few of the shards that a builder needs stay in memory.
"""

import base64
import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from repot import storage
from repot.composition import Places, decode_numbers, find_composition, pack_name, places_in_file
from repot.dataset_plan import read_base
from repot.errors import DataError
from repot.example_digests import DIGEST_BYTES
from repot.json_record import read_record
from repot.layout import RECEIPTS_FOLDER, appearances_name
from repot.manifest import SPLITS, Manifest, Receipt, Rejection, read_manifest, shard_name
from repot.settings import STABLE_LAYOUT
from repot.work_list import SourcePicture, content_hash, read_work_list, stable_shard

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredFile:
    """A file of an earlier dataset with records.

    Attributes:
        uri, rows_uri: The file, and what its pictures look like.
        name: Its name as a pack of this dataset.
        size_bytes: Its size.
    """

    uri: str
    rows_uri: str
    name: str
    size_bytes: int

    def read(self, offset: int, num_bytes: int) -> bytes:
        """Return a range of the file."""
        return storage.read_range(self.uri, offset=offset, num_bytes=num_bytes)


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundRecord:
    """What an earlier dataset has of a picture.

    Attributes:
        shard: The shard that it was in.
        record: Its number there; -1 if it was rejected.
        is_same: Whether the record is the same, not only the picture.
        rejection: Why it was rejected.
    """

    shard: "EarlierShard"
    record: int
    is_same: bool = False
    rejection: Rejection | None = None


@dataclass(kw_only=True, slots=True)
class EarlierShard:
    """A shard of an earlier dataset, and which pictures it has.

    Attributes:
        name: Its name.
        uri: The dataset.
        receipt: Its receipt.
        is_file: Whether it is one file.
        files: The files with its records.
        places: Where they are, [num_records].
        record_bytes, record_crcs, digests: See `Receipt`; [num_records].
        used: Index in the work list of the picture of each record.
        exact: Numbers of the records by what makes them what they are.
        by_content: The same by content.
        rejections: By content.
    """

    name: str
    uri: str
    receipt: Receipt
    is_file: bool
    files: Sequence[StoredFile]
    places: Places
    record_bytes: NDArray[np.uint32]
    record_crcs: NDArray[np.uint32]
    digests: NDArray[np.bytes_]
    used: list[int]
    exact: dict[tuple[object, ...], int] = field(default_factory=dict)
    by_content: dict[str, int] = field(default_factory=dict)
    rejections: dict[str, Rejection] = field(default_factory=dict)

    @classmethod
    def read(cls, uri: str, name: str) -> "EarlierShard | None":
        """Read a shard; None if an earlier version wrote it or its records are unknown."""
        receipt = read_record(storage.join(uri, RECEIPTS_FOLDER, f"{name}.json"), Receipt)
        record_bytes = decode_numbers(receipt.record_bytes)
        pictures = read_work_list(uri, name)
        rejections = {rejection.path: rejection for rejection in receipt.rejected}
        used = [i for i, picture in enumerate(pictures) if picture.path not in rejections]
        if len(used) != receipt.num_records or len(record_bytes) != receipt.num_records:
            return None
        composition = find_composition(uri, name)
        if composition is None:
            whole = StoredFile(
                uri=storage.join(uri, name),
                rows_uri=storage.join(uri, appearances_name(name)),
                name=pack_name(name, receipt.crc32c, receipt.size_bytes),
                size_bytes=receipt.size_bytes,
            )
            files, places = [whole], places_in_file(record_bytes)
        else:
            places = composition.read_places()
            files = [
                StoredFile(
                    uri=storage.join(uri, pack.name),
                    rows_uri=storage.join(uri, f"{pack.name}.npy"),
                    name=pack.name,
                    size_bytes=pack.size_bytes,
                )
                for pack in composition.packs
            ]
        shard = cls(
            name=name,
            uri=uri,
            receipt=receipt,
            is_file=composition is None,
            files=files,
            places=places,
            record_bytes=record_bytes,
            record_crcs=decode_numbers(receipt.record_crcs),
            digests=np.frombuffer(base64.b64decode(receipt.digests), f"S{DIGEST_BYTES}"),
            used=used,
        )
        for record, i in enumerate(used):
            shard.exact.setdefault(_identity(pictures[i]), record)
            shard.by_content.setdefault(pictures[i].content, record)
        for picture in pictures:
            if picture.path in rejections:
                shard.rejections.setdefault(picture.content, rejections[picture.path])
        return shard

    def find(self, picture: SourcePicture) -> FoundRecord | None:
        """Return what the shard has of a picture."""
        record = self.exact.get(_identity(picture))
        if record is not None:
            return FoundRecord(shard=self, record=record, is_same=True)
        content = picture.content
        record = self.by_content.get(content)
        if record is not None:
            return FoundRecord(shard=self, record=record)
        rejection = self.rejections.get(content)
        return FoundRecord(shard=self, record=-1, rejection=rejection) if rejection else None


class EarlierDataset:
    """An earlier dataset."""

    def __init__(self, uri: str, manifest: Manifest) -> None:
        self._uri = uri
        self._num_shards: dict[str, int] = {
            split: len(manifest.split_shards(split)) for split in manifest.splits
        }
        # A shard of this dataset has its pictures in few shards of that one.
        self._read = functools.lru_cache(maxsize=16)(EarlierShard.read)

    def find(self, picture: SourcePicture, split: str) -> FoundRecord | None:
        """Return what there is of a picture; its own split is looked through first."""
        place = content_hash(picture.content)
        for other in (split, *(each for each in SPLITS if each != split)):
            if num_shards := self._num_shards.get(other, 0):
                name = shard_name(other, stable_shard(place, num_shards), num_shards)
                shard = self._read(self._uri, name)
                if shard and (found := shard.find(picture)):
                    return found
        return None


@functools.lru_cache(maxsize=1)
def open_earlier(dataset_uri: str) -> EarlierDataset | None:
    """Return what a dataset is built on; None if there is nothing."""
    stated = read_base(dataset_uri)
    if stated is None or not stated.base_uri:
        return None
    try:
        manifest = read_manifest(stated.base_uri)
    except DataError as err:
        _log.warning("the shards are built without the earlier dataset: %s", err)
        return None
    is_stable = manifest.settings.shard_layout == STABLE_LAYOUT
    return EarlierDataset(stated.base_uri, manifest) if is_stable else None


def _identity(picture: SourcePicture) -> tuple[object, ...]:
    """Return what makes a record what it is."""
    name = picture.path.rpartition("/")[2]
    return picture.content, name, picture.class_id, picture.label, picture.text, picture.boxes
