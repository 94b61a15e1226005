"""Settings of a training: the weights that it starts from, and how it is run."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from repot.recipes import AUGMENTATIONS, RECIPES
from repot.settings.fields import Rule, Settings, between, matching, must, one_of, setting
from repot.zoo import BACKBONES, MAX_IMAGE_SIZE

CHECKPOINT_VALUES = ("auto", "ema", "raw")
_CLASS_WEIGHTS = ("auto", "on", "off")
_PRECISIONS = ("auto", "float32", "bfloat16", "float16")
_XLA_VALUES = ("auto", "on", "off")
_RECIPE_DEFAULT = "default"
"""Value of a setting that the recipe decides."""
_GPU_BUDGET_SECONDS = 3600
"""What budget=auto is on a GPU; without one it is 0, because a trial takes far longer there."""
SETTINGS_OF_THE_MACHINE = ("shard_cache_gib",)
"""Training settings that change how a training runs, but not its result."""

_OTHER_DECAY = "the learning rate of the other recipes does not fall in steps"
_SELECTING = tuple(name for name, recipe in RECIPES.items() if recipe.selects_itself)
_FINE_TUNING = tuple(name for name, recipe in RECIPES.items() if recipe.fine_tune)
_SETTINGS_OF_RECIPES = {
    "class_weights": (_SELECTING, "the other recipes give every picture the same weight"),
    "budget": (_SELECTING, "the other recipes do not choose whether to fine-tune"),
    "calibration_fraction": (_FINE_TUNING, "the other recipes cross-validate"),
    "num_epochs_per_decay": (("inception_2016",), _OTHER_DECAY),
    "learning_rate_decay_factor": (("inception_2016",), _OTHER_DECAY),
}
"""Recipes that use a setting, and why the others do not."""
_OWN_LEARNING_RATES = [
    f"{name}: {recipe.main_learning_rate:g}"
    for name, recipe in RECIPES.items()
    if not recipe.selects_itself
]
_DURATION = re.compile(r"auto|0|[1-9][0-9]{0,5}[smh]")
_SHA256 = re.compile(r"([0-9a-fA-F]{64})?")


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointSettings(Settings):
    """Which pre-trained weights a training starts from."""

    checkpoint: str = setting(
        "default",
        "Pre-trained weights: a known name, a path or a URI; `default` is the backbone's own.",
        change_when="nodes have no internet access, or you have your own weights",
        place="form",
    )
    checkpoint_sha256: str = setting(
        "",
        "SHA-256 that the checkpoint must have; not checked if not set.",
        rule=matching(_SHA256, "be 64 hex digits"),
        change_when="the file comes from a source that you do not control",
    )
    checkpoint_values: str = setting(
        "auto",
        "Values of a TensorFlow checkpoint: auto, ema (moving averages) or raw.",
        rule=one_of(CHECKPOINT_VALUES),
        change_when="you want the averages, or the raw values, explicitly",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingSettings(Settings):
    """How a model is trained; all of it but SETTINGS_OF_THE_MACHINE is part of the training id."""

    backbone: str = setting(
        "inception_v3",
        f"Network: {', '.join(BACKBONES)}.",
        rule=one_of(BACKBONES),
        change_when="you want a smaller or newer network",
        place="form",
    )
    recipe: str = setting(
        "auto",
        f"How to train. {'; '.join(f'{name}: {each.summary}' for name, each in RECIPES.items())}.",
        rule=one_of(RECIPES),
        change_when="predictions must be fast (head), or another recipe suits the pictures better",
        place="form",
    )
    epochs: int = setting(
        0,
        "Epochs of the recipe's main phase; 0 uses the recipe's own. Recipe auto has none.",
        rule=between(0, 10_000, "0 uses the recipe's own"),
        change_when="the history shows that training stops too early or too late",
        place="form",
    )
    batch_size: int = setting(
        32,
        "Examples per training step, over all GPUs and workers together.",
        rule=between(1, 65_536),
        change_when="the GPU runs out of memory, or is idle",
        place="form",
    )
    learning_rate: float = setting(
        0.0,
        "Peak learning rate of the recipe's main phase; 0 uses the recipe's own "
        f"({', '.join(_OWN_LEARNING_RATES)}). Recipe auto has none.",
        rule=between(0, 100, "0 uses the recipe's own"),
        change_when="the loss is not finite, or hardly falls",
        place="form",
    )
    image_size: int = setting(
        0,
        "Height and width of the model's input in pixels; 0 uses the backbone's own.",
        change_when="small details matter, or speed does",
    )
    seed: int = setting(
        0,
        "Seed of initialisation, shuffling and augmentation.",
        rule=between(0, 2**31 - 1),
        change_when="you want to see how much of a difference is chance",
    )
    augmentation: str = setting(
        _RECIPE_DEFAULT,
        "Random changes of training pictures, when more than the head is trained: "
        f"{', '.join(AUGMENTATIONS)}; `{_RECIPE_DEFAULT}` is the recipe's own.",
        rule=one_of((_RECIPE_DEFAULT, *AUGMENTATIONS)),
        change_when="colors decide the label (light), or the training scores are far better than "
        "those on validation pictures (randaugment)",
    )
    no_flip: bool = setting(
        False,
        "Never mirror training pictures.",
        change_when="pictures show text, or labels mean left or right",
    )
    class_weights: str = setting(
        "auto",
        "With recipe auto, give the pictures of small labels more weight: off, on, or auto (on if "
        "the largest label has more than 10 times the pictures of the smallest). Cross-validation "
        "chooses how much more, by the recall averaged over labels.",
        rule=one_of(_CLASS_WEIGHTS),
        change_when="every label matters alike (on), or every picture does (off)",
    )
    budget: str = setting(
        "auto",
        "With recipe auto, time that trying to fine-tune the whole network may take, such as 90s, "
        "10m or 1h; 0 does not try, and auto is 1h on a GPU and 0 without one. Fine-tuning is kept "
        "only if it is better on held-out training pictures.",
        rule=matching(
            _DURATION, "be auto, 0, or a whole number followed by s, m or h, such as 10m"
        ),
        change_when="there is time but no GPU, or a GPU but no time",
    )
    set_coverage: float = setting(
        0.9,
        "Share of new pictures whose label is promised to be in the prediction set.",
        rule=Rule("lie between 0 and 1", lambda value: 0 < value < 1),
        change_when="a missed label costs more than a longer list of labels, or less",
    )
    unlike_rate: float = setting(
        0.05,
        "Share of ordinary pictures that may be called unlike the training pictures.",
        rule=Rule("lie between 0 and 1", lambda value: 0 < value < 1),
        change_when="too many pictures are flagged (.01), or too few pictures of other kinds (.1)",
    )
    calibration_fraction: float = setting(
        0.1,
        "With recipes fine_tune and inception_2016, fraction of each label's training pictures "
        "that is held out to calibrate probabilities and sets; 0 trains on all of them and "
        "promises nothing. head and auto cross-validate instead.",
        rule=Rule("lie in 0..0.5", lambda value: 0 <= value <= 0.5),
        change_when="there are very many pictures (.02), or each one counts (0)",
    )
    gradient_accumulation: int = setting(
        1,
        "Parts of a batch that are computed one after the other; their gradients are summed.",
        rule=between(1, 1024),
        change_when="a batch of this size does not fit into the GPU's memory",
    )
    precision: str = setting(
        "auto",
        f"What layers compute in: {', '.join(_PRECISIONS)}; weights are always float32. `auto` is "
        "bfloat16 on GPUs that have it, float16 on older ones with tensor cores, and float32 on a "
        "CPU.",
        rule=one_of(_PRECISIONS),
        change_when="you compare with float32, or the loss is not finite on a GPU",
    )
    xla: str = setting(
        "auto",
        f"Whether XLA compiles the training steps: {', '.join(_XLA_VALUES)}; `auto` uses it on a "
        "single GPU.",
        rule=one_of(_XLA_VALUES),
        change_when="compiling takes longer than training, or fails",
    )
    deterministic: bool = setting(
        False,
        "Bit-identical results also on GPUs, where it is slower; a CPU's always are.",
        change_when="a training on a GPU must be repeatable",
    )
    input_queue_memory_factor: int = setting(
        1,
        "Pictures of small shards that are shuffled together, in units of 1024.",
        rule=between(1, 1024),
        change_when="shards have far fewer than 1024 pictures, and there are many of them",
    )
    shard_cache_gib: int = setting(
        0,
        "Disk space for shards from object storage, in GiB; 0 uses half of what is free. It does "
        "not change the result.",
        rule=between(0, 1_000_000, "0 uses half of what is free"),
        change_when="a pod may use only a part of its node's disk",
    )
    num_epochs_per_decay: float = setting(
        30.0,
        "Epochs after which the learning rate falls, and falls again; recipe inception_2016 only.",
        rule=Rule("lie above 0 and be at most 10000", lambda value: 0 < value <= 10_000),
        change_when="a training of the 2016 recipe runs for more than 30 epochs",
    )
    learning_rate_decay_factor: float = setting(
        0.16,
        "What the learning rate is multiplied by each time; recipe inception_2016 only.",
        rule=Rule("lie above 0 and be at most 1", lambda value: 0 < value <= 1),
        change_when="a training of the 2016 recipe runs for more than 30 epochs",
    )

    @property
    def chosen_augmentation(self) -> str:
        """The augmentation, a key of `repot.recipes.AUGMENTATIONS`."""
        if self.augmentation != _RECIPE_DEFAULT:
            return self.augmentation
        return RECIPES[self.recipe].augmentation

    def budget_seconds(self, *, has_gpu: bool) -> int:
        """Return the budget in seconds.

        Args:
            has_gpu: Whether the training runs on a GPU.
        """
        if self.budget == "auto":
            return _GPU_BUDGET_SECONDS if has_gpu else 0
        unit = {"s": 1, "m": 60, "h": 3600}
        return 0 if self.budget == "0" else int(self.budget[:-1]) * unit[self.budget[-1]]

    @property
    def warnings(self) -> tuple[str, ...]:
        """One message per value that is valid but probably a mistake."""
        return tuple(self._warnings())

    def _warnings(self) -> Iterator[str]:
        recipe = RECIPES[self.recipe]
        if recipe.selects_itself:
            yield from self._warnings_without_effect()
        elif self.learning_rate > recipe.max_learning_rate:
            own, high = f"{recipe.main_learning_rate:g}", f"{recipe.max_learning_rate:g}"
            yield (
                f"learning_rate should be at most {high} with recipe={self.recipe}; got "
                f"learning_rate={self.learning_rate:g}. Higher rates make training with "
                f"{recipe.optimizer}, the recipe's optimizer, unstable. Choose {own} to {high}, or "
                f"0 for the recipe's own, {own}."
            )
        for name, (recipes, why) in _SETTINGS_OF_RECIPES.items():
            value = getattr(self, name)
            if self.recipe not in recipes and value != getattr(TrainingSettings(), name):
                shown = value if isinstance(value, str) else f"{value:g}"
                yield (
                    f"{name} should be set with recipe={' or '.join(recipes)} only; got "
                    f"{name}={shown} with recipe={self.recipe}. It has no effect: {why}. Leave it "
                    "out."
                )
        is_fine_tuned = recipe.augmentation != "none" or (
            recipe.selects_itself and self.budget != "0"
        )
        if not is_fine_tuned and self.chosen_augmentation != "none":
            yield (
                f"augmentation should be {_RECIPE_DEFAULT} or none with recipe={self.recipe}; got "
                f"augmentation={self.augmentation!r}. It has no effect: this recipe computes the "
                "features of each picture once. Choose recipe=fine_tune to train on changed "
                "pictures."
            )

    def _warnings_without_effect(self) -> Iterator[str]:
        for name in ("epochs", "learning_rate"):
            value = getattr(self, name)
            if value:
                yield (
                    f"{name} should be 0 with recipe={self.recipe}; got {name}={value:g}. It has "
                    "no effect: this recipe fits its head to the optimum. Choose recipe=head to "
                    f"set {name}."
                )

    def _problems(self) -> Iterator[str]:
        yield from Settings._problems(self)
        smallest = BACKBONES[self.backbone].min_image_size if self.backbone in BACKBONES else 32
        if self.image_size != 0 and not smallest <= self.image_size <= MAX_IMAGE_SIZE:
            sizes = f"{smallest}..{MAX_IMAGE_SIZE}"
            rule = f"be 0 (the backbone's own) or lie in {sizes} for {self.backbone}"
            yield must("image_size", rule, self.image_size)
        recipe = RECIPES.get(self.recipe)
        if recipe is not None and recipe.backbone not in ("", self.backbone):
            yield (
                f"recipe={self.recipe} must be used with backbone={recipe.backbone}; got "
                f"backbone={self.backbone!r}. Use recipe=fine_tune for {self.backbone}."
            )
        if self.augmentation == "flip" and self.no_flip:
            yield must("augmentation", "not be flip with no_flip", self.augmentation)
        if 1 <= self.batch_size < self.gradient_accumulation <= 1024:
            rule = f"be at most batch_size={self.batch_size}"
            yield must("gradient_accumulation", rule, self.gradient_accumulation)
