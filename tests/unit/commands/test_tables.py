"""Tables fit the terminal, whatever their cells hold."""

import json

import pytest

from repot.evaluator.catalog import RunSummary
from repot_pipelines.commands.tables import MAX_COLUMNS, print_records

COLUMNS = ("run", "backbone", "precision@1", "verdict")


def printed(capsys: pytest.CaptureFixture[str], *row: str) -> list[str]:
    print_records([], COLUMNS, [row], as_json=False)
    return capsys.readouterr().out.splitlines()


def test_columns_are_as_wide_as_their_cells(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, "abc", "resnet50", "0.9", "promoted: better") == [
        "run  backbone  precision@1  verdict",
        "abc  resnet50  0.9          promoted: better",
    ]


@pytest.mark.parametrize("excess", [-1, 0, 1, 500])
def test_long_cells_are_cut_so_that_the_table_fits(
    capsys: pytest.CaptureFixture[str], excess: int
) -> None:
    # 16 + 8 + 11 characters and three gaps of two are left of the last column.
    verdict = "v" * (MAX_COLUMNS - 16 - 8 - 11 - 6 + excess)

    header, line = printed(capsys, "a" * 16, "resnet50", "0.9", verdict)

    assert len(line) == min(MAX_COLUMNS, MAX_COLUMNS + excess)
    assert line.endswith("…") == (excess > 0)
    assert line.startswith("a" * 16 + "  resnet50  0.9 ")
    assert header.split() == list(COLUMNS)


def test_json_has_whole_texts(capsys: pytest.CaptureFixture[str]) -> None:
    record = RunSummary(run="a", state="evaluated", verdict="x" * 300)

    print_records([record], COLUMNS, [], as_json=True)

    assert json.loads(capsys.readouterr().out)[0]["verdict"] == "x" * 300
