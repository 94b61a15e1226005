"""`repot doctor` on the cluster on which all other tests run."""

import json

import pytest

from tests.cluster.site import Site

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


def test_nothing_is_red(site: Site) -> None:
    settings = site.settings
    account = ["--service-account", settings.service_account] if settings.service_account else []
    words = [
        "--storage-uri",
        site.folder_uri,
        "--accelerator-count",
        "0",
        *account,
        *settings.server_options,
    ]

    ended = site.commands.run("doctor", *words, "--format", "json", seconds=240)

    checks = json.loads(ended.output)["checks"]
    told = [
        f"{check['section']}, {check['name']}: {check['finding']} {check['fix']}"
        for check in checks
    ]
    red = [line for line, check in zip(told, checks, strict=True) if check["state"] == "problem"]
    assert red == []
    assert ended.exit_code == 0
    looked_at = {check["section"] for check in checks if check["state"] != "not checked"}
    assert looked_at == {"this machine", "storage", "Kubeflow Pipelines", "cluster"}, "\n".join(
        told
    )
