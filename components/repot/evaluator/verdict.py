"""The gate's verdict: what it decided, on which numbers, and why in plain sentences."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, Self

from repot.metrics import Interval

Decision = Literal["promote", "reject", "unchanged"]
NO_CHAMPION = "none"

_WORDS: dict[str, str] = {"promote": "Promoted", "reject": "Not promoted", "unchanged": "Unchanged"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """precision@1 of one version, with its 95 % interval."""

    precision_at_1: float
    interval: Interval
    num_examples: int

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.precision_at_1:.3f} [{low:.3f}, {high:.3f}]"


@dataclass(frozen=True, kw_only=True, slots=True)
class Pairing:
    """Both versions on the same pictures.

    Attributes:
        both_right, only_champion, only_challenger, both_wrong: Counts of pictures; they sum to all of them.
        difference: precision@1 of the challenger minus that of the champion.
        interval: Its 95 % interval.
        p_value: Exact McNemar p of "they are equally good", two-sided.
    """

    both_right: int
    only_champion: int
    only_challenger: int
    both_wrong: int
    difference: float
    interval: Interval
    p_value: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What the gate says about one version.

    Attributes:
        verdict: "promote", "reject", or "unchanged" when the version is the champion itself.
        reasons: Plain sentences, the decisive one first.
        version: The version that is judged.
        champion_version: The version that it was compared with, or "none".
        min_precision: The threshold.
        challenger, champion: Scores on the same pictures; champion is None where nothing was compared.
        pairing: The comparison picture by picture, or None.
        unknown_labels: Every label of the data set that the champion does not have; the reasons name the first few.
    """

    verdict: Decision
    reasons: tuple[str, ...]
    version: str
    champion_version: str
    min_precision: float
    challenger: Score
    champion: Score | None = None
    pairing: Pairing | None = None
    unknown_labels: tuple[str, ...] = ()

    @property
    def word(self) -> str:
        """Return the verdict as a headline begins."""
        return _WORDS[self.verdict]

    @property
    def headline(self) -> str:
        """Return the verdict in one line, e.g. "Promoted: 0.910 [0.790, 0.970] on 40 pictures; threshold 0.80"."""
        n = self.challenger.num_examples
        line = f"{self.word}: {self.challenger} on {n:,} picture{'' if n == 1 else 's'}"
        if self.champion is not None:
            line += f"; champion {self.champion}"
        return f"{line}; threshold {self.min_precision:.2f}"

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able dict."""
        return {**dataclasses.asdict(self), "headline": self.headline}

    @classmethod
    def from_json(cls, facts: dict[str, Any]) -> Self:
        """Build from what `to_json` returned."""
        known = {name: value for name, value in facts.items() if name != "headline"}
        return cls(
            **{
                **known,
                "reasons": tuple(facts["reasons"]),
                "challenger": _score(facts["challenger"]),
                "champion": _score(facts["champion"]),
                "pairing": _pairing(facts["pairing"]),
                "unknown_labels": tuple(facts.get("unknown_labels", ())),
            }
        )


def _score(facts: dict[str, Any] | None) -> Score | None:
    return None if facts is None else Score(**{**facts, "interval": tuple(facts["interval"])})


def _pairing(facts: dict[str, Any] | None) -> Pairing | None:
    return None if facts is None else Pairing(**{**facts, "interval": tuple(facts["interval"])})
