from decimal import Decimal
from typing import Any

import pytest

from repot.settings import DEFAULTS
from repot_pipelines.cluster.nodes import Node, read_node
from repot_pipelines.cluster.placement import Misfit, PodRequest, find_misfits, pod_requests

GPU = "nvidia.com/gpu"
TAINT = {"key": "gpus", "value": "only", "effect": "NoSchedule"}


def node(name: str, *, cpu: str = "3920m", memory: str = "14Gi", **more: Any) -> Node:
    allocatable = {"cpu": cpu, "memory": memory, **more.pop("resources", {})}
    is_ready = "True" if more.pop("is_ready", True) else "False"
    return read_node(
        {
            "metadata": {"name": name, "labels": more.pop("labels", {})},
            "spec": more,
            "status": {
                "allocatable": allocatable,
                "conditions": [{"type": "Ready", "status": is_ready}],
            },
        }
    )


def request(**changes: Any) -> PodRequest:
    values: dict[str, Any] = {
        "kind": "trainer",
        "resources": {"cpu": "4", "memory": "16Gi"},
        "setting_names": {
            "cpu": "trainer_cpu",
            "memory": "trainer_memory",
            GPU: "accelerator_count",
        },
        "node_selector": {},
        "tolerations": [],
        "selector_setting": "trainer_node_selector",
        "tolerations_setting": "trainer_tolerations",
    }
    return PodRequest(**{**values, **changes})


def only_misfit(nodes: list[Node], pod: PodRequest, **free: Any) -> Misfit:
    (misfit,) = find_misfits(nodes, [pod], **free)
    return misfit


@pytest.mark.parametrize(("cpu", "fits"), [("3999m", False), ("4", True), ("4001m", True)])
def test_pod_fits_a_node_that_offers_exactly_what_it_requests(cpu: str, fits: bool) -> None:
    found = find_misfits([node("n", cpu=cpu, memory="16Gi")], [request()])

    assert (found == []) == fits


def test_closest_node_is_named_with_what_it_lacks() -> None:
    nodes = [node("small", cpu="2", memory="4Gi"), node("large"), node("other", cpu="1")]

    found = only_misfit(nodes, request())

    assert found.finding == (
        "trainer pods request cpu 4, memory 16Gi; the closest node, large, has cpu 3.92 of 4 and "
        "has memory 14Gi of 16Gi."
    )
    assert found.fix == (
        "Lower trainer_cpu to 3.92 or less, or add a larger node. Lower trainer_memory to 14Gi or "
        "less, or add a larger node."
    )
    assert (found.is_size, found.is_temporary) == (True, False)


def test_amounts_in_the_advice_fit_the_node() -> None:
    pod = request(resources={"cpu": "2", "memory": "8Gi"})
    small = node("n", cpu="1939m", memory="7817828Ki")

    found = only_misfit([small], pod)

    assert "the only node, n, has cpu 1.93 of 2 and has memory 7.4Gi of 8Gi" in found.finding
    lowered = request(resources={"cpu": "1.93", "memory": "7.4Gi"})
    assert find_misfits([small], [lowered]) == []


def test_accelerator_counts_more_than_size() -> None:
    pod = request(resources={"cpu": "4", "memory": "8Gi", GPU: "1"})
    nodes = [node("cpu", cpu="64", memory="256Gi"), node("gpu", resources={GPU: "1"})]

    found = only_misfit(nodes, pod)

    assert "the closest node, gpu, has cpu 3.92 of 4." in found.finding
    assert found.is_size
    without = only_misfit(nodes[:1], pod)
    assert "the only node, cpu, has nvidia.com/gpu 0 of 1." in without.finding
    assert without.fix == "Correct accelerator_count, or add a node that has nvidia.com/gpu."
    assert not without.is_size


def test_labels_taints_and_readiness_are_named() -> None:
    pod = request(
        kind="builder", resources={"cpu": "1", "memory": "1Gi"}, node_selector={"pool": "cpu"}
    )

    lacking = only_misfit([node("n", taints=[TAINT])], pod)
    cordoned = only_misfit([node("n", labels={"pool": "cpu"}, unschedulable=True)], pod)

    assert "n, lacks the label pool=cpu and has the taint gpus=only:NoSchedule." in lacking.finding
    assert lacking.fix.startswith("Correct trainer_node_selector, or label a node. Set trainer_tol")
    assert '{"key": "gpus", "operator": "Exists", "effect": "NoSchedule"}' in lacking.fix
    assert "is not ready or cordoned" in cordoned.finding
    tolerant = request(
        resources={"cpu": "1", "memory": "1Gi"}, tolerations=[{"operator": "Exists"}]
    )
    assert find_misfits([node("n", taints=[TAINT])], [tolerant]) == []


def test_own_taint_of_an_accelerator_is_tolerated_as_on_gke() -> None:
    own = {"key": GPU, "value": "present", "effect": "NoSchedule"}
    pod = request(resources={"cpu": "1", "memory": "1Gi", GPU: "1"})

    assert find_misfits([node("gpu", resources={GPU: "1"}, taints=[own])], [pod]) == []


def test_full_nodes_are_a_temporary_misfit() -> None:
    nodes = [node("a", cpu="8", memory="32Gi"), node("b", cpu="8", memory="32Gi")]
    free = {
        "a": {"cpu": Decimal(1), "memory": Decimal(2**34)},
        "b": {"cpu": Decimal("3.5"), "memory": Decimal(2**34)},
    }

    found = only_misfit(nodes, request(), free=free)

    assert found.is_temporary
    assert "every suitable node is full at the moment: b has cpu 3.5 of 4 free." in found.finding
    free["a"]["cpu"] = Decimal(4)
    assert find_misfits(nodes, [request()], free) == []
    assert find_misfits(nodes, [request()], {"b": free["b"]}) == []


def test_requests_are_those_of_the_settings() -> None:
    values = {
        **DEFAULTS,
        "trainer_cpu": "6",
        "accelerator_count": 2,
        "trainer_node_selector": {"gpu": "l4"},
        "builder_memory": "3Gi",
        "task_node_selector": {"pool": "cpu"},
    }

    found = {each.kind: each for each in pod_requests(values)}

    assert {"builder", "evaluator", "trainer"} <= set(found)
    assert found["trainer"].resources == {"cpu": "6", "memory": "16Gi", GPU: "2"}
    assert found["trainer"].node_selector == {"gpu": "l4"}
    assert found["builder"].resources == {"cpu": "2", "memory": "3Gi"}
    assert found["builder"].node_selector == {"pool": "cpu"}
    sizes = {name for name in DEFAULTS if name.endswith(("_cpu", "_memory"))}
    named = {name for each in found.values() for name in each.setting_names.values()}
    assert sizes <= named
