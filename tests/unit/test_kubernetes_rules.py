from typing import Any

import pytest

from repot.kubernetes_rules import (
    cpu_problems,
    is_image_reference,
    memory_problems,
    name_problems,
    resource_problems,
    selector_problems,
    toleration_problems,
)

NO_EXECUTE = {"key": "a", "effect": "NoExecute"}
DIGEST = f"sha256:{'0' * 64}"


@pytest.mark.parametrize("value", ["4", "500m", "1m", "0.5", "1.5", "2048"])
def test_number_of_cpus_is_accepted(value: str) -> None:
    assert cpu_problems({"trainer_cpu": value}) == []


@pytest.mark.parametrize(
    "value",
    ["", "0", "0.0", "0m", "0.5m", "-1", "four", "4 ", "4Gi", "2k", "1e3", "2049", "٤", "\udcff"],
)
def test_invalid_number_of_cpus_is_reported(value: str) -> None:
    (problem,) = cpu_problems({"trainer_cpu": value, "builder_cpu": "1"})

    assert problem.endswith(f"got trainer_cpu={value!r}.")


@pytest.mark.parametrize("value", ["128Mi", "1.5Gi", "16Gi", "2G", "64Ti", "17179869184"])
def test_amount_of_memory_is_accepted(value: str) -> None:
    assert memory_problems({"trainer_memory": value}) == []


@pytest.mark.parametrize("value", ["", "16 Gi", "16gi", "4GB", "-1Gi", "much", "1e9", "16Gi\n"])
def test_text_that_is_no_amount_of_memory_is_reported(value: str) -> None:
    (problem,) = memory_problems({"trainer_memory": value, "builder_memory": "1Gi"})

    assert problem.endswith(f"such as 512Mi or 16Gi; got trainer_memory={value!r}.")


@pytest.mark.parametrize(
    ("value", "size"),
    [
        ("16", "16 bytes"),
        ("400m", "0.4 bytes"),
        ("0", "0 bytes"),
        ("16k", "16000 bytes"),
        ("127Mi", "133169152 bytes"),
        ("65Ti", "71468255805440 bytes"),
    ],
)
def test_memory_with_a_wrong_unit_is_reported_with_its_size(value: str, size: str) -> None:
    (problem,) = memory_problems({"trainer_memory": value})

    assert f"got trainer_memory={value!r}, which Kubernetes reads as {size}. Write" in problem


@pytest.mark.parametrize("name", ["a", "repot-s3", "a.b", "0", "a" * 253])
def test_name_is_accepted(name: str) -> None:
    assert name_problems({"s3_secret_name": name}) == []


@pytest.mark.parametrize(
    "name", ["", "A", "-a", "a-", "a_b", "a b", "a" * 254, "a..b", "a.-b", ".a", "a\n", "é"]
)
def test_invalid_name_is_reported(name: str) -> None:
    assert len(name_problems({"s3_secret_name": name})) == 1


def test_name_that_becomes_a_label_is_shorter() -> None:
    assert name_problems({"job_queue": "a" * 63}, max_length=63) == []
    assert len(name_problems({"job_queue": "a" * 64}, max_length=63)) == 1


def test_resource_must_have_a_domain() -> None:
    assert resource_problems("accelerator_type", "nvidia.com/gpu") == []
    (problem,) = resource_problems("accelerator_type", "nvidia-l4")
    assert "belongs in trainer_node_selector" in problem


@pytest.mark.parametrize("resource", ["a/b/c", "nvidia..com/gpu", "/gpu", "nvidia.com/", "A.com/x"])
def test_invalid_resource_is_reported(resource: str) -> None:
    assert len(resource_problems("accelerator_type", resource)) == 1


@pytest.mark.parametrize(
    "selector",
    [{}, {"spot": "true"}, {"cloud.google.com/x": ""}, {f"{'a' * 253}/{'b' * 63}": "c" * 63}],
)
def test_selector_is_accepted(selector: dict[str, Any]) -> None:
    assert selector_problems("trainer_node_selector", selector) == []


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        ({"spot": True, "a": 1}, "must map labels to strings; got other values for a, spot"),
        ({"bad key!": "x"}, "got 'bad key!': 'x'"),
        ({"pool": "a b"}, "got 'pool': 'a b'"),
        ({"pool": " "}, "got 'pool': ' '"),
        ({"pool": "x" * 64}, "must map node labels to their values"),
        ({"": "x"}, "got '': 'x'"),
        ({"a/b/c": "x"}, "got 'a/b/c': 'x'"),
        ({"a..b/c": "x"}, "got 'a..b/c': 'x'"),
        ({"/c": "x"}, "got '/c': 'x'"),
        ({"a/": "x"}, "got 'a/': 'x'"),
    ],
)
def test_invalid_selector_is_reported(selector: dict[str, Any], message: str) -> None:
    (problem,) = selector_problems("trainer_node_selector", selector)

    assert message in problem


