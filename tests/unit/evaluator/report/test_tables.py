"""Rows of the label table and of the training section."""

import dataclasses
from typing import Any

import pytest

from repot.evaluation_record import ScoringTime
from repot.evaluator.report.tables import (
    cost_rows,
    duration_text,
    label_rows,
    timing_rows,
    training_rows,
)
from repot.requested_run import PodRequest, RequestedRun
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


def make_request(**changes: Any) -> RequestedRun:
    pod = PodRequest(
        num_pods=2,
        cpu="4",
        memory="16Gi",
        accelerator="nvidia.com/gpu",
        num_accelerators=1,
        node_selector={"cloud.google.com/gke-accelerator": "nvidia-tesla-t4"},
    )
    evaluator = dataclasses.replace(
        pod, num_pods=1, cpu="500m", accelerator="", num_accelerators=0, node_selector={}
    )
    return RequestedRun(command="repot run x", trainer=pod, evaluator=evaluator, **changes)


def test_cost_is_what_pods_request_times_how_long_they_worked() -> None:
    time = ScoringTime(num_pictures=720, seconds=72.0)

    rows = dict(cost_rows(make_training(), make_request(), time))

    assert rows == {
        "scoring validation": "1 min 12 s, 10 pictures per second",
        "resources of training": (
            "2.07 GPU hours, 8.28 CPU hours, 33.11 GiB hours of memory (2 pods of 4 CPUs, 16Gi, "
            "1 x nvidia.com/gpu, 1 h 2 min)"
        ),
        "resources of evaluation": (
            "0.01 CPU hours, 0.32 GiB hours of memory (1 pod of 500m CPUs, 16Gi, 1 min 12 s)"
        ),
    }


def test_cost_of_a_run_on_one_machine_is_its_time() -> None:
    request = RequestedRun(command="repot run x")

    assert cost_rows(make_training(), request, None) == [
        ("resources of training", "1 h 2 min of one machine, without pods")
    ]
    assert cost_rows(make_training(), None, None) == []


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
