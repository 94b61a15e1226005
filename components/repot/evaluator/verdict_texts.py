"""What the gate says: the sentence of a verdict, and the reasons for it."""

from collections.abc import Sequence
from typing import NamedTuple

from repot.errors import join_names
from repot.evaluator.floors import ChanceCheck, LabelCount
from repot.evaluator.verdict import ComparedPictures, PairedComparison, Score, Verdict
from repot.metrics import wilson_interval

_MAX_LABELS_NAMED = 5
_ALLOW_POOR = "To promote it anyway: --allow-poor-model (setting allow_poor_model)."


class Problem(NamedTuple):
    """What speaks against a promotion.

    Attributes:
        sentence: The verdict's sentence.
        reason: The reason with advice.
        brief: The reason in a few words, for tables.
    """

    sentence: str
    reason: str
    brief: str


def another_task(verdict: Verdict) -> Problem:
    """Return that the champion has none of the version's labels."""
    return Problem(
        f"the champion {verdict.champion_version} has none of these labels.",
        "The champion has none of these labels, so it was trained for another task. Give this "
        "model its own name with --model-name (setting model_name).",
        "another task",
    )


def rolled_back(verdict: Verdict) -> Problem:
    """Return that the version was rolled back."""
    return Problem(
        "this version was in production and was rolled back.",
        "This version was in production and was rolled back, so it is not promoted again "
        f"automatically. Restore it with `repot rollback --to {verdict.version} "
        f"--model-name {verdict.model_name}`.",
        "was rolled back",
    )


def threshold(verdict: Verdict, whole: Score) -> Problem:
    """Return whether the score on all pictures reaches the threshold."""
    is_reached = whole.precision_at_1 >= verdict.min_precision
    low, high = whole.interval
    basis = whole.text.partition(" on ")[2]
    on = f" on all {basis}" if verdict.compared and verdict.compared.num_left_out else ""
    text = (
        f"precision@1 of {whole.precision_at_1:.4f} [{low:.4f}, {high:.4f}]{on} "
        f"{'reaches' if is_reached else 'is below'} the threshold of {verdict.min_precision:.4f}."
    )
    return Problem(text, text, "below threshold")


def by_chance(whole: Score, chance: ChanceCheck) -> Problem:
    """Return that the version is no better than chance."""
    text = (
        f"precision@1 of {whole.text} is not above chance: the same predictions, dealt to the "
        f"pictures at random, would reach {chance.precision_by_chance:.3f}"
    )
    return Problem(
        f"{text}.",
        f"{text} (p = {chance.p_value:.2g}). Check the labels, or add pictures. {_ALLOW_POOR}",
        "no better than chance",
    )


def missed_labels(missed: Sequence[LabelCount], *, is_chance: bool) -> Problem:
    """Return which labels the version never finds."""
    shown = [f"{each.label!r} ({_recall_text(0, each.num_examples)})" for each in missed]
    names = join_names(shown, _MAX_LABELS_NAMED)
    text = f"it never finds the label{'s' if len(missed) > 1 else ''} {names}"
    why = (
        "With so few pictures, that may be chance."
        if is_chance
        else f"Add pictures of {_pronoun(missed)}, or set class_weights. {_ALLOW_POOR}"
    )
    return Problem(f"{text}.", f"I{text[1:]}. {why}", f"misses {_count(missed)}")


def lost_labels(verdict: Verdict) -> Problem:
    """Return on which labels the version is worse than the champion."""
    lost = verdict.lost_labels
    shown = [
        f"{each.label!r} ({_recall_text(each.num_correct, each.num_examples)}, the champion "
        f"{_recall_text(each.num_correct_champion or 0, each.num_examples)})"
        for each in lost
    ]
    text = f"it is worse than the champion on {join_names(shown, _MAX_LABELS_NAMED)}"
    return Problem(
        f"{text}.",
        f"I{text[1:]}; that is more than chance explains, for as many labels as there are (p = "
        f"{max(each.p_value or 0 for each in lost):.2g}).",
        f"loses {_count(lost)}",
    )


def worse(verdict: Verdict) -> Problem:
    """Return that the version is worse than the champion."""
    if verdict.comparison is None:
        raise ValueError("A version is worse only by a comparison.")
    return Problem(
        f"{_relation(verdict)} {_difference_text(verdict.comparison)}.",
        f"This version is worse than the champion {verdict.champion_version} by more than chance "
        f"explains (exact McNemar p = {verdict.comparison.p_value:.2g}).",
        "worse",
    )


def _recall_text(num_correct: int, num_examples: int) -> str:
    """Return a label's recall with its interval, e.g. "10 of 30 right [0.19, 0.51]"."""
    low, high = wilson_interval(num_correct, num_examples)
    return f"{num_correct:,} of {num_examples:,} right [{low:.2f}, {high:.2f}]"


def _relation(verdict: Verdict) -> str:
    """Return e.g. "this version gets 7 more of 12 pictures right than the champion old"."""
    comparison = verdict.comparison
    if comparison is None:
        return "this version was not compared with the champion"
    change = comparison.only_challenger - comparison.only_champion
    of = f"of {verdict.challenger.num_examples:,} pictures right"
    if not change:
        return f"this version gets as many {of} as the champion {verdict.champion_version}"
    amount = f"{abs(change):,} {'more' if change > 0 else 'fewer'}"
    return f"this version gets {amount} {of} than the champion {verdict.champion_version}"


def _difference_text(comparison: PairedComparison) -> str:
    low, high = comparison.interval
    return f"(difference {comparison.difference:+.3f} [{low:+.3f}, {high:+.3f}])"


