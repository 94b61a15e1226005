"""Compare a challenger with the champion picture by picture, decide, and explain the decision."""

import dataclasses
from collections import Counter
from collections.abc import Sequence

from repot import metrics
from repot.errors import DataError
from repot.evaluator import verdict_texts as texts
from repot.evaluator.comparison_log import ComparisonEntry
from repot.evaluator.decision_rule import (
    MARGIN,
    PairedCounts,
    Pairing,
    correct_selection,
    decide_comparison,
    next_alpha,
)
from repot.evaluator.floors import (
    check_chance,
    count_labels,
    find_lost,
    find_missed,
)
from repot.evaluator.outcomes import Outcome
from repot.evaluator.unseen import Unseen
from repot.evaluator.verdict import (
    NO_CHAMPION,
    Decision,
    PairedComparison,
    RuleRecord,
    Score,
    Verdict,
)
from repot.metrics import mcnemar_p, paired_difference, wilson_interval
from repot.settings import GateSettings


def score_of(outcomes: Sequence[Outcome]) -> Score:
    """Return the scores of at least one outcome, with their 95 % intervals."""
    num_correct = sum(outcome.correct for outcome in outcomes)
    scores = [score for score in _label_scores(outcomes) if score.num_examples]
    recalls = [score.recall for score in scores if score.recall is not None]
    f1s = [score.f1 for score in _label_scores(outcomes) if score.f1 is not None]
    return Score(
        precision_at_1=num_correct / len(outcomes),
        interval=wilson_interval(num_correct, len(outcomes)),
        num_examples=len(outcomes),
        macro_recall=sum(recalls) / len(recalls),
        macro_recall_interval=metrics.macro_recall_interval(scores),
        macro_f1=sum(f1s) / len(f1s),
        macro_f1_interval=metrics.macro_f1_interval(_label_scores(outcomes)),
    )


def _label_scores(outcomes: Sequence[Outcome]) -> list[metrics.LabelScore]:
    """Return the counts of every label that is true or predicted."""
    predicted = Counter(outcome.predicted for outcome in outcomes)
    counts = {each.label: each for each in count_labels(outcomes)}
    return [
        metrics.LabelScore(
            num_examples=counts[label].num_examples if label in counts else 0,
            num_predicted=predicted[label],
            num_correct=counts[label].num_correct if label in counts else 0,
        )
        for label in dict.fromkeys((*counts, *predicted))
    ]


def compare_outcomes(
    champion: Sequence[Outcome], challenger: Sequence[Outcome]
) -> PairedComparison:
    """Count the pictures that each of two models gets right.

    Raises:
        DataError: The models were not scored on the same pictures.
    """
    check_same_pictures(champion, challenger)
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
    settings: GateSettings,
    decided_at: str,
    entry: ComparisonEntry | None = None,
    pairings: Sequence[Pairing] = (),
    unseen: Unseen | None = None,
    unknown_labels: Sequence[str] = (),
    removed_labels: Sequence[str] = (),
    empty_label_folders: Sequence[str] = (),
    data_warnings: Sequence[str] = (),
    rejected_exports: Sequence[str] = (),
    was_rolled_back: bool = False,
) -> Verdict:
    """Promote a version that is better than the champion by the decision rule, and passes all else.

    All scored pictures count for the threshold, for chance and for missed labels; the comparison is
    on those that neither version was trained on.

    Args:
        challenger: Outcomes of the judged version, one per scored picture.
        champion: Outcomes of the champion on the same pictures; None if there is no champion, if
            the judged version is the champion, or if too few pictures are unseen.
        model_name: The model that both belong to.
        version: The judged version.
        champion_version: The champion's version, or "none".
        settings: The threshold, the split of the pictures, what is allowed, and what happens if
            the comparison is undecided.
        decided_at: The time, see `Verdict`.
        entry: The recorded comparison, which has its level; None for the first of a model.
        pairings: All recorded comparisons up to this one, to correct for selection.
        unseen: The pictures that neither version was trained on; None compares all.
        unknown_labels: True labels that the champion does not have; if it has none of the labels,
            the version is rejected.
        removed_labels: Labels that the champion has and the version does not have.
        empty_label_folders: Label folders without pictures; the reasons state them.
        data_warnings: What is wrong with the pictures; the reasons state it.
        rejected_exports: A sentence per export that is not published; the reasons state it.
        was_rolled_back: Whether the version was rolled back before; it is rejected then.
    """
    subset = settings.gate_split
    verdict = Verdict(
        decision="unchanged",
        sentence=f"this version, {version}, is the champion already.",
        brief="is the champion",
        reasons=(f"Nothing was compared and nothing changes: {version} is already the champion.",),
        model_name=model_name,
        version=version,
        champion_version=champion_version,
        min_precision=settings.min_precision,
        subset=subset,
        challenger=score_of(challenger),
        compared=unseen.pictures if unseen is not None else None,
        unknown_labels=tuple(unknown_labels),
        removed_labels=tuple(removed_labels),
        empty_label_folders=tuple(empty_label_folders),
        decided_at=decided_at,
    )
    if version != champion_version:
        if champion is not None:
            old, new = champion, challenger
            if unseen is not None:
                check_same_pictures(champion, challenger)
                old, new = unseen.select(champion), unseen.select(challenger)
            verdict = _compare(
                verdict, (old, new), settings=settings, entry=entry, pairings=pairings
            )
        findings = _Findings()
        _find_label_problems(verdict, findings, settings, {row.label for row in challenger})
        if was_rolled_back:
            findings.add(texts.rolled_back(verdict), is_allowed=False)
        verdict = _find_poor_scores(verdict, findings, settings, challenger, champion)
        _find_losses(verdict, findings)
        verdict = _decide(verdict, findings, settings)
    notes = [texts.empty_folders_reason(empty_label_folders)] if empty_label_folders else []
    notes += [f"Data: {warning}." for warning in data_warnings]
    notes += rejected_exports
    return dataclasses.replace(verdict, reasons=(*verdict.reasons, *notes))


