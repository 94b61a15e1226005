"""How a model was made, as pairs of a name and a text: the last section of the report, and of the model card."""

from collections.abc import Mapping
from typing import Any

from repot.recipes import RECIPES
from repot.zoo import BACKBONES


def training_facts(training: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what a training.json says in a reader's order; what it does not say is left out."""
    settings = training.get("settings", {})
    pairs = [
        ("backbone", _described(settings.get("backbone"), BACKBONES)),
        ("recipe", _described(settings.get("recipe"), RECIPES)),
        ("checkpoint", training.get("checkpoint_id")),
        ("image size", _pixels(training.get("image_size"))),
        ("batch size", settings.get("batch_size")),
        ("peak learning rate", _learning_rate(settings)),
        ("seed", settings.get("seed")),
        ("epochs", training.get("epochs")),
        ("parameters", _grouped(training.get("num_parameters"))),
        ("time of training", seconds_text(training.get("seconds"))),
        ("speed", _speed(training.get("train_examples_per_second"))),
        ("training id", training.get("training_id")),
        *sorted(training.get("versions", {}).items()),
    ]
    return [(name, str(value)) for name, value in pairs if value not in (None, "")]


def seconds_text(value: float | None) -> str:
    """Return a duration in the units that a person would use."""
    if value is None:
        return ""
    minutes, seconds = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{value:.1f} s"


def _described(name: str | None, table: Mapping[str, Any]) -> str:
    """Return a name with the table's one line about it."""
    if name is None:
        return ""
    return f"{name}: {table[name].summary}" if name in table else name


def _pixels(side: int | None) -> str:
    return "" if side is None else f"{side} x {side} pixels"


def _learning_rate(settings: Mapping[str, Any]) -> str:
    """Return the rate of the main phase; a setting of 0 took the recipe's own."""
    recipe = RECIPES.get(settings.get("recipe", ""))
    own = (recipe.learning_rate or recipe.head_learning_rate) if recipe else 0.0
    rate = settings.get("learning_rate") or own
    return f"{rate:g}" if rate else ""


def _grouped(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _speed(value: float | None) -> str:
    return "" if not value else f"{value:,.0f} pictures a second"