def promoted_sentence(verdict: Verdict) -> str:
    """Return the sentence of a version that is promoted on the rule."""
    if verdict.comparison is None:
        return (
            f"it is the first version of {verdict.model_name} in production, with precision@1 of "
            f"{verdict.challenger.text}."
        )
    return f"{_relation(verdict)} {_difference_text(verdict.comparison)}."


def first_reason(verdict: Verdict) -> str:
    """Return why a first version is promoted."""
    return (
        f"There is no champion of {verdict.model_name} yet and no threshold (min_precision), so it "
        "is enough to be better than chance and to find every label."
    )


def undecided_texts(verdict: Verdict) -> Problem:
    """Return why the comparison decides nothing: the verdict's sentence, and a reason."""
    compared, comparison = verdict.compared, verdict.comparison
    if comparison is None or comparison.rule is None:
        if compared is None:
            return Problem("", "", "")
        few = (
            f"nly {compared.num_compared:,} of {compared.num_scored:,} {verdict.subset} pictures "
            f"are new to both versions, and a comparison needs {compared.num_required:,}"
        )
        advice = (
            f"Add pictures that the champion has not seen; in a folder {verdict.subset}/ of their "
            "own, they are never trained on. To put this version into production without a "
            f"comparison: `repot models promote {verdict.version} --model-name "
            f"{verdict.model_name} --reason ...`."
        )
        return Problem(f"o{few}", f"O{few}: {compared.left_out_text}. {advice}", "few new pictures")
    num_compared, needed = verdict.challenger.num_examples, comparison.rule.num_needed or 0
    return Problem(
        f"{num_compared:,} pictures do not show which version is better "
        f"{_difference_text(comparison)}; about {_rounded(needed):,} would",
        f"About {_rounded(needed):,} {verdict.subset} pictures that neither version was trained on "
        f"would decide; there are {num_compared:,}. Add pictures; or promote what is not clearly "
        "worse, with --when-undecided prefer_new (setting when_undecided); or this version alone: "
        f"`repot models promote {verdict.version} --model-name {verdict.model_name} --reason ...`.",
        f"needs ~{_rounded(needed):,} pictures",
    )


def _rounded(count: int) -> int:
    """Return a count with two significant digits, rounded up."""
    unit = int(10 ** max(0, len(str(count)) - 2))
    return -(-count // unit) * unit


def rule_reason(verdict: Verdict) -> str:
    """Return what the decision rule says about the comparison."""
    if verdict.comparison is None or verdict.comparison.rule is None:
        raise ValueError("A rule needs a comparison.")
    rule = verdict.comparison.rule
    return (
        f"Comparison {rule.number:,} of this model: p = {rule.p_value:.2g} for the hypothesis that "
        f"this version is worse by {100 * rule.margin:g} point or more. A promotion needs more "
        f"pictures right and p <= {rule.alpha:.2g}: then {rule.comparisons_per_year:,} comparisons "
        "together promote a version that is worse by more than that with a probability of at most "
        "5 %."
    )


def left_out_reasons(compared: ComparedPictures, subset: str) -> list[str]:
    """Return what the reader has to know about the pictures of a comparison."""
    reasons = []
    if compared.num_left_out:
        reasons.append(
            f"{compared.num_compared:,} of {compared.num_scored:,} {subset} pictures are compared, "
            f"because {compared.left_out_text}. Pictures are matched by content, not by name."
        )
    if compared.problem:
        reasons.append(
            "It is unknown which pictures the champion was trained on, and they count in its "
            f"favour: {compared.problem}"
        )
    return reasons


def comparison_reason(comparison: PairedComparison, champion_version: str) -> str:
    """Return how many pictures only one of the versions gets right."""
    gained, lost = comparison.only_challenger, comparison.only_champion
    if gained == lost:
        relation = "as many right as"
    else:
        relation = f"{abs(gained - lost)} {'more' if gained > lost else 'fewer'} right than"
    return (
        f"On the same pictures, this version gets {relation} the champion {champion_version}: "
        f"{gained} that only this version gets right, {lost} that only the champion gets right."
    )


def unknown_labels_reason(champion_version: str, labels: Sequence[str]) -> str:
    """Return which labels the champion does not have."""
    return (
        f"The champion {champion_version} does not have the {_named(labels)}, so it gets all of "
        "those pictures wrong."
    )


def removed_labels(verdict: Verdict, *, is_allowed: bool) -> Problem:
    """Return which labels of the champion the version does not have."""
    labels, champion_version = verdict.removed_labels, verdict.champion_version
    text = f"no longer has the {_named(labels)}, which the champion {champion_version} has"
    change = f"This version {text}"
    advice = (
        f"{change}; that was allowed (allow_label_removal)."
        if is_allowed
        else f"{change}: it gives such pictures another label. Add pictures of {_pronoun(labels)}, "
        "or allow the removal with --allow-label-removal (setting allow_label_removal)."
    )
    return Problem(f"it {text}.", advice, f"removes {_count(labels)}")


def empty_folders_reason(folders: Sequence[str]) -> str:
    """Return which label folders are empty."""
    return (
        f"No pictures are in the label folder{'s' if len(folders) > 1 else ''} "
        f"{join_names(map(repr, folders), _MAX_LABELS_NAMED)}, so this version does not know "
        f"{_pronoun(folders)}."
    )


def _named(labels: Sequence[str]) -> str:
    return (
        f"label{'s' if len(labels) > 1 else ''} {join_names(map(repr, labels), _MAX_LABELS_NAMED)}"
    )


def _count(labels: Sequence[object]) -> str:
    return f"{len(labels):,} label{'s' if len(labels) > 1 else ''}"


def _pronoun(labels: Sequence[object]) -> str:
    return "them" if len(labels) > 1 else "it"
