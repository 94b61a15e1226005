from typing import Any

import pytest

from repot.kubernetes_rules import (
    name_problems,
    quantity_problems,
    resource_problems,
    selector_problems,
    toleration_problems,
)


@pytest.mark.parametrize("value", ["4", "500m", "1.5Gi", "16Gi", "0.1", "2k"])
def test_quantity_is_accepted(value: str) -> None:
    assert quantity_problems({"trainer_cpu": value}) == []


@pytest.mark.parametrize("value", ["", "0", "0.0", "0Gi", "-1", "four", "16 Gi", "4GB", "1e3", "٤"])
def test_invalid_quantity_is_reported(value: str) -> None:
    (problem,) = quantity_problems({"trainer_cpu": value, "trainer_memory": "1Gi"})

    assert problem.endswith(f"got trainer_cpu={value!r}.")


@pytest.mark.parametrize("name", ["a", "repot-s3", "a.b", "0", "a" * 63])
def test_name_is_accepted(name: str) -> None:
    assert name_problems({"job_queue": name}) == []


@pytest.mark.parametrize("name", ["", "A", "-a", "a-", "a_b", "a b", "a" * 64])
def test_invalid_name_is_reported(name: str) -> None:
    assert len(name_problems({"job_queue": name})) == 1


def test_resource_must_have_a_domain() -> None:
    assert resource_problems("accelerator_type", "nvidia.com/gpu") == []
    (problem,) = resource_problems("accelerator_type", "nvidia-l4")
    assert "belongs in trainer_node_selector" in problem


@pytest.mark.parametrize("selector", [{}, {"spot": "true"}, {"cloud.google.com/x": ""}])
def test_selector_is_accepted(selector: dict[str, Any]) -> None:
    assert selector_problems("trainer_node_selector", selector) == []


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        ({"spot": True, "a": 1}, "must map labels to strings; got other values for a, spot"),
        ({"bad key!": "x"}, "got 'bad key!': 'x'"),
        ({"pool": "a b"}, "got 'pool': 'a b'"),
        ({"pool": "x" * 64}, "must map node labels to their values"),
    ],
)
def test_invalid_selector_is_reported(selector: dict[str, Any], message: str) -> None:
    (problem,) = selector_problems("trainer_node_selector", selector)

    assert message in problem


@pytest.mark.parametrize(
    "toleration",
    [
        {"key": "spot", "operator": "Exists", "effect": "NoSchedule"},
        {"key": "spot", "value": "true"},
        {"operator": "Exists"},
        {"key": "a", "tolerationSeconds": 300, "effect": "NoExecute"},
    ],
)
def test_toleration_is_accepted(toleration: dict[str, Any]) -> None:
    assert toleration_problems("trainer_tolerations", [toleration]) == []


@pytest.mark.parametrize(
    "toleration",
    [
        "spot",
        {"kye": "spot"},
        {"key": 1},
        {"value": "gpu"},
        {"key": "a", "operator": "Exists", "value": "b"},
        {"key": "a", "operator": "In"},
        {"key": "a", "effect": "NoScedule"},
    ],
)
def test_invalid_toleration_is_reported_with_its_index(toleration: Any) -> None:
    (problem,) = toleration_problems("trainer_tolerations", [{"key": "ok"}, toleration])

    assert problem.startswith("trainer_tolerations[1] must be an object with the keys")
