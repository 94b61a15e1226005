"""The pictures that the arguments of `repot predict` name.

    -             standard input: one path, URI or URL per line
    a folder      every file in it, at any depth, without those of operating systems and tools
    a list        a text file, maybe compressed by gzip: CSV or JSON Lines that name pictures, such
                  as a manifest for training (labels are not needed), or one path, URI or URL per
                  line
    anything else one picture

All of them may be local or gs:// or s3://; pictures may be http(s):// URLs. A picture that a file
names relatively is looked for from the file's folder, one of standard input from the current one.
"""

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath

from repot import storage
from repot.checkpoint_files import is_web
from repot.errors import RepotError, UsageError, join_names
from repot.planner.folders import PICTURE_SUFFIXES, is_system_file
from repot.planner.inputs.stored_file import read_head
from repot.planner.inputs.tables import decode_text, guess_delimiter, read_file_text

STDIN = "-"

_NAME_COLUMNS = ("path", "uri", "file_name", "filename", "picture", "image", "url")
_NAME_KEYS = (*_NAME_COLUMNS, "imageGcsUri", "source-ref", "image_url")
_HEAD_BYTES = 1 << 12
_LST_LINE = re.compile(r"\d+\t.*\t([^\t]+)")
_MAX_CELL = 1 << 24
_GZIP = b"\x1f\x8b"


def find_pictures(arguments: Iterable[str], stdin: Iterable[str]) -> Iterator[str]:
    """Yield the path, URI or URL of every picture, in a fixed order.

    What does not exist is yielded as it is: whoever reads it reports that.

    Args:
        arguments: See above.
        stdin: Lines of standard input.

    Raises:
        UsageError: A list is damaged, or names no pictures.
        StorageError: A folder or a list cannot be read.
    """
    for argument in arguments:
        if argument == STDIN:
            yield from filter(None, (line.rstrip("\r\n") for line in stdin))
        elif is_web(argument) or PurePosixPath(argument).suffix.lower() in PICTURE_SUFFIXES:
            yield argument
        else:
            yield from _look_into(argument)


def _look_into(argument: str) -> Iterator[str]:
    """Yield the pictures of a folder, a list or a picture without an extension."""
    try:
        uri = storage.normalise(argument)
        info = storage.stat(uri)
    except RepotError:
        yield argument
        return
    if info is None:
        # Names only: a million of them take 100 MB.
        names = [storage.relative_name(each.uri, uri) for each in storage.list_objects(uri)]
        found = [name for name in names if not is_system_file(name)]
        prefix = storage.folder_prefix(argument)
        yield from (f"{prefix}{name}" for name in found)
        if found:
            return
    elif _is_text(info):
        yield from _read_list(info)
        return
    yield argument


def _is_text(info: storage.ObjectInfo) -> bool:
    """Return whether a file is text, maybe compressed, which no picture of a known format is."""
    head = read_head(info, _HEAD_BYTES)
    if head.startswith(_GZIP):
        return True
    try:
        return bool(decode_text(head, info.uri, is_head=True).strip())
    except UsageError:
        return False


def _read_list(info: storage.ObjectInfo) -> Iterator[str]:
    folder_uri = storage.parent(info.uri)
    for name in _listed_names(read_file_text(info), info.uri):
        is_whole = "://" in name or name.startswith(("/", "~"))
        yield name if is_whole else storage.join(folder_uri, name)


def _listed_names(text: str, uri: str) -> Iterator[str]:
    """Yield the pictures that a list names."""
    # Unlike str.splitlines, this does not end a line at a form feed or a Unicode separator.
    lines = list(io.StringIO(text, newline=""))
    first = next((line.strip() for line in lines if line.strip()), "")
    delimiter = guess_delimiter(first, _NAME_COLUMNS)
    columns = [cell.strip().strip('"').lower() for cell in first.split(delimiter)]
    named = [name for name in _NAME_COLUMNS if name in columns]
    if first.startswith("{"):
        yield from _json_names(lines, uri)
    elif named:
        yield from _csv_names(lines, delimiter, columns.index(named[0]), uri)
    else:
        for line in lines:
            found = _LST_LINE.fullmatch(line.strip("\r\n"))
            name = found[1] if found else line.strip("\r\n")
            if name.strip():
                yield name


def _json_names(lines: Iterable[str], uri: str) -> Iterator[str]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as err:
            raise _json_problem(number, uri, f"not JSON ({err})") from err
        if not isinstance(value, dict):
            raise _json_problem(number, uri, repr(line.strip()[:40]))
        name = next((value[key] for key in _NAME_KEYS if value.get(key)), None)
        if not isinstance(name, str):
            raise UsageError(
                f"Each line of a list must name a picture by one of {join_names(_NAME_KEYS)}; line "
                f"{number} of {uri} does not. Add it."
            )
        yield name


def _json_problem(number: int, uri: str, found: str) -> UsageError:
    return UsageError(
        f"A list in JSON Lines must have one object per line; line {number} of {uri} is {found}. "
        "Correct it."
    )


def _csv_names(lines: Iterable[str], delimiter: str, column: int, uri: str) -> Iterator[str]:
    csv.field_size_limit(_MAX_CELL)
    rows = csv.reader(lines, delimiter=delimiter, strict=True)
    is_header = True
    while True:
        try:
            row = next(rows, None)
        except csv.Error as err:
            raise UsageError(
                f"A list must be valid CSV; line {rows.line_num} of {uri} is not ({err}). "
                "Correct it."
            ) from err
        if row is None:
            return
        if not any(cell.strip() for cell in row):
            continue
        if not is_header:
            if len(row) <= column or not row[column].strip():
                raise UsageError(
                    f"Each row of a list must name a picture; line {rows.line_num} of {uri} does "
                    "not. Correct it."
                )
            yield row[column].strip()
        is_header = False