def _compare(
    verdict: Verdict,
    outcomes_of_both: tuple[Sequence[Outcome], Sequence[Outcome]],
    *,
    settings: GateSettings,
    entry: ComparisonEntry | None,
    pairings: Sequence[Pairing],
) -> Verdict:
    """Return the verdict with the scores and the comparison of champion and challenger."""
    champion, challenger = outcomes_of_both
    comparison = compare_outcomes(champion, challenger)
    counts = PairedCounts(
        only_champion=comparison.only_champion,
        only_challenger=comparison.only_challenger,
        num_compared=len(challenger),
    )
    alpha = entry.alpha if entry else next_alpha(0, settings.comparisons_per_year)
    result = decide_comparison(counts, alpha)
    rule = RuleRecord(
        ruling=result.ruling,
        p_value=result.p_value,
        alpha=alpha,
        margin=MARGIN,
        number=entry.number if entry else 1,
        comparisons_per_year=settings.comparisons_per_year,
        num_needed=result.num_needed,
    )
    scores = []
    for name, outcomes in (
        (verdict.champion_version, champion),
        (verdict.version, challenger),
    ):
        score = score_of(outcomes)
        expected = score.precision_at_1 + correct_selection(name, pairings)
        scores.append(dataclasses.replace(score, expected_precision=min(1.0, max(0.0, expected))))
    return dataclasses.replace(
        verdict,
        champion=scores[0],
        challenger=scores[1],
        comparison=dataclasses.replace(comparison, rule=rule),
        lost_labels=tuple(find_lost(champion, challenger)),
    )


class _Findings:
    """What speaks against a promotion, and what only has to be said."""

    def __init__(self) -> None:
        self.problems: list[texts.Problem] = []
        self.notes: list[str] = []

    def add(self, problem: texts.Problem, *, is_allowed: bool) -> None:
        """Add a problem, or a note if it is allowed."""
        if is_allowed:
            self.notes.append(problem.reason)
        else:
            self.problems.append(problem)


