"""How a model was made, in words."""

import pytest

from repot.evaluator.report.training_summary import seconds_text, training_facts


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.25, "0.2 s"),
        (59.4, "59.4 s"),
        (60.0, "1 min 0 s"),
        (3599.0, "59 min 59 s"),
        (3600.0, "1 h 0 min"),
        (None, ""),
    ],
)
def test_seconds_text(seconds: float | None, text: str) -> None:
    assert seconds_text(seconds) == text


def test_training_facts_leave_out_what_is_not_known() -> None:
    assert training_facts({"training_id": "t", "settings": {"seed": 0}}) == [
        ("seed", "0"),
        ("training id", "t"),
    ]


def test_training_facts_describe_backbone_and_recipe() -> None:
    facts = dict(
        training_facts(
            {
                "settings": {"backbone": "mobilenet_v2", "recipe": "head", "learning_rate": 0.01},
                "image_size": 96,
                "num_parameters": 2_000_000,
                "train_examples_per_second": 1500.4,
                "versions": {"b": "2", "a": "1"},
            }
        )
    )

    assert facts["backbone"].startswith("mobilenet_v2: MobileNetV2")
    assert facts["recipe"].startswith("head: ")
    assert facts["image size"] == "96 x 96 pixels"
    assert facts["peak learning rate"] == "0.01"
    assert facts["parameters"] == "2,000,000"
    assert facts["speed"] == "1,500 pictures a second"
    assert list(facts)[-2:] == ["a", "b"]


@pytest.mark.parametrize(("recipe", "rate"), [("head", "0.003"), ("fine_tune", "3e-05")])
def test_learning_rate_of_zero_is_the_recipes_own(recipe: str, rate: str) -> None:
    facts = dict(training_facts({"settings": {"recipe": recipe, "learning_rate": 0.0}}))

    assert facts["peak learning rate"] == rate
