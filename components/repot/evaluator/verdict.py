"""verdict.json, the gate's decision on one version, with its reasons and scores."""

from dataclasses import dataclass
from typing import Literal

from repot.errors import EXIT_GATE_REJECTED
from repot.evaluator.decision_rule import Ruling
from repot.evaluator.floors import ChanceCheck, LabelCount
from repot.json_record import JsonRecord
from repot.layout import content_id
from repot.metrics import Interval

Decision = Literal["promote", "reject", "undecided", "unchanged"]
NO_CHAMPION = "none"
IN_PRODUCTION: tuple[Decision, ...] = ("promote", "unchanged")
"""Decisions after which the version is in production."""

_TITLES: dict[Decision, str] = {
    "promote": "Promoted",
    "reject": "Not promoted",
    "undecided": "Undecided",
    "unchanged": "Unchanged",
}
_WORDS: dict[Decision, str] = {
    "promote": "promoted",
    "reject": "rejected",
    "undecided": "undecided",
    "unchanged": "unchanged",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Score(JsonRecord):
    """The scores of one version, with their 95 % intervals.

    Attributes:
        precision_at_1, interval, num_examples: Over all pictures.
        macro_recall, macro_f1: Averages over labels, in which every label counts alike; None in a
            verdict of an earlier version of repot.
        macro_recall_interval, macro_f1_interval: Their intervals.
        expected_precision: precision@1 corrected for selection, see
            `repot.evaluator.decision_rule.correct_selection`; None if nothing was compared.
    """

    precision_at_1: float
    interval: Interval
    num_examples: int
    macro_recall: float | None = None
    macro_recall_interval: Interval | None = None
    macro_f1: float | None = None
    macro_f1_interval: Interval | None = None
    expected_precision: float | None = None

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.precision_at_1:.3f} [{low:.3f}, {high:.3f}]"

    @property
    def text(self) -> str:
        """Return the score and its basis, e.g. "0.910 [0.790, 0.970] on 40 pictures"."""
        return f"{self} on {self.num_examples:,} picture{'' if self.num_examples == 1 else 's'}"


