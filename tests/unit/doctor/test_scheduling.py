from typing import Any

import pytest

from repot_pipelines.cluster.nodes import read_node
from repot_pipelines.doctor.results import NOT_CHECKED, OK, PROBLEM, WARNING
from repot_pipelines.doctor.scheduling import check_container_images, check_quotas

GPU = "nvidia.com/gpu"


def quota(hard: str, used: str | None) -> dict[str, Any]:
    status = {"used": {f"requests.{GPU}": used}} if used is not None else {}
    return {
        "metadata": {"name": f"q{hard}"},
        "spec": {"hard": {f"requests.{GPU}": hard}},
        "status": status,
    }


@pytest.mark.parametrize(
    ("quotas", "state"),
    [
        ([], OK),
        ([{"metadata": {"name": "other"}, "spec": {"hard": {"pods": "1"}}}], OK),
        ([quota("8", "6")], OK),
        ([quota("8", "7")], WARNING),
        ([quota("2", None)], OK),
        ([quota("1", "0")], PROBLEM),
        ([quota("8", "0"), quota("4", "3")], WARNING),
    ],
)
def test_tightest_quota_decides(quotas: list[dict[str, Any]], state: str) -> None:
    assert check_quotas(quotas, accelerator_type=GPU, accelerator_count=2).state == state


def test_quota_of_another_accelerator_is_ignored() -> None:
    result = check_quotas([quota("0", "0")], accelerator_type="amd.com/gpu", accelerator_count=2)

    assert result.state == OK


def test_container_image_is_found_on_nodes_with_and_without_its_registry() -> None:
    nodes = [
        read_node({"metadata": {"name": name}, "status": {"images": [{"names": names}]}})
        for name, names in {"a": ["docker.io/team/repot:1"], "b": ["team/repot:1"], "c": []}.items()
    ]
    nodes.append(
        read_node(
            {"metadata": {"name": "d"}, "status": {"images": [{"names": ["host:5000/a:latest"]}]}}
        )
    )
    references = [
        ("cpu image", "team/repot:1"),
        ("trainer image", "team/other:1"),
        ("other image", "host:5000/a"),
    ]

    found, missing, untagged = check_container_images(references, nodes)

    assert untagged.finding == "host:5000/a is already on 1 of 4 nodes"

    assert (found.state, found.finding) == (OK, "team/repot:1 is already on 2 of 4 nodes")
    assert missing.state == NOT_CHECKED
