"""Kubernetes access for the tests: list pods and Jobs, read logs, delete pods and Jobs."""

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repot.kubernetes_rules import KubernetesObject
from repot.trainer.job.spec import RUN_ANNOTATION

_RUN_LABEL = "pipeline/runid"
_NODE_ANNOTATION = "workflows.argoproj.io/node-name"
_WORKER = "app.kubernetes.io/managed-by=repot,app.kubernetes.io/component=worker"
_ATTEMPT = r"(?:\(\d+\))?"
# KFP 2.17 makes Argo retry on every level of a path: w(0).root(0).train(0).executor(1).
_EXECUTOR = re.compile(rf"(.*\.([^.()]+){_ATTEMPT}\.executor){_ATTEMPT}")
_TIMEOUT_SECONDS = (5.0, 60.0)
"""To connect, and for each response."""


@dataclass(frozen=True, kw_only=True)
class TaskPod:
    """The pod of one task of a run.

    Attributes:
        task: Key of the task in the compiled YAML.
        node: Its path in the Argo workflow, the same for every attempt.
        manifest: The API object.
    """

    task: str
    node: str
    manifest: KubernetesObject

    @property
    def main(self) -> KubernetesObject:
        """Return the container that runs the task's command."""
        (container,) = [
            each for each in self.manifest["spec"]["containers"] if each["name"] == "main"
        ]
        return dict(container)

    @property
    def termination_message(self) -> str:
        """Return what the container of the task reported when it ended; "" before."""
        for status in self.manifest["status"].get("containerStatuses", ()):
            if status["name"] == "main":
                return str(status["state"].get("terminated", {}).get("message", ""))
        return ""


class ClusterClient:
    """A client for one namespace of the cluster.

    Args:
        kubeconfig_path: The kubeconfig file.
        namespace: The namespace.
    """

    def __init__(self, kubeconfig_path: Path, namespace: str) -> None:
        from kubernetes import client, config

        configuration = client.Configuration()
        config.load_kube_config(str(kubeconfig_path), client_configuration=configuration)
        self._api = client.ApiClient(configuration)
        self.namespace = namespace

    def task_pods(self, run_id: str) -> list[TaskPod]:
        """Return the pods of a run's tasks, without the driver pods of Kubeflow."""
        found = []
        for pod in self._list("/api/v1", "pods", f"{_RUN_LABEL}={run_id}"):
            node = pod["metadata"].get("annotations", {}).get(_NODE_ANNOTATION, "")
            executor = _EXECUTOR.fullmatch(node)
            if executor:
                found.append(TaskPod(task=executor[2], node=executor[1], manifest=pod))
        return found

    def jobs_below(self, storage_uri: str) -> list[KubernetesObject]:
        """Return the training Jobs that write to a storage folder."""
        jobs = self._list("/apis/batch/v1", "jobs", _WORKER)
        return [
            job
            for job in jobs
            if job["metadata"]
            .get("annotations", {})
            .get(RUN_ANNOTATION, "")
            .startswith(f"{storage_uri}/")
        ]

    def job_pods(self, name: str) -> list[KubernetesObject]:
        """Return the pods of a Job, oldest first."""
        pods = self._list("/api/v1", "pods", f"batch.kubernetes.io/job-name={name}")
        return sorted(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))

    def log(self, pod: str) -> str:
        """Return a pod's log; "" if it does not exist yet or any more."""
        from kubernetes import client

        try:
            answer = self._call(
                "GET", f"/api/v1/namespaces/{self.namespace}/pods/{pod}/log", is_text=True
            )
        except client.ApiException as err:
            if err.status in (400, 404):
                return ""
            raise
        return str(answer.data.decode(errors="replace"))

    def delete_pod(self, name: str) -> None:
        """Delete a pod with its grace period, as draining a node does."""
        self._call("DELETE", f"/api/v1/namespaces/{self.namespace}/pods/{name}")

    def delete_job(self, name: str) -> None:
        """Delete a Job and its pods."""
        body = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}
        self._call("DELETE", f"/apis/batch/v1/namespaces/{self.namespace}/jobs/{name}", body=body)

    @contextlib.contextmanager
    def config_map_values(self, name: str, values: Mapping[str, str]) -> Iterator[None]:
        """Set keys of a ConfigMap for the duration of a `with` block."""
        path = f"/api/v1/namespaces/{self.namespace}/configmaps"
        before = {
            each["metadata"]["name"]: each for each in self._list("/api/v1", "configmaps", "")
        }
        if name not in before:
            kind = {"apiVersion": "v1", "kind": "ConfigMap"}
            body = {**kind, "metadata": {"name": name}, "data": dict(values)}
            self._call("POST", path, body=body)
            try:
                yield
            finally:
                self._call("DELETE", f"{path}/{name}")
            return
        data = before[name].get("data") or {}
        self._set_data(f"{path}/{name}", {**data, **values})
        try:
            yield
        finally:
            self._set_data(f"{path}/{name}", data)

    def _set_data(self, path: str, data: Mapping[str, str]) -> None:
        self._call("PUT", path, body={**self._call("GET", path), "data": dict(data)})

    def scheduled_workflows(self) -> set[str]:
        """Return the ids of the ScheduledWorkflow objects that Kubeflow's schedules create."""
        found = self._list("/apis/kubeflow.org/v1beta1", "scheduledworkflows", "")
        return {each["metadata"]["uid"] for each in found}

    def _list(self, group: str, plural: str, selector: str) -> list[KubernetesObject]:
        query = {"labelSelector": selector} if selector else {}
        return list(
            self._call("GET", f"{group}/namespaces/{self.namespace}/{plural}", query=query)["items"]
        )

    def _call(
        self,
        method: str,
        path: str,
        *,
        query: dict[str, str] | None = None,
        body: Any = None,
        is_text: bool = False,
    ) -> Any:
        return self._api.call_api(
            path,
            method,
            query_params=list((query or {}).items()),
            header_params={
                "Accept": "*/*" if is_text else "application/json",
                "Content-Type": "application/json",
            },
            body=body,
            response_type=None if is_text else "object",
            auth_settings=["BearerToken"],
            _return_http_data_only=True,
            _preload_content=not is_text,
            _request_timeout=_TIMEOUT_SECONDS,
        )
