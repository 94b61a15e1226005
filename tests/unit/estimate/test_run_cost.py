from typing import Any

import pytest

from repot.requested_run import describe_run
from repot.settings import DEFAULTS
from repot_pipelines.compiled import find_compiled, read_pipeline
from repot_pipelines.estimate.prices import read_prices
from repot_pipelines.estimate.run_cost import (
    DEFAULT_NUM_PICTURES,
    Estimate,
    PodCount,
    cost_of_run,
    count_pods,
    estimate_run,
)
from repot_pipelines.parameters import with_defaults

PIPELINE = read_pipeline(find_compiled())
PRICES = read_prices()
L4 = {"cloud.google.com/gke-accelerator": "nvidia-l4"}
H100 = {"cloud.google.com/gke-accelerator": "nvidia-h100-80gb"}


def estimate(num_pictures: int = 0, **values: Any) -> Estimate:
    sent = {"pictures_uri": "gs://p/x", "storage_uri": "gs://s/x", **values}
    all_values = with_defaults(sent, PIPELINE)
    return estimate_run(PIPELINE, all_values, PRICES, num_pictures=num_pictures)


def test_count_pods_of_a_task_a_condition_and_a_loop() -> None:
    components = {
        "comp-a": {"executorLabel": "a"},
        "comp-loop": {"dag": {"tasks": {"a": {"componentRef": {"name": "comp-a"}}}}},
    }
    tasks: dict[str, Any] = {
        "a": {"componentRef": {"name": "comp-a"}},
        "condition-1": {"componentRef": {"name": "comp-loop"}},
        "for-loop-2": {"componentRef": {"name": "comp-loop"}, "parameterIterator": {}},
    }
    pipeline = {"components": components, "root": {"dag": {"tasks": tasks}}}

    # Drivers: root, task, condition and its task, loop, and for both items the item and its task.
    assert count_pods(pipeline, num_items=2) == PodCount(
        tasks=1 + 1 + 2, drivers=1 + 1 + 2 + 1 + 2 * 2
    )


def test_ranges_are_ordered() -> None:
    for values in (
        {},
        {"accelerator_count": 0},
        {"recipe": "head"},
        {"recipe": "fine_tune"},
        {"accelerator_count": 8},
    ):
        found = estimate(1000, **values)
        for low, high in (found.hours, found.accelerator_hours, found.money):
            assert 0 <= low <= high


def test_more_pictures_take_more_time_and_money() -> None:
    few = estimate(1_000, trainer_node_selector=L4)
    many = estimate(100_000, trainer_node_selector=L4)

    assert many.accelerator_hours > few.accelerator_hours
    assert many.money > few.money


def test_accelerator_hours_follow_from_pictures_epochs_and_speed() -> None:
    low, high = estimate(
        1_000_000, trainer_node_selector=L4, recipe="fine_tune", epochs=10
    ).accelerator_hours

    # 800,000 training pictures, 10 epochs and a third for the head, 120 to 450 per second.
    assert low == pytest.approx(800_000 * (10 + 1 / 3) / 450 / 3600, rel=0.02)
    assert high == pytest.approx(800_000 * (10 + 1 / 3) / 120 / 3600, rel=0.02)


def test_test_pictures_are_not_trained_on() -> None:
    values = {"trainer_node_selector": L4, "recipe": "fine_tune"}
    with_test = estimate(1_000_000, **values, test_fraction=0.3)

    # 500,000 instead of 800,000 training pictures.
    ratio = with_test.accelerator_hours[1] / estimate(1_000_000, **values).accelerator_hours[1]
    assert ratio == pytest.approx(5 / 8, rel=0.02)


def test_recipe_head_takes_less_than_the_whole_network() -> None:
    head, fine_tune = (estimate(100_000, recipe=name) for name in ("head", "fine_tune"))
    assert head.accelerator_hours < fine_tune.accelerator_hours


