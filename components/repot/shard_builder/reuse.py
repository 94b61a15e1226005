"""Build a shard of the `stable` layout on an earlier dataset: only what is new is read and written.

A picture whose content is in the earlier dataset, see `repot.shard_builder.earlier_dataset`, is not
read. If its record is the same, it stays in its pack, which becomes one of this dataset, see
`repot.composition`. If only its label, its name or its boxes differ, the record is made again from
the JPEG in the old one. All records that are not taken over are written to one new pack.

A shard whose pictures are the same is taken over as it is. Where packs are many, or most of what is
in one is not needed any more, their records are copied into the new one. If less than half of the
shard can stay where it is, it is written as one file.

The bytes of the shard, its receipt and what its pictures look like are those of a build without an
earlier dataset. If anything of that is missing or damaged, the shard is built without it.
"""

import base64
import functools
import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from repot import storage
from repot.composition import (
    PLACE,
    Composition,
    Pack,
    Places,
    composition_name,
    decode_numbers,
    encode_numbers,
    pack_name,
    places_in_file,
    read_segments,
    shard_crc32c,
)
from repot.errors import CorruptShardError, DataError, NotFoundError
from repot.example_digests import DIGEST_BYTES
from repot.json_record import write_record
from repot.layout import appearances_name
from repot.manifest import Receipt, Rejection, shard_split
from repot.records import (
    decode_example,
    encode_example,
    frame_record,
    picture_features,
    read_records,
)
from repot.shard_builder.appearances import (
    compose_rows,
    read_rows,
    write_appearances,
    write_rows,
)
from repot.shard_builder.earlier_dataset import (
    EarlierDataset,
    FoundRecord,
    StoredFile,
    open_earlier,
)
from repot.work_list import SourcePicture

Write = Callable[[Sequence[SourcePicture], BinaryIO], tuple[Receipt, NDArray[np.void]]]
"""Reads and decodes pictures, and writes their records; returns their receipt and rows."""

MIN_REUSED = 0.5
"""A shard of which less can be taken over, in bytes, is written as one file."""
MIN_LIVE = 0.15, 0.35
"""A file of which the shard needs less than this, in bytes, is not taken over: what it needs is
copied."""
MAX_PACKS = 16, 32
"""Number of a shard's packs from which on the small ones are copied into one.

Both limits are pairs: each shard has its own limit between the two, so that not all shards come to
theirs in the same run.
"""

_log = logging.getLogger(__name__)


def build_on_base(
    dataset_uri: str,
    shard: str,
    pictures: Sequence[SourcePicture],
    path: Path,
    write: Write,
) -> Receipt | None:
    """Store a shard with what an earlier dataset has of it, and return its receipt.

    Args:
        dataset_uri: Folder of the dataset.
        shard: Name of the shard.
        pictures: Its pictures, in order.
        path: Local file for what is written; its folder is created if it is needed.
        write: Writes the records of new pictures.

    Returns:
        The receipt, which is not stored yet; None if nothing can be taken over.

    Raises:
        DataError: A picture was changed or deleted after it was listed.
        StorageError: Reading or writing failed.
    """
    base = open_earlier(dataset_uri)
    if base is None:
        return None
    try:
        found = _find(base, shard, pictures)
        if not any(found):
            return None
        builder = _Builder(dataset_uri, shard, pictures, found)
        receipt = builder.take_over()
        if receipt is None:
            try:
                receipt = builder.build(path, write)
            finally:
                path.unlink(missing_ok=True)
    except (CorruptShardError, NotFoundError) as err:
        _log.warning("%s is built without the earlier dataset: %s", shard, err)
        return None
    return receipt


def _find(
    base: EarlierDataset, shard: str, pictures: Sequence[SourcePicture]
) -> list[FoundRecord | None]:
    """Return what an earlier dataset has of each picture.

    Raises:
        CorruptShardError: A receipt or a work list of it is damaged.
        NotFoundError: One is missing.
    """
    try:
        return [base.find(picture, shard_split(shard)) for picture in pictures]
    except DataError as err:
        raise CorruptShardError(str(err)) from err


_RECORD = np.dtype(
    [
        ("file", "<i4"),  # index in _Builder.files
        ("row", "<u4"),
        ("offset", "<u8"),
        ("num_bytes", "<u4"),
        ("crc", "<u4"),
        ("digest", f"S{DIGEST_BYTES}"),
        ("is_record", "?"),  # False for a rejected picture
    ]
)


