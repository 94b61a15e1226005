import pytest

from repot.recipes import RECIPES
from repot.settings import TrainingSettings


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_trains_the_whole_network_exactly_when_it_fine_tunes(name: str) -> None:
    recipe = RECIPES[name]

    assert recipe.fine_tune == (recipe.epochs > 0) == (recipe.learning_rate > 0)
    assert recipe.head_epochs >= 0


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_numbers_are_values_that_a_user_may_give(name: str) -> None:
    recipe = RECIPES[name]

    TrainingSettings(recipe=name, epochs=recipe.epochs, learning_rate=recipe.learning_rate)
    TrainingSettings(
        recipe=name, epochs=recipe.head_epochs, learning_rate=recipe.head_learning_rate
    )


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_moves_pretrained_weights_slower_than_the_new_head(name: str) -> None:
    assert RECIPES[name].learning_rate < RECIPES[name].head_learning_rate
