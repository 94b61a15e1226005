"""Many listed files as columns: 100 bytes per file, where objects and their texts take 600.

A table is a sequence of `FoundFile`s, each of which is made when it is asked for. What runs over a
million files reads columns instead. Files are only added at the end; `take` returns a table of
other files in another order.
"""

import itertools
import sys
from array import array
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar, overload

from repot import storage
from repot.file_parts import FilePart
from repot.work_list import etag_checksum, is_etag_checksum

_T = TypeVar("_T", bound=Hashable)
_Value = TypeVar("_Value")

# Names of files may have bytes that are no text, which Python has as lone surrogates.
_CODEC = "utf-8", "surrogatepass"
_UNKNOWN, _CRC32C, _ETAG = range(3)


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundFile:
    """One listed file.

    Attributes:
        uri: Location of the file.
        path: Path relative to PICTURES, in Unicode normal form C.
        size_bytes: Size of the file.
        checksum: CRC32C of its bytes, 8 hex digits, or what stands for it, see
            `repot.planner.checksums`; "" if it is not known yet.
        version, has_crc32c, stamp: See `repot.storage.ObjectInfo`.
        kind: What it is if it is not a file, such as "a named pipe"; "" for a file.
        part: Where it is in the file at `uri`; None if it is that file. Then size and checksum are
            those of the part, and the checksum is known.
    """

    uri: str
    path: str
    size_bytes: int
    checksum: str
    version: str
    kind: str = ""
    part: FilePart | None = None
    has_crc32c: bool = False
    stamp: str = ""

    @property
    def state(self) -> str:
        """Return what changes whenever the file does."""
        return self.version + self.stamp

    @property
    def name(self) -> str:
        """Return the base name."""
        return self.path.rpartition("/")[2]


class TextColumn:
    """Texts, one after the other in one buffer: 8 bytes each, and their UTF-8."""

    __slots__ = ("_borders", "_data")

    def __init__(self) -> None:
        self._data = bytearray()
        self._borders = array("Q", (0,))

    def __len__(self) -> int:
        return len(self._borders) - 1

    def __getitem__(self, number: int) -> str:
        return self._data[self._borders[number] : self._borders[number + 1]].decode(*_CODEC)

    def __iter__(self) -> Iterator[str]:
        data = self._data
        for start, end in itertools.pairwise(self._borders):
            yield data[start:end].decode(*_CODEC)

    def append(self, text: str) -> None:
        """Add a text."""
        self._data += text.encode(*_CODEC)
        self._borders.append(len(self._data))

    def mentions(self, part: str) -> bool:
        """Return whether a text contains this one, without a look at each."""
        return part.encode(*_CODEC) in self._data

    def take(self, numbers: Iterable[int]) -> "TextColumn":
        """Return a column of the texts with these numbers."""
        taken, data, borders = TextColumn(), self._data, self._borders
        for number in numbers:
            taken._data += data[borders[number] : borders[number + 1]]
            taken._borders.append(len(taken._data))
        return taken


class CodedColumn(Generic[_T]):
    """Values that occur again and again: 4 bytes each, beside one copy of each distinct value.

    Attributes:
        codes: The index of each value in `values`.
        values: The distinct values, in the order in which they were added.
    """

    __slots__ = ("_code_of", "codes", "values")

    def __init__(self) -> None:
        self.codes = array("i")
        self.values: list[_T] = []
        self._code_of: dict[_T, int] = {}

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, number: int) -> _T:
        return self.values[self.codes[number]]

    def __iter__(self) -> Iterator[_T]:
        return map(self.values.__getitem__, self.codes)

    def append(self, value: _T) -> None:
        """Add a value."""
        code = self._code_of.get(value)
        self.codes.append(self.code(value) if code is None else code)

    def code(self, value: _T) -> int:
        """Return the code of a value, a new one if it has none."""
        code = self._code_of.setdefault(value, len(self.values))
        if code == len(self.values):
            self.values.append(value)
        return code

    def take(self, numbers: Iterable[int]) -> "CodedColumn[_T]":
        """Return a column of the values with these numbers."""
        taken = CodedColumn[_T]()
        taken.values, taken._code_of = self.values.copy(), self._code_of.copy()
        taken.codes = array("i", map(self.codes.__getitem__, numbers))
        return taken

    def replace(self, change: Callable[[_T], _T]) -> "CodedColumn[_T]":
        """Return a column with another value for each distinct one."""
        changed = CodedColumn[_T]()
        codes = [changed.code(change(value)) for value in self.values]
        changed.codes = array("i", map(codes.__getitem__, self.codes))
        return changed


