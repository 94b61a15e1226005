"""The report page: complete, escaped, of limited size, without external resources."""

import dataclasses
import io
import random
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from repot.evaluator.comparison import judge
from repot.evaluator.floors import compare_labels
from repot.evaluator.outcomes import Outcome, ScoredPicture
from repot.evaluator.report.data import (
    MAX_CELL_PICTURES,
    CellPictures,
    ReportContext,
    ShownPicture,
    SliceRecord,
    SliceSummary,
    SuspectPicture,
    SuspectSummary,
    choose_cells,
    thumbnail,
)
from repot.evaluator.report.page import (
    MAX_HEAT_MAP_LABELS,
    MAX_OPEN_LABELS,
    MAX_SLICES,
    render_report,
)
from repot.evaluator.verdict import Verdict
from repot.requested_run import RequestedRun
from repot.selection_record import CandidateRecord, ForecastRecord, SelectionRecord
from repot.settings import GateSettings
from repot.training_record import AugmentedExample, AugmentedPictures
from tests.unit.evaluator.samples import PIXEL, make_outcome, make_promise, make_report_data

MAX_PER_PAIR = 4
LABELS = ["cat", "<script>alert(1)</script>"]
OUTCOMES = [
    make_outcome(0, "cat", "cat"),
    make_outcome(1, "cat", LABELS[1]),
    make_outcome(2, LABELS[1], LABELS[1]),
]
VOID = {"meta", "img", "br", "rect", "line", "path", "circle", "polyline", "wbr"}


