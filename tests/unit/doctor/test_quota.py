from typing import Any

import pytest

from repot_pipelines.doctor.accelerators import check_quotas
from repot_pipelines.doctor.check import OK, PROBLEM, WARNING

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
def test_the_narrowest_quota_decides(quotas: list[dict[str, Any]], state: str) -> None:
    assert check_quotas(quotas, accelerator_type=GPU, accelerator_count=2).state == state


def test_a_quota_of_another_accelerator_does_not_count() -> None:
    assert (
        check_quotas([quota("0", "0")], accelerator_type="amd.com/gpu", accelerator_count=2).state
        == OK
    )
