"""What every picture of a shard looks like, measured from its miniature and stored with the shard.

    checks/<shard>.npy   one row per record of the shard, in its order; written before the receipt

The rows of all shards are compared when the dataset is complete, see
`repot.shard_builder.duplicates` and `repot.shard_builder.data_checks`.
"""

import io
import math
import mmap
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from repot import storage
from repot.composition import Places, find_composition
from repot.errors import NotFoundError
from repot.layout import appearances_name
from repot.picture_result import MINIATURE_SIDE, SOURCE_FORMATS, Picture

CHROMA_SIDE = 6
"""Height and width of the stored colours, in pixels."""

APPEARANCE = np.dtype(
    [
        ("picture", "<u4"),  # index in the shard's work list
        ("class_id", "<u4"),
        ("height", "<u4"),
        ("width", "<u4"),
        ("source_format", "u1"),  # index in SOURCE_FORMATS
        ("contrast", "<f4"),  # standard deviation of the grey levels
        ("edge_width", "<f4"),  # see `_edge_widths`
        ("content", "u1", (4,)),  # first and last column, first and last row of luminance
        ("luminance", "u1", (MINIATURE_SIDE, MINIATURE_SIDE)),
        ("chroma", "u1", (2, CHROMA_SIDE, CHROMA_SIDE)),
    ]
)
"""One row: 2.4 KB per picture."""

_LARGE_FIELDS = ("luminance", "chroma")
_SMALL = np.dtype(
    [(name, APPEARANCE[name]) for name in APPEARANCE.names or () if name not in _LARGE_FIELDS]
)
# Rows whose small fields are read at once; bytes that are copied at once; rows whose large fields
# are read at once: with each, the system maps up to 64 KB around it.
_NUM_READ, _NUM_COPIED, _NUM_SCATTERED = 2048, 1 << 20, 64

# A border differs from the picture's first pixel by at most this, of 255: JPEG's noise.
_BORDER_TOLERANCE = 16
# What a border surrounds has at least this many rows and columns.
_MIN_CONTENT = 15
_NUM_IGNORED = 4
# Measured at once. With 64, arrays would be so large that each gets new memory from the system,
# which takes a third of the time.
_CHUNK = 32


def measure(pictures: Sequence[Picture]) -> NDArray[np.void]:
    """Return a row of APPEARANCE for each picture."""
    rows = np.zeros(len(pictures), APPEARANCE)
    if not pictures:
        return rows
    rows["height"] = [picture.height for picture in pictures]
    rows["width"] = [picture.width for picture in pictures]
    rows["source_format"] = [SOURCE_FORMATS.index(picture.source_format) for picture in pictures]
    for start in range(0, len(pictures), _CHUNK):
        some = slice(start, start + _CHUNK)
        miniatures = np.frombuffer(b"".join(each.miniature for each in pictures[some]), np.uint8)
        _measure(miniatures.reshape(-1, MINIATURE_SIDE, MINIATURE_SIDE, 3), rows[some])
    return rows


