"""Shards that are composed: their records lie in packs, some of which an earlier dataset wrote.

    <dataset>/train-00000-of-00128               a shard in one file, or, in a `stable` layout, also
    <dataset>/compositions/train-00000-of-00128.json   where each of its records is
    <dataset>/packs/<name>                       a TFRecord file with some of its records
    <dataset>/packs/<name>.npy                   what their pictures look like

A shard has either its own file or a composition. The records in the order of the composition are
the shard: their bytes have the size and the CRC32C of its receipt, whatever packs they are in, and
equal those of the one file that a build without an earlier dataset writes. Packs never change. A
dataset that takes over a pack has it as a hard link, or in an object store as a copy made by the
service, so no dataset needs the files of another one.

Why not files only? Of shards with 1024 pictures, a change of 1 % that is scattered over all of
them leaves 1 in 30,000 as it was. Whatever rule decides which picture is in which file, files that
depend on nothing but the pictures must have at most three of them if such a change is to write 3 %.
"""

import base64
import functools
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from repot import storage
from repot.errors import CorruptShardError, NotFoundError
from repot.json_record import JsonRecord, read_record
from repot.layout import COMPOSITIONS_FOLDER, PACKS_FOLDER
from repot.records import FRAME_BYTES, HEADER_BYTES, frame_header, unmask_crc

PLACE = np.dtype(
    [
        ("pack", "<u2"),  # index of the pack
        ("row", "<u4"),  # number of the record in the pack
        ("offset", "<u8"),  # of the record's frame, in bytes
        ("picture", "<u4"),  # index in the shard's work list
        ("class_id", "<u4"),
    ]
)
"""Where a record is."""

Places = NDArray[np.void]
_Span = tuple[int, int, int]
"""Index of a pack, first byte, end."""

# Bits of a number of bytes: shards below a petabyte.
_LENGTH_BITS = 50
_POLYNOMIAL = 0x82F63B78
_BLOCK_BYTES = 1 << 20
# Two ranges of a pack that are this close are read as one.
_GAP_BYTES = 256 << 10
_NEVER = 1 << 62


@dataclass(frozen=True, kw_only=True, slots=True)
class Pack(JsonRecord):
    """A file with records.

    Attributes:
        name: Its path in the dataset. With .npy at its end, it is that of what its pictures look
            like, see `repot.shard_builder.appearances`.
        size_bytes: Its size.
    """

    name: str
    size_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Composition(JsonRecord):
    """Where the records of a shard are.

    Attributes:
        shard: The shard.
        packs: The files.
        places: PLACE of each record in order, in base64.
        record_bytes: Size of each record's frame, uint32 in base64.
    """

    shard: str
    packs: tuple[Pack, ...]
    places: str
    record_bytes: str

    @classmethod
    def of(
        cls, shard: str, packs: Sequence[Pack], places: Places, record_bytes: NDArray[np.uint32]
    ) -> Self:
        """Return the composition of some arrays."""
        return cls(
            shard=shard,
            packs=tuple(packs),
            places=base64.b64encode(places.tobytes()).decode(),
            record_bytes=encode_numbers(record_bytes),
        )

    def read_places(self) -> Places:
        """Return the places, [num_records]."""
        return np.frombuffer(base64.b64decode(self.places), PLACE)

    def segments(self) -> Iterator[tuple[int, int, int]]:
        """Yield pack, offset and size of the parts of the shard, in order, as few as possible."""
        places = self.read_places()
        pack, start, end = 0, 0, 0
        sizes = decode_numbers(self.record_bytes).tolist()
        for index, offset, size in zip(
            places["pack"].tolist(), places["offset"].tolist(), sizes, strict=True
        ):
            if (index, offset) != (pack, end):
                if end > start:
                    yield pack, start, end - start
                pack, start, end = index, offset, offset
            end += size
        if end > start:
            yield pack, start, end - start

    def positions(self) -> list[tuple[int, int, int]]:
        """Return pack, offset and size of the data of every record."""
        places, sizes = self.read_places(), decode_numbers(self.record_bytes)
        return list(
            zip(
                places["pack"].tolist(),
                (places["offset"] + HEADER_BYTES).tolist(),
                (sizes - FRAME_BYTES).tolist(),
                strict=True,
            )
        )

    @property
    def size_bytes(self) -> int:
        """Return the size of the shard."""
        return int(decode_numbers(self.record_bytes).sum(dtype=np.int64))


