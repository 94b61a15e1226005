from typing import Any

import pytest

from repot.errors import UsageError
from repot.recipes import AUGMENTATIONS, RECIPES
from repot.settings import TrainingSettings
from repot.zoo import BACKBONES


def test_all_problems_are_reported_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        TrainingSettings(
            backbone="vgg16", recipe="none", epochs=-1, batch_size=0, learning_rate=-1, seed=-1
        )

    named = [problem.split(" ", 1)[0] for problem in caught.value.problems]
    assert named == ["backbone", "recipe", "epochs", "batch_size", "learning_rate", "seed"]


@pytest.mark.parametrize(
    "recipe", [name for name, recipe in RECIPES.items() if not recipe.selects_itself]
)
def test_learning_rate_above_the_sensible_range_of_the_recipe_gives_a_warning(recipe: str) -> None:
    own, high = RECIPES[recipe].main_learning_rate, RECIPES[recipe].max_learning_rate

    for rate in (0, own / 10, own, high):
        assert TrainingSettings(recipe=recipe, learning_rate=rate).warnings == ()
    for rate in (high * 1.01, 1, 100):
        (warning,) = TrainingSettings(recipe=recipe, learning_rate=rate).warnings
        assert warning.startswith(
            f"learning_rate should be at most {high:g} with recipe={recipe}; got "
            f"learning_rate={rate:g}."
        )
        assert warning.endswith(f"Choose {own:g} to {high:g}, or 0 for the recipe's own, {own:g}.")


def test_learning_rate_of_2016_gives_a_warning_for_the_whole_network_with_adamw_only() -> None:
    (warning,) = TrainingSettings(recipe="fine_tune", learning_rate=0.001).warnings
    assert "with AdamW, the recipe's optimizer" in warning
    assert not TrainingSettings(recipe="head", learning_rate=0.001).warnings
    assert not TrainingSettings(recipe="inception_2016", learning_rate=0.001).warnings


@pytest.mark.parametrize(
    ("name", "value", "shown", "recipes"),
    [
        ("class_weights", "off", "off", ["auto"]),
        ("budget", "10m", "10m", ["auto"]),
        ("calibration_fraction", 0, "0", ["fine_tune", "inception_2016"]),
        ("num_epochs_per_decay", 2.5, "2.5", ["inception_2016"]),
        ("learning_rate_decay_factor", 0.94, "0.94", ["inception_2016"]),
    ],
)
@pytest.mark.parametrize("recipe", RECIPES)
def test_setting_of_other_recipes_gives_a_warning(
    recipe: str, name: str, value: Any, shown: str, recipes: list[str]
) -> None:
    warnings = TrainingSettings(recipe=recipe, **{name: value}).warnings

    assert len(warnings) == (recipe not in recipes)
    for warning in warnings:
        assert warning.startswith(
            f"{name} should be set with recipe={' or '.join(recipes)} only; got {name}={shown} "
            f"with recipe={recipe}. It has no effect: "
        )


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_of_one_backbone_is_refused_for_others(recipe: str) -> None:
    only = RECIPES[recipe].backbone
    for backbone in BACKBONES:
        if only in ("", backbone):
            assert TrainingSettings(recipe=recipe, backbone=backbone).recipe == recipe
            continue
        with pytest.raises(UsageError) as caught:
            TrainingSettings(recipe=recipe, backbone=backbone)
        (problem,) = caught.value.problems
        assert problem == (
            f"recipe={recipe} must be used with backbone={only}; got backbone={backbone!r}. "
            f"Use recipe=fine_tune for {backbone}."
        )


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_augmentation_without_effect_gives_a_warning(augmentation: str) -> None:
    assert TrainingSettings(recipe="fine_tune", augmentation=augmentation).warnings == ()

    warnings = TrainingSettings(recipe="head", augmentation=augmentation).warnings

    assert len(warnings) == (augmentation != "none")
    assert all(warning.startswith("augmentation should be default") for warning in warnings)


@pytest.mark.parametrize("recipe", RECIPES)
def test_augmentation_is_the_recipes_own_unless_it_is_chosen(recipe: str) -> None:
    assert TrainingSettings(recipe=recipe).chosen_augmentation == RECIPES[recipe].augmentation
    assert TrainingSettings(recipe=recipe, augmentation="flip").chosen_augmentation == "flip"


def test_batch_has_at_least_one_example_per_part() -> None:
    assert TrainingSettings(batch_size=4, gradient_accumulation=4).gradient_accumulation == 4
    with pytest.raises(UsageError, match="gradient_accumulation must be at most batch_size=4"):
        TrainingSettings(batch_size=4, gradient_accumulation=5)


def test_flip_alone_cannot_be_combined_with_no_flip() -> None:
    with pytest.raises(UsageError, match="augmentation must not be flip with no_flip"):
        TrainingSettings(augmentation="flip", no_flip=True)
    assert TrainingSettings(augmentation="light", no_flip=True).no_flip


@pytest.mark.parametrize("name", BACKBONES)
def test_smallest_image_size_is_the_backbones(name: str) -> None:
    smallest = BACKBONES[name].min_image_size

    assert TrainingSettings(backbone=name, image_size=smallest).image_size == smallest
    with pytest.raises(UsageError, match=rf"{smallest}\.\.4096 for {name}"):
        TrainingSettings(backbone=name, image_size=smallest - 1)


@pytest.mark.parametrize(("name", "value"), [("epochs", 5), ("learning_rate", 0.1)])
def test_settings_of_the_optimizer_have_no_effect_with_auto(name: str, value: float) -> None:
    assert TrainingSettings(recipe="auto").warnings == ()

    (warning,) = TrainingSettings(recipe="auto", **{name: value}).warnings  # type: ignore[arg-type]

    assert warning.startswith(f"{name} should be 0 with recipe=auto; got {name}={value}")