def _measure(miniatures: NDArray[np.uint8], rows: NDArray[np.void]) -> None:
    """Fill in what is measured from miniatures: uint8 [pictures, 48, 48, 3], YCbCr."""
    grey = np.ascontiguousarray(miniatures[..., 0])
    rows["contrast"] = _deviations(grey)
    rows["edge_width"] = _edge_widths(grey)
    rows["content"] = _content(grey)
    rows["luminance"] = grey
    for band in (1, 2):
        rows["chroma"][:, band - 1] = _reduce(miniatures[..., band], MINIATURE_SIDE // CHROMA_SIDE)


class Rows(Protocol):
    """Rows of APPEARANCE, by field and then by picture: an array, or MappedRows."""

    def __len__(self) -> int:
        """Return the number of rows."""

    def __getitem__(self, field: str, /) -> Any:
        """Return the values of a field, which may be indexed by an array of pictures."""


class MappedRows:
    """The rows in a file, of which only the small fields, 29 bytes per row, are in memory.

    The others are read when they are indexed by an array of pictures, and released again.
    """

    def __init__(self, path: Path) -> None:
        """Read the small fields of a file that consists of rows."""
        number = path.stat().st_size // APPEARANCE.itemsize
        self._small = np.empty(number, _SMALL)
        if not number:
            return
        with path.open("rb") as file:
            self._memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._rows = np.frombuffer(self._memory, APPEARANCE)
        for start in range(0, number, _NUM_READ):
            part = slice(start, start + _NUM_READ)
            self._small[part] = self._rows[part][list(_SMALL.names or ())]
            self._release()

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._small)

    def __getitem__(self, field: str, /) -> Any:
        """Return the values of a field, see `Rows`."""
        return _LargeField(self, field) if field in _LARGE_FIELDS else self._small[field]

    def read(self, field: str, pictures: NDArray[np.int64]) -> NDArray[Any]:
        """Return the values of a large field of some pictures."""
        values = np.empty((len(pictures), *APPEARANCE[field].shape), APPEARANCE[field].base)
        for start in range(0, len(pictures), _NUM_SCATTERED):
            part = slice(start, start + _NUM_SCATTERED)
            values[part] = self._rows[field][pictures[part]]
            self._release()
        return values

    def _release(self) -> None:
        """Take the pages of the file out of this process; the system still has them."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._memory.madvise(mmap.MADV_DONTNEED)


class _LargeField:
    """A field of MappedRows, which is read when it is indexed."""

    def __init__(self, rows: MappedRows, field: str) -> None:
        self._rows, self._field = rows, field

    def __getitem__(self, index: Any) -> NDArray[Any]:
        if not isinstance(index, tuple):
            return self._rows.read(self._field, index)
        pictures, *rest = index
        values: NDArray[Any] = self._rows.read(self._field, pictures)[:, *rest]
        return values


class RowWriter:
    """Writes rows to a file as `numpy.save` does, without having all of them in memory."""

    def __init__(self, file: BinaryIO) -> None:
        """Begin an empty file."""
        self._file, self._num_rows = file, 0
        self._write_header()

    def write(self, rows: NDArray[np.void]) -> None:
        """Append rows."""
        self._file.write(rows.tobytes())
        self._num_rows += len(rows)

    def finish(self) -> None:
        """Complete the file."""
        self._file.seek(0)
        self._write_header()
        self._file.seek(0, io.SEEK_END)

    def _write_header(self) -> None:
        """Write the header, whose length does not depend on the number of rows."""
        header = np.lib.format.header_data_from_array_1_0(np.empty(0, APPEARANCE))
        np.lib.format.write_array_header_1_0(self._file, header | {"shape": (self._num_rows,)})


def write_appearances(dataset_uri: str, shard: str, rows: NDArray[np.void]) -> None:
    """Store the rows of a shard; equal rows give equal bytes."""
    write_rows(appearances_uri(dataset_uri, shard), rows)


def read_appearances(dataset_uri: str, shard: str, num_records: int) -> NDArray[np.void] | None:
    """Return the rows of a shard; None if they are missing or damaged."""
    rows = read_rows(appearances_uri(dataset_uri, shard))
    if rows is None and (composition := find_composition(dataset_uri, shard)):
        packs = [
            read_rows(storage.join(dataset_uri, f"{pack.name}.npy")) for pack in composition.packs
        ]
        stored = [pack for pack in packs if pack is not None]
        if len(stored) == len(packs):
            rows = compose_rows(composition.read_places(), stored.__getitem__)
    return rows if rows is not None and rows.shape == (num_records,) else None


def copy_appearances(dataset_uri: str, shard: str, num_records: int, file: BinaryIO) -> bool:
    """Append the rows of a shard to a file; return False if they are missing or damaged."""
    uri = appearances_uri(dataset_uri, shard)
    if storage.is_local(uri) and Path(uri).exists():
        with Path(uri).open("rb") as stored:
            if _has_rows(stored, num_records):
                shutil.copyfileobj(stored, file, _NUM_COPIED)
                return True
    rows = read_appearances(dataset_uri, shard, num_records)
    if rows is None:
        return False
    file.write(rows.tobytes())
    return True


def _has_rows(file: BinaryIO, number: int) -> bool:
    """Return whether a file has this number of rows; then it is read up to the first one."""
    try:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    except ValueError:
        return False
    start = file.tell()
    is_whole = file.seek(0, io.SEEK_END) - start == number * APPEARANCE.itemsize
    file.seek(start)
    return is_whole and shape == (number,) and dtype == APPEARANCE


def compose_rows(places: Places, rows_of: Callable[[int], NDArray[np.void]]) -> NDArray[np.void]:
    """Return the rows of records that lie in several packs.

    Args:
        places: Where the records are.
        rows_of: Returns the rows of a pack, by its index.
    """
    rows = np.zeros(len(places), APPEARANCE)
    for index in np.unique(places["pack"]).tolist():
        inside = places["pack"] == index
        rows[inside] = rows_of(index)[places["row"][inside]]
    rows["picture"], rows["class_id"] = places["picture"], places["class_id"]
    return rows


def write_rows(uri: str, rows: NDArray[np.void]) -> None:
    """Store rows in one file."""
    buffer = io.BytesIO()
    np.save(buffer, rows, allow_pickle=False)
    storage.write_bytes(uri, buffer.getvalue())


def read_rows(uri: str) -> NDArray[np.void] | None:
    """Return the rows in a file; None if it is missing or damaged."""
    try:
        rows = np.load(io.BytesIO(storage.read_bytes(uri)), allow_pickle=False)
    except (ValueError, EOFError, OSError, NotFoundError):
        return None
    return rows if rows.dtype == APPEARANCE and rows.ndim == 1 else None


def appearances_uri(dataset_uri: str, shard: str) -> str:
    """Return the location of the rows of a shard."""
    return storage.join(dataset_uri, appearances_name(shard))


def _deviations(grey: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the standard deviation of the levels of each picture: float64 [pictures].

    The sums are exact, so that no result depends on the pictures that are measured with it.
    """
    levels = grey.reshape(len(grey), -1).astype(np.uint16)
    number = levels.shape[1]
    total = levels.sum(axis=1, dtype=np.int64)
    levels *= levels
    squares = levels.sum(axis=1, dtype=np.int64)
    deviations: NDArray[np.float64] = np.sqrt(number * squares - total * total) / number
    return deviations


