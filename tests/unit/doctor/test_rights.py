"""What is asked for must be what the manifests grant."""

from pathlib import Path

import yaml

from repot_pipelines.doctor.accounts import RUNNER, WORKER
from repot_pipelines.doctor.check import PLACEHOLDERS, has_placeholder
from repot_pipelines.doctor.rights import JOB_RIGHTS, RUN_RIGHTS, Right

MANIFESTS = Path(__file__).parents[3] / "manifests"


def asked(right: Right) -> set[tuple[str, str, str, str]]:
    return {(right.group, right.resource, verb, right.name) for verb in right.verbs}


def test_rights_are_those_of_the_manifests() -> None:
    role, _ = yaml.safe_load_all((MANIFESTS / "base" / "runner-role.yaml").read_text())
    granted = {
        (group, resource, verb, name)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
        for name in rule.get("resourceNames", [""])
    }

    assert granted == set().union(*map(asked, (*RUN_RIGHTS, *JOB_RIGHTS)))


def test_accounts_are_those_of_the_manifests() -> None:
    accounts = yaml.safe_load_all((MANIFESTS / "base" / "service-accounts.yaml").read_text())

    assert {account["metadata"]["name"] for account in accounts} == {RUNNER, WORKER}


def test_placeholders_are_those_of_the_manifests() -> None:
    text = "".join(path.read_text() for path in MANIFESTS.glob("overlays/*/settings.yaml"))

    assert all(placeholder in text for placeholder in PLACEHOLDERS)
    assert "your-" not in text.replace("your-bucket", "").replace("your-project", "").replace(
        "your-domain", ""
    )
    assert has_placeholder("gs://your-bucket/kfp")
    assert not has_placeholder("gs://bucket/kfp")
