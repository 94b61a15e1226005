import pytest

from repot.recipes import RECIPES
from repot.settings import TrainingSettings


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_has_a_fine_tune_phase_if_and_only_if_it_fine_tunes(name: str) -> None:
    recipe = RECIPES[name]

    assert recipe.fine_tune == (recipe.epochs > 0) == (recipe.learning_rate > 0)
    assert recipe.head_epochs >= 0


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_values_are_valid_settings(name: str) -> None:
    recipe = RECIPES[name]

    TrainingSettings(recipe=name, epochs=recipe.epochs, learning_rate=recipe.learning_rate)
    TrainingSettings(
        recipe=name, epochs=recipe.head_epochs, learning_rate=recipe.head_learning_rate
    )


@pytest.mark.parametrize("name", RECIPES)
def test_main_learning_rate_of_a_recipe_is_sensible(name: str) -> None:
    recipe = RECIPES[name]

    assert recipe.main_learning_rate == (
        recipe.learning_rate if recipe.fine_tune else recipe.head_learning_rate
    )
    assert 3 * recipe.main_learning_rate <= recipe.max_learning_rate
    assert (recipe.main_learning_rate == 0) == recipe.selects_itself


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_trains_pretrained_weights_at_a_lower_rate_than_the_head(name: str) -> None:
    recipe = RECIPES[name]

    assert recipe.learning_rate < recipe.head_learning_rate or recipe.head_epochs == 0
