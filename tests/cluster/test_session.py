"""The session of the cluster tests, with fake servers on this machine."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from repot import storage
from repot.settings import SETTINGS_FIELD
from tests.cluster.cluster_settings import ClusterSettings
from tests.cluster.session import SMALL_PODS, open_session
from tests.integration.kfp_api.answers import json_answer
from tests.integration.kfp_api.scripted_runs import FINISHED, TRAINING, Stage, gate_log, script_runs
from tests.integration.kfp_api.server import KfpApi
from tests.integration.kubernetes_api.kubeconfig import write_kubeconfig
from tests.integration.kubernetes_api.server import ADMIN_TOKEN, KubernetesApi

NAME = "cluster-tests-0123"
# Paths of the objects that the fake server cannot delete.
DELETED = ("/runs/", "/experiments/", "/versions/", "/pipelines/")


@pytest.fixture
def kfp(monkeypatch: pytest.MonkeyPatch) -> Iterator[KfpApi]:
    for name in [name for name in os.environ if name.startswith("KF_")]:
        monkeypatch.delenv(name)
    with KfpApi() as api:
        api.answers = [("DELETE", pattern, json_answer({})) for pattern in DELETED]
        yield api


@pytest.fixture
def settings(kfp: KfpApi, s3: str, tmp_path: Path) -> Iterator[ClusterSettings]:
    with KubernetesApi() as api:
        api.store.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kubeflow"}})
        yield ClusterSettings(
            kubeconfig_path=write_kubeconfig(
                tmp_path / "kubeconfig", api.address, token=ADMIN_TOKEN
            ),
            storage_uri=f"{s3}/tests",
            image="repot:test",
            host=kfp.address,
            service_account="repot-runner",
        )


def test_session_deletes_its_runs_and_schedules(
    kfp: KfpApi, settings: ClusterSettings, tmp_path: Path
) -> None:
    script_runs(
        kfp, [Stage("RUNNING", TRAINING), Stage("SUCCEEDED", FINISHED, gate_log("promote"))]
    )

    with open_session(settings, NAME, tmp_path) as session:
        assert len(storage.list_objects(f"{session.folder_uri}/pictures")) == 132
        ended = session.submit("first", epochs=2).expect(0)
        never = ("--cron", "0 3 29 2 *", *session.run_arguments("first"))
        session.commands.run("schedule", "apply", f"{NAME}-never", *never).expect(0)
        assert session.kubeflow.end_of(ended.run_id, 1) == "SUCCEEDED"
        assert [each.status for each in session.kubeflow.schedules(NAME)] == ["ENABLED"]
        assert session.kubeflow.runs_of_schedule(NAME, NAME) == []

    (run,) = kfp.store.runs.values()
    parameters = run["runtime_config"]["parameters"]
    values = {**parameters, **parameters[SETTINGS_FIELD]}
    assert {name: values[name] for name in SMALL_PODS} == {**SMALL_PODS, "epochs": 2}
    assert values["trainer_image"] == "repot:test"
    (version, *_) = kfp.store.versions.values()
    executors = version["pipeline_spec"]["pipeline_spec"]["deploymentSpec"]["executors"].values()
    assert {each["container"]["image"] for each in executors} >= {"repot:test"}
    assert run["service_account"] == "repot-runner"
    assert kfp.answers == [], "everything was deleted"
    assert kfp.store.schedules == {}
    assert storage.list_objects(settings.storage_uri) == []
