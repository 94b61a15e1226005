"""The tests' own check of Pod Security: it finds every kind of violation."""

import copy
from typing import Any

import pytest

from tests.pod_security import restricted_violations

POD = {
    "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
    "volumes": [{"name": "scratch", "emptyDir": {}}],
    "containers": [
        {
            "name": "main",
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            },
        }
    ],
}


def test_restricted_pod_has_no_violations() -> None:
    assert restricted_violations(POD) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"hostNetwork": True}, ["hostNetwork"]),
        ({"hostPID": True, "hostIPC": True}, ["hostPID", "hostIPC"]),
        ({"volumes": [{"name": "node", "hostPath": {"path": "/"}}]}, ["volumes/node"]),
        ({"securityContext": {}}, ["main/runAsNonRoot", "main/seccompProfile"]),
        (
            {"securityContext": {**POD["securityContext"], "sysctls": [{"name": "kernel.msgmax"}]}},  # type: ignore[dict-item]
            ["sysctls/kernel.msgmax"],
        ),
    ],
)
def test_violation_of_a_pod_is_found(changes: dict[str, Any], expected: list[str]) -> None:
    assert restricted_violations({**POD, **changes}) == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"allowPrivilegeEscalation": None}, ["main/allowPrivilegeEscalation"]),
        ({"privileged": True}, ["main/privileged"]),
        ({"runAsNonRoot": False}, ["main/runAsNonRoot"]),
        ({"runAsUser": 0}, ["main/runAsUser"]),
        ({"procMount": "Unmasked"}, ["main/procMount"]),
        ({"capabilities": {}}, ["main/capabilities/drop"]),
        ({"capabilities": {"drop": ["ALL"], "add": ["SYS_ADMIN"]}}, ["main/capabilities/add"]),
        ({"seccompProfile": {"type": "Unconfined"}}, ["main/seccompProfile"]),
        ({"appArmorProfile": {"type": "Unconfined"}}, ["main/appArmorProfile"]),
        ({"seLinuxOptions": {"role": "sysadm_r"}}, ["main/seLinuxOptions"]),
        ({"windowsOptions": {"hostProcess": True}}, ["main/windowsOptions"]),
    ],
)
@pytest.mark.parametrize("kind", ["containers", "initContainers"])
def test_violation_of_a_container_is_found(
    kind: str, changes: dict[str, Any], expected: list[str]
) -> None:
    pod: dict[str, Any] = copy.deepcopy(POD)
    (container,) = pod.pop("containers")
    container["securityContext"] |= changes
    pod[kind] = [container]

    assert restricted_violations(pod) == expected