def test_recipe_auto_takes_three_views_and_on_a_gpu_up_to_its_budget() -> None:
    zero, ten_minutes, an_hour, default = (
        estimate(1_000_000, trainer_node_selector=L4, recipe="auto", **values).accelerator_hours
        for values in ({"budget": "0"}, {"budget": "10m"}, {"budget": "1h"}, {})
    )

    head = estimate(1_000_000, trainer_node_selector=L4, recipe="head").accelerator_hours
    one_view = 800_000 / 3 / 450 / 3600
    assert zero[0] - head[0] == pytest.approx(2 * one_view, rel=0.02)
    assert (ten_minutes[0], an_hour[0]) == (zero[0], zero[0])
    assert ten_minutes[1] - zero[1] == pytest.approx(1 / 6)
    assert an_hour[1] - zero[1] == pytest.approx(1)
    assert default == an_hour


def test_no_accelerator_means_no_accelerator_hours() -> None:
    found = estimate(1_000, accelerator_count=0)

    assert found.accelerator_hours == (0.0, 0.0)
    assert any("No GPU" in sentence for sentence in found.assumptions)


def test_node_selector_chooses_the_gpu() -> None:
    assert any(
        "nvidia-l4" in sentence for sentence in estimate(trainer_node_selector=L4).assumptions
    )
    fast = estimate(10**6, trainer_node_selector=H100)
    slow = estimate(10**6, trainer_node_selector=L4)
    assert fast.accelerator_hours < slow.accelerator_hours
    any_gpu = estimate(10**6).accelerator_hours
    assert any_gpu[0] <= fast.accelerator_hours[0]
    assert any_gpu[1] >= slow.accelerator_hours[1]


def test_cost_of_a_run_is_what_its_pods_request_for_as_long_as_they_worked() -> None:
    values = {**DEFAULTS, "pictures_uri": "p", "storage_uri": "s", "num_workers": 2}
    gpus = {"accelerator_count": 4, "trainer_cpu": "8", "trainer_memory": "32Gi"}
    request = describe_run({**values, **gpus, "trainer_node_selector": L4}, in_pods=True)

    cost = cost_of_run(request, training_seconds=1800, scoring_seconds=0, prices=PRICES)

    gpu = PRICES.accelerators["nvidia-l4"].hour
    hourly = 8 * PRICES.cpu_hour + 32 * PRICES.memory_gib_hour + 4 * gpu
    assert cost == pytest.approx((hourly, hourly))
    low, high = cost_of_run(
        describe_run({**values, **gpus, "trainer_node_selector": {}}, in_pods=True),
        training_seconds=1800,
        scoring_seconds=3600,
        prices=PRICES,
    ) or (0.0, 0.0)
    assert 0 < low < hourly < high
    one_machine = describe_run(values, in_pods=False)
    assert cost_of_run(one_machine, training_seconds=9, scoring_seconds=9, prices=PRICES) is None


def test_unknown_number_of_pictures_is_an_assumption() -> None:
    assert any(
        f"{DEFAULT_NUM_PICTURES:,} pictures" in sentence for sentence in estimate().assumptions
    )
    assert estimate().money == estimate(DEFAULT_NUM_PICTURES).money


def test_more_builders_need_more_pods_and_less_time() -> None:
    few, many = estimate(10**6, builder_pods=1), estimate(10**6, builder_pods=64)

    assert many.pods.tasks == few.pods.tasks + 63
    assert many.pods.drivers == few.pods.drivers + 2 * 63
    assert many.hours < few.hours


@pytest.mark.parametrize(
    ("quantity", "same"),
    [("500m", "0.5"), ("2000m", "2")],
)
def test_cpu_quantities_with_and_without_a_unit_are_equal(quantity: str, same: str) -> None:
    assert estimate(trainer_cpu=quantity) == estimate(trainer_cpu=same)


@pytest.mark.parametrize(
    ("quantity", "same"),
    [
        ("1Gi", "1024Mi"),
        ("1Ti", "1024Gi"),
        ("0.01Pi", "10.24Ti"),
        ("4G", "4000M"),
        ("1048576Ki", "1073741824"),
    ],
)
def test_memory_quantities_in_different_units_are_equal(quantity: str, same: str) -> None:
    assert estimate(trainer_memory=quantity).money == pytest.approx(
        estimate(trainer_memory=same).money
    )