@pytest.mark.parametrize(
    "toleration",
    [
        {"key": "spot", "operator": "Exists", "effect": "NoSchedule"},
        {"key": "nvidia.com/gpu", "value": "true"},
        {"key": "spot", "operator": "", "value": ""},
        {"operator": "Exists"},
        {"key": "a", "tolerationSeconds": 300, "effect": "NoExecute"},
        {"key": "a", "tolerationSeconds": -1, "effect": "NoExecute"},
        {"key": "a", "tolerationSeconds": 2**63 - 1, "effect": "NoExecute"},
    ],
)
def test_toleration_is_accepted(toleration: dict[str, Any]) -> None:
    assert toleration_problems("trainer_tolerations", [toleration]) == []


@pytest.mark.parametrize(
    ("toleration", "rule"),
    [
        ("spot", "be an object with the keys"),
        (None, "be an object with the keys"),
        ({"kye": "spot"}, "be an object with the keys"),
        ({"key": 1}, "have strings for"),
        ({"key": "a", "value": True}, "have strings for"),
        ({}, "have a key, or the operator Exists"),
        ({"value": "gpu"}, "have a key, or the operator Exists"),
        ({"key": "a", "operator": "Exists", "value": "b"}, "have no value with the operator"),
        ({"key": "a", "operator": "In"}, "have the operator Equal or Exists"),
        ({"key": "a", "effect": "NoScedule"}, "have the effect NoSchedule, PreferNoSchedule"),
        ({"key": "a/b/c", "operator": "Exists"}, "have the key of a taint"),
        ({"key": "a b", "operator": "Exists"}, "have the key of a taint"),
        ({"key": "a", "value": "b c"}, "have a value of at most 63 letters"),
        ({"key": "a", "value": "b/c"}, "have a value of at most 63 letters"),
        ({"key": "a", "value": "b" * 64}, "have a value of at most 63 letters"),
        ({**NO_EXECUTE, "tolerationSeconds": "300"}, "have a whole number of tolerationSeconds"),
        ({**NO_EXECUTE, "tolerationSeconds": 1.5}, "have a whole number of tolerationSeconds"),
        ({**NO_EXECUTE, "tolerationSeconds": True}, "have a whole number of tolerationSeconds"),
        ({**NO_EXECUTE, "tolerationSeconds": None}, "have a whole number of tolerationSeconds"),
        ({**NO_EXECUTE, "tolerationSeconds": 2**63}, "have a whole number of tolerationSeconds"),
        ({"key": "a", "tolerationSeconds": 3}, "have the effect NoExecute"),
        (
            {"key": "a", "effect": "NoSchedule", "tolerationSeconds": 3},
            "have the effect NoExecute",
        ),
    ],
)
def test_invalid_toleration_is_reported_with_its_index(toleration: Any, rule: str) -> None:
    (problem,) = toleration_problems("trainer_tolerations", [{"key": "ok"}, toleration])

    assert problem.startswith(f"trainer_tolerations[1] must {rule}")
    assert problem.endswith(f"; got {toleration!r}.")


@pytest.mark.parametrize(
    "reference",
    [
        "repot",
        "repot/repot-cpu:0.1.0",
        "ghcr.io/repot/repot_cpu__x:Latest",
        "GHCR.io/repot/repot-cpu",
        "localhost:5000/repot-cpu:1",
        "localhost/a",
        "registry:5000/a.b/c--d",
        "[::1]:5000/a",
        f"repot@{DIGEST}",
        f"ghcr.io/repot/repot-cpu:1@{DIGEST}",
        "a" * 255,
        f"a:{'b' * 128}",
    ],
)
def test_image_reference_is_accepted(reference: str) -> None:
    assert is_image_reference(reference)


@pytest.mark.parametrize(
    "reference",
    [
        "",
        " ",
        " repot",
        "repot:1 ",
        "repot:1\n",
        "re pot:1",
        "Repot:1",
        "MyTeam/repot:1",
        "ghcr.io/MyTeam/repot:1",
        "https://ghcr.io/repot/repot-cpu:1",
        "docker://repot",
        "ghcr.io//repot",
        "/repot",
        "repot/",
        "repot:",
        "repot:-1",
        "repot:1:2",
        "repot@",
        "repot@sha256:123",
        f"repot@sha256:{'A' * 64}",
        f"repot@md5:{'0' * 32}",
        "repot_.x",
        "répot",
        "repot\udcff",
        "a" * 256,
        f"a:{'b' * 129}",
    ],
)
def test_invalid_image_reference_is_rejected(reference: str) -> None:
    assert not is_image_reference(reference)