def _reduce(bands: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """Return the means of blocks of pixels: uint8 [pictures, rows / factor, columns / factor]."""
    sums = bands[:, ::factor].astype(np.uint16)
    for start in range(1, factor):
        sums += bands[:, start::factor]
    total = sums[:, :, ::factor].astype(np.uint32)
    for start in range(1, factor):
        total += sums[:, :, start::factor]
    half = factor * factor // 2
    return ((total + half) // (factor * factor)).astype(np.uint8)


def _content(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the part inside a border of one colour: uint8 [pictures, 4], see APPEARANCE."""
    side = grey.shape[1]
    corner = grey[:, :1, :1].astype(np.int16)
    differs = np.abs(grey - corner) > _BORDER_TOLERANCE
    box = np.empty((len(grey), 4), np.uint8)
    for first, axis in ((0, 1), (2, 2)):
        # used: bool [pictures, columns or rows]
        used = differs.any(axis=axis)
        box[:, first] = used.argmax(axis=1)
        box[:, first + 1] = side - 1 - used[:, ::-1].argmax(axis=1)
    sizes = box[:, 1::2].astype(np.int16) - box[:, ::2] + 1
    is_whole = (sizes < _MIN_CONTENT).any(axis=1) | ~differs.any(axis=(1, 2))
    box[is_whole] = (0, side - 1, 0, side - 1)
    return box


def _edge_widths(grey: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the width of the sharpest edges as a share of the side: float32 [pictures].

    It is the standard deviation of the Gaussian blur that makes an edge of the picture's whole
    range as steep as its steepest ones. A picture of one level has no edge: 0.
    """
    num_pictures, side, _ = grey.shape
    level_range = _near_highest(grey.max(axis=1)) + _near_highest(255 - grey.min(axis=1)) - 255
    lines = grey.reshape(num_pictures, -1)
    # Of each pixel to the next one in its row; the last one of a row has none.
    across = np.zeros_like(lines)
    _differ(lines[:, 1:], lines[:, :-1], across[:, :-1])
    across[:, side - 1 :: side] = 0
    slopes = np.zeros_like(lines)
    _differ(lines[:, side:], lines[:, :-side], slopes[:, :-side])
    np.maximum(slopes, across, out=slopes)
    steepest = np.maximum(_near_highest(slopes.reshape(grey.shape).max(axis=1)), 1)
    slope = steepest * math.sqrt(2 * math.pi) * side
    widths: NDArray[np.float32] = (np.maximum(level_range, 0) / slope).astype(np.float32)
    return widths


def _differ(one: NDArray[np.uint8], other: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
    """Write the absolute differences."""
    np.maximum(one, other, out=out)
    out -= np.minimum(one, other)


def _near_highest(extremes: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the extreme of some columns: uint8 [pictures, columns] to float32 [pictures].

    A few columns are ignored: those with noise, or with the picture's only highlight.
    """
    place = extremes.shape[1] - 1 - _NUM_IGNORED
    return np.partition(extremes, place, axis=1)[:, place].astype(np.float32)
