"""Read a text file of rows: CSV with or without a header, or JSON Lines.

The text is UTF-8, or UTF-16 or UTF-32 with a byte order mark; the file may be compressed by gzip.
"""

import codecs
import csv
import io
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from repot import storage
from repot.errors import UsageError
from repot.planner.inputs.problems import WrongRows

MAX_BYTES = 1 << 30
"""Limit of a manifest: ten million rows of ordinary length."""

_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_GZIP = b"\x1f\x8b"
_DELIMITERS = ",;\t|"
# csv's own limit is 128 KiB; a text in a foreign manifest may be longer.
_MAX_CELL = 1 << 24


def decode_text(data: bytes, uri: str, *, is_head: bool = False) -> str:
    """Return the text of a file, without its byte order mark.

    Args:
        data: The file, or its beginning.
        uri: Its location, for the message.
        is_head: Whether `data` may end within a character.

    Raises:
        UsageError: It is not UTF-8, nor UTF-16 or UTF-32 with a byte order mark.
    """
    encoding = next((name for bom, name in _BOMS if data.startswith(bom)), "utf-8")
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        text = decoder.decode(data, final=not is_head)
    except UnicodeDecodeError as err:
        raise UsageError(
            f"{uri} must be UTF-8 or UTF-16 text; byte {err.start} is not. Save it as UTF-8, such "
            "as 'CSV UTF-8' in a spreadsheet program."
        ) from err
    if "\0" in text:
        raise UsageError(
            f"{uri} must be UTF-8 text, or UTF-16 with a byte order mark; it contains NUL "
            "characters. Save it as UTF-8."
        )
    return text


def read_file_text(info: storage.ObjectInfo) -> str:
    """Return the whole text of a manifest.

    Raises:
        UsageError: It is too large, or not text.
        StorageError: It cannot be read.
    """
    if info.size_bytes > MAX_BYTES:
        raise UsageError(
            f"A manifest must have at most {MAX_BYTES:,} bytes; {info.uri} has "
            f"{info.size_bytes:,}. Give a file with one line per picture, or split it."
        )
    data = storage.read_bytes(info.uri)
    if data.startswith(_GZIP):
        data = _gunzip(data, info.uri)
    return decode_text(data, info.uri)


def _gunzip(data: bytes, uri: str) -> bytes:
    inflater = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        text = inflater.decompress(data, MAX_BYTES + 1)
    except zlib.error as err:
        raise UsageError(f"{uri} must be complete gzip data; {err}. Copy it again.") from err
    if len(text) > MAX_BYTES or not inflater.eof:
        raise UsageError(
            f"A manifest must be complete, and have at most {MAX_BYTES:,} bytes; {uri} is cut off "
            "or larger. Copy it again, or split it."
        )
    return text


def guess_delimiter(first_line: str, known_columns: Sequence[str]) -> str:
    """Return the delimiter that splits a header into known columns, otherwise the most frequent."""

    def score(delimiter: str) -> tuple[int, int]:
        cells = [cell.strip().strip('"').lower() for cell in first_line.split(delimiter)]
        return sum(cell in known_columns for cell in cells), len(cells)

    return max(_DELIMITERS, key=score)


def read_csv_rows(text: str, delimiter: str, wrong: WrongRows) -> Iterator[tuple[int, list[str]]]:
    """Yield the line number and the cells of every row that is not blank.

    A row with a quote that is never closed, or closed in the middle of a cell, ends the reading.
    """
    csv.field_size_limit(_MAX_CELL)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    line = 1
    while True:
        try:
            cells = next(rows, None)
        except csv.Error as err:
            wrong.add(f"line {line}", f"the quoting is not valid CSV ({err})", number=line)
            return
        if cells is None:
            return
        if any(cell.strip() for cell in cells):
            yield line, cells
        line = rows.line_num + 1


def read_json_rows(text: str, wrong: WrongRows) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield the line number and the object of every row that is not blank."""
    for number, line in enumerate(io.StringIO(text, newline=None), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line, object_pairs_hook=_unique_object)
        except RecursionError:
            wrong.add(f"line {number}", "it is nested too deeply", number=number)
        except json.JSONDecodeError as err:
            wrong.add(f"line {number}", f"it is not a JSON object ({err})", number=number)
        except ValueError as err:
            wrong.add(f"line {number}", str(err), number=number)
        else:
            if isinstance(value, dict):
                yield number, value
            else:
                wrong.add(f"line {number}", "it is not a JSON object", number=number)


def _unique_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {repeated!r} occurs twice")
    return value
