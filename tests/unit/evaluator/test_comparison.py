"""The gate's decision and its reasons, on hand-made outcomes."""

import pytest

from repot.errors import DataError
from repot.evaluator.comparison import compare_outcomes, judge, score_of
from repot.evaluator.comparison_log import ComparisonEntry
from repot.evaluator.decision_rule import PairedCounts, Pairing
from repot.evaluator.outcomes import Outcome
from repot.evaluator.verdict import Verdict, exit_code_of
from repot.settings import GateSettings


def make_outcomes(correct: str) -> list[Outcome]:
    """Return one outcome per character: "1" for a correct prediction, "0" for a mistake."""
    labels = ("cat", "dog")
    return [
        Outcome(
            filename=f"{i}.jpg",
            digest=f"{i:032x}",
            label=labels[i % 2],
            predicted=labels[(i + (mark == "0")) % 2],
            probability=0.9,
            label_probability=0.9 if mark == "1" else 0.1,
            label_rank=1 if mark == "1" else 2,
        )
        for i, mark in enumerate(correct)
    ]


def make_verdict(
    challenger: str,
    champion: str | None,
    min_precision: float = 0.0,
    settings: dict[str, object] | None = None,
    **options: object,
) -> Verdict:
    """Judge outcomes; each comparison has the whole yearly error, and chance is allowed."""
    values = {"comparisons_per_year": 1, "allow_poor_model": True, **(settings or {})}
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
        settings=GateSettings(min_precision=min_precision, **values),  # type: ignore[arg-type]
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


ALL, NONE, HALF = "1" * 12, "0" * 12, "1" * 6 + "0" * 6


@pytest.mark.parametrize(
    ("challenger", "champion", "min_precision", "decision"),
    [
        ("1110", None, 0.0, "promote"),
        ("1110", None, 0.75, "promote"),
        ("1110", None, 0.7500001, "reject"),
        (ALL, HALF, 0.0, "promote"),
        (HALF, ALL, 0.0, "reject"),
        (HALF, HALF, 0.0, "undecided"),
        (HALF + "1", HALF + "0", 0.0, "undecided"),
        (HALF + "0", HALF + "1", 0.0, "undecided"),
        (HALF + HALF, HALF + HALF[::-1], 0.0, "undecided"),
        ("1110", "1100", 0.8, "reject"),
        ("1100", "1110", 0.8, "reject"),
        ("0000", None, 0.0, "promote"),
    ],
)
def test_version_is_promoted_if_it_reaches_the_threshold_and_is_clearly_better(
    challenger: str, champion: str | None, min_precision: float, decision: str
) -> None:
    assert make_verdict(challenger, champion, min_precision).decision == decision


@pytest.mark.parametrize(
    ("challenger", "champion", "decision"),
    [(ALL, HALF, "promote"), (HALF, HALF, "promote"), (HALF, ALL, "reject")],
)
def test_newer_version_can_be_preferred_unless_it_is_worse(
    challenger: str, champion: str, decision: str
) -> None:
    verdict = make_verdict(challenger, champion, settings={"when_undecided": "prefer_new"})

    assert verdict.decision == decision
    assert ("when_undecided is prefer_new" in verdict.headline) == (challenger == champion)


def test_undecided_verdict_states_how_many_pictures_are_needed() -> None:
    verdict = make_verdict(HALF + "1", HALF + "0")

    assert verdict.comparison is not None
    rule = verdict.comparison.rule
    assert rule is not None
    assert rule.num_needed is not None
    assert rule.num_needed > 13
    assert verdict.headline.startswith(
        "Undecided: 13 pictures do not show which version is better (difference +0.077 ["
    )
    assert verdict.headline.endswith(" would, so the champion old stays.")
    assert verdict.reasons[0].startswith("About ")
    assert "there are 13. Add pictures" in verdict.reasons[0]
    assert exit_code_of(verdict.decision) == 3


@pytest.mark.parametrize(
    "options",
    [
        {"was_rolled_back": True},
        {"removed_labels": ["a"]},
        {"unknown_labels": ["cat", "dog"]},
    ],
)
@pytest.mark.parametrize("challenger", [HALF, NONE])
def test_forced_promotion_keeps_its_reason_and_what_the_gate_found(
    challenger: str, options: dict[str, object]
) -> None:
    settings: dict[str, object] = {"force_promote": "hotfix for camera 4"}
    verdict = make_verdict(challenger, ALL, 0.9, settings, **options)

    assert (verdict.decision, verdict.forced) == ("promote", "hotfix for camera 4")
    assert verdict.headline == "Promoted: forced, because 'hotfix for camera 4'."
    assert verdict.reasons[0].startswith("Without --force-promote: Not promoted: ")
    assert Verdict.from_text(verdict.to_text()) == verdict


def test_better_version_needs_no_force() -> None:
    assert make_verdict(ALL, HALF, settings={"force_promote": "x"}).forced == ""


def test_level_of_the_recorded_comparison_decides() -> None:
    entry = ComparisonEntry(
        number=365,
        champion="old",
        challenger="new",
        pictures_id="p",
        only_champion=0,
        only_challenger=6,
        num_compared=12,
        alpha=1e-4,
    )

    verdict = make_verdict(ALL, HALF, entry=entry)

    assert verdict.decision == "undecided"
    assert any(
        reason.startswith("Comparison 365 of this model: p = ") for reason in verdict.reasons
    )