def composition_name(shard: str) -> str:
    """Return the name of the composition of a shard, relative to the dataset."""
    return f"{COMPOSITIONS_FOLDER}/{shard}.json"


def find_composition(dataset_uri: str, shard: str) -> Composition | None:
    """Return the composition of a shard; None for a shard in one file.

    Raises:
        CorruptShardError: It is invalid.
        StorageError: It cannot be read.
    """
    uri = storage.join(dataset_uri, composition_name(shard))
    try:
        return read_record(uri, Composition, error=CorruptShardError)
    except NotFoundError:
        return None


def read_segments(
    composition: Composition, read: Callable[[Pack, int, int], bytes]
) -> Iterator[bytes]:
    """Yield the bytes of a composed shard, in order; each pack is read in as few parts as possible.

    The bytes of a part of a pack are in memory while they are needed; all of them together are at
    most as large as the shard and what lies between its records.

    Args:
        composition: The shard.
        read: Returns a range of a pack, given the pack, the offset and the number of bytes.
    """
    segments = list(composition.segments())
    spans = _spans(segments)
    last_use = {spans[index, offset]: n for n, (index, offset, _) in enumerate(segments)}
    held: dict[_Span, bytes] = {}
    for number, (index, offset, size) in enumerate(segments):
        span = spans[index, offset]
        _, start, end = span
        if span not in held:
            held[span] = read(composition.packs[index], start, end - start)
        yield held[span][offset - start : offset - start + size]
        if last_use[span] == number:
            del held[span]


def write_composed(dataset_uri: str, composition: Composition, file: BinaryIO) -> str:
    """Write the bytes of a composed shard to a file; return their CRC32C, 8 hex digits.

    Raises:
        NotFoundError: A pack is missing.
        StorageError: It cannot be read.
    """

    def read(pack: Pack, offset: int, num_bytes: int) -> bytes:
        uri = storage.join(dataset_uri, pack.name)
        return storage.read_range(uri, offset=offset, num_bytes=num_bytes)

    crc = 0
    for data in read_segments(composition, read):
        file.write(data)
        crc = google_crc32c.extend(crc, data)
    return f"{crc:08x}"


def local_crc32c_hex(dataset_uri: str, composition: Composition) -> str:
    """Return the CRC32C of a composed shard in a local folder, a block at a time."""
    crc = 0
    files: dict[int, BinaryIO] = {}
    try:
        for index, offset, size in composition.segments():
            if index not in files:
                path = Path(storage.join(dataset_uri, composition.packs[index].name))
                files[index] = path.open("rb", buffering=0)
            for start in range(offset, offset + size, _BLOCK_BYTES):
                num_bytes = min(_BLOCK_BYTES, offset + size - start)
                crc = google_crc32c.extend(crc, os.pread(files[index].fileno(), num_bytes, start))
    finally:
        for file in files.values():
            file.close()
    return f"{crc:08x}"


def _spans(segments: Sequence[tuple[int, int, int]]) -> dict[tuple[int, int], _Span]:
    """Return the range of its pack that each segment is read with, by pack and offset."""
    by_pack: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for index, offset, size in segments:
        by_pack[index].append((offset, offset + size))
    spans: dict[tuple[int, int], _Span] = {}
    for index, parts in by_pack.items():
        parts.sort()
        first, end = 0, parts[0][1]
        for number, (offset, stop) in enumerate([*parts[1:], (_NEVER, _NEVER)], start=1):
            if offset > end + _GAP_BYTES:
                span = index, parts[first][0], end
                spans.update({(index, start): span for start, _ in parts[first:number]})
                first, end = number, stop
            end = max(end, stop)
    return spans


