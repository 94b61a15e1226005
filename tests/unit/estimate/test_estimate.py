from pathlib import Path
from typing import Any

import pytest

from repot.errors import UsageError
from repot_pipelines.compiled import find_compiled
from repot_pipelines.estimate.estimate import (
    UNKNOWN_PICTURES,
    Estimate,
    PodCount,
    count_pods,
    estimate_run,
)
from repot_pipelines.estimate.prices import SHIPPED, read_prices
from repot_pipelines.parameters import read_parameters, read_pipeline, with_defaults

PIPELINE = read_pipeline(find_compiled())
PRICES = read_prices()
L4 = {"cloud.google.com/gke-accelerator": "nvidia-l4"}
H100 = {"cloud.google.com/gke-accelerator": "nvidia-h100-80gb"}


def estimate(num_pictures: int = 0, **values: Any) -> Estimate:
    given = {"pictures_uri": "gs://p/x", "storage_uri": "gs://s/x", **values}
    return estimate_run(
        PIPELINE, with_defaults(given, read_parameters(PIPELINE)), PRICES, num_pictures=num_pictures
    )


def test_count_pods_of_one_task_a_loop_and_a_condition() -> None:
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

    # Drivers: the root, the task, the condition and its task, the loop, and twice (pass, task).
    assert count_pods(pipeline, num_items=2) == PodCount(
        working=1 + 1 + 2, drivers=1 + 1 + 2 + 1 + 2 * 2
    )


def test_ranges_have_their_low_end_first() -> None:
    for values in ({}, {"accelerator_count": "0"}, {"recipe": "head"}, {"accelerator_count": "8"}):
        found = estimate(1000, **values)
        for low, high in (found.hours, found.accelerator_hours, found.money):
            assert 0 <= low <= high


def test_more_pictures_take_more() -> None:
    few, many = (
        estimate(1_000, trainer_node_selector=L4),
        estimate(100_000, trainer_node_selector=L4),
    )

    assert many.accelerator_hours > few.accelerator_hours
    assert many.money > few.money


def test_a_training_takes_what_pictures_epochs_and_speed_say() -> None:
    low, high = estimate(1_000_000, trainer_node_selector=L4, epochs=10).accelerator_hours

    # 800 000 training pictures, 10 epochs and a third for the head's features, 120 to 450 a second.
    assert low == pytest.approx(800_000 * (10 + 1 / 3) / 450 / 3600, rel=0.02)
    assert high == pytest.approx(800_000 * (10 + 1 / 3) / 120 / 3600, rel=0.02)


def test_the_head_alone_takes_less_than_the_whole_network() -> None:
    assert estimate(100_000, recipe="head").accelerator_hours < estimate(100_000).accelerator_hours


def test_no_accelerator_costs_no_accelerator_hours() -> None:
    found = estimate(1_000, accelerator_count="0")

    assert found.accelerator_hours == (0.0, 0.0)
    assert any("No GPU" in sentence for sentence in found.assumptions)


def test_the_node_selector_chooses_the_gpu() -> None:
    assert any(
        "nvidia-l4" in sentence for sentence in estimate(trainer_node_selector=L4).assumptions
    )
    fast, slow = (
        estimate(10**6, trainer_node_selector=H100),
        estimate(10**6, trainer_node_selector=L4),
    )
    assert fast.accelerator_hours < slow.accelerator_hours
    either = estimate(10**6).accelerator_hours
    assert either[0] <= fast.accelerator_hours[0]
    assert either[1] >= slow.accelerator_hours[1]


def test_an_unknown_number_of_pictures_is_said() -> None:
    assert any(str(UNKNOWN_PICTURES) in sentence for sentence in estimate().assumptions)
    assert estimate().money == estimate(UNKNOWN_PICTURES).money


def test_more_builders_are_more_pods_and_less_time() -> None:
    few, many = estimate(10**6, builder_pods=1), estimate(10**6, builder_pods=64)

    assert many.pods.working == few.pods.working + 63
    assert many.pods.drivers == few.pods.drivers + 2 * 63
    assert many.hours < few.hours


def test_read_prices_of_another_file(tmp_path: Path) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text(SHIPPED.read_text().replace("currency: USD", "currency: EUR"))

    assert read_prices(path).currency == "EUR"


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("cpu_hour: 0.0316", "", "it has no 'cpu_hour'"),
        ("hour: 0.35", "hour: -1", "a price must be 0 or more"),
        ("[60, 250]", "[250, 60]", "images_per_second must be"),
        ("[60, 250]", "60", "must look like"),
        ("currency: USD", "currency: [", "must be readable YAML"),
    ],
)
def test_read_prices_says_what_is_wrong(tmp_path: Path, old: str, new: str, reason: str) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text(SHIPPED.read_text().replace(old, new))

    with pytest.raises(UsageError, match=r"prices\.yaml") as caught:
        read_prices(path)

    assert reason in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "- 1"])
def test_read_prices_refuses_another_shape(tmp_path: Path, text: str) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text(text)

    with pytest.raises(UsageError, match="must look like"):
        read_prices(path)
