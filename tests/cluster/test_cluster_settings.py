"""The helpers of the cluster tests, tested without a cluster."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from repot.errors import UsageError
from tests.cluster.cluster import ClusterClient
from tests.cluster.cluster_settings import PREFIX, read_settings
from tests.cluster.command_line import CommandLine, CommandResult
from tests.cluster.waiting import wait_for
from tests.integration.kubernetes_api.kubeconfig import write_kubeconfig
from tests.integration.kubernetes_api.server import ADMIN_TOKEN, KubernetesApi

ROOT = Path(__file__).parents[2]
RUN_ID = "0b2a1a3c-8f6e-4d0e-9d55-1d1f0b9a7c11"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Return the required variables."""
    path = tmp_path / "kubeconfig"
    path.touch()
    return {
        "KUBECONFIG": str(path),
        f"{PREFIX}STORAGE": "s3://bucket/tests/",
        f"{PREFIX}IMAGE": "repot:test",
    }


@pytest.fixture
def api() -> Iterator[KubernetesApi]:
    with KubernetesApi() as server:
        server.store.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "work"}})
        yield server


@pytest.fixture
def cluster(api: KubernetesApi, tmp_path: Path) -> ClusterClient:
    return ClusterClient(
        write_kubeconfig(tmp_path / "kubeconfig", api.address, token=ADMIN_TOKEN), "work"
    )


def put(api: KubernetesApi, kind: str, name: str, **fields: Any) -> None:
    metadata = {"name": name, "namespace": "work", **fields.pop("metadata", {})}
    version = "batch/v1" if kind == "Job" else "v1"
    api.store.put({"apiVersion": version, "kind": kind, "metadata": metadata, **fields})


def test_settings_are_read_from_variables(environment: dict[str, str], tmp_path: Path) -> None:
    optional = {
        "HOST": "http://kfp",
        "NAMESPACE": "team",
        "S3_ENDPOINT": "http://store:9000",
        "S3_SECRET": "keys",
    }

    found = read_settings(
        {**environment, **{f"{PREFIX}{name}": value for name, value in optional.items()}}, tmp_path
    )

    assert (found.storage_uri, found.image, found.s3_secret) == (
        "s3://bucket/tests",
        "repot:test",
        "keys",
    )
    assert found.pod_namespace == "team"
    assert found.server_options == [
        *("--host", "http://kfp"),
        *("--namespace", "team"),
        *("--kfp-namespace", "kubeflow"),
    ]
    assert found.variables == {
        "KUBECONFIG": environment["KUBECONFIG"],
        "AWS_ENDPOINT_URL_S3": "http://store:9000",
    }