def places_in_file(record_bytes: NDArray[np.uint32]) -> Places:
    """Return the places of the records of a shard in one file; they do not state the pictures."""
    sizes = record_bytes.astype(np.int64)
    places = np.zeros(len(sizes), PLACE)
    places["row"] = np.arange(len(sizes))
    places["offset"] = np.cumsum(sizes) - sizes
    return places


def pack_name(shard: str, crc32c: str, size_bytes: int) -> str:
    """Return the path, in a dataset, of a pack that was written for a shard."""
    return f"{PACKS_FOLDER}/{shard}.{crc32c}-{size_bytes:x}"


def encode_numbers(numbers: NDArray[np.uint32]) -> str:
    """Return numbers below 2**32 in base64, as receipts and compositions store them."""
    return base64.b64encode(np.asarray(numbers, "<u4").tobytes()).decode()


def decode_numbers(text: str) -> NDArray[np.uint32]:
    """Return what `encode_numbers` was given."""
    return np.frombuffer(base64.b64decode(text), "<u4")


def shard_crc32c(record_bytes: NDArray[np.uint32], masked_crcs: NDArray[np.uint32]) -> int:
    """Return the CRC32C of a shard from its records' sizes and checksums, without their bytes.

    Args:
        record_bytes: uint32 [records], size of each frame.
        masked_crcs: uint32 [records], the last four bytes of each frame.

    Source: CRC is linear: crc(A B) = crc(A) x^(8 |B|) + crc(B) modulo its polynomial, as zlib's
        crc32_combine has it, https://github.com/madler/zlib/blob/develop/crc32.c.
    """
    if not len(record_bytes):
        return 0
    sizes = np.asarray(record_bytes, np.int64)
    data_bytes = (sizes - FRAME_BYTES).tolist()
    tails = np.asarray(masked_crcs, "<u4")
    # Each frame is a header, the data and the masked checksum of the data.
    parts = np.empty((len(sizes), 3), np.uint32)
    parts[:, 0] = [google_crc32c.value(frame_header(size)) for size in data_bytes]
    parts[:, 1] = unmask_crc(tails)
    parts[:, 2] = [google_crc32c.value(tail.tobytes()) for tail in tails]
    ends = np.cumsum(sizes)
    after = ends[-1] - np.stack([ends - sizes + HEADER_BYTES, ends - 4, ends], axis=1)
    return int(np.bitwise_xor.reduce(_shift(parts.ravel(), after.ravel())))


def _shift(crcs: NDArray[np.uint32], num_bytes: NDArray[np.int64]) -> NDArray[np.uint32]:
    """Return what each checksum adds to that of the whole, given the bytes that follow its data."""
    shifted = crcs.copy()
    for bit, tables in enumerate(_shift_tables()):
        chosen = (num_bytes >> bit) & 1 == 1
        if chosen.any():
            shifted[chosen] = _apply(tables, shifted[chosen])
    return shifted


def _apply(tables: NDArray[np.uint32], values: NDArray[np.uint32]) -> NDArray[np.uint32]:
    result = np.zeros_like(values)
    for byte in range(4):
        result ^= tables[byte][values >> np.uint32(8 * byte) & np.uint32(255)]
    return result


@functools.cache
def _shift_tables() -> tuple[NDArray[np.uint32], ...]:
    """Return, for each bit of a number of bytes, a linear map as four tables of 256 entries."""
    bits = np.uint32(1) << np.arange(32, dtype=np.uint32)
    images = bits.copy()  # images[i]: what bit i becomes
    for _ in range(8):  # one zero byte
        images = (images >> np.uint32(1)) ^ np.where(images & 1, _POLYNOMIAL, 0).astype(np.uint32)
    maps = []
    for _ in range(_LENGTH_BITS):
        tables = np.zeros((4, 256), np.uint32)
        for i in range(32):
            byte, bit = divmod(i, 8)
            has_bit = np.arange(256) >> bit & 1 == 1
            tables[byte, has_bit] ^= images[i]
        maps.append(tables)
        images = _apply(tables, images)  # twice as many bytes
    return tuple(maps)
