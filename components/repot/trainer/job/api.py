"""The few calls of the Kubernetes API that a training Job needs, in one namespace.

Transient failures (no connection, 429, 5xx) are retried. Every other failure is a TrainingError
that says what to do.
"""

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import urllib3
from kubernetes import client, config

from repot.cluster_names import JOB_RUNNER_ACCOUNT
from repot.errors import TrainingError
from repot.kubernetes_rules import KubernetesObject
from repot.user_files import check_kubeconfig

RETRY_SECONDS = 300.0
"""Transient failures are retried for this long."""

_PAUSE_SECONDS = 5.0
_TIMEOUT_SECONDS = (5.0, 30.0)  # connect, read
_LOG_TIMEOUT_SECONDS = (5.0, 300.0)
_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")

_log = logging.getLogger(__name__)


class JobApi:
    """Access to Jobs, and to their Services, pods, events and logs, in one namespace.

    Args:
        connection: The Kubernetes client; it is thread-safe, but unusable in a signal handler.
        namespace: The namespace.
        retry_seconds: How long to retry transient failures.
    """

    def __init__(
        self, connection: Any, namespace: str, retry_seconds: float = RETRY_SECONDS
    ) -> None:
        self._connection = connection
        self.namespace = namespace
        self._retry_seconds = retry_seconds

    @classmethod
    def connect(cls, retry_seconds: float = RETRY_SECONDS) -> Self:
        """Connect to the pod's own cluster and namespace, or outside a pod to the kubeconfig's.

        Raises:
            TrainingError: There is neither a service account nor a kubeconfig.
        """
        settings = client.Configuration()
        try:
            config.load_incluster_config(client_configuration=settings)
            namespace = _NAMESPACE_FILE.read_text(encoding="utf-8").strip()
        except config.ConfigException:
            # The client reads this variable only once, when it is imported.
            file = os.environ.get("KUBECONFIG")
            try:
                check_kubeconfig(file or "")
                config.load_kube_config(file, client_configuration=settings)
                _, context = config.list_kube_config_contexts(file)
            except (config.ConfigException, OSError) as err:
                raise TrainingError(
                    "trainer_mode=job must run with access to a Kubernetes cluster; found neither "
                    f"a service account nor a kubeconfig ({err}). Use trainer_mode=pod."
                ) from err
            namespace = context["context"].get("namespace", "default")
        return cls(client.ApiClient(settings), namespace, retry_seconds)

    def get_job(self, name: str) -> KubernetesObject | None:
        """Return a Job, or None if it does not exist."""
        return self._call("GET", self._job_path(name), none_for=404)

    def create_job(self, job: KubernetesObject) -> KubernetesObject | None:
        """Create a Job and return it, or None if the name is taken."""
        return self._call("POST", self._job_path(), body=job, none_for=409)

    def delete_job(self, name: str, *, timeout_seconds: float = 10.0) -> None:
        """Delete a Job, and its pods in the background; succeeds if it does not exist."""
        body = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}
        self._call(
            "DELETE",
            self._job_path(name),
            body=body,
            none_for=404,
            timeout_seconds=(timeout_seconds, timeout_seconds),
        )

    def get_service(self, name: str) -> KubernetesObject | None:
        """Return a Service, or None if it does not exist."""
        return self._call("GET", self._core_path("services", name), none_for=404)

    def create_service(self, service: KubernetesObject) -> KubernetesObject | None:
        """Create a Service and return it, or None if the name is taken."""
        return self._call("POST", self._core_path("services"), body=service, none_for=409)

    def delete_service(self, name: str) -> None:
        """Delete a Service; succeeds if it does not exist."""
        self._call("DELETE", self._core_path("services", name), none_for=404)

    def list_pods(self, job_name: str) -> list[KubernetesObject]:
        """Return the pods of a Job."""
        query = {"labelSelector": f"batch.kubernetes.io/job-name={job_name}"}
        answer = self._call("GET", self._core_path("pods"), query=query)
        return list(answer["items"]) if answer else []

    def list_events(self, kind: str, name: str) -> list[KubernetesObject]:
        """Return the events of an object; empty if the service account may not read events."""
        query = {"fieldSelector": f"involvedObject.kind={kind},involvedObject.name={name}"}
        answer = self._call("GET", self._core_path("events"), query=query, none_for=403)
        return list(answer["items"]) if answer else []

    def read_log(self, pod: str, num_lines: int) -> str:
        """Return the last lines of a pod's log, or "" if the log no longer exists."""
        query = {"tailLines": str(num_lines)}
        try:
            answer = self._request(
                "GET", self._core_path("pods", pod, "log"), query=query, is_stream=True
            )
            return str(answer.read().decode(errors="replace"))
        except (client.ApiException, urllib3.exceptions.HTTPError):
            return ""

    def follow_log(self, pod: str, *, since: str = "") -> Iterator[str]:
        """Yield the lines of a pod's log as they arrive, until the pod ends.

        Every line starts with its timestamp and a space.

        Args:
            pod: Name of the pod.
            since: Timestamp to start from; "" for the beginning.

        Raises:
            OSError: The connection broke.
        """
        query = {"follow": "true", "timestamps": "true"} | ({"sinceTime": since} if since else {})
        try:
            answer = self._request(
                "GET",
                self._core_path("pods", pod, "log"),
                query=query,
                is_stream=True,
                timeout_seconds=_LOG_TIMEOUT_SECONDS,
            )
            for line in answer:
                yield line.decode(errors="replace").rstrip("\n")
        except (client.ApiException, urllib3.exceptions.HTTPError) as err:
            raise OSError(str(err)) from err

    def _job_path(self, *names: str) -> str:
        return "/".join([f"/apis/batch/v1/namespaces/{self.namespace}/jobs", *names])

    def _core_path(self, *names: str) -> str:
        return "/".join([f"/api/v1/namespaces/{self.namespace}", *names])

    def _call(
        self, method: str, path: str, *, none_for: int = 0, **request: Any
    ) -> KubernetesObject | None:
        """Return the response, or None if its status is `none_for`; retry transient failures."""
        deadline = time.monotonic() + self._retry_seconds
        while True:
            try:
                answer: KubernetesObject = self._request(method, path, **request)
            except client.ApiException as err:
                if none_for and err.status == none_for:
                    return None
                if not _is_transient(err) or time.monotonic() >= deadline:
                    raise _refused(method, path, err) from err
                problem = f"{err.status} {err.reason}"
            except urllib3.exceptions.HTTPError as err:
                if time.monotonic() >= deadline:
                    raise _unreachable(method, path, err) from err
                problem = str(err)
            else:
                return answer
            _log.warning("the Kubernetes API is not available, trying again: %s", problem)
            time.sleep(_PAUSE_SECONDS)

    def _request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: KubernetesObject | None = None,
        is_stream: bool = False,
        timeout_seconds: tuple[float, float] = _TIMEOUT_SECONDS,
    ) -> Any:
        return self._connection.call_api(
            path,
            method,
            query_params=list((query or {}).items()),
            header_params={
                "Accept": "*/*" if is_stream else "application/json",
                "Content-Type": "application/json",
            },
            body=body,
            response_type="object",
            auth_settings=["BearerToken"],
            _return_http_data_only=True,
            _preload_content=not is_stream,
            _request_timeout=timeout_seconds,
        )


def _is_transient(err: Any) -> bool:
    return err.status in (0, None, 429) or err.status >= 500


def _refused(method: str, path: str, err: Any) -> TrainingError:
    try:
        message = json.loads(err.body)["message"]
    except (TypeError, ValueError, KeyError):
        message = f"{err.status} {err.reason}"
    advice = {
        401: "The token is not valid for this cluster.",
        403: f"Start the run with the service account {JOB_RUNNER_ACCOUNT}, which has the "
        "permissions in manifests/base/job-runner-role.yaml, or use trainer_mode=pod.",
    }.get(err.status, "")
    return TrainingError(
        f"The cluster must accept {method} {path}; it answered: {message}. {advice}".strip()
    )


def _unreachable(method: str, path: str, err: Exception) -> TrainingError:
    return TrainingError(
        f"The Kubernetes API must be reachable; {method} {path} failed: {err}. Start the task "
        "again."
    )
