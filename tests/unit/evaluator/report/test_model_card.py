"""The model card: Markdown with the facts, and nothing that a label could break."""

import pytest

from repot.evaluator.report.model_card import escape_markdown, render_model_card
from tests.unit.evaluator.facts import outcome, report_facts

OUTCOMES = [outcome(0, "cat", "cat"), outcome(1, "cat", "a|b"), outcome(2, "a|b", "a|b")]


def test_model_card_has_scores_data_training_and_limits() -> None:
    card = render_model_card(
        report_facts(OUTCOMES, ["cat", "a|b"]), model_name="pets", version="t1t1"
    )

    assert card.startswith("# pets, version t1t1\n")
    assert [line for line in card.splitlines() if line.startswith("## ")] == [
        "## Scores",
        "## Labels",
        "## Intended use",
        "## Data",
        "## How it was trained",
        "## Limits",
    ]
    assert "| precision@1 | 0.6667 | 0.2077 to 0.9385 |" in card
    assert "recall@2 is 1 whatever the model says: there are only 2 labels." in card
    assert "| cat | 0.50 | 0.09 to 0.91 | 1.00 | 2 | 10 |" in card
    assert "| it ends too early | 3 | a/\\<i\\>\\|.jpg |" in card
    assert "- parameters: 21,810,980" in card
    assert "EXIF orientation" in card


def test_table_rows_are_not_broken_by_labels() -> None:
    card = render_model_card(report_facts(OUTCOMES, ["cat", "a|b"]), model_name="m", version="v")

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
        ("line\nbreak", "line break"),
        ("<b>|`", r"\<b\>\|\`"),
        ("né花", "né花"),
    ],
)
def test_escape_markdown(text: str, escaped: str) -> None:
    assert escape_markdown(text) == escaped
