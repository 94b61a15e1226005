"""Champion against challenger, picture by picture, and what follows from it."""

from collections import Counter
from collections.abc import Sequence

from repot.errors import DataError, join_names
from repot.evaluator.outcomes import Outcome
from repot.evaluator.verdict import Decision, Pairing, Score, Verdict
from repot.metrics import mcnemar_p, paired_difference, wilson_interval

# A sentence may claim a difference when chance alone would make it this seldom.
_SIGNIFICANT = 0.05
_LABELS_NAMED = 5
_ANOTHER_TASK_REASON = (
    "The champion knows none of these labels, so it is a model for something else: give this one a name of its own, "
    "with --model-name (the pipeline's parameter model_name)."
)


def score_of(outcomes: Sequence[Outcome]) -> Score:
    """Return precision@1 with its 95 % interval; at least one outcome is needed."""
    num_correct = sum(outcome.correct for outcome in outcomes)
    return Score(
        precision_at_1=num_correct / len(outcomes),
        interval=wilson_interval(num_correct, len(outcomes)),
        num_examples=len(outcomes),
    )


def pair(champion: Sequence[Outcome], challenger: Sequence[Outcome]) -> Pairing:
    """Count on which pictures each of two models is right.

    Raises:
        DataError: The two did not score the same pictures.
    """
    if [(row.filename, row.label) for row in champion] != [
        (row.filename, row.label) for row in challenger
    ]:
        raise DataError(
            f"Champion and challenger must be scored on the same pictures; got {len(champion)} and {len(challenger)} "
            "rows that do not match. Delete the run's gate/ and evaluation/ folders and run again."
        )
    counts = Counter(
        (old.correct, new.correct) for old, new in zip(champion, challenger, strict=True)
    )
    only_champion, only_challenger = counts[True, False], counts[False, True]
    difference = paired_difference(only_champion, only_challenger, len(champion))
    return Pairing(
        both_right=counts[True, True],
        only_champion=only_champion,
        only_challenger=only_challenger,
        both_wrong=counts[False, False],
        difference=difference.value,
        interval=difference.interval,
        p_value=mcnemar_p(only_champion, only_challenger),
    )


def judge(
    challenger: Sequence[Outcome],
    champion: Sequence[Outcome] | None,
    *,
    version: str,
    champion_version: str,
    min_precision: float,
    unknown_labels: Sequence[str] = (),
    was_rolled_back: bool = False,
    is_another_task: bool = False,
) -> Verdict:
    """Promote what reaches the threshold and is right at least as often as the champion on the same pictures.

    Args:
        challenger: What the judged version said of every validation picture.
        champion: What the champion said of the same pictures; None when there is no champion, or when the judged
            version is the champion itself.
        version: The judged version.
        champion_version: The champion's version, or "none".
        min_precision: The threshold on precision@1, inclusive.
        unknown_labels: Labels of the data set that the champion does not have.
        was_rolled_back: Whether a person took this version out of production; then it is rejected.
        is_another_task: Whether the champion knows none of the labels; then the version is rejected.
    """
    score = score_of(challenger)
    pairing = pair(champion, challenger) if champion is not None else None
    if version == champion_version:
        decision: Decision = "unchanged"
        reasons = [
            f"This version, {version}, is the champion itself: nothing was compared and nothing changes."
        ]
    else:
        is_good = score.precision_at_1 >= min_precision and not _is_worse(pairing)
        decision = "promote" if is_good and not (was_rolled_back or is_another_task) else "reject"
        reasons = _reasons(score, pairing, min_precision, champion_version, unknown_labels)
        if was_rolled_back:
            reasons = [_rolled_back_reason(version), *reasons]
        if is_another_task:
            reasons = [_ANOTHER_TASK_REASON, *reasons]
    return Verdict(
        verdict=decision,
        reasons=tuple(reasons),
        version=version,
        champion_version=champion_version,
        min_precision=min_precision,
        challenger=score,
        champion=score_of(champion) if champion is not None else None,
        pairing=pairing,
        unknown_labels=tuple(unknown_labels),
    )


def _is_worse(pairing: Pairing | None) -> bool:
    return pairing is not None and pairing.only_champion > pairing.only_challenger


def _reasons(
    score: Score,
    pairing: Pairing | None,
    min_precision: float,
    champion_version: str,
    unknown_labels: Sequence[str],
) -> list[str]:
    """Return why a version is promoted or rejected, the reason that decides first."""
    threshold = _threshold_reason(score, min_precision)
    if pairing is None:
        return [
            threshold,
            "There is no champion to compare with yet, so the threshold alone decides.",
        ]
    compared = [_paired_reason(pairing, champion_version), _chance_reason(pairing)]
    if unknown_labels:
        compared.append(_unknown_reason(champion_version, unknown_labels))
    enough = score.precision_at_1 >= min_precision
    return [*compared, threshold] if enough and _is_worse(pairing) else [threshold, *compared]


def _rolled_back_reason(version: str) -> str:
    return (
        f"This version was in production and was rolled back: it is not promoted again by itself. "
        f"`repot rollback --to {version}` puts it back."
    )


def _threshold_reason(score: Score, min_precision: float) -> str:
    relation = "reaches" if score.precision_at_1 >= min_precision else "is below"
    return f"precision@1 of {score.precision_at_1:.4f} {relation} the threshold of {min_precision:.4f}."


def _paired_reason(pairing: Pairing, champion_version: str) -> str:
    gained, lost = pairing.only_challenger, pairing.only_champion
    if gained == lost:
        comparison = "it is right as often as"
    else:
        comparison = f"it is right {_pictures(abs(gained - lost))} {'more' if gained > lost else 'fewer'} than"
    return (
        f"On the same pictures {comparison} the champion {champion_version}: "
        f"{gained} that only this version gets right, {lost} that only the champion gets right."
    )


def _chance_reason(pairing: Pairing) -> str:
    p = f"exact McNemar p = {pairing.p_value:.2g}"
    if pairing.p_value < _SIGNIFICANT:
        return f"Chance alone would hardly make such a difference ({p})."
    if pairing.only_champion == pairing.only_challenger:
        return f"Nothing tells the two apart ({p})."
    return f"Chance alone could make such a difference ({p}); more validation pictures would tell."


def _unknown_reason(champion_version: str, labels: Sequence[str]) -> str:
    named = f"label{'s' if len(labels) > 1 else ''} {join_names(labels, _LABELS_NAMED)}"
    return f"The champion {champion_version} does not have the {named}: on those pictures it can never be right."


def _pictures(count: int) -> str:
    return "1 picture" if count == 1 else f"{count} pictures"
