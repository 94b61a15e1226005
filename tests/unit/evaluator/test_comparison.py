"""The gate's decision and its reasons, on hand-made outcomes."""

import pytest

from repot.errors import DataError
from repot.evaluator.comparison import compare_outcomes, judge, score_of
from repot.evaluator.outcomes import Outcome
from repot.evaluator.verdict import Verdict


def make_outcomes(correct: str) -> list[Outcome]:
    """Return one outcome per character: "1" for a correct prediction, "0" for a mistake."""
    return [
        Outcome(
            filename=f"{i}.jpg",
            digest=f"{i:032x}",
            label="cat",
            predicted="cat" if mark == "1" else "dog",
            probability=0.9,
            label_probability=0.9 if mark == "1" else 0.1,
            label_rank=1 if mark == "1" else 2,
        )
        for i, mark in enumerate(correct)
    ]


def make_verdict(
    challenger: str, champion: str | None, min_precision: float = 0.0, **options: object
) -> Verdict:
    arguments = {
        "model_name": "m",
        "decided_at": "2026-11-27T14:05:00Z",
        "version": "new",
        "champion_version": "none" if champion is None else "old",
        **options,
    }
    champion_outcomes = None if champion is None else make_outcomes(champion)
    return judge(
        make_outcomes(challenger),
        champion_outcomes,
        min_precision=min_precision,
        **arguments,  # type: ignore[arg-type]
    )


def test_score_of_has_the_wilson_interval() -> None:
    score = score_of(make_outcomes("1" * 37 + "000"))

    assert score.precision_at_1 == 0.925
    assert str(score) == "0.925 [0.801, 0.974]"
    assert score.num_examples == 40


def test_compare_outcomes_counts_the_four_cases() -> None:
    comparison = compare_outcomes(make_outcomes("1110010"), make_outcomes("1101101"))

    assert (comparison.both_right, comparison.both_wrong) == (2, 0)
    assert (comparison.only_champion, comparison.only_challenger) == (2, 3)
    assert comparison.difference == pytest.approx(1 / 7)
    assert comparison.p_value == 1.0


def test_compare_outcomes_of_different_pictures_raises_an_error() -> None:
    other = [*make_outcomes("1"), *make_outcomes("11")[1:]]

    assert compare_outcomes(other, make_outcomes("11")).both_right == 2
    with pytest.raises(DataError, match="same pictures"):
        compare_outcomes(make_outcomes("111"), make_outcomes("11"))


@pytest.mark.parametrize(
    ("challenger", "champion", "min_precision", "decision"),
    [
        ("1110", None, 0.0, "promote"),
        ("1110", None, 0.75, "promote"),
        ("1110", None, 0.7500001, "reject"),
        ("1110", "1100", 0.0, "promote"),
        ("1110", "0111", 0.0, "promote"),
        ("1100", "1110", 0.0, "reject"),
        ("1110", "1100", 0.8, "reject"),
        ("1100", "1110", 0.8, "reject"),
        ("0000", None, 0.0, "promote"),
    ],
)
def test_version_is_promoted_if_it_reaches_the_threshold_and_is_not_worse(
    challenger: str, champion: str | None, min_precision: float, decision: str
) -> None:
    assert make_verdict(challenger, champion, min_precision).decision == decision


def test_champion_itself_is_unchanged() -> None:
    verdict = make_verdict("10", None, 0.9, champion_version="new")

    assert verdict.decision == "unchanged"
    assert "is already the champion" in verdict.reasons[0]
    assert verdict.champion is None


def test_rolled_back_version_is_rejected() -> None:
    verdict = make_verdict("11", "10", was_rolled_back=True)

    assert verdict.decision == "reject"
    assert "was rolled back" in verdict.reasons[0]


def test_version_is_rejected_if_the_champion_has_none_of_its_labels() -> None:
    verdict = make_verdict("11", "00", unknown_labels=["cat"])

    assert verdict.decision == "reject"
    assert "none of these labels" in verdict.reasons[0]


@pytest.mark.parametrize(
    ("labels", "names", "advice"),
    [
        (["a"], "label 'a',", "Add pictures of it,"),
        (list("abcdefg"), "labels 'a', 'b', 'c', 'd', 'e' and 2 more", "of them,"),
    ],
)
def test_version_without_labels_of_the_champion_is_rejected_unless_allowed(
    labels: list[str], names: str, advice: str
) -> None:
    rejected = make_verdict("11", "10", removed_labels=labels)
    allowed = make_verdict("11", "10", removed_labels=labels, allow_label_removal=True)

    assert rejected.decision == "reject"
    assert f"This version no longer has the {names}" in rejected.reasons[0]
    assert advice in rejected.reasons[0]
    assert "--allow-label-removal" in rejected.reasons[0]
    assert allowed.decision == "promote"
    assert f"This version no longer has the {names}" in allowed.reasons[-1]
    assert rejected.removed_labels == allowed.removed_labels == tuple(labels)


def test_allowed_label_removal_does_not_promote_a_worse_version() -> None:
    verdict = make_verdict("10", "11", removed_labels=["a"], allow_label_removal=True)

    assert verdict.decision == "reject"
    assert "fewer right" in verdict.reasons[0]