def take_sparse(column: dict[int, _Value], numbers: Iterable[int]) -> dict[int, _Value]:
    """Return the values that a few rows have, by their new numbers."""
    if not column:
        return {}
    return {new: column[old] for new, old in enumerate(numbers) if old in column}


class FileTable(Sequence[FoundFile]):
    """Listed files.

    Attributes:
        paths, sizes, states, has_crc32c: What each file has, see `FoundFile`.
        kinds, parts: What a few files have, by their numbers.
    """

    def __init__(self, files: Iterable[FoundFile] = ()) -> None:
        self.paths, self.states = TextColumn(), TextColumn()
        # A state begins with the version.
        self._version_lengths = array("H")
        self.sizes = array("Q")
        self.kinds: dict[int, str] = {}
        self.parts: dict[int, FilePart] = {}
        # A URI is a stem, and the path from a given number of characters on.
        self._stems = CodedColumn[tuple[str, int]]()
        self._stem, self._num_skipped, self._stem_code = "", 0, self._stems.code(("", 0))
        # What is known of the checksum of each file; its CRC32C as a number.
        self._checksums = bytearray()
        self._crc32cs = array("I")
        self.has_crc32c = bytearray()
        self.extend(files)

    def __len__(self) -> int:
        return len(self.sizes)

    @overload
    def __getitem__(self, number: int) -> FoundFile: ...
    @overload
    def __getitem__(self, number: slice) -> list[FoundFile]: ...
    def __getitem__(self, number: int | slice) -> FoundFile | list[FoundFile]:
        """Return a file, or a list of files."""
        index = range(len(self))[number]
        return self._file(index) if isinstance(index, int) else [self._file(i) for i in index]

    def __iter__(self) -> Iterator[FoundFile]:
        return map(self._file, range(len(self)))

    def extend(self, files: Iterable[FoundFile]) -> None:
        """Add files."""
        for file in files:
            self.append(file)

    def append(self, file: FoundFile) -> None:
        """Add a file."""
        number = len(self)
        self._add(file, file.path, file.checksum)
        if file.kind:
            self.kinds[number] = file.kind
        if file.part:
            self.parts[number] = file.part

    def add(self, info: storage.ObjectInfo, path: str) -> None:
        """Add an object with a path."""
        self._add(info, path, info.crc32c or "")

    @property
    def uris(self) -> Iterator[str]:
        """Yield the location of each file."""
        for path, (stem, num_skipped) in zip(self.paths, self._stems, strict=True):
            yield stem + path[num_skipped:]

    @property
    def checksums(self) -> Iterator[str]:
        """Yield the checksum of each file, see `checksum`."""
        if all(state == _CRC32C for state in self._checksums):
            return map("{:08x}".format, self._crc32cs)
        return map(self.checksum, range(len(self)))

    @property
    def has_one_stem(self) -> bool:
        """Return whether all locations are that of one folder, followed by the path in it."""
        return len(set(self._stems.codes)) == 1

    def uri(self, number: int) -> str:
        """Return the location of a file."""
        stem, num_skipped = self._stems[number]
        return stem + self.paths[number][num_skipped:]

    def name(self, number: int) -> str:
        """Return the base name of a file."""
        return self.paths[number].rpartition("/")[2]

    def version(self, number: int) -> str:
        """Return the version of a file."""
        return self.states[number][: self._version_lengths[number]]

    def checksum(self, number: int) -> str:
        """Return a file's CRC32C, or what stands for it, see `repot.planner.checksums`."""
        if self._checksums[number] == _CRC32C:
            return f"{self._crc32cs[number]:08x}"
        return etag_checksum(self.version(number)) if self._checksums[number] else ""

    def set_checksum(self, number: int, checksum: str) -> None:
        """Set a file's CRC32C, or what `etag_checksum` returns for its version."""
        if is_etag_checksum(checksum):
            self._checksums[number] = _ETAG
        else:
            self._checksums[number] = _CRC32C
            self._crc32cs[number] = int(checksum, 16)

    @property
    def unknown(self) -> list[int]:
        """Return the numbers of the files without a checksum."""
        return [number for number, state in enumerate(self._checksums) if state == _UNKNOWN]

    @property
    def num_unknown(self) -> int:
        """Return the number of files without a checksum."""
        return self._checksums.count(_UNKNOWN)

    @property
    def unknown_uris(self) -> Iterator[tuple[int, str]]:
        """Yield number and location of the files without a checksum."""
        if self.num_unknown:
            for number, (uri, state) in enumerate(zip(self.uris, self._checksums, strict=True)):
                if state == _UNKNOWN:
                    yield number, uri

    def take(self, numbers: Sequence[int]) -> "FileTable":
        """Return a table of the files with these numbers, in this order."""
        taken = FileTable()
        taken.paths, taken._stems = self.paths.take(numbers), self._stems.take(numbers)
        taken.states = self.states.take(numbers)
        taken._version_lengths = array("H", map(self._version_lengths.__getitem__, numbers))
        taken.kinds = take_sparse(self.kinds, numbers)
        taken.parts = take_sparse(self.parts, numbers)
        taken.sizes = array("Q", map(self.sizes.__getitem__, numbers))
        taken._crc32cs = array("I", map(self._crc32cs.__getitem__, numbers))
        taken._checksums = bytearray(map(self._checksums.__getitem__, numbers))
        taken.has_crc32c = bytearray(map(self.has_crc32c.__getitem__, numbers))
        return taken

    def order(self) -> Sequence[int]:
        """Return the numbers of all files, sorted by path and location."""
        numbers = range(len(self))
        if all(first < second for first, second in itertools.pairwise(self.paths)):
            return numbers
        return sorted(sorted(numbers, key=self.uri), key=self.paths.__getitem__)

    def sorted(self) -> "FileTable":
        """Return the files sorted by path and location."""
        order = self.order()
        return self if isinstance(order, range) else self.take(order)

    def _file(self, number: int) -> FoundFile:
        return FoundFile(
            uri=self.uri(number),
            path=self.paths[number],
            size_bytes=self.sizes[number],
            checksum=self.checksum(number),
            version=self.version(number),
            kind=self.kinds.get(number, ""),
            part=self.parts.get(number),
            has_crc32c=bool(self.has_crc32c[number]),
            stamp=self.states[number][self._version_lengths[number] :],
        )

    def _add(self, file: storage.ObjectInfo | FoundFile, path: str, checksum: str) -> None:
        if file.uri != self._stem + path[self._num_skipped :]:
            self._find_stem(file.uri, path)
        self._stems.codes.append(self._stem_code)
        self.paths.append(path)
        self.sizes.append(file.size_bytes)
        self.states.append(file.version + file.stamp)
        self._version_lengths.append(len(file.version))
        self.has_crc32c.append(file.has_crc32c)
        self._checksums.append(_UNKNOWN)
        self._crc32cs.append(0)
        if checksum:
            self.set_checksum(len(self) - 1, checksum)

    def _find_stem(self, uri: str, path: str) -> None:
        """Find how a location and those after it follow from their paths."""
        end = path
        while end and not uri.endswith(end):
            end = end.partition("/")[2]
        self._stem = uri[: len(uri) - len(end)]
        self._num_skipped = len(path) - len(end) if end else sys.maxsize
        self._stem_code = self._stems.code((self._stem, self._num_skipped))
