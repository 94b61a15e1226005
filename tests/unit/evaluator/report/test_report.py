"""The report: everything is in it, escaped, without script or anything from elsewhere."""

import re
from html.parser import HTMLParser

import pytest

from repot.evaluator.comparison import judge
from repot.evaluator.outcomes import Outcome
from repot.evaluator.report.page import MAX_HEAT_MAP_LABELS, MAX_OPEN_LABELS, render_report
from repot.evaluator.verdict import Verdict
from tests.unit.evaluator.facts import PIXEL, outcome, report_facts

LABELS = ["cat", "<script>alert(1)</script>"]
OUTCOMES = [
    outcome(0, "cat", "cat"),
    outcome(1, "cat", LABELS[1]),
    outcome(2, LABELS[1], LABELS[1]),
]
VOID = {"meta", "img", "br", "rect", "line", "path", "circle", "polyline"}


class Checker(HTMLParser):
    """Collects tags, attributes and text, and fails on tags that do not match."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.words.append(data)


def checked(html: str) -> Checker:
    checker = Checker()
    checker.feed(html)
    checker.close()
    assert checker.open == []
    return checker


def text_of(html: str) -> str:
    return " ".join("".join(checked(html).words).split())


def verdict(
    outcomes: list[Outcome], champion: list[Outcome] | None, min_precision: float = 0.5
) -> Verdict:
    version = "none" if champion is None else "c0c0"
    return judge(
        outcomes, champion, version="t1t1", champion_version=version, min_precision=min_precision
    )


def test_report_is_one_page_that_needs_nothing_else() -> None:
    html = render_report(report_facts(OUTCOMES, LABELS), verdict(OUTCOMES, OUTCOMES))

    page = checked(html)
    assert page.tags.isdisjoint({"script", "link", "iframe", "object", "a", "form"})
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert {value for name, value in page.attributes if name in ("src", "href")} == {PIXEL}
    assert not re.search(r"url\(|@import|https?://", html)


def test_report_escapes_labels_and_file_names() -> None:
    html = render_report(report_facts(OUTCOMES, LABELS), verdict(OUTCOMES, None))

    assert "<script" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "picture 1 &lt;b&gt;.jpg" in html
    assert "a/&lt;i&gt;|.jpg" in html


def test_report_says_the_verdict_first() -> None:
    said = verdict(OUTCOMES, OUTCOMES)
    html = render_report(report_facts(OUTCOMES, LABELS), said)

    heading = re.sub(r"<[^>]*>", "", html.partition("<h1>")[2].partition("</h1>")[0])
    assert (
        heading
        == said.headline
        == (
            "Promoted: 0.667 [0.208, 0.939] on 3 pictures; champion 0.667 [0.208, 0.939]; threshold 0.50"
        )
    )
    assert all(reason in text_of(html) for reason in said.reasons)


def test_report_without_a_verdict_gives_the_score() -> None:
    text = text_of(render_report(report_facts(OUTCOMES, LABELS)))

    assert "Evaluated: 0.667 [0.208, 0.939] on 3 pictures" in text
    assert "champion" not in text


def test_report_has_every_section() -> None:
    html = render_report(report_facts(OUTCOMES, LABELS), verdict(OUTCOMES, OUTCOMES))

    assert re.findall("<h2>(.*?)</h2>", html) == [
        "Against the champion",
        "Label by label",
        "What is taken for what",
        "The worst mistakes",
        "Training",
        "How sure it is",
        "The data",
        "How it was made",
    ]
    text = text_of(html)
    assert "1,203 files found, 1,200 accepted, 3 left out." in text
    assert "and 1 more" in text
    assert "1 h 2 min" in text
    assert "there are only 2 labels" in text


def test_every_chart_has_words() -> None:
    html = render_report(report_facts(OUTCOMES, LABELS), verdict(OUTCOMES, OUTCOMES))

    for tag in re.findall(r"<svg[^>]*>", html):
        assert "aria-label=" in tag or "aria-hidden=" in tag or 'overflow="visible"' in tag
    assert "loss over 4 epochs: train from 1 to 0.25; validation from 1.5 to 0.375." in html
    assert 'alt="cat taken for &lt;script&gt;' in html


def test_report_of_a_model_without_mistakes_does_not_boast() -> None:
    perfect = [outcome(i, "cat", "cat") for i in range(40)]

    html = render_report(report_facts(perfect, ["cat", "dog"]), verdict(perfect, None))

    text = text_of(html)
    assert "the 95 % interval still begins at 0.91" in text
    assert "Every label is always found." in text
    assert PIXEL not in html
    assert "Most often confused" not in html


def test_report_without_training_says_so() -> None:
    html = render_report(report_facts(OUTCOMES, LABELS, training=False))

    assert "<h2>Training</h2>" not in html
    assert "The folder of the model does not say." in html


@pytest.mark.parametrize(
    "num_labels", [MAX_OPEN_LABELS, MAX_OPEN_LABELS + 1, MAX_HEAT_MAP_LABELS + 1]
)
def test_report_of_many_labels_folds_what_is_past_the_limit(num_labels: int) -> None:
    labels = [f"label {i}" for i in range(num_labels)]
    outcomes = [outcome(i, label, labels[i // 2]) for i, label in enumerate(labels)]

    html = render_report(report_facts(outcomes, labels))

    assert html.count('<th scope="row" title="label') == min(num_labels, MAX_HEAT_MAP_LABELS)
    assert (f"Shown: the {MAX_HEAT_MAP_LABELS} labels with the most mistakes" in html) == (
        num_labels > MAX_HEAT_MAP_LABELS
    )
    assert ("<details>" in html) == (num_labels > MAX_OPEN_LABELS)
    assert all(f'<th scope="row">{label}</th>' in html for label in labels)


def test_same_facts_give_the_same_bytes() -> None:
    facts = report_facts(OUTCOMES, LABELS)

    assert render_report(facts) == render_report(facts)
