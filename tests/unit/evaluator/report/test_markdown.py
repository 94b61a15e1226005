"""report.md: the facts of the page, in Markdown that labels cannot break."""

import dataclasses
import re

import markdown_it

from repot.evaluation_record import ScoringTime
from repot.evaluator.comparison import judge
from repot.evaluator.floors import compare_labels
from repot.evaluator.report.data import ReportContext
from repot.evaluator.report.page import render_markdown
from repot.requested_run import RequestedRun
from repot.settings import GateSettings
from tests.unit.evaluator.report.test_page import make_slices, make_suspects
from tests.unit.evaluator.samples import make_outcome, make_promise, make_report_data

LABELS = ["cat", "a|b <script>alert(1)</script>"]
CHAMPION = [make_outcome(i, "cat", "cat") for i in range(30)]
CHALLENGER = [make_outcome(i, "cat", LABELS[1]) for i in range(30)]


def make_report() -> str:
    data = dataclasses.replace(
        make_report_data(CHALLENGER, LABELS),
        slices=make_slices(is_worse=True),
        suspects=make_suspects(num_suspects=5),
    )
    verdict = judge(
        CHALLENGER,
        CHAMPION,
        model_name="m",
        version="t1t1",
        champion_version="c0c0",
        settings=GateSettings(),
        decided_at="2026-11-27T14:05:00Z",
    )
    context = ReportContext(
        version_uri="/models/m/t1t1",
        dataset_uri="/storage/datasets/d1d1",
        compared_labels=tuple(compare_labels(CHAMPION, CHALLENGER)),
        request=RequestedRun(command="repot run pictures --epochs 3"),
        scoring_time=ScoringTime(num_pictures=30, seconds=3.0),
    )
    return render_markdown(data, verdict, context)


def test_markdown_has_the_sections_and_facts_of_the_page() -> None:
    text = make_report()

    assert re.findall("(?m)^## (.*)$", text) == [
        "Scores",
        "Comparison with the champion",
        "Slices",
        "Labels",
        "Most confident mistakes",
        "Suspected wrong labels",
        "Dataset",
        "How it was trained",
        "How to use it",
        "Repeat this run",
    ]
    for fact in (
        "Model m, version t1t1, 2026-11-27 14:05 UTC.",
        "| mean recall of the labels | 0.0000 (",
        "| cat | 30 | 1.00 | 0.00 | \\< 0.0001 |",
        "camera: \\<b\\>old\\</b\\> | 1,200 | 0.50 | 0.47 to 0.53 | 0.90 |",
        "5 of 90 pictures may have a wrong label",
        "/storage/datasets/d1d1/data.html",
        "3.0 s, 10 pictures per second",
        "repot predict /models/m/t1t1 picture.jpg",
        "repot run pictures --epochs 3",
    ):
        assert fact in text


def test_labels_cannot_break_tables_or_become_html() -> None:
    html = markdown_it.MarkdownIt("gfm-like", {"linkify": False}).render(make_report())

    assert "<script>" not in html
    assert "<b>old" not in html
    # Every row of a table has as many cells as its head.
    for table in re.findall(r"(?s)<table>.*?</table>", html):
        rows = [row.count("<t") for row in re.findall(r"(?s)<tr>(.*?)</tr>", table)]
        assert len(set(rows)) == 1
    assert len(re.findall("<table>", html)) == 5


def test_promises_are_beside_what_came_true() -> None:
    data = make_report_data(CHALLENGER, LABELS)
    evaluation = dataclasses.replace(data.evaluation, promise=make_promise())

    text = render_markdown(dataclasses.replace(data, evaluation=evaluation))

    assert "| expected calibration error before the temperature | 0.1250 | |" in text
    calibration = evaluation.calibration
    assert (
        f"| expected calibration error after it | {calibration.error:.4f} | "
        f"{calibration.error_by_chance:.4f}, by chance |" in text
    )
    assert re.search(r"\| labels in their prediction set \| 0\.0667 \(.*\) \| 0\.9000 \|", text)


def test_report_before_a_verdict_has_the_scores_only() -> None:
    text = render_markdown(make_report_data(CHALLENGER, LABELS))

    assert text.startswith("# Evaluated: 0.000")
    assert "champion" not in text
