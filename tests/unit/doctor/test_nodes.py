from typing import Any

import pytest

from repot_pipelines.doctor.nodes import explain_no_match, read_node, requested, spelled

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


def test_a_node_is_read() -> None:
    found = read_node(node())

    assert found.is_ready
    assert (found.offers(GPU), found.offers("cpu"), found.offers("amd.com/gpu")) == (4, 7, 0)
    assert found.matches({"a": "1"})
    assert found.matches({})
    assert not found.matches({"a": "2"})
    assert not found.matches({"a": "1", "b": "1"})


def test_a_bare_node_is_not_ready() -> None:
    assert not read_node({"metadata": {"name": "n"}}).is_ready
    assert not read_node(
        node(status={"conditions": [{"type": "Ready", "status": "Unknown"}]})
    ).is_ready
    assert not read_node(node(spec={"unschedulable": True})).is_ready


def test_only_taints_that_keep_pods_off_count() -> None:
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
def test_tolerations_cover_as_kubernetes_says(
    toleration: dict[str, str], is_tolerated: bool
) -> None:
    found = read_node(node(spec={"taints": [TAINT]}))

    assert found.repelled_by([toleration]) == ([] if is_tolerated else [TAINT])


def test_each_taint_needs_its_own_toleration() -> None:
    second = {"key": "b", "effect": "NoExecute"}
    found = read_node(node(spec={"taints": [TAINT, second]}))

    assert found.repelled_by([{"key": GPU, "operator": "Exists"}]) == [second]
    assert [spelled(taint) for taint in found.taints] == [
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
    ],
)
def test_a_pod_holds_its_containers_together_or_its_hungriest_start(
    spec: dict[str, Any], number: int
) -> None:
    assert requested({"spec": spec}, GPU) == number


def test_no_match_names_the_label_at_fault() -> None:
    nodes = [
        read_node(node(metadata={"name": "n", "labels": {"gpu": "l4", "zone": "a"}})),
        read_node(node(metadata={"name": "m", "labels": {"gpu": "t4", "zone": "b"}})),
    ]

    assert explain_no_match(nodes, {"gpu": "a100"}) == "no node has gpu=a100; there is gpu=l4, t4"
    assert explain_no_match(nodes, {"gpu": "l4", "kind": "x"}) == "none of 2 nodes has a label kind"
    assert (
        explain_no_match(nodes, {"gpu": "l4", "zone": "b"})
        == "each label is on some node, but no node has them all"
    )
