"""`repot doctor` on the cluster of the other tests."""

import json

import pytest

from tests.cluster.session import Session

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


def test_doctor_finds_no_problem(session: Session) -> None:
    settings = session.settings
    account = ["--service-account", settings.service_account] if settings.service_account else []
    options = [
        "--storage-uri",
        session.folder_uri,
        "--accelerator-count",
        "0",
        *account,
        *settings.server_options,
    ]

    ended = session.commands.run("doctor", *options, "--format", "json", seconds=240)

    checks = json.loads(ended.output)["checks"]
    lines = [
        f"{check['section']}, {check['name']}: {check['finding']} {check['fix']}"
        for check in checks
    ]
    problems = [
        line for line, check in zip(lines, checks, strict=True) if check["state"] == "problem"
    ]
    assert problems == []
    assert ended.exit_code == 0
    checked = {check["section"] for check in checks if check["state"] != "not checked"}
    assert checked == {"this machine", "storage", "Kubeflow Pipelines", "cluster"}, "\n".join(lines)
