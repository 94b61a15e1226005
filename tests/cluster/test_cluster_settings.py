"""The tools of these tests themselves, without a cluster: settings, refusal, and what is read of pods and Jobs."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from repot.errors import UsageError
from tests.cluster.cluster import Cluster
from tests.cluster.cluster_settings import PREFIX, read_settings
from tests.cluster.command_line import CommandLine, Ended
from tests.cluster.waiting import wait_for
from tests.integration.kubernetes_api.kubeconfig import write_kubeconfig
from tests.integration.kubernetes_api.server import ADMIN_TOKEN, KubernetesApi

ROOT = Path(__file__).parents[2]
RUN_ID = "0b2a1a3c-8f6e-4d0e-9d55-1d1f0b9a7c11"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Return the variables that must be there, and no more."""
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
def cluster(api: KubernetesApi, tmp_path: Path) -> Cluster:
    return Cluster(
        write_kubeconfig(tmp_path / "kubeconfig", api.address, token=ADMIN_TOKEN), "work"
    )


def put(api: KubernetesApi, kind: str, name: str, **facts: Any) -> None:
    metadata = {"name": name, "namespace": "work", **facts.pop("metadata", {})}
    version = "batch/v1" if kind == "Job" else "v1"
    api.store.put({"apiVersion": version, "kind": kind, "metadata": metadata, **facts})


def test_settings_are_what_the_variables_say(environment: dict[str, str], tmp_path: Path) -> None:
    more = {
        "HOST": "http://kfp",
        "NAMESPACE": "team",
        "S3_ENDPOINT": "http://store:9000",
        "S3_SECRET": "keys",
    }

    found = read_settings(
        {**environment, **{f"{PREFIX}{name}": value for name, value in more.items()}}, tmp_path
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


def test_everything_that_is_missing_or_wrong_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        read_settings({f"{PREFIX}STORAGE": "/tmp/here", f"{PREFIX}IMAGES": "x"}, tmp_path)

    told = "\n".join(caught.value.problems)
    assert f"{PREFIX}IMAGE must be set." in told
    assert f"{PREFIX}IMAGES is no setting of these tests." in told
    assert f"{PREFIX}STORAGE must be in an object store" in told
    assert f"there is no {tmp_path}/.kube/config" in told


@pytest.mark.parametrize(
    ("words", "exit_code"), [(["-m", "cluster"], pytest.ExitCode.USAGE_ERROR), ([], 0)]
)
def test_without_settings_nobody_believes_that_the_tests_ran(
    words: list[str], exit_code: int, tmp_path: Path
) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}

    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            *words,
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


def test_pods_of_tasks_are_told_from_those_of_kubeflow(
    api: KubernetesApi, cluster: Cluster
) -> None:
    nodes = {
        "plan": "w-1(0).root(0).plan(0).executor(0)",
        "plan-again": "w-1(0).root(0).plan(0).executor(1)",
        "driver": "w-1.root.plan-driver",
        "build": "w-1.root.for-loop-1.iteration-iterations(1:1).iteration-item.build-shards.executor",
    }
    for name, node in nodes.items():
        labels, annotations = {"pipeline/runid": RUN_ID}, {"workflows.argoproj.io/node-name": node}
        spec = {
            "containers": [{"name": "main", "image": "repot"}, {"name": "wait", "image": "argo"}]
        }
        put(api, "Pod", name, metadata={"labels": labels, "annotations": annotations}, spec=spec)
    put(api, "Pod", "of-another-run", spec={"containers": []})

    found = {
        pod.facts["metadata"]["name"]: (pod.task, pod.node) for pod in cluster.task_pods(RUN_ID)
    }

    assert found == {
        "plan": ("plan", "w-1(0).root(0).plan(0).executor"),
        "plan-again": ("plan", "w-1(0).root(0).plan(0).executor"),
        "build": ("build-shards", nodes["build"]),
    }
    assert cluster.task_pods(RUN_ID)[0].main["image"] == "repot"
    cluster.delete_pod("build")
    assert {pod.task for pod in cluster.task_pods(RUN_ID)} == {"plan"}


def test_only_jobs_of_this_storage_are_ours(api: KubernetesApi, cluster: Cluster) -> None:
    labels = {"app.kubernetes.io/managed-by": "repot", "app.kubernetes.io/component": "worker"}
    for name, run_uri in {"mine": "s3://b/mine/runs/1", "other": "s3://b/mine-too/runs/1"}.items():
        metadata = {"labels": labels, "annotations": {"repot/run-uri": run_uri}}
        put(api, "Job", name, metadata=metadata, spec={"template": {"spec": {"containers": []}}})

    assert [job["metadata"]["name"] for job in cluster.jobs_below("s3://b/mine")] == ["mine"]
    cluster.delete_job("mine")
    assert cluster.jobs_below("s3://b/mine") == []


def test_run_is_read_from_what_the_command_prints(
    environment: dict[str, str], tmp_path: Path
) -> None:
    printed = f"version  0.1.0 (uploaded)\nrun      first 2026-03-01 02:00:00, {RUN_ID}\nlink     http://kfp\n"

    assert Ended(words=(), exit_code=0, output=printed, errors="").run_id == RUN_ID
    assert Ended(words=(), exit_code=0, output=f"run   {RUN_ID}\n", errors="").run_id == RUN_ID
    ended = CommandLine(settings=read_settings(environment, tmp_path), folder=tmp_path).run(
        "submit"
    )
    with pytest.raises(
        pytest.fail.Exception, match=r"(?s)exit code 0; it did not.*repot submit.*must be given"
    ):
        ended.expect(0)


def test_waiting_ends_with_the_last_thing_that_was_seen() -> None:
    with pytest.raises(
        pytest.fail.Exception, match=r"A model must come within 0 s; .* Last seen: PENDING"
    ):
        wait_for("A model", list, seconds=0, state=lambda: "PENDING")
