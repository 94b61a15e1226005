"""The model card: its content, and Markdown that labels cannot break."""

import pytest

from repot.evaluator.report.model_card import escape_markdown, render_model_card
from repot.serving_client import ACCEPTED_FILES
from tests.unit.evaluator.samples import make_outcome, make_report_data

OUTCOMES = [
    make_outcome(0, "cat", "cat"),
    make_outcome(1, "cat", "a|b"),
    make_outcome(2, "a|b", "a|b"),
]


def test_model_card_has_scores_data_training_and_limitations() -> None:
    card = render_model_card(
        make_report_data(OUTCOMES, ["cat", "a|b"]), model_name="pets", version="t1t1"
    )

    assert card.startswith("# pets, version t1t1\n")
    assert [line for line in card.splitlines() if line.startswith("## ")] == [
        "## Scores",
        "## Labels",
        "## How to use it",
        "## Intended use",
        "## Data",
        "## How it was trained",
        "## Limitations",
    ]
    assert "| precision@1 | 0.6667 | 0.2077 to 0.9385 |" in card
    assert "recall@2 is always 1 because there are only 2 labels." in card
    assert "| cat | 0.50 | 0.09 to 0.91 | 1.00 | 2 | 10 |" in card
    assert "1,203 files found, 1,200 accepted: 1,000 for training, 200 for validation." in card
    assert "| it ends too early | 3 | a/\\<i\\>\\|.jpg |" in card
    assert "- parameters: 21,810,980" in card
    assert f"It accepts {ACCEPTED_FILES}." in card


def test_labels_do_not_break_table_rows() -> None:
    card = render_model_card(
        make_report_data(OUTCOMES, ["cat", "a|b"]), model_name="m", version="v"
    )

    rows = [
        line
        for line in card.splitlines()
        if (line.startswith("| ") and "cat" in line) or "a\\|b" in line
    ]
    assert len(rows) == 2
    assert all(row.replace("\\|", "").count("|") == 7 for row in rows)


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("a_b*c", r"a\_b\*c"),
        ("line\nbreak", r"line\\nbreak"),
        ("\x1b[2J", r"\\u001b\[2J"),
        ("<b>|`", r"\<b\>\|\`"),
        ("né花", "né花"),
    ],
)
def test_escape_markdown(text: str, escaped: str) -> None:
    assert escape_markdown(text) == escaped
