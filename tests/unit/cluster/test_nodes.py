from typing import Any

import pytest

from repot_pipelines.cluster.nodes import format_taint, read_node, requested_by_pod, why_no_match

GPU = "nvidia.com/gpu"
TAINT = {"key": GPU, "value": "present", "effect": "NoSchedule"}


def node(**changes: Any) -> dict[str, Any]:
    status = {
        "conditions": [{"type": "Ready", "status": "True"}],
        "allocatable": {GPU: "4", "cpu": "7910m"},
    }
    return {
        "metadata": {"name": "n", "labels": {"a": "1"}},
        "spec": {},
        "status": status,
        **changes,
    }


def test_node_is_read_from_its_api_object() -> None:
    found = read_node(node())

    assert found.is_ready
    assert (found.capacity(GPU), found.capacity("cpu"), found.capacity("amd.com/gpu")) == (4, 7, 0)
    assert found.matches({"a": "1"})
    assert found.matches({})
    assert not found.matches({"a": "2"})
    assert not found.matches({"a": "1", "b": "1"})


def test_node_without_ready_condition_or_cordoned_is_not_ready() -> None:
    assert not read_node({"metadata": {"name": "n"}}).is_ready
    assert not read_node(
        node(status={"conditions": [{"type": "Ready", "status": "Unknown"}]})
    ).is_ready
    assert not read_node(node(spec={"unschedulable": True})).is_ready


def test_only_blocking_taints_of_users_are_kept() -> None:
    soft = {"key": "x", "effect": "PreferNoSchedule"}
    own = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}

    assert read_node(node(spec={"taints": [soft, own, TAINT]})).taints == (TAINT,)


@pytest.mark.parametrize(
    ("toleration", "is_tolerated"),
    [
        ({"key": GPU, "operator": "Exists", "effect": "NoSchedule"}, True),
        ({"key": GPU, "operator": "Exists"}, True),
        ({"operator": "Exists"}, True),
        ({"key": GPU, "value": "present"}, True),
        ({"key": GPU, "operator": "Equal", "value": "present", "effect": ""}, True),
        ({"key": GPU, "value": "absent"}, False),
        ({"key": GPU}, False),
        ({"key": "other", "operator": "Exists"}, False),
        ({"key": GPU, "operator": "Exists", "effect": "NoExecute"}, False),
        ({}, False),
    ],
)
def test_toleration_covers_a_taint_as_in_kubernetes(
    toleration: dict[str, str], is_tolerated: bool
) -> None:
    found = read_node(node(spec={"taints": [TAINT]}))

    assert found.untolerated_taints([toleration]) == ([] if is_tolerated else [TAINT])


def test_every_taint_needs_a_toleration() -> None:
    second = {"key": "b", "effect": "NoExecute"}
    found = read_node(node(spec={"taints": [TAINT, second]}))

    assert found.untolerated_taints([{"key": GPU, "operator": "Exists"}]) == [second]
    assert [format_taint(taint) for taint in found.taints] == [
        f"{GPU}=present:NoSchedule",
        "b:NoExecute",
    ]


def container(gpus: int, *, field: str = "requests", **more: str) -> dict[str, Any]:
    return {"resources": {field: {GPU: str(gpus)}}, **more}


@pytest.mark.parametrize(
    ("spec", "number"),
    [
        ({"containers": [{}]}, 0),
        ({"containers": [container(1), container(2)]}, 3),
        ({"containers": [container(2, field="limits")]}, 2),
        ({"containers": [container(1)], "initContainers": [container(4), container(2)]}, 4),
        (
            {
                "containers": [container(3)],
                "initContainers": [container(2, restartPolicy="Always")],
            },
            5,
        ),
        (  # the sidecar runs while the second init container does
            {
                "containers": [container(1)],
                "initContainers": [container(2, restartPolicy="Always"), container(4)],
            },
            6,
        ),
        (
            {
                "containers": [container(1)],
                "initContainers": [container(4), container(2, restartPolicy="Always")],
            },
            4,
        ),
        # What the pod requests itself is for all of its containers.
        ({"containers": [container(1), container(2)], **container(7)}, 7),
        ({"containers": [container(3)], "overhead": {GPU: "2"}}, 5),
        ({"containers": [{"resources": {"requests": {"cpu": 1}, "limits": {GPU: 2}}}]}, 2),
    ],
)
def test_pod_requests_the_sum_of_its_containers_or_its_largest_init_container(
    spec: dict[str, Any], number: int
) -> None:
    assert requested_by_pod({"spec": spec}, GPU) == number


def test_reason_for_no_match_names_the_label() -> None:
    nodes = [
        read_node(node(metadata={"name": "n", "labels": {"gpu": "l4", "zone": "a"}})),
        read_node(node(metadata={"name": "m", "labels": {"gpu": "t4", "zone": "b"}})),
    ]

    assert why_no_match(nodes, {"gpu": "a100"}) == "no node has gpu=a100; existing values: l4, t4"
    assert why_no_match(nodes, {"gpu": "l4", "kind": "x"}) == "none of 2 nodes has a label kind"
    assert (
        why_no_match(nodes, {"gpu": "l4", "zone": "b"})
        == "each label exists on some node, but no node has all of them"
    )