@dataclass(frozen=True, kw_only=True, slots=True)
class RuleRecord(JsonRecord):
    """What the decision rule says about a comparison, see `repot.evaluator.decision_rule`.

    Attributes:
        ruling: "better", "worse" or "undecided".
        p_value: Of "this version is worse than the champion by `margin` or more".
        alpha: The level of this comparison; a version is better if p_value is not above it.
        margin: Loss of precision@1 that a promotion must not exceed.
        number: 1 for the first comparison of the model.
        comparisons_per_year: Number of comparisons that share the yearly error.
        num_needed: About how many pictures would decide; None if it is decided.
    """

    ruling: Ruling
    p_value: float
    alpha: float
    margin: float
    number: int
    comparisons_per_year: int
    num_needed: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedComparison(JsonRecord):
    """Two versions compared on the same pictures.

    Attributes:
        both_right, only_champion, only_challenger, both_wrong: Numbers of pictures; they add up to
            all pictures.
        difference: precision@1 of the challenger minus that of the champion.
        interval: Its 95 % interval.
        p_value: Exact two-sided McNemar p-value of "both versions are equally good".
        rule: What decides; None in a verdict of an earlier version of repot.
    """

    both_right: int
    only_champion: int
    only_challenger: int
    both_wrong: int
    difference: float
    interval: Interval
    p_value: float
    rule: RuleRecord | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparedPictures(JsonRecord):
    """How many pictures two versions were compared on, and why not on all.

    Attributes:
        num_scored: Pictures of the split that the version was scored on.
        num_compared: Those of them that neither version was trained on, matched by content.
        num_required: Fewest pictures for a comparison.
        num_trained_on_by_champion, num_trained_on_by_version: Scored pictures that each was trained
            on; one may count in both, and copies do not count.
        num_copies: Scored pictures with the content and label of another one.
        problem: Why it is unknown what the champion was trained on, or "".
    """

    num_scored: int
    num_compared: int
    num_required: int
    num_trained_on_by_champion: int
    num_trained_on_by_version: int
    num_copies: int = 0
    problem: str = ""

    @property
    def is_enough(self) -> bool:
        """Return whether there are enough pictures for a comparison."""
        return self.num_compared >= self.num_required

    @property
    def num_left_out(self) -> int:
        """Return the number of scored pictures that are not compared."""
        return self.num_scored - self.num_compared

    @property
    def left_out_text(self) -> str:
        """Return why pictures are left out, e.g. "the champion was trained on 5"; "" if none is."""
        parts = {
            "the champion was trained on": self.num_trained_on_by_champion,
            "this version was trained on": self.num_trained_on_by_version,
        }
        reasons = [f"{text} {count:,}" for text, count in parts.items() if count]
        if self.num_copies:
            copies = "1 is a copy" if self.num_copies == 1 else f"{self.num_copies:,} are copies"
            reasons.append(f"{copies} of another one")
        return " and ".join(reasons)


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict(JsonRecord):
    """The gate's decision on one version.

    Attributes:
        decision: "promote", "reject", "undecided" if the pictures do not show which version is
            better and the champion stays, or "unchanged" if the version is already the champion.
        sentence: The verdict in one sentence, without its title; "" in a verdict of an earlier
            version of repot.
        brief: The decisive reason in a few words, for tables; "" in a verdict of an earlier version
            of repot.
        reasons: Sentences, the decisive one first.
        model_name: The model that the version belongs to.
        version: The version that was judged.
        champion_version: The version that it was compared with, or "none".
        min_precision: Threshold on precision@1.
        subset: The split that decides.
        challenger, champion: Scores on the compared pictures; if nothing was compared, champion is
            None, and that of the challenger is on all scored pictures.
        compared: Which pictures were compared, or would have been; None without a comparison.
        comparison: The paired comparison, or None if nothing was compared.
        unknown_labels: Every label of the dataset that the champion does not have; the reasons name
            only the first few.
        removed_labels: Every label that the champion has and the version does not have.
        empty_label_folders: Label folders of the dataset without pictures, which are left out.
        chance: Whether the version is better than chance; None for a version that is the champion.
        missed_labels: Labels of which the version gets no picture right.
        lost_labels: Labels on which it is worse than the champion.
        forced: Why it was promoted whatever the gate found; "" if it was not.
        decided_at: When the verdict was reached first, in UTC, e.g. 2026-11-27T14:05:00Z.
    """

    decision: Decision
    reasons: tuple[str, ...]
    model_name: str
    version: str
    champion_version: str
    min_precision: float
    subset: str = "validation"
    challenger: Score
    champion: Score | None = None
    compared: ComparedPictures | None = None
    comparison: PairedComparison | None = None
    unknown_labels: tuple[str, ...] = ()
    removed_labels: tuple[str, ...] = ()
    empty_label_folders: tuple[str, ...] = ()
    chance: ChanceCheck | None = None
    missed_labels: tuple[LabelCount, ...] = ()
    lost_labels: tuple[LabelCount, ...] = ()
    forced: str = ""
    sentence: str = ""
    brief: str = ""
    decided_at: str

    @property
    def verdict_id(self) -> str:
        """Return the id of everything except the time: a repeated verdict is the same verdict."""
        return content_id({**self.to_json(), "decided_at": ""})

    @property
    def title(self) -> str:
        """Return the decision for people, e.g. "Promoted"."""
        return _TITLES[self.decision]

    @property
    def brief_text(self) -> str:
        """Return decision and reason in a few words, e.g. "promoted: first version"."""
        word = _WORDS[self.decision]
        return f"{word}: {self.brief}" if self.brief else word

    @property
    def reference_text(self) -> str:
        """Return what the score was compared with, e.g. "threshold 0.80"; "" for nothing."""
        champion = [] if self.champion is None else [f"champion {self.champion}"]
        threshold = [f"threshold {self.min_precision:.2f}"] if self.min_precision > 0 else []
        return "; ".join([*champion, *threshold])

    @property
    def scores_text(self) -> str:
        """Return the score and what it was compared with."""
        reference = f"; {self.reference_text}" if self.reference_text else ""
        return f"{self.challenger.text}{reference}"

    @property
    def headline(self) -> str:
        """Return the verdict in one sentence."""
        return f"{self.title}: {self.sentence or self.scores_text}"


def exit_code_of(decision: str | None) -> int:
    """Return the exit code of a command for a run that succeeded; a failed run is an error.

    An undecided version is not in production, which is what a job that deploys has to know.

    Args:
        decision: The gate's decision, or any other text if that is unknown; None if the run has no
            gate.
    """
    return 0 if decision is None or decision in IN_PRODUCTION else EXIT_GATE_REJECTED
