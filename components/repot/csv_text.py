"""CSV files that a spreadsheet shows as they are, and that read back as they were written.

A spreadsheet treats a cell that starts with = + - or @ as a formula, quoted or not, so a file name
or a label could run one. The rule of every CSV file that repot stores: a text whose first
character, blanks aside, is one of those, a full-width form of them, or an apostrophe gets an
apostrophe in front.
Reading removes one leading apostrophe. Numbers are written as they are.
Source: OWASP, "CSV Injection".
"""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence

_FORMULA_STARTS = tuple("=+-@\uff1d\uff0b\uff0d\uff20'")
_TERMINATOR = "\r\n"


def csv_line(cells: Iterable[str | float | None], *, escape_formulas: bool = True) -> str:
    """Return one row without its line end; None becomes an empty cell.

    A cell with a line break is quoted, so a row can span several lines of a file.

    Args:
        cells: The row.
        escape_formulas: Whether the row is for a file that a spreadsheet may open; a program that
            reads the output of a command needs the texts as they are.
    """
    text = io.StringIO()
    # Python 3.11 quotes a carriage return only if the line end contains one.
    writer = csv.writer(text, lineterminator=_TERMINATOR)
    escape = _escape if escape_formulas else str
    writer.writerow([escape(cell) if isinstance(cell, str) else cell for cell in cells])
    return text.getvalue().removesuffix(_TERMINATOR)


def csv_text(rows: Iterable[Sequence[str | float | None]]) -> str:
    """Return rows as the text of a file, each followed by a newline.

    A name of a file that is not UTF-8 has escapes for its other bytes.
    """
    text = "".join(f"{csv_line(row)}\n" for row in rows)
    return text.encode(errors="backslashreplace").decode()


def read_csv(text: str) -> Iterator[list[str]]:
    """Yield the rows of a text that `csv_text` wrote."""
    for row in csv.reader(io.StringIO(text, newline="")):
        yield [cell.removeprefix("'") for cell in row]


def _escape(cell: str) -> str:
    return f"'{cell}" if cell.lstrip().startswith(_FORMULA_STARTS) else cell
