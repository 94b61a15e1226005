"""Compare a challenger with the champion picture by picture, decide, and explain the decision."""

from collections import Counter
from collections.abc import Sequence

from repot.errors import DataError, join_names
from repot.evaluator.outcomes import Outcome
from repot.evaluator.unseen import Unseen
from repot.evaluator.verdict import ComparedPictures, Decision, PairedComparison, Score, Verdict
from repot.metrics import mcnemar_p, paired_difference, wilson_interval

# The p-value below which the reasons call a difference significant.
_SIGNIFICANCE_LEVEL = 0.05
_MAX_LABELS_NAMED = 5
_ANOTHER_TASK_REASON = (
    "The champion has none of these labels, so it was trained for another task. Give this model "
    "its own name with --model-name (setting model_name)."
)


def score_of(outcomes: Sequence[Outcome]) -> Score:
    """Return precision@1 of at least one outcome, with its 95 % interval."""
    num_correct = sum(outcome.correct for outcome in outcomes)
    return Score(
        precision_at_1=num_correct / len(outcomes),
        interval=wilson_interval(num_correct, len(outcomes)),
        num_examples=len(outcomes),
    )


def compare_outcomes(
    champion: Sequence[Outcome], challenger: Sequence[Outcome]
) -> PairedComparison:
    """Count the pictures that each of two models gets right.

    Raises:
        DataError: The models were not scored on the same pictures.
    """
    _check_same_pictures(champion, challenger)
    counts = Counter(
        (old.correct, new.correct) for old, new in zip(champion, challenger, strict=True)
    )
    only_champion, only_challenger = counts[True, False], counts[False, True]
    difference = paired_difference(only_champion, only_challenger, len(champion))
    return PairedComparison(
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
    model_name: str,
    version: str,
    champion_version: str,
    min_precision: float,
    decided_at: str,
    subset: str = "validation",
    unseen: Unseen | None = None,
    unknown_labels: Sequence[str] = (),
    removed_labels: Sequence[str] = (),
    allow_label_removal: bool = False,
    empty_label_folders: Sequence[str] = (),
    data_warnings: Sequence[str] = (),
    was_rolled_back: bool = False,
) -> Verdict:
    """Promote a version that reaches the threshold and gets at least as many pictures right.

    All scored pictures count for the threshold; the comparison is on those that neither version was
    trained on.

    Args:
        challenger: Outcomes of the judged version, one per scored picture.
        champion: Outcomes of the champion on the same pictures; None if there is no champion, if
            the judged version is the champion, or if too few pictures are unseen.
        model_name: The model that both belong to.
        version: The judged version.
        champion_version: The champion's version, or "none".
        min_precision: Threshold on precision@1, inclusive.
        unknown_labels: True labels that the champion does not have; if it has none of the labels,
            the version is rejected.
        decided_at: The time, see `Verdict`.
        subset: The split of the pictures.
        unseen: The pictures that neither version was trained on; None compares all.
        removed_labels: Labels that the champion has and the version does not have; the version is
            rejected then, unless `allow_label_removal`.
        allow_label_removal: Whether a version without labels of the champion may be promoted.
        empty_label_folders: Label folders without pictures; the reasons state them.
        data_warnings: What is wrong with the pictures; the reasons state it.
        was_rolled_back: Whether the version was rolled back before; it is rejected then.
    """
    whole_score = score_of(challenger)
    score, champion_score, comparison = whole_score, None, None
    if champion is not None:
        old, new = champion, challenger
        if unseen is not None:
            _check_same_pictures(champion, challenger)
            old, new = unseen.select(champion), unseen.select(challenger)
        score, champion_score, comparison = score_of(new), score_of(old), compare_outcomes(old, new)
    compared = unseen.pictures if unseen is not None else None
    if version == champion_version:
        decision: Decision = "unchanged"
        reasons = [
            (
                f"This version, {version}, is already the champion: nothing was compared and "
                "nothing changes."
            )
        ]
    else:
        is_another_task = set(unknown_labels) == {outcome.label for outcome in challenger}
        is_good = whole_score.precision_at_1 >= min_precision and not _is_worse(comparison)
        loses_labels = bool(removed_labels) and not allow_label_removal
        has_too_few = compared is not None and not compared.is_enough
        is_barred = was_rolled_back or is_another_task or loses_labels or has_too_few
        decision = "promote" if is_good and not is_barred else "reject"
        reasons = _reasons(
            whole_score,
            comparison,
            compared,
            min_precision=min_precision,
            champion_version=champion_version,
            unknown_labels=unknown_labels,
        )
        if compared is not None and has_too_few:
            reasons = [_too_few_reason(compared, version, subset), *reasons]
        elif compared is not None:
            reasons += _left_out_reasons(compared, subset)
        if removed_labels and not is_another_task:
            removal = _removed_labels_reason(champion_version, removed_labels, allow_label_removal)
            # A removal that was asked for decides nothing.
            reasons = [*reasons, removal] if allow_label_removal else [removal, *reasons]
        if was_rolled_back:
            reasons = [_rolled_back_reason(version), *reasons]
        if is_another_task:
            reasons = [_ANOTHER_TASK_REASON, *reasons]
    if empty_label_folders:
        reasons.append(_empty_folders_reason(empty_label_folders))
    reasons += [f"Data: {warning}." for warning in data_warnings]
    return Verdict(
        decision=decision,
        reasons=tuple(reasons),
        model_name=model_name,
        version=version,
        champion_version=champion_version,
        min_precision=min_precision,
        subset=subset,
        challenger=score,
        champion=champion_score,
        compared=compared,
        comparison=comparison,
        unknown_labels=tuple(unknown_labels),
        removed_labels=tuple(removed_labels),
        empty_label_folders=tuple(empty_label_folders),
        decided_at=decided_at,
    )


