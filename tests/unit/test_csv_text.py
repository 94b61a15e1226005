"""CSV that a spreadsheet shows as text and that reads back unchanged."""

import csv
import io

import pytest

from repot.csv_text import csv_line, csv_text, read_csv

FORMULAS = (
    "=1+1",
    "+1",
    "-1",
    "@SUM(A1)",
    "  =1",
    "\t=1",
    "\r=1",
    "\n@x",
    "\uff1d1",
    "\uff0b1",
    "\uff0d1",
    "\uff20x",
)
TEXTS = (
    *FORMULAS,
    "'",
    "''",
    "'=1",
    " 'a",
    "plain",
    "a=b",
    "",
    " ",
    "a,b",
    'a "b"',
    "line\nbreak",
    "carriage\rreturn",
    "\r\n",
    "\x1b[31m",
    "\u00e9\u82b1",
)


@pytest.mark.parametrize("text", TEXTS)
def test_every_text_reads_back_unchanged(text: str) -> None:
    rows = [[text, "x"], ["y", text]]

    assert list(read_csv(csv_text(rows))) == rows


def test_name_that_is_not_utf8_can_be_stored() -> None:
    text = csv_text([["a/\udcff\u82b1.jpg", "x"]])

    assert text.encode().decode() == "a/\\udcff\u82b1.jpg,x\n"


@pytest.mark.parametrize("text", FORMULAS)
def test_no_cell_is_a_formula_for_a_spreadsheet(text: str) -> None:
    (row,) = csv.reader(io.StringIO(csv_line([text]), newline=""))

    assert row == [f"'{text}"]


def test_numbers_are_written_as_they_are_and_none_as_an_empty_cell() -> None:
    assert csv_line([-0.5, 3, None, "a"]) == "-0.5,3,,a"


def test_other_texts_are_quoted_only_if_needed() -> None:
    assert csv_text([["a b", "c,d"], ["e", "f"]]) == 'a b,"c,d"\ne,f\n'