class PageParser(HTMLParser):
    """Collects tags, attributes and text; fails if tags do not match."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] not in (["style"], ["script"]):
            self.texts.append(data)


def parse(html: str) -> PageParser:
    parser = PageParser()
    parser.feed(html)
    parser.close()
    assert parser.open == []
    return parser


def text_of(html: str) -> str:
    return " ".join("".join(parse(html).texts).split())


def make_verdict(
    outcomes: list[Outcome], champion: list[Outcome] | None, min_precision: float = 0.5
) -> Verdict:
    return judge(
        outcomes,
        champion,
        model_name="m",
        version="t1t1",
        champion_version="none" if champion is None else "c0c0",
        settings=GateSettings(min_precision=min_precision, allow_poor_model=True),
        decided_at="2026-11-27T14:05:00Z",
    )


def test_report_is_self_contained() -> None:
    html = render_report(make_report_data(OUTCOMES, LABELS), make_verdict(OUTCOMES, OUTCOMES))

    page = parse(html)
    assert page.tags.isdisjoint({"link", "iframe", "object", "form", "base"})
    # One script, of the page itself, that loads nothing and keeps nothing.
    assert re.findall(r"<script[^>]*>", html) == ["<script>"]
    script = html.partition("<script>")[2].partition("</script>")[0]
    assert not re.search(r"fetch|XMLHttp|import|localStorage|cookie|eval|innerHTML", script)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    linked = {value for name, value in page.attributes if name in ("src", "href")}
    # The link to the page beside this one loads nothing.
    assert linked == {PIXEL, "data.html"}
    assert not re.search(r"url\(|@import|https?://", html)


def test_report_escapes_labels_and_file_names() -> None:
    html = render_report(make_report_data(OUTCOMES, LABELS), make_verdict(OUTCOMES, None))

    assert html.count("<script") == 1
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "picture 1 &lt;b&gt;.jpg" in html
    assert "a/<wbr>&lt;i&gt;|.<wbr>jpg" in html


def test_file_name_with_a_line_break_stays_on_one_line() -> None:
    outcomes = [dataclasses.replace(OUTCOMES[1], filename="a\nb\x1b[31m.jpg"), *OUTCOMES]

    html = render_report(make_report_data(outcomes, LABELS))

    assert r"<code>a\nb\u001b[31m.<wbr>jpg</code>" in html


def test_names_break_after_their_separators_only() -> None:
    label = "european_honey-bee.Apis mellifera, 0.25"
    outcomes = [make_outcome(0, label, "cat")]

    html = render_report(make_report_data(outcomes, [label, "cat"]))

    assert "european_<wbr>honey-<wbr>bee.<wbr>Apis mellifera, 0.25<" in html


def test_narrow_screens_show_every_column_and_whole_labels() -> None:
    html = render_report(make_report_data(OUTCOMES, LABELS), make_verdict(OUTCOMES, OUTCOMES))
    narrow = html.partition("@media screen and (max-width")[2].partition("@media print")[0]

    assert "anywhere" not in narrow
    assert re.findall(r"([^\n{]*)\{ display: none; \}", narrow) == [
        # The list below the matrix has the labels.
        "  .heat th span, .heat thead th span ",
        "  .medium .heat .corner, .large .heat .corner ",
    ]
    # In the block that a row becomes, each cell shows the name of its column.
    for row in re.findall(r"(?s)<tr>\s*<th scope=\"row\">.*?</tr>", html.partition("stacks")[2]):
        if "probability" not in row and " to " not in row:
            cells = re.findall(r"<td([^>]*)>", row)
            assert all("data-name=" in cell or 'class="bar"' in cell for cell in cells)


def test_report_states_model_date_and_usage() -> None:
    verdict = make_verdict(OUTCOMES, OUTCOMES)

    html = render_report(
        make_report_data(OUTCOMES, LABELS), verdict, ReportContext(version_uri="/my models/m/t1t1")
    )

    text = text_of(html)
    assert "model m version t1t1 2026-11-27 14:05 UTC" in text
    assert "repot predict '/my models/m/t1t1' picture.jpg" in text
    assert "repot predict '/my models/m/champion.json' picture.jpg" in text


def test_report_states_how_to_repeat_the_run_and_where_the_data_page_is() -> None:
    context = ReportContext(
        dataset_uri="gs://b/datasets/d", request=RequestedRun(command="repot run 'my <b> pictures'")
    )

    html = render_report(make_report_data(OUTCOMES, LABELS), None, context)

    text = text_of(html)
    assert "repot run 'my <b> pictures'" in text
    assert "gs://b/datasets/d/data.html" in text
    assert "<b> pictures" not in html
    assert "Repeat this run" not in text_of(render_report(make_report_data(OUTCOMES, LABELS)))


def test_report_shows_no_threshold_that_nobody_set() -> None:
    for champion in (None, OUTCOMES):
        verdict = make_verdict(OUTCOMES, champion, min_precision=0.0)

        assert "threshold 0.0" not in text_of(
            render_report(make_report_data(OUTCOMES, LABELS), verdict)
        )
        assert "threshold of 0.0" not in " ".join(verdict.reasons)
        assert "threshold" not in verdict.headline


def test_report_lists_every_removed_label() -> None:
    removed = [f"label {i}" for i in range(9)]
    verdict = dataclasses.replace(make_verdict(OUTCOMES, OUTCOMES), removed_labels=tuple(removed))

    text = text_of(render_report(make_report_data(OUTCOMES, LABELS), verdict))

    assert f"this version no longer has: {', '.join(removed)}." in text


def test_heading_is_the_headline_of_the_verdict() -> None:
    verdict = make_verdict(OUTCOMES, OUTCOMES)
    html = render_report(make_report_data(OUTCOMES, LABELS), verdict)

    heading = re.sub(
        r"<[^>]*>", "", html.partition("<h1")[2].partition(">")[2].partition("</h1>")[0]
    )
    assert heading == verdict.headline
    assert heading.startswith("Undecided: 3 pictures do not show which version is better")
    assert "precision@1 0.667 [0.208, 0.939] on 3 pictures; champion 0.667" in text_of(html)
    assert all(reason in text_of(html) for reason in verdict.reasons)


def test_report_without_a_verdict_shows_the_score_only() -> None:
    text = text_of(render_report(make_report_data(OUTCOMES, LABELS)))

    assert "Evaluated: 0.667 [0.208, 0.939] on 3 pictures" in text
    assert "champion" not in text


def test_report_has_every_section() -> None:
    html = render_report(make_report_data(OUTCOMES, LABELS), make_verdict(OUTCOMES, OUTCOMES))

    assert re.findall("<h2>(.*?)</h2>", html) == [
        "Comparison with the champion",
        "Scores by label",
        "Confusion matrix",
        "Most confident mistakes",
        "Training curves",
        "Calibration",
        "Dataset",
        "How it was trained",
    ]
    text = text_of(html)
    assert "1,203 files found, 1,200 accepted, 3 rejected." in text
    assert "and 1 more" in text
    assert "1 h 2 min" in text
    assert "there are only 2 labels" in text


def test_every_chart_has_a_text_for_screen_readers() -> None:
    html = render_report(make_report_data(OUTCOMES, LABELS), make_verdict(OUTCOMES, OUTCOMES))

    for tag in re.findall(r"<svg[^>]*>", html):
        assert "aria-label=" in tag or "aria-hidden=" in tag or 'overflow="visible"' in tag
    assert "loss over 4 epochs: train from 1 to 0.25; validation from 1.5 to 0.375." in html
    assert 'alt="cat predicted as &lt;script&gt;' in html


def test_report_without_mistakes_shows_the_lower_end_of_the_interval() -> None:
    perfect = [make_outcome(i, "cat", "cat") for i in range(40)]

    html = render_report(make_report_data(perfect, ["cat", "dog"]), make_verdict(perfect, None))

    text = text_of(html)
    assert "No mistakes on 40 pictures." in text
    assert "the 95 % interval of precision@1 starts at 0.91" in text
    assert "All pictures of all labels are predicted correctly." in text
    assert PIXEL not in html
    assert "Most frequent confusions" not in html


def test_report_without_training_says_that_it_is_unknown() -> None:
    html = render_report(make_report_data(OUTCOMES, LABELS, has_training=False))

    assert "<h2>Training curves</h2>" not in html
    assert "the model's folder has no training record" in text_of(html)


def test_one_epoch_has_no_curves() -> None:
    data = make_report_data(OUTCOMES, LABELS)

    html = render_report(dataclasses.replace(data, history=data.history[:1]))

    assert "<h2>Training curves</h2>" not in html


@pytest.mark.parametrize(
    "num_labels", [MAX_OPEN_LABELS, MAX_OPEN_LABELS + 1, MAX_HEAT_MAP_LABELS + 1]
)
def test_report_of_many_labels_has_all_rows_in_a_frame(num_labels: int) -> None:
    labels = [f"label {i}" for i in range(num_labels)]
    outcomes = [make_outcome(i, label, labels[i // 2]) for i, label in enumerate(labels)]

    html = render_report(make_report_data(outcomes, labels))

    assert html.count('<th scope="row" title="label') == min(num_labels, MAX_HEAT_MAP_LABELS)
    assert (f"Showing the {MAX_HEAT_MAP_LABELS} labels with the most mistakes" in html) == (
        num_labels > MAX_HEAT_MAP_LABELS
    )
    assert ('aria-label="Scores of all labels"' in html) == (num_labels > MAX_OPEN_LABELS)
    table = html.partition('<table class="labels')[2].partition("</table>")[0]
    assert all(f"<bdi>{label}</bdi>" in table for label in labels)


def test_cells_of_the_matrix_open_their_pictures_without_a_script() -> None:
    data = make_report_data(OUTCOMES, LABELS)
    (mistake,) = data.mistakes
    cell = CellPictures(label="cat", predicted=LABELS[1], pictures=(mistake,))

    html = render_report(dataclasses.replace(data, cells=(cell,)))

    (found,) = re.findall(r'(?s)<details class="opens cell".*?</details>', html)
    assert "<summary>1</summary>" in found
    assert f'src="{PIXEL}"' in found
    text = text_of(found)
    assert f"cat predicted as {LABELS[1]}: 1 of 2 pictures" in text
    assert f"{LABELS[1]} (0.88)picture 1 <b>.jpg" in text
    assert "Underlined numbers open the pictures" in text_of(html)
    assert "Underlined numbers" not in text_of(render_report(data))


def test_row_of_a_label_says_what_it_was_taken_for() -> None:
    outcomes = [make_outcome(i, "a", label) for i, label in enumerate("abbcdefgh")]

    text = text_of(render_report(make_report_data(outcomes, list("abcdefgh"))))

    assert "a predicted as b 2, c 1, d 1, e 1, f 1, and other labels" in text


def make_slices(*, is_worse: bool) -> SliceSummary:
    each = SliceRecord(
        column="camera",
        value="<b>old</b>",
        num_examples=1200,
        num_correct=600,
        precision_at_1=0.5,
        interval=(0.47, 0.53),
        others=0.9,
        p_value=0.00000012 if is_worse else 0.5,
        is_worse=is_worse,
    )
    return SliceSummary(slices=(each,) * 101, num_tested=101, level=0.05)


@pytest.mark.parametrize("is_worse", [True, False])
def test_slices_state_what_chance_explains(*, is_worse: bool) -> None:
    data = make_report_data(OUTCOMES, LABELS)

    html = render_report(dataclasses.replace(data, slices=make_slices(is_worse=is_worse)))

    text = text_of(html)
    if is_worse:
        assert "101 slices of 101 are worse than chance explains: camera <b>old</b>" in text
        assert "< 0.0001" in text
    else:
        assert "None of 101 slices is worse than chance explains." in text
    assert "some would look worse by chance: with p ≤ 0.05, about 5." in text
    assert "1,2000.500.47 to 0.530.90" in text.replace(" ", "").replace("to", " to ")
    assert html.count('<span class="column">camera</span>') == MAX_SLICES == 100
    assert "And 1 more slice in report_data.json" in text
    assert "<h2>Slices</h2>" not in render_report(data)


@pytest.mark.parametrize(
    ("num_tested", "expected"),
    [
        (1, "The one slice that can be tested is not worse than chance explains. A slice is"),
        (6, "with p ≤ 0.05, about one in 20. So p is corrected"),
        (20, "with p ≤ 0.05, about one. So p is corrected"),
        (60, "with p ≤ 0.05, about 3. So p is corrected"),
    ],
)
def test_number_of_slices_that_chance_makes_look_worse(num_tested: int, expected: str) -> None:
    slices = dataclasses.replace(make_slices(is_worse=False), num_tested=num_tested)
    data = dataclasses.replace(make_report_data(OUTCOMES, LABELS), slices=slices)

    assert expected in text_of(render_report(data))


def test_champion_and_challenger_are_compared_label_by_label() -> None:
    champion = [make_outcome(i, "a", "a") for i in range(30)] + [make_outcome(30, "b", "a")]
    challenger = [make_outcome(i, "a", "b") for i in range(30)] + [make_outcome(30, "b", "b")]
    verdict = make_verdict(challenger, champion)

    html = render_report(
        make_report_data(challenger, ["a", "b"]),
        verdict,
        ReportContext(compared_labels=tuple(compare_labels(champion, challenger))),
    )

    assert "exact McNemar p < 0.0001. Champion" in text_of(html)
    table = html.partition("Label by label")[2].partition("</table>")[0]
    rows = [text_of(row) for row in re.findall(r"(?s)<tr[ >].*?</tr>", table)[1:]]
    assert rows == ["a worse301.000.00-1.000< 0.0001", "b10.001.00+1.000–"]
    assert table.count('class="worse"') == 1
    assert "Label by label" not in render_report(make_report_data(challenger, ["a", "b"]), verdict)


def test_balanced_scores_have_their_intervals() -> None:
    text = text_of(render_report(make_report_data(OUTCOMES, LABELS)))

    assert re.search(r"0\.750mean recall of the labels0\.\d{3} to 0\.\d{3}; every label", text)
    assert re.search(r"0\.667mean F1 of the labels0\.\d{3} to 0\.\d{3}", text)


def test_page_of_a_thousand_long_labels_with_all_pictures_is_small() -> None:
    labels = [f"{i:04d}".ljust(255, "w") for i in range(1000)]
    outcomes = [make_outcome(i, labels[i // 3], labels[i % 1000]) for i in range(3000)]
    data = make_report_data(outcomes, labels)
    rng = random.Random(0)
    # Noise, the worst case of JPEG.
    jpeg = make_jpeg(rng.randbytes(600 * 600 * 3), 600)
    pictures = [ScoredPicture(outcome=each, jpeg=jpeg) for each in outcomes if not each.correct]
    by_pair = {
        (each.outcome.label, each.outcome.predicted): (each,) * MAX_PER_PAIR for each in pictures
    }
    cells = choose_cells(data.evaluation, by_pair)
    large = thumbnail(jpeg)
    suspect = dataclasses.replace(make_suspects(num_suspects=1).pictures[0], thumbnail=large)
    suspects = make_suspects(num_suspects=1000)
    data = dataclasses.replace(
        data,
        mistakes=tuple(
            ShownPicture(outcome=each.outcome, thumbnail=large, saliency=large)
            for each in pictures[:24]
        ),
        suspects=dataclasses.replace(suspects, pictures=(suspect,) * 24),
        cells=cells,
        slices=make_slices(is_worse=True),
    )

    html = render_report(
        data,
        make_verdict(outcomes, outcomes),
        ReportContext(compared_labels=tuple(compare_labels(outcomes, outcomes))),
    )

    assert 0 < sum(len(cell.pictures) for cell in cells) <= MAX_CELL_PICTURES
    assert len(html.encode()) < 5_000_000


def make_jpeg(pixels: bytes, side: int) -> bytes:
    encoded = io.BytesIO()
    Image.frombytes("RGB", (side, side), pixels).save(encoded, "JPEG", quality=95)
    return encoded.getvalue()


def test_rendering_is_deterministic() -> None:
    data = make_report_data(OUTCOMES, LABELS)

    assert render_report(data) == render_report(data)


def test_labels_of_any_length_and_direction_stay_in_their_place() -> None:
    labels = ["קופסה", "x" * 200]
    html = render_report(make_report_data([make_outcome(0, *labels)], labels))

    # Without isolation, two labels from right to left would swap around the arrow.
    assert f"<bdi>{labels[0]}</bdi> → <bdi>{labels[1]}</bdi>" in html
    # Looked at in a browser: without these two rules, a long label makes the page wider.
    assert re.search(r"body \{[^}]*overflow-wrap: break-word", html)
    assert ".pairs .breaks { min-width: 0; }" in html


@pytest.mark.parametrize("has_flips", [True, False])
def test_augmented_training_pictures_are_shown_with_their_label(*, has_flips: bool) -> None:
    augmented = AugmentedPictures(
        augmentation="inception",
        has_flips=has_flips,
        examples=(AugmentedExample(label=LABELS[1], original=PIXEL, augmented=(PIXEL,) * 3),),
    )
    data = make_report_data(OUTCOMES[:1], LABELS)

    text = text_of(render_report(dataclasses.replace(data, augmented=augmented)))

    page = parse(render_report(dataclasses.replace(data, augmented=augmented)))
    assert page.attributes.count(("src", PIXEL)) == 4
    assert "the 2016 tutorial's crops, colors and mirror images" in text
    assert ("but never mirrored" in text) != has_flips
    assert LABELS[1] in text
    assert "Training pictures" not in text_of(render_report(data))


def test_scores_on_test_are_beside_those_on_validation() -> None:
    data = make_report_data(OUTCOMES, LABELS)
    test = dataclasses.replace(data.evaluation.scores, num_examples=8, excluded={"x": 2})
    data = dataclasses.replace(data, evaluation=dataclasses.replace(data.evaluation, test=test))

    text = text_of(render_report(data, make_verdict(OUTCOMES, OUTCOMES)))

    assert "scorevalidationtest precision@10.6670.667" in text
    assert "correct2 of 32 of 8 not scored02" in text
    assert "Test Nothing was selected" not in text_of(
        render_report(make_report_data(OUTCOMES, LABELS))
    )


def test_report_shows_what_recipe_auto_tried_and_its_forecast_beside_the_score() -> None:
    data = make_report_data([make_outcome(0, "a", "a"), make_outcome(1, "a", "b")], ["a", "b"])
    assert data.training is not None
    tried = [
        CandidateRecord(
            name=name, precision_at_1=score, mean_recall=score, loss=0.5, is_chosen=name == "wide"
        )
        for name, score in (("wide", 0.875), ("narrow", 0.75))
    ]
    selection = SelectionRecord(
        method="5-fold cross-validation",
        num_examples=40,
        candidates=tuple(tried),
        penalty=1e-4,
        class_weight=0.0,
        balance="no class weights, because labels are equal",
        fine_tuning="not tried",
        temperature=0.5,
        forecast=ForecastRecord(precision_at_1=0.9, low=0.8, high=0.95, num_examples=2),
    )
    training = dataclasses.replace(data.training, selection=selection)

    text = text_of(render_report(dataclasses.replace(data, training=training)))

    assert "Forecast of precision@1 before the evaluation: 0.900" in text
    assert "Measured on 2 pictures: 0.500, outside of the interval" in text
    assert "wide0.8750.8750.500chosennarrow0.750" in text.replace(" ", "")
    assert "Selection" not in text_of(render_report(data))


def test_report_states_promises_beside_what_came_true() -> None:
    data = make_report_data(OUTCOMES, LABELS)
    evaluation = dataclasses.replace(data.evaluation, promise=make_promise())

    text = text_of(render_report(dataclasses.replace(data, evaluation=evaluation)))

    assert "0.125calibration error before" in text
    assert f"{evaluation.calibration.error:.3f}calibration error after" in text
    assert (
        "learned from 1,000 pictures (5-fold cross-validation), where the error was 0.138 before "
        "and 0.021 after, and a perfectly calibrated model would show about 0.015." in text
    )
    assert (
        f"{evaluation.calibration.error_by_chance:.3f}calibration error by chanceWith 3 pictures, "
        "even a perfectly calibrated model would show about this error" in text
    )
    assert "66.7 %labels in their prediction set90.0 % are promised for new pictures; 95 %" in text
    assert "with 1.25 labels in a set on average and 1 empty set." in text
    assert "3unlike the training picturesOf 3 pictures; about 1.0 % are expected" in text
    assert "What its probabilities promise" not in text_of(render_report(data))


def make_suspects(*, num_suspects: int, num_judged: int = 90) -> SuspectSummary:
    picture = SuspectPicture(
        path="cat/<b>.jpg",
        split="train",
        given_label="cat",
        likely_label=LABELS[1],
        given_probability=0.01,
        likely_probability=0.95,
        confidence=0.875,
        thumbnail=PIXEL,
    )
    return SuspectSummary(
        num_suspects=num_suspects,
        num_expected=0.75 * num_suspects,
        num_judged=num_judged,
        num_examples=100,
        table_uri="s3://bucket/suspects.csv",
        pictures=(picture,) * min(num_suspects, 2),
    )


def suspects_text(suspects: SuspectSummary | None) -> str:
    data = dataclasses.replace(make_report_data(OUTCOMES, LABELS), suspects=suspects)
    html = render_report(data)
    assert "<b>.jpg" not in html
    return text_of(html)


def test_suspected_labels_are_shown_and_the_rest_is_counted() -> None:
    text = suspects_text(make_suspects(num_suspects=5))

    assert "5 of 90 pictures may have a wrong label; about 4 of them are expected to" in text
    assert f"likely: {LABELS[1]} (0.95)" in text
    assert "given: cat (0.01)" in text
    assert "And 3 more pictures in the file." in text
    assert "10 other pictures could not be judged" in text
    assert "s3://" in text
    assert "--corrections" in text


def test_report_says_that_no_label_is_suspected_or_says_nothing() -> None:
    assert "None: of 90 pictures of train and validation" in suspects_text(
        make_suspects(num_suspects=0)
    )
    for absent in (None, make_suspects(num_suspects=0, num_judged=0)):
        assert "Suspected wrong labels" not in suspects_text(absent)