class _Builder:
    """Stores one shard.

    Attributes:
        files: The files of the earlier dataset with its records; the last one is the new pack.
        table: _RECORD of each picture of the work list.
    """

    def __init__(
        self,
        dataset_uri: str,
        shard: str,
        pictures: Sequence[SourcePicture],
        found: Sequence[FoundRecord | None],
    ) -> None:
        self._dataset_uri, self._shard = dataset_uri, shard
        self._pictures, self._found = pictures, found
        self._table = np.zeros(len(pictures), _RECORD)
        self._rejections: dict[int, tuple[str, str]] = {}
        by_uri: dict[str, int] = {}
        self._files: list[StoredFile] = []
        for i, each in enumerate(found):
            if each is None:
                continue
            if each.rejection:
                self._rejections[i] = each.rejection.reason, each.rejection.detail
                continue
            base = each.shard
            place = base.places[each.record]
            stored = base.files[place["pack"]]
            index = by_uri.setdefault(stored.uri, len(by_uri))
            if index == len(self._files):
                self._files.append(stored)
            self._table[i] = (
                index,
                place["row"],
                place["offset"],
                base.record_bytes[each.record],
                base.record_crcs[each.record],
                base.digests[each.record],
                True,
            )
        self._new_pack = len(self._files)
        self._rows_of = functools.lru_cache(maxsize=4)(self._read_rows)
        digest = hashlib.sha256(shard.encode()).digest()
        self._share = int.from_bytes(digest[:4]) / 2**32

    def take_over(self) -> Receipt | None:
        """Link the file of a shard with the same records; None if there is no such shard."""
        base = next(each.shard for each in self._found if each)
        records = [each.record if each and each.is_same else -1 for each in self._found]
        is_same = (
            base.is_file
            and base.name == self._shard
            and all(each and each.shard is base for each in self._found)
            and all(each and (each.is_same or each.rejection) for each in self._found)
            and [i for i, record in enumerate(records) if record >= 0] == base.used
            and [record for record in records if record >= 0] == list(range(len(base.used)))
        )
        if not is_same:
            return None
        (file,) = base.files
        storage.link(file.rows_uri, storage.join(self._dataset_uri, appearances_name(self._shard)))
        storage.link(file.uri, storage.join(self._dataset_uri, self._shard))
        return self._receipt()

    def build(self, path: Path, write: Write) -> Receipt:
        """Write what cannot be taken over, and store the shard.

        Raises:
            CorruptShardError: A file of the earlier dataset is damaged.
        """
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with path.open("w+b") as file:
            new_rows = [self._write_new(file, write)]
            new_rows += [self._rewrite(i, file) for i in self._changed()]
            copied = self._to_copy()
            if self._is_one_file(copied):
                self._store_file(file, np.concatenate(new_rows))
                return self._receipt()
            new_rows += [self._copy(i, file) for i in copied.tolist()]
            size_bytes = file.tell()
            file.flush()
        if size_bytes:
            self._store_pack(path, size_bytes, np.concatenate(new_rows))
        self._store_composition()
        return self._receipt()

    def _write_new(self, file: BinaryIO, write: Write) -> NDArray[np.void]:
        """Write the records of the pictures that the earlier dataset does not have."""
        new = [i for i, each in enumerate(self._found) if each is None]
        receipt, rows = write([self._pictures[i] for i in new], file)
        used = [new[i] for i in rows["picture"].tolist()]
        places = places_in_file(decode_numbers(receipt.record_bytes))
        table = np.zeros(len(used), _RECORD)
        table["file"], table["is_record"] = self._new_pack, True
        table["row"], table["offset"] = places["row"], places["offset"]
        table["num_bytes"] = decode_numbers(receipt.record_bytes)
        table["crc"] = decode_numbers(receipt.record_crcs)
        table["digest"] = np.frombuffer(base64.b64decode(receipt.digests), f"S{DIGEST_BYTES}")
        self._table[used] = table
        # Rejections are in the order of the pictures.
        rejected = sorted(set(new) - set(used))
        for i, rejection in zip(rejected, receipt.rejected, strict=True):
            self._rejections[i] = rejection.reason, rejection.detail
        return rows

    def _changed(self) -> list[int]:
        """Return the pictures whose record must be made again."""
        return [
            i
            for i, each in enumerate(self._found)
            if each and not each.is_same and not each.rejection
        ]

    def _rewrite(self, i: int, file: BinaryIO) -> NDArray[np.void]:
        """Write the record of a picture with another label or name than before."""
        picture = self._pictures[i]
        (data,) = read_records(self._read_frame(i))
        old = decode_example(data)
        (jpeg,), (height,), (width,) = (
            old[f"image/{name}"] for name in ("encoded", "height", "width")
        )
        if not (isinstance(jpeg, bytes) and isinstance(height, int) and isinstance(width, int)):
            raise CorruptShardError(f"The record of {picture.path!r} must be of a picture.")
        features = picture_features(
            jpeg=jpeg,
            height=height,
            width=width,
            class_id=picture.class_id,
            label=picture.label,
            filename=picture.path.rpartition("/")[2],
            text=picture.text,
            boxes=picture.boxes,
        )
        return self._append(i, frame_record(encode_example(features)), file)

    def _copy(self, i: int, file: BinaryIO) -> NDArray[np.void]:
        """Copy the record of a picture to the new pack."""
        return self._append(i, self._read_frame(i), file)

    def _append(self, i: int, frame: bytes, file: BinaryIO) -> NDArray[np.void]:
        """Write a frame to the new pack, and return its row."""
        entry = self._table[i]
        number = int(entry["row"])
        rows: NDArray[np.void] = self._rows_of(int(entry["file"]))
        row = rows[number : number + 1].copy()
        entry["file"], entry["row"] = self._new_pack, self._num_new()
        entry["offset"], entry["num_bytes"] = file.tell(), len(frame)
        entry["crc"] = int.from_bytes(frame[-4:], "little")
        file.write(frame)
        return row

    def _num_new(self) -> int:
        return int((self._table["is_record"] & (self._table["file"] == self._new_pack)).sum())

    def _read_frame(self, i: int) -> bytes:
        entry = self._table[i]
        frame: bytes = self._files[entry["file"]].read(
            int(entry["offset"]), int(entry["num_bytes"])
        )
        if int.from_bytes(frame[-4:], "little") != entry["crc"]:
            raise CorruptShardError(f"{self._files[entry['file']].uri} must not change; it did.")
        return frame

    def _read_rows(self, index: int) -> NDArray[np.void]:
        """Return the rows of a file of the earlier dataset."""
        uri: str = self._files[index].rows_uri
        rows = read_rows(uri)
        if rows is None:
            raise CorruptShardError(f"{uri} must have a row for each record; it is damaged.")
        return rows

    def _records(self) -> NDArray[np.void]:
        """Return _RECORD of each record, in order."""
        records: NDArray[np.void] = self._table[self._table["is_record"]]
        return records

    def _to_copy(self) -> NDArray[np.intp]:
        """Return the pictures whose records do not stay where they are.

        Of a file that mostly has other records, such as a picture's that was in another split,
        nothing stays; and if the files are too many, only what is in the largest one.
        """
        is_old = self._table["is_record"] & (self._table["file"] != self._new_pack)
        files, live = self._table["file"][is_old], self._table["num_bytes"][is_old]
        live_bytes = np.bincount(files, weights=live, minlength=self._new_pack)
        sizes = np.array([file.size_bytes for file in self._files[: self._new_pack]], np.float64)
        stays = live_bytes > self._limit(MIN_LIVE) * sizes
        if stays.sum() + 1 > self._limit(MAX_PACKS):
            stays &= np.arange(len(stays)) == np.argmax(live_bytes * stays)
        copied = is_old.copy()
        copied[is_old] = ~stays[files]
        return np.flatnonzero(copied)

    def _is_one_file(self, copied: NDArray[np.intp]) -> bool:
        """Return whether so little stays that the shard is better written as one file."""
        stays = self._table["is_record"] & (self._table["file"] != self._new_pack)
        stays[copied] = False
        reused = self._table["num_bytes"][stays].sum(dtype=np.int64)
        size_bytes = self._records()["num_bytes"].sum(dtype=np.int64)
        return bool(reused < MIN_REUSED * size_bytes)

    def _limit(self, limits: tuple[float, float]) -> float:
        """Return this shard's own limit."""
        low, high = limits
        return low + (high - low) * self._share

    def _store_file(self, new: BinaryIO, new_rows: NDArray[np.void]) -> None:
        """Store the shard as one file, and its rows."""
        records = self._records()
        places, packs = self._places()

        def read(pack: Pack, offset: int, num_bytes: int) -> bytes:
            if pack is packs[-1]:
                new.seek(offset)
                return new.read(num_bytes)
            return self._files[packs.index(pack)].read(offset, num_bytes)

        composition = Composition.of(self._shard, packs, places, records["num_bytes"])
        crc = 0
        path = Path(f"{new.name}.whole")
        try:
            with path.open("wb") as file:
                for data in read_segments(composition, read):
                    file.write(data)
                    crc = google_crc32c.extend(crc, data)
            if crc != shard_crc32c(records["num_bytes"], records["crc"]):
                raise CorruptShardError(
                    "The files of the earlier dataset must not change; one did."
                )
            storage.upload(path, storage.join(self._dataset_uri, self._shard))
        finally:
            path.unlink(missing_ok=True)
        rows = compose_rows(
            places, lambda index: new_rows if index == self._new_pack else self._rows_of(index)
        )
        write_appearances(self._dataset_uri, self._shard, rows)

    def _store_pack(self, path: Path, size_bytes: int, rows: NDArray[np.void]) -> None:
        """Store the new pack and its rows."""
        crc32c = storage.file_crc32c_hex(path)
        name = pack_name(self._shard, crc32c, size_bytes)
        uri = storage.join(self._dataset_uri, name)
        rows_uri = f"{uri}.npy"
        storage.upload(path, uri)
        write_rows(rows_uri, rows)
        self._files.append(StoredFile(uri=uri, rows_uri=rows_uri, name=name, size_bytes=size_bytes))

    def _store_composition(self) -> None:
        """Link the packs that are used, and store where the records are."""
        places, packs = self._places()
        used, places["pack"] = np.unique(places["pack"], return_inverse=True)
        for index in used.tolist():
            file, uri = self._files[index], storage.join(self._dataset_uri, packs[index].name)
            if file.uri != uri:
                storage.link(file.rows_uri, f"{uri}.npy")
                storage.link(file.uri, uri)
        composition = Composition.of(
            self._shard,
            [packs[index] for index in used.tolist()],
            places,
            self._records()["num_bytes"],
        )
        write_record(storage.join(self._dataset_uri, composition_name(self._shard)), composition)

    def _places(self) -> tuple[Places, list[Pack]]:
        """Return where each record is, and the files as packs; the last one may not exist."""
        records = self._records()
        places = np.zeros(len(records), PLACE)
        places["pack"] = records["file"]
        places["row"], places["offset"] = records["row"], records["offset"]
        places["picture"] = np.flatnonzero(self._table["is_record"])
        places["class_id"] = [self._pictures[i].class_id for i in places["picture"].tolist()]
        packs = [Pack(name=file.name, size_bytes=file.size_bytes) for file in self._files]
        if len(packs) == self._new_pack:
            packs.append(Pack(name="", size_bytes=0))
        return places, packs

    def _receipt(self) -> Receipt:
        """Return the receipt, as `repot.shard_builder.shard` makes it."""
        records = self._records()
        split = shard_split(self._shard)
        used = [self._pictures[i] for i in np.flatnonzero(self._table["is_record"]).tolist()]
        groups = [bytes.fromhex(picture.group).rjust(DIGEST_BYTES, b"\0") for picture in used]
        crc = shard_crc32c(records["num_bytes"], records["crc"])
        return Receipt(
            shard=self._shard,
            split=split,
            num_records=len(records),
            size_bytes=int(records["num_bytes"].sum(dtype=np.int64)),
            crc32c=f"{crc:08x}",
            class_counts=dict(sorted(Counter(picture.label for picture in used).items())),
            rejected=tuple(
                Rejection(
                    path=self._pictures[i].path,
                    label=self._pictures[i].label,
                    split=split,
                    reason=reason,
                    detail=detail,
                )
                for i, (reason, detail) in sorted(self._rejections.items())
            ),
            digests=base64.b64encode(records["digest"].tobytes()).decode(),
            groups=base64.b64encode(b"".join(groups)).decode() if any(map(any, groups)) else "",
            record_bytes=encode_numbers(records["num_bytes"]),
            record_crcs=encode_numbers(records["crc"]),
        )
