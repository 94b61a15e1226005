"""The rows of the report's table of labels."""

from repot.evaluator.report.page import label_rows
from tests.unit.evaluator.facts import outcome, report_facts

OUTCOMES = [
    outcome(0, "good", "good"),
    outcome(1, "bad", "good"),
    outcome(2, "bad", "bad"),
    outcome(3, "good", "good"),
]


def test_hardest_label_comes_first_and_one_without_pictures_last() -> None:
    facts = report_facts(OUTCOMES, ["good", "never", "bad"])

    rows = label_rows(facts["metrics"], facts["data"])

    assert [row.label for row in rows] == ["bad", "good", "never"]
    assert (rows[0].recall, rows[0].num_correct, rows[0].num_examples, rows[0].num_train) == (
        0.5,
        1,
        2,
        10,
    )
    assert (rows[2].recall, rows[2].low, rows[2].high) == (None, None, None)


def test_of_equally_hard_labels_the_one_with_more_pictures_comes_first() -> None:
    outcomes = [outcome(0, "a", "a"), outcome(1, "b", "b"), outcome(2, "b", "b")]
    facts = report_facts(outcomes, ["a", "b"])

    assert [row.label for row in label_rows(facts["metrics"], facts["data"])] == ["b", "a"]
