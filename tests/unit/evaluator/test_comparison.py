"""The gate's decision and its words, on outcomes made by hand."""

import pytest

from repot.errors import DataError
from repot.evaluator.comparison import judge, pair, score_of
from repot.evaluator.outcomes import Outcome
from repot.evaluator.verdict import Verdict


def outcomes(right: str) -> list[Outcome]:
    """Return an outcome a character: "1" for a right guess, "0" for a wrong one."""
    return [
        Outcome(
            filename=f"{i}.jpg",
            label="cat",
            guess="cat" if mark == "1" else "dog",
            probability=0.9,
            label_probability=0.9 if mark == "1" else 0.1,
            label_rank=1 if mark == "1" else 2,
        )
        for i, mark in enumerate(right)
    ]


def judged(
    challenger: str, champion: str | None, min_precision: float = 0.0, **options: object
) -> Verdict:
    arguments = {
        "version": "new",
        "champion_version": "none" if champion is None else "old",
        **options,
    }
    said = None if champion is None else outcomes(champion)
    return judge(outcomes(challenger), said, min_precision=min_precision, **arguments)  # type: ignore[arg-type]


def test_score_of_has_the_wilson_interval() -> None:
    score = score_of(outcomes("1" * 37 + "000"))

    assert score.precision_at_1 == 0.925
    assert str(score) == "0.925 [0.801, 0.974]"
    assert score.num_examples == 40


def test_pair_counts_each_of_the_four_cases() -> None:
    pairing = pair(outcomes("1110010"), outcomes("1101101"))

    counts = (
        pairing.both_right,
        pairing.only_champion,
        pairing.only_challenger,
        pairing.both_wrong,
    )
    assert counts == (2, 2, 3, 0)
    assert pairing.difference == pytest.approx(1 / 7)
    assert pairing.p_value == 1.0


def test_pair_of_other_pictures_is_an_error() -> None:
    other = [*outcomes("1"), *outcomes("11")[1:]]

    assert pair(other, outcomes("11")).both_right == 2
    with pytest.raises(DataError, match="same pictures"):
        pair(outcomes("111"), outcomes("11"))


@pytest.mark.parametrize(
    ("challenger", "champion", "min_precision", "verdict"),
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
def test_judge_promotes_what_reaches_the_threshold_and_is_not_worse(
    challenger: str, champion: str | None, min_precision: float, verdict: str
) -> None:
    assert judged(challenger, champion, min_precision).verdict == verdict


def test_judge_of_the_champion_itself_changes_nothing() -> None:
    verdict = judged("10", None, 0.9, champion_version="new")

    assert verdict.verdict == "unchanged"
    assert "is the champion itself" in verdict.reasons[0]
    assert verdict.champion is None


def test_first_reason_is_the_one_that_decides() -> None:
    below = judged("1100", "1110", 0.8)
    worse = judged("1100", "1110", 0.5)

    assert below.reasons[0] == "precision@1 of 0.5000 is below the threshold of 0.8000."
    assert worse.reasons[0] == (
        "On the same pictures it is right 1 picture fewer than the champion old: "
        "0 that only this version gets right, 1 that only the champion gets right."
    )


@pytest.mark.parametrize(
    ("challenger", "champion", "sentence"),
    [
        (
            "1" * 10 + "0",
            "0" * 11,
            "Chance alone would hardly make such a difference (exact McNemar p = 0.002).",
        ),
        ("1110", "1100", "Chance alone could make such a difference (exact McNemar p = 1); more"),
        ("1100", "1100", "Nothing tells the two apart (exact McNemar p = 1)."),
    ],
)
def test_reasons_say_what_chance_could_do(challenger: str, champion: str, sentence: str) -> None:
    assert any(reason.startswith(sentence) for reason in judged(challenger, champion).reasons)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (["a"], "the label a:"),
        (list("abcde"), "the labels a, b, c, d, e:"),
        (list("abcdefg"), "d, e and 2 more:"),
    ],
)
def test_reasons_name_labels_that_the_champion_does_not_have(labels: list[str], words: str) -> None:
    verdict = judged("11", "10", unknown_labels=labels)

    assert words in verdict.reasons[-1]
    assert verdict.unknown_labels == tuple(labels)
    assert judged("11", "10").reasons[-1] != verdict.reasons[-1]


def test_verdict_survives_json() -> None:
    for verdict in (
        judged("110", "100", 0.5, unknown_labels=["a", "b"]),
        judged("1", None),
        judged("1", None, champion_version="new"),
    ):
        assert Verdict.from_json(verdict.to_json()) == verdict


def test_headline_is_one_plain_sentence() -> None:
    assert (
        judged("1" * 9 + "0", None, 0.8).headline
        == "Promoted: 0.900 [0.596, 0.982] on 10 pictures; threshold 0.80"
    )
    assert judged("1", "0").headline == (
        "Promoted: 1.000 [0.207, 1.000] on 1 picture; champion 0.000 [0.000, 0.793]; threshold 0.00"
    )
    assert judged("0", None, 0.5).headline.startswith("Not promoted: ")
    assert judged("0", None, champion_version="new").headline.startswith("Unchanged: ")
