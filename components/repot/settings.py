"""What a user can set, with every default and every rule; checked all at once.

Zero means "choose for me" wherever a count or rate allows it: the Kubeflow UI has no empty number. NONE is the text of
the same kind: an empty field there looks forgotten.
"""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Self

from repot.errors import UsageError
from repot.recipes import RECIPES
from repot.zoo import BACKBONES

NONE = "none"


def given(text: str) -> str:
    """Return what a text parameter says; "" where it says NONE, or nothing."""
    return "" if text.strip() in ("", NONE) else text


class _Settings:
    """JSON in and out for the frozen dataclasses below."""

    __slots__ = ()

    def _hold_floats(self) -> None:
        """Make floats of whole numbers: KFP's server writes 0.0 as 0, and ids are made from what is held here."""
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            if field.type is float:
                object.__setattr__(self, field.name, float(getattr(self, field.name)))

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able dict of every field."""
        facts: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))  # type: ignore[call-overload]
        return facts

    @classmethod
    def from_json(cls, facts: dict[str, Any]) -> Self:
        """Build from a dict.

        Raises:
            UsageError: A key is unknown, or a value breaks a rule.
        """
        known = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
        unknown = sorted(set(facts) - set(known))
        if unknown:
            raise UsageError(
                f"{cls.__name__} must not have {', '.join(unknown)}; it has {', '.join(known)}."
            )
        return cls(**facts)


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetSettings(_Settings):
    """How pictures become shards; all of it is part of the dataset id.

    Attributes:
        validation_fraction: Share of the pictures that goes to validation, in (0, 1); not used when the pictures
            come in train/ and validation/ folders.
        train_shards, validation_shards: Number of shards; 0 chooses about 1024 pictures a shard.
        num_threads: The 2016 layout's thread count: it decides which picture lands in which shard, not how many
            processes work. Must divide both shard counts.
    """

    validation_fraction: float = 0.2
    train_shards: int = 0
    validation_shards: int = 0
    num_threads: int = 1

    def __post_init__(self) -> None:
        self._hold_floats()
        problems = []
        if not 0 < self.validation_fraction < 1:
            problems.append(
                _rule("validation_fraction", "lie between 0 and 1", self.validation_fraction)
            )
        if not 1 <= self.num_threads <= 1024:
            problems.append(_rule("num_threads", "lie in 1..1024", self.num_threads))
        for name in ("train_shards", "validation_shards"):
            count = getattr(self, name)
            if not 0 <= count <= 99_999:
                problems.append(_rule(name, "lie in 0..99999 (0 chooses)", count))
            elif self.num_threads >= 1 and count % self.num_threads:
                problems.append(
                    _rule(name, f"be a multiple of num_threads={self.num_threads}", count)
                )
        _raise_if_any(problems)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingSettings(_Settings):
    """How a model is trained; all of it is part of the training id.

    Attributes:
        backbone: A name of `repot.zoo.BACKBONES`.
        recipe: A name of `repot.recipes.RECIPES`.
        epochs: Epochs of the recipe's main phase; 0 takes the recipe's own number.
        batch_size: Examples a step, over all replicas together.
        learning_rate: Peak learning rate of the recipe's main phase; 0 takes the recipe's own.
        image_size: Height and width in pixels; 0 takes the backbone's own.
        seed: Seed of initialisation, shuffling and augmentation.
        input_queue_memory_factor: Shuffle buffer in units of 1024 records (the 2016 meaning).
    """

    backbone: str = "inception_v3"
    recipe: str = "fine_tune"
    epochs: int = 0
    batch_size: int = 32
    learning_rate: float = 0.0
    image_size: int = 0
    seed: int = 0
    input_queue_memory_factor: int = 1

    def __post_init__(self) -> None:
        self._hold_floats()
        problems = []
        if self.backbone not in BACKBONES:
            problems.append(_rule("backbone", f"be one of {', '.join(BACKBONES)}", self.backbone))
        if self.recipe not in RECIPES:
            problems.append(_rule("recipe", f"be one of {', '.join(RECIPES)}", self.recipe))
        if not 0 <= self.epochs <= 10_000:
            problems.append(
                _rule("epochs", "lie in 0..10000 (0 takes the recipe's own)", self.epochs)
            )
        if not 1 <= self.batch_size <= 65_536:
            problems.append(_rule("batch_size", "lie in 1..65536", self.batch_size))
        if not 0 <= self.learning_rate <= 100:
            problems.append(
                _rule(
                    "learning_rate", "lie in 0..100 (0 takes the recipe's own)", self.learning_rate
                )
            )
        smallest = BACKBONES[self.backbone].min_image_size if self.backbone in BACKBONES else 32
        if self.image_size != 0 and not smallest <= self.image_size <= 4096:
            rule = f"be 0 (the backbone's own) or lie in {smallest}..4096 for {self.backbone}"
            problems.append(_rule("image_size", rule, self.image_size))
        if not 0 <= self.seed < 2**31:
            problems.append(_rule("seed", "lie in 0..2147483647", self.seed))
        if not 1 <= self.input_queue_memory_factor <= 1024:
            problems.append(
                _rule("input_queue_memory_factor", "lie in 1..1024", self.input_queue_memory_factor)
            )
        _raise_if_any(problems)


@dataclass(frozen=True, kw_only=True, slots=True)
class GateSettings(_Settings):
    """When a model may be promoted, and how many damaged pictures are too many.

    Attributes:
        min_precision: Lowest precision@1 that is promoted, in [0, 1].
        max_rejected_fraction: Highest share of damaged pictures with which a run goes on, in [0, 1].
    """

    min_precision: float = 0.0
    max_rejected_fraction: float = 0.05

    def __post_init__(self) -> None:
        self._hold_floats()
        _raise_if_any(
            _rule(name, "lie in 0..1", getattr(self, name))
            for name in ("min_precision", "max_rejected_fraction")
            if not 0 <= getattr(self, name) <= 1
        )


def _rule(name: str, rule: str, value: object) -> str:
    return f"{name} must {rule}; got {name}={value!r}."


def _raise_if_any(problems: Any) -> None:
    found = list(problems)
    if found:
        raise UsageError(found)
