"""The names and permissions that doctor checks are those in manifests/."""

from pathlib import Path

import pytest
import yaml

from repot.cluster_names import JOB_RUNNER_ACCOUNT, RUNNER_ACCOUNT, WORKER_ACCOUNT
from repot_pipelines.doctor.accounts import (
    JOB_PERMISSIONS,
    PLACEHOLDERS,
    RUN_PERMISSIONS,
    Permission,
    has_placeholder,
)

MANIFESTS = Path(__file__).parents[3] / "manifests"


def as_rules(permission: Permission) -> set[tuple[str, str, str, str]]:
    return {
        (permission.group, permission.resource, verb, permission.name) for verb in permission.verbs
    }


@pytest.mark.parametrize(
    ("file", "permissions"),
    [("runner-role.yaml", RUN_PERMISSIONS), ("job-runner-role.yaml", JOB_PERMISSIONS)],
)
def test_checked_permissions_are_those_the_manifests_grant(
    file: str, permissions: tuple[Permission, ...]
) -> None:
    role, _ = yaml.safe_load_all((MANIFESTS / "base" / file).read_text())
    granted = {
        (group, resource, verb, name)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
        for name in rule.get("resourceNames", [""])
    }

    assert granted == set().union(*map(as_rules, permissions))


def test_checked_accounts_are_those_of_the_manifests() -> None:
    accounts = yaml.safe_load_all((MANIFESTS / "base" / "service-accounts.yaml").read_text())

    assert {account["metadata"]["name"] for account in accounts} == {
        RUNNER_ACCOUNT,
        JOB_RUNNER_ACCOUNT,
        WORKER_ACCOUNT,
    }


def test_recognised_placeholders_are_those_of_the_manifests() -> None:
    text = "".join(path.read_text() for path in MANIFESTS.glob("overlays/*/settings.yaml"))

    assert all(placeholder in text for placeholder in PLACEHOLDERS)
    for placeholder in PLACEHOLDERS:
        text = text.replace(placeholder, "")
    assert "your-" not in text
    assert has_placeholder("gs://your-bucket/kfp")
    assert not has_placeholder("gs://bucket/kfp")