def test_missing_and_invalid_settings_are_all_reported(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        read_settings({f"{PREFIX}STORAGE": "/tmp/here", f"{PREFIX}IMAGES": "x"}, tmp_path)

    problems = "\n".join(caught.value.problems)
    assert f"{PREFIX}IMAGE must be set." in problems
    assert f"{PREFIX}IMAGES is not a setting of these tests." in problems
    assert f"{PREFIX}STORAGE must be in an object store" in problems
    assert f"there is no {tmp_path}/.kube/config" in problems


@pytest.mark.parametrize(
    ("options", "exit_code"), [(["-m", "cluster"], pytest.ExitCode.USAGE_ERROR), ([], 0)]
)
def test_without_settings_the_tests_are_skipped_or_fail_if_selected(
    options: list[str], exit_code: int, tmp_path: Path
) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}

    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            *options,
            "tests/cluster/test_run.py",
        ],
        cwd=ROOT,
        env={**environment, "KUBECONFIG": str(tmp_path / "none"), "COLUMNS": "1000"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == exit_code
    assert f"{PREFIX}STORAGE must be set. {PREFIX}IMAGE must be set." in done.stdout + done.stderr
    assert " passed" not in done.stdout


def test_task_pods_exclude_the_pods_of_kubeflow(api: KubernetesApi, cluster: ClusterClient) -> None:
    nodes = {
        "plan": "w-1(0).root(0).plan(0).executor(0)",
        "plan-again": "w-1(0).root(0).plan(0).executor(1)",
        "driver": "w-1.root.plan-driver",
        "build": "w-1.root.for-loop-1.iterations(1:1).iteration-item.build-shards.executor",
    }
    for name, node in nodes.items():
        labels, annotations = {"pipeline/runid": RUN_ID}, {"workflows.argoproj.io/node-name": node}
        spec = {
            "containers": [{"name": "main", "image": "repot"}, {"name": "wait", "image": "argo"}]
        }
        put(api, "Pod", name, metadata={"labels": labels, "annotations": annotations}, spec=spec)
    put(api, "Pod", "of-another-run", spec={"containers": []})

    found = {
        pod.manifest["metadata"]["name"]: (pod.task, pod.node) for pod in cluster.task_pods(RUN_ID)
    }

    assert found == {
        "plan": ("plan", "w-1(0).root(0).plan(0).executor"),
        "plan-again": ("plan", "w-1(0).root(0).plan(0).executor"),
        "build": ("build-shards", nodes["build"]),
    }
    assert cluster.task_pods(RUN_ID)[0].main["image"] == "repot"
    cluster.delete_pod("build")
    assert {pod.task for pod in cluster.task_pods(RUN_ID)} == {"plan"}


def test_jobs_are_selected_by_storage_folder(api: KubernetesApi, cluster: ClusterClient) -> None:
    labels = {"app.kubernetes.io/managed-by": "repot", "app.kubernetes.io/component": "worker"}
    for name, run_uri in {"mine": "s3://b/mine/runs/1", "other": "s3://b/mine-too/runs/1"}.items():
        metadata = {"labels": labels, "annotations": {"repot/run-uri": run_uri}}
        put(api, "Job", name, metadata=metadata, spec={"template": {"spec": {"containers": []}}})

    assert [job["metadata"]["name"] for job in cluster.jobs_below("s3://b/mine")] == ["mine"]
    cluster.delete_job("mine")
    assert cluster.jobs_below("s3://b/mine") == []


def test_config_map_has_values_for_the_duration_of_a_block(
    api: KubernetesApi, cluster: ClusterClient
) -> None:
    def data() -> dict[str, dict[str, str]]:
        found = api.store.objects.values()
        return {
            each["metadata"]["name"]: each["data"] for each in found if each["kind"] == "ConfigMap"
        }

    put(api, "ConfigMap", "existing", data={"S3_REGION": "eu", "TASK_CPU": "1"})
    before = data()
    values = {"TASK_CPU": "2", "BUILDER_PODS": "1"}

    with (
        cluster.config_map_values("existing", values),
        cluster.config_map_values("new", values),
    ):
        assert data() == {"existing": {"S3_REGION": "eu", **values}, "new": values}

    assert data() == before


def test_run_id_is_parsed_from_the_output(environment: dict[str, str], tmp_path: Path) -> None:
    lines = [
        "version  0.1.0 (uploaded)",
        f"run      first 2026-03-01 02:00:00, {RUN_ID}",
        "link     http://kfp",
    ]
    printed = "\n".join(lines)

    assert CommandResult(arguments=(), exit_code=0, output=printed, errors="").run_id == RUN_ID
    assert (
        CommandResult(arguments=(), exit_code=0, output=f"run   {RUN_ID}\n", errors="").run_id
        == RUN_ID
    )
    result = CommandLine(settings=read_settings(environment, tmp_path), folder=tmp_path).run(
        "submit"
    )
    with pytest.raises(
        pytest.fail.Exception, match=r"(?s)exit code must be 0:.*repot submit.*must be given"
    ):
        result.expect(0)


def test_wait_failure_has_the_last_state() -> None:
    with pytest.raises(
        pytest.fail.Exception, match=r"A model must appear within 0 s\. Last state: PENDING"
    ):
        wait_for("A model", list, seconds=0, state=lambda: "PENDING")