def _decide(verdict: Verdict, findings: _Findings, settings: GateSettings) -> Verdict:
    """Return the verdict with decision, sentence and reasons."""
    comparison = verdict.comparison
    rule = comparison.rule if comparison else None
    ruling = rule.ruling if rule else "undecided"
    if verdict.champion_version == NO_CHAMPION:
        ruling = "better"
    undecided = texts.undecided_texts(verdict)
    notes = findings.notes
    decision: Decision
    if findings.problems:
        decision, sentence = "reject", findings.problems[0].sentence
        brief = findings.problems[0].brief
        reasons = [*(each.reason for each in findings.problems), *notes]
    elif ruling == "better":
        decision, sentence = "promote", texts.promoted_sentence(verdict)
        brief = "better" if comparison else "first version"
        reasons = notes or [texts.first_reason(verdict)]
    elif settings.when_undecided == "prefer_new":
        decision, brief = "promote", "newer"
        sentence = f"it is newer (when_undecided is prefer_new), though {undecided.sentence}."
        reasons = [undecided.reason, *notes]
    else:
        decision, brief = "undecided", undecided.brief
        sentence = f"{undecided.sentence}, so the champion {verdict.champion_version} stays."
        reasons = [undecided.reason, *notes]
    if settings.force_promote and decision != "promote":
        before = dataclasses.replace(verdict, decision=decision, sentence=sentence)
        decision, sentence = "promote", f"forced, because {settings.force_promote!r}."
        brief = "forced"
        reasons = [f"Without --force-promote: {before.headline}", *reasons]
        verdict = dataclasses.replace(verdict, forced=settings.force_promote)
    return dataclasses.replace(
        verdict, decision=decision, sentence=sentence, brief=brief, reasons=tuple(reasons)
    )


def _find_label_problems(
    verdict: Verdict, findings: _Findings, settings: GateSettings, labels: set[str]
) -> None:
    """Add what is wrong with the version's set of labels, compared with the champion's."""
    is_another_task = set(verdict.unknown_labels) == labels
    if is_another_task:
        findings.add(texts.another_task(verdict), is_allowed=False)
    elif verdict.removed_labels:
        is_allowed = settings.allow_label_removal
        findings.add(texts.removed_labels(verdict, is_allowed=is_allowed), is_allowed=is_allowed)


def _find_poor_scores(
    verdict: Verdict,
    findings: _Findings,
    settings: GateSettings,
    challenger: Sequence[Outcome],
    champion: Sequence[Outcome] | None,
) -> Verdict:
    """Add what is wrong with the version's own scores; return the verdict with the checks."""
    whole = score_of(challenger)
    # 0 is the default and means no threshold.
    if settings.min_precision > 0:
        is_reached = whole.precision_at_1 >= settings.min_precision
        findings.add(texts.threshold(verdict, whole), is_allowed=is_reached)
    chance = check_chance(challenger)
    if not chance.is_better:
        findings.add(texts.by_chance(whole, chance), is_allowed=settings.allow_poor_model)
    missed, is_chance = find_missed(challenger)
    if missed:
        # A label that the champion does not find either is no reason to keep the champion.
        found = {outcome.label for outcome in champion or () if outcome.correct}
        is_new = champion is None or any(each.label in found for each in missed)
        findings.add(
            texts.missed_labels(missed, is_chance=is_chance),
            is_allowed=is_chance or not is_new or settings.allow_poor_model,
        )
    return dataclasses.replace(verdict, chance=chance, missed_labels=tuple(missed))


def _find_losses(verdict: Verdict, findings: _Findings) -> None:
    """Add what the comparison with the champion shows."""
    if verdict.lost_labels:
        findings.add(texts.lost_labels(verdict), is_allowed=False)
    comparison = verdict.comparison
    if comparison is not None and comparison.rule is not None:
        if comparison.rule.ruling == "worse":
            findings.add(texts.worse(verdict), is_allowed=False)
        notes = [
            texts.comparison_reason(comparison, verdict.champion_version),
            texts.rule_reason(verdict),
        ]
        if verdict.unknown_labels:
            notes.append(
                texts.unknown_labels_reason(verdict.champion_version, verdict.unknown_labels)
            )
        findings.notes = [*notes, *findings.notes]
    if verdict.compared is not None and verdict.compared.is_enough:
        findings.notes += texts.left_out_reasons(verdict.compared, verdict.subset)


def check_same_pictures(champion: Sequence[Outcome], challenger: Sequence[Outcome]) -> None:
    """Check that two models were scored on the same pictures.

    Raises:
        DataError: They were not.
    """
    if [(row.digest, row.label) for row in champion] != [
        (row.digest, row.label) for row in challenger
    ]:
        raise DataError(
            "Champion and challenger must be scored on the same pictures; got "
            f"{len(champion)} and {len(challenger)} rows that do not match. Delete the run's gate/ "
            "and evaluation/ folders and run again."
        )
