"""Rows of the label table and of the training section."""

import dataclasses

import pytest

from repot.evaluator.report.tables import duration_text, label_rows, timing_rows, training_rows
from repot.settings import TrainingSettings
from tests.unit.evaluator.samples import make_outcome, make_report_data, make_training


def test_labels_are_sorted_by_recall_and_those_without_pictures_come_last() -> None:
    outcomes = [
        make_outcome(0, "good", "good"),
        make_outcome(1, "bad", "good"),
        make_outcome(2, "bad", "bad"),
        make_outcome(3, "good", "good"),
    ]
    data = make_report_data(outcomes, ["good", "never", "bad"])

    rows = label_rows(data.evaluation, data.dataset)

    assert [row.label for row in rows] == ["bad", "good", "never"]
    assert (rows[0].recall, rows[0].num_correct, rows[0].num_examples) == (0.5, 1, 2)
    assert rows[0].num_train == 10
    assert (rows[2].recall, rows[2].low, rows[2].high) == (None, None, None)


def test_labels_with_equal_recall_are_sorted_by_number_of_pictures() -> None:
    outcomes = [make_outcome(0, "a", "a"), make_outcome(1, "b", "b"), make_outcome(2, "b", "b")]
    data = make_report_data(outcomes, ["a", "b"])

    assert [row.label for row in label_rows(data.evaluation, data.dataset)] == ["b", "a"]


def test_label_that_only_the_model_has_was_not_trained_on() -> None:
    data = make_report_data([make_outcome(0, "a", "a")], ["a"])
    evaluation = make_report_data([make_outcome(0, "a", "x")], ["a", "x"]).evaluation

    assert [row.num_train for row in label_rows(evaluation, data.dataset)] == [10, 0]


def test_training_rows_show_settings_and_results() -> None:
    settings = TrainingSettings(backbone="mobilenet_v2", recipe="head", learning_rate=0.01)

    rows = training_rows(make_training(settings=settings, versions={"b": "2", "a": "1"}))

    texts = dict(rows)
    assert texts["backbone"].startswith("mobilenet_v2: MobileNetV2")
    assert texts["recipe"].startswith("head: ")
    assert texts["checkpoint"] == "c1c1/inception_v3-ema"
    assert texts["image size"] == "299 x 299 pixels"
    assert texts["batch size"] == "32"
    assert texts["peak learning rate"] == "0.01"
    assert texts["seed"] == "0"
    assert texts["epochs"] == "4"
    assert texts["parameters"] == "21,810,980"
    assert texts["training id"] == "t1t1"
    assert rows[-2:] == [("a", "1"), ("b", "2")]


def test_weights_and_their_licence_are_shown_if_the_training_recorded_them() -> None:
    training = dataclasses.replace(make_training(), weights="dinov2_small, licence Apache-2.0")

    assert dict(training_rows(training))["weights"] == "dinov2_small, licence Apache-2.0"
    assert "weights" not in dict(training_rows(make_training()))


def test_times_are_apart_from_the_rows_that_equal_trainings_share() -> None:
    training = make_training()
    slower = dataclasses.replace(training, seconds=1.0, train_examples_per_second=2.0)

    assert training_rows(slower) == training_rows(training)
    assert timing_rows(training) == [
        ("training time", "1 h 2 min"),
        ("training speed", "1,834 pictures per second"),
    ]


@pytest.mark.parametrize(("recipe", "rate"), [("head", "0.003"), ("fine_tune", "3e-05")])
def test_learning_rate_of_zero_shows_the_recipes_default(recipe: str, rate: str) -> None:
    settings = TrainingSettings(recipe=recipe, learning_rate=0.0)

    assert dict(training_rows(make_training(settings=settings)))["peak learning rate"] == rate


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.25, "0.2 s"),
        (59.4, "59.4 s"),
        (60.0, "1 min 0 s"),
        (3599.0, "59 min 59 s"),
        (3600.0, "1 h 0 min"),
    ],
)
def test_duration_text_uses_the_largest_fitting_unit(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text