@pytest.mark.parametrize(
    ("folders", "text"),
    [
        (["hen"], "No pictures are in the label folder 'hen', so this version does not know it."),
        (["hen", "owl"], "in the label folders 'hen', 'owl', so this version does not know them."),
    ],
)
@pytest.mark.parametrize("champion_version", ["old", "new"])
def test_empty_label_folders_are_stated_but_decide_nothing(
    folders: list[str], text: str, champion_version: str
) -> None:
    without = make_verdict("11", "10", champion_version=champion_version)
    verdict = make_verdict(
        "11", "10", champion_version=champion_version, empty_label_folders=folders
    )

    assert verdict.decision == without.decision
    assert verdict.reasons[-1].endswith(text)
    assert verdict.empty_label_folders == tuple(folders)


def test_data_warnings_are_stated_but_decide_nothing() -> None:
    verdict = make_verdict("11", "10", data_warnings=["1 of 8 pictures is a copy"])

    assert verdict.decision == make_verdict("11", "10").decision
    assert verdict.reasons[-1] == "Data: 1 of 8 pictures is a copy."


def test_another_task_gets_no_advice_to_allow_the_removal_of_labels() -> None:
    verdict = make_verdict("11", "00", unknown_labels=["cat"], removed_labels=["hen"])

    assert not any("--allow-label-removal" in reason for reason in verdict.reasons)
    assert verdict.removed_labels == ("hen",)


def test_verdict_id_does_not_depend_on_the_time() -> None:
    verdict = make_verdict("11", "10")

    assert verdict.verdict_id == make_verdict("11", "10", decided_at="later").verdict_id
    assert verdict.verdict_id != make_verdict("11", "10", 0.5).verdict_id
    assert verdict.verdict_id != make_verdict("11", "10", model_name="other").verdict_id


def test_first_reason_is_the_decisive_one() -> None:
    below = make_verdict("1100", "1110", 0.8)
    worse = make_verdict("1100", "1110", 0.5)

    assert below.reasons[0] == "precision@1 of 0.5000 is below the threshold of 0.8000."
    assert worse.reasons[0] == (
        "On the same pictures, this version gets 1 fewer right than the champion old: "
        "0 that only this version gets right, 1 that only the champion gets right."
    )


def test_threshold_that_nobody_set_is_no_reason() -> None:
    first = make_verdict("10", None)
    better = make_verdict("11", "10")

    assert first.reasons == (
        "There is no champion yet and no threshold (min_precision), so any score counts.",
    )
    assert not any("threshold" in reason for reason in better.reasons)


@pytest.mark.parametrize(
    ("challenger", "champion", "relation"),
    [("111", "100", "2 more right than"), ("10", "01", "as many right as")],
)
def test_reasons_compare_the_numbers_of_pictures(
    challenger: str, champion: str, relation: str
) -> None:
    reason = make_verdict(challenger, champion).reasons[0]

    assert reason.startswith(f"On the same pictures, this version gets {relation} the champion old")


@pytest.mark.parametrize(
    ("challenger", "champion", "reason"),
    [
        (
            "1" * 10 + "0",
            "0" * 11,
            "The difference is statistically significant (exact McNemar p = 0.002).",
        ),
        (
            "1110",
            "1100",
            "The difference is not statistically significant (exact McNemar p = 1); more",
        ),
        ("1100", "1100", "The two versions are tied (exact McNemar p = 1)."),
    ],
)
def test_reasons_state_the_significance(challenger: str, champion: str, reason: str) -> None:
    assert any(each.startswith(reason) for each in make_verdict(challenger, champion).reasons)


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["a"], "the label 'a',"),
        (list("abcde"), "the labels 'a', 'b', 'c', 'd', 'e',"),
        (list("abcdefg"), "'d', 'e' and 2 more,"),
    ],
)
def test_reasons_name_labels_that_the_champion_lacks(labels: list[str], names: str) -> None:
    verdict = make_verdict("11", "10", unknown_labels=labels)

    assert names in verdict.reasons[-1]
    assert verdict.unknown_labels == tuple(labels)
    assert make_verdict("11", "10").reasons[-1] != verdict.reasons[-1]


def test_verdict_round_trips_through_json() -> None:
    for verdict in (
        make_verdict("110", "100", 0.5, unknown_labels=["a", "b"]),
        make_verdict("1", None),
        make_verdict("1", None, champion_version="new"),
    ):
        assert Verdict.from_text(verdict.to_text()) == verdict


def test_headline_has_decision_scores_and_threshold() -> None:
    assert (
        make_verdict("1" * 9 + "0", None, 0.8).headline
        == "Promoted: 0.900 [0.596, 0.982] on 10 pictures; threshold 0.80"
    )
    assert make_verdict("1", "0").headline == (
        "Promoted: 1.000 [0.207, 1.000] on 1 picture; champion 0.000 [0.000, 0.793]"
    )
    assert make_verdict("1", None).headline == "Promoted: 1.000 [0.207, 1.000] on 1 picture"
    assert make_verdict("0", None, 0.5).headline.startswith("Not promoted: ")
    assert make_verdict("0", None, champion_version="new").headline.startswith("Unchanged: ")