def _check_same_pictures(champion: Sequence[Outcome], challenger: Sequence[Outcome]) -> None:
    if [(row.digest, row.label) for row in champion] != [
        (row.digest, row.label) for row in challenger
    ]:
        raise DataError(
            "Champion and challenger must be scored on the same pictures; got "
            f"{len(champion)} and {len(challenger)} rows that do not match. Delete the run's gate/ "
            "and evaluation/ folders and run again."
        )


def _is_worse(comparison: PairedComparison | None) -> bool:
    return comparison is not None and comparison.only_champion > comparison.only_challenger


def _reasons(
    score: Score,
    comparison: PairedComparison | None,
    compared: ComparedPictures | None,
    *,
    min_precision: float,
    champion_version: str,
    unknown_labels: Sequence[str],
) -> list[str]:
    """Return the reasons for a promotion or rejection, the decisive one first.

    Args:
        score: The version's score on all scored pictures.
        comparison: The comparison with the champion; None without one.
        compared: The compared pictures; None if there is no champion.
        min_precision, champion_version, unknown_labels: See `judge`.
    """
    basis = score.text.partition(" on ")[2]
    on = f" on all {basis}" if compared and compared.num_left_out else ""
    # 0 is the default and means no threshold.
    threshold = [_threshold_reason(score, min_precision, on)] if min_precision > 0 else []
    if comparison is None:
        if compared is not None:
            return threshold
        if threshold:
            return [*threshold, "There is no champion yet, so only the threshold counts."]
        return ["There is no champion yet and no threshold (min_precision), so any score counts."]
    on_same_pictures = [
        _comparison_reason(comparison, champion_version),
        _significance_reason(comparison),
    ]
    if unknown_labels:
        on_same_pictures.append(_unknown_labels_reason(champion_version, unknown_labels))
    if score.precision_at_1 >= min_precision and _is_worse(comparison):
        return [*on_same_pictures, *threshold]
    return [*threshold, *on_same_pictures]


def _rolled_back_reason(version: str) -> str:
    return (
        "This version was in production and was rolled back, so it is not promoted again "
        f"automatically. Restore it with `repot rollback --to {version}`."
    )


def _too_few_reason(compared: ComparedPictures, version: str, subset: str) -> str:
    return (
        f"Only {compared.num_compared:,} of {compared.num_scored:,} {subset} pictures are new to "
        f"both versions, and a comparison needs {compared.num_required:,}: "
        f"{compared.left_out_text}. Add pictures that the champion has not seen; in a folder "
        f"{subset}/ of their own, they are never trained on. To put this version into production "
        f"without a comparison: `repot rollback --to {version}`."
    )


def _left_out_reasons(compared: ComparedPictures, subset: str) -> list[str]:
    """Return what the reader has to know about the pictures of a comparison."""
    reasons = []
    if compared.num_left_out:
        reasons.append(
            f"{compared.num_compared:,} of {compared.num_scored:,} {subset} pictures are compared, "
            f"because {compared.left_out_text}, under these or other names and labels."
        )
    if compared.problem:
        reasons.append(
            "It is unknown which pictures the champion was trained on, and they count in its "
            f"favour: {compared.problem}"
        )
    return reasons


def _threshold_reason(score: Score, min_precision: float, on: str) -> str:
    relation = "reaches" if score.precision_at_1 >= min_precision else "is below"
    return (
        f"precision@1 of {score.precision_at_1:.4f}{on} {relation} the threshold of "
        f"{min_precision:.4f}."
    )


def _comparison_reason(comparison: PairedComparison, champion_version: str) -> str:
    gained, lost = comparison.only_challenger, comparison.only_champion
    if gained == lost:
        relation = "as many right as"
    else:
        relation = f"{abs(gained - lost)} {'more' if gained > lost else 'fewer'} right than"
    return (
        f"On the same pictures, this version gets {relation} the champion {champion_version}: "
        f"{gained} that only this version gets right, {lost} that only the champion gets right."
    )


def _significance_reason(comparison: PairedComparison) -> str:
    p = f"exact McNemar p = {comparison.p_value:.2g}"
    if comparison.p_value < _SIGNIFICANCE_LEVEL:
        return f"The difference is statistically significant ({p})."
    if comparison.only_champion == comparison.only_challenger:
        return f"The two versions are tied ({p})."
    return (
        f"The difference is not statistically significant ({p}); more validation pictures would "
        "make the comparison more precise."
    )


def _unknown_labels_reason(champion_version: str, labels: Sequence[str]) -> str:
    return (
        f"The champion {champion_version} does not have the {_named(labels)}, so it gets all of "
        "those pictures wrong."
    )


def _removed_labels_reason(champion_version: str, labels: Sequence[str], is_allowed: bool) -> str:
    change = (
        f"This version no longer has the {_named(labels)}, which the champion {champion_version} "
        "has"
    )
    if is_allowed:
        return f"{change}; that was allowed (allow_label_removal)."
    return (
        f"{change}: it gives such pictures another label. Add pictures of {_pronoun(labels)}, or "
        "allow the removal with --allow-label-removal (setting allow_label_removal)."
    )


def _empty_folders_reason(folders: Sequence[str]) -> str:
    return (
        f"No pictures are in the label folder{'s' if len(folders) > 1 else ''} "
        f"{join_names(map(repr, folders), _MAX_LABELS_NAMED)}, so this version does not know "
        f"{_pronoun(folders)}."
    )


def _named(labels: Sequence[str]) -> str:
    return (
        f"label{'s' if len(labels) > 1 else ''} {join_names(map(repr, labels), _MAX_LABELS_NAMED)}"
    )


def _pronoun(labels: Sequence[str]) -> str:
    return "them" if len(labels) > 1 else "it"
