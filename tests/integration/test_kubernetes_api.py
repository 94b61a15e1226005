"""The fake cluster must refuse what a real one refuses; tested with the real client over HTTP."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client, config
from kubernetes.client import ApiException

from tests.integration.kubernetes_api.kubeconfig import write_kubeconfig
from tests.integration.kubernetes_api.ready import make_pod
from tests.integration.kubernetes_api.resources import Target
from tests.integration.kubernetes_api.rules import role
from tests.integration.kubernetes_api.server import ADMIN_TOKEN, KubernetesApi
from tests.integration.kubernetes_api.status import plain

NAMESPACE = "work"
TEMPLATE = {
    "spec": {"restartPolicy": "Never", "containers": [{"name": "main", "image": "busybox"}]}
}
JOB = {
    "apiVersion": "batch/v1",
    "kind": "Job",
    "metadata": {"name": "train"},
    "spec": {"template": TEMPLATE},
}


@pytest.fixture
def api() -> Iterator[KubernetesApi]:
    with KubernetesApi() as server:
        server.store.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        yield server


@pytest.fixture
def connect(api: KubernetesApi, tmp_path: Path) -> Any:
    """Return a function that creates a real client with a token."""

    def make(token: str = ADMIN_TOKEN) -> Any:
        path = write_kubeconfig(tmp_path / "kubeconfig", api.address, token=token)
        return config.new_client_from_config(config_file=str(path))

    return make


def refused(call: Any, *arguments: Any, **options: Any) -> tuple[int, str]:
    """Return status and body of the error."""
    with pytest.raises(ApiException) as caught:
        call(*arguments, **options)
    return caught.value.status, str(caught.value.body)


def test_object_can_be_created_read_listed_and_deleted(connect: Any) -> None:
    batch = client.BatchV1Api(connect())

    created = batch.create_namespaced_job(NAMESPACE, {**JOB, "status": {"succeeded": 1}})
    read = batch.read_namespaced_job("train", NAMESPACE)
    (listed,) = batch.list_namespaced_job(NAMESPACE).items
    batch.delete_namespaced_job("train", NAMESPACE)

    assert created.metadata.uid == read.metadata.uid == listed.metadata.uid
    assert created.status is None
    assert created.metadata.creation_timestamp is not None
    assert batch.list_job_for_all_namespaces().items == []
    assert refused(batch.read_namespaced_job, "train", NAMESPACE)[0] == 404


def test_generate_name_makes_unique_names(connect: Any) -> None:
    batch = client.BatchV1Api(connect())
    body = {**JOB, "metadata": {"generateName": "train-"}}

    names = {batch.create_namespaced_job(NAMESPACE, body).metadata.name for _ in range(3)}

    assert len(names) == 3
    assert all(name.startswith("train-") for name in names)


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ({"spec": {"template": TEMPLATE, "backofLimit": 1}}, 400, "backofLimit"),
        ({"spec": {"template": TEMPLATE, "backoffLimit": "one"}}, 400, "strict decoding error"),
        ({"spec": {}}, 422, "template"),
        ({"kind": "Pod", "apiVersion": "v1"}, 400, "must be of type Job"),
        ({"metadata": {}}, 422, "name or generateName is required"),
        ({"metadata": {"name": "train", "namespace": "other"}}, 400, "does not match"),
    ],
)
def test_invalid_bodies_are_refused(
    connect: Any, change: dict[str, Any], status: int, message: str
) -> None:
    found = refused(
        client.BatchV1Api(connect()).create_namespaced_job, NAMESPACE, {**JOB, **change}
    )

    assert found[0] == status
    assert message in found[1]


def test_names_are_unique_and_namespaces_must_exist(connect: Any) -> None:
    batch = client.BatchV1Api(connect())
    batch.create_namespaced_job(NAMESPACE, JOB)

    assert refused(batch.create_namespaced_job, NAMESPACE, JOB)[0] == 409
    assert refused(batch.create_namespaced_job, "nowhere", JOB)[0] == 404
    assert batch.list_namespaced_job("nowhere").items == []


def test_permissions_are_those_of_roles(api: KubernetesApi, connect: Any) -> None:
    api.users["of-somebody"] = "somebody"
    api.rules.grant("somebody", role("get list", "jobs", group="batch"), namespace=NAMESPACE)
    batch = client.BatchV1Api(connect("of-somebody"))

    assert batch.list_namespaced_job(NAMESPACE).items == []
    status, message = refused(batch.create_namespaced_job, NAMESPACE, JOB)
    assert status == 403
    assert (
        'cannot create resource \\"jobs\\" in API group \\"batch\\" in the namespace \\"work\\"'
        in message
    )
    assert refused(batch.list_job_for_all_namespaces)[0] == 403
    assert refused(client.BatchV1Api(connect("unknown")).list_namespaced_job, NAMESPACE)[0] == 401
    assert (
        "system:anonymous"
        in refused(client.BatchV1Api(connect("")).list_namespaced_job, NAMESPACE)[1]
    )


def test_lists_can_be_filtered_by_selectors(api: KubernetesApi, connect: Any) -> None:
    for name, node, phase in (
        ("a", "n1", "Running"),
        ("b", "n1", "Failed"),
        ("c", "n2", "Running"),
    ):
        pod = make_pod(name, node=node, gpus=1, phase=phase, namespace=NAMESPACE)
        pod["metadata"]["labels"] = {"job-name": f"job-{name}"}
        api.store.put(pod)
    core = client.CoreV1Api(connect())

    def names(**selector: str) -> str:
        return "".join(
            pod.metadata.name for pod in core.list_namespaced_pod(NAMESPACE, **selector).items
        )

    assert names(field_selector="spec.nodeName=n1,status.phase!=Failed") == "a"
    assert names(label_selector="job-name=job-b") == "b"
    assert names(label_selector="job-name in (job-a, job-c)") == "ac"
    assert names(label_selector="job-name!=job-a") == "bc"
    assert names(label_selector="job-name") == "abc"
    assert names(label_selector="!job-name") == ""
    assert refused(core.list_namespaced_pod, NAMESPACE, field_selector="spec.colour=red")[0] == 400


def test_lists_are_paginated(api: KubernetesApi, connect: Any) -> None:
    for index in range(5):
        api.store.put(make_pod(f"pod-{index}", node="n", gpus=0, namespace=NAMESPACE))
    core, names, token = client.CoreV1Api(connect()), [], None
    while token != "":
        page = core.list_pod_for_all_namespaces(limit=2, _continue=token)
        names += [pod.metadata.name for pod in page.items]
        token = page.metadata._continue or ""

    assert names == [f"pod-{index}" for index in range(5)]
    assert refused(core.list_pod_for_all_namespaces, limit=2, _continue="nonsense")[0] == 410


def test_subresource_is_answered_by_its_handler(api: KubernetesApi, connect: Any) -> None:
    core = client.CoreV1Api(connect())
    assert refused(core.read_namespaced_pod_log, "a", NAMESPACE)[0] == 404

    def log(target: Target, query: dict[str, str], _: Any) -> Any:
        return plain(f"log of {target.name} since {query['sinceSeconds']} s")

    api.subresources["pods", "log"] = log

    assert core.read_namespaced_pod_log("a", NAMESPACE, since_seconds=3) == "log of a since 3 s"


def test_unknown_resources_and_methods_are_refused(connect: Any) -> None:
    assert refused(client.AppsV1Api(connect()).list_deployment_for_all_namespaces)[0] == 404
    assert refused(client.CoreV1Api(connect()).patch_node, "n", {})[0] == 405