def test_scores_of_selected_versions_are_corrected() -> None:
    pairing = Pairing(
        champion="old",
        challenger="new",
        counts=PairedCounts(only_champion=0, only_challenger=6, num_compared=12),
    )

    verdict = make_verdict(ALL, HALF, pairings=[pairing])

    assert verdict.champion is not None
    # The variance of 1 and .5 is .125, the noise of six discordant pictures is 6 / 144 / 2.
    share = 6 / 144 / 2 / 0.125
    assert verdict.challenger.expected_precision == pytest.approx(1 - 0.25 * share)
    assert verdict.champion.expected_precision == pytest.approx(0.5 + 0.25 * share)


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
    verdict = make_verdict("11", "00", unknown_labels=["cat", "dog"])

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
    rejected = make_verdict(ALL, HALF, removed_labels=labels)
    allowed = make_verdict(ALL, HALF, removed_labels=labels, settings={"allow_label_removal": True})

    assert rejected.decision == "reject"
    assert f"This version no longer has the {names}" in rejected.reasons[0]
    assert advice in rejected.reasons[0]
    assert "--allow-label-removal" in rejected.reasons[0]
    assert allowed.decision == "promote"
    assert f"This version no longer has the {names}" in allowed.reasons[-1]
    assert rejected.removed_labels == allowed.removed_labels == tuple(labels)


def test_allowed_label_removal_does_not_promote_a_worse_version() -> None:
    verdict = make_verdict(HALF, ALL, removed_labels=["a"], settings={"allow_label_removal": True})

    assert verdict.decision == "reject"
    assert "is worse than the champion" in verdict.reasons[0]


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
    verdict = make_verdict("11", "00", unknown_labels=["cat", "dog"], removed_labels=["hen"])

    assert not any("--allow-label-removal" in reason for reason in verdict.reasons)
    assert verdict.removed_labels == ("hen",)


def test_verdict_id_does_not_depend_on_the_time() -> None:
    verdict = make_verdict("11", "10")

    assert verdict.verdict_id == make_verdict("11", "10", decided_at="later").verdict_id
    assert verdict.verdict_id != make_verdict("11", "10", 0.5).verdict_id
    assert verdict.verdict_id != make_verdict("11", "10", model_name="other").verdict_id


def test_first_reason_is_the_decisive_one() -> None:
    below = make_verdict(HALF, ALL, 0.8)
    worse = make_verdict(HALF, ALL, 0.5)
    better = make_verdict(ALL, HALF, 0.5)

    assert below.reasons[0] == (
        "precision@1 of 0.5000 [0.2538, 0.7462] is below the threshold of 0.8000."
    )
    assert worse.reasons[0] == (
        "This version is worse than the champion old by more than chance explains (exact McNemar p "
        "= 0.031)."
    )
    assert better.reasons[0] == (
        "On the same pictures, this version gets 6 more right than the champion old: "
        "6 that only this version gets right, 0 that only the champion gets right."
    )


def test_threshold_that_nobody_set_is_no_reason() -> None:
    first = make_verdict(ALL, None)
    better = make_verdict(ALL, HALF)

    (reason,) = first.reasons
    assert reason.startswith("There is no champion of m yet and no threshold (min_precision), so")
    assert not any("threshold" in reason for reason in better.reasons)


@pytest.mark.parametrize(
    ("challenger", "champion", "relation"),
    [("111", "100", "2 more right than"), ("10", "01", "as many right as")],
)
def test_reasons_compare_the_numbers_of_pictures(
    challenger: str, champion: str, relation: str
) -> None:
    reasons = make_verdict(challenger, champion).reasons

    start = f"On the same pictures, this version gets {relation} the champion old"
    assert any(reason.startswith(start) for reason in reasons)


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

    assert any(names in reason for reason in verdict.reasons)
    assert verdict.unknown_labels == tuple(labels)
    assert not any(names in reason for reason in make_verdict("11", "10").reasons)


def test_verdict_round_trips_through_json() -> None:
    for verdict in (
        make_verdict("110", "100", 0.5, unknown_labels=["a", "b"]),
        make_verdict("1", None),
        make_verdict("1", None, champion_version="new"),
    ):
        assert Verdict.from_text(verdict.to_text()) == verdict


def test_headline_is_one_sentence_with_the_interval_that_decides() -> None:
    assert make_verdict("1" * 9 + "0", None, 0.8).headline == (
        "Promoted: it is the first version of m in production, with precision@1 of 0.900 "
        "[0.596, 0.982] on 10 pictures."
    )
    assert make_verdict(ALL, HALF).headline == (
        "Promoted: this version gets 6 more of 12 pictures right than the champion old (difference "
        "+0.500 [+0.102, +0.755])."
    )
    assert make_verdict(HALF, ALL).headline.startswith("Not promoted: this version gets 6 fewer of")
    assert make_verdict("0", None, 0.5).headline == (
        "Not promoted: precision@1 of 0.0000 [0.0000, 0.7935] is below the threshold of 0.5000."
    )
    assert make_verdict("0", None, champion_version="new").headline == (
        "Unchanged: this version, new, is the champion already."
    )
    assert make_verdict(ALL, HALF, 0.8).scores_text == (
        "1.000 [0.758, 1.000] on 12 pictures; champion 0.500 [0.254, 0.746]; threshold 0.80"
    )


def test_verdict_of_an_earlier_version_is_readable() -> None:
    fields = make_verdict(ALL, HALF).to_json()
    for name in ("sentence", "chance", "missed_labels", "lost_labels", "forced"):
        del fields[name]
    for score in (fields["challenger"], fields["champion"]):
        for name in list(score):
            if name not in ("precision_at_1", "interval", "num_examples"):
                del score[name]
    del fields["comparison"]["rule"]

    assert Verdict.from_json(fields).headline == (
        "Promoted: 1.000 [0.758, 1.000] on 12 pictures; champion 0.500 [0.254, 0.746]"
    )
