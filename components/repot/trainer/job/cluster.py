"""The few calls of the Kubernetes API that a training Job needs, in one namespace; objects are plain dicts.

Failures that pass (no connection, 429, 5xx) are waited out; every other one is a TrainingError that says what to do.
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

from repot.errors import TrainingError

PATIENCE_SECONDS = 300.0
_PAUSE_SECONDS = 5.0
_TIMEOUT_SECONDS = (5.0, 30.0)
_SILENT_LOG_SECONDS = 300.0
_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")

_log = logging.getLogger(__name__)

Manifest = dict[str, Any]


class Cluster:
    """One namespace of a cluster.

    Args:
        api: The connection; safe in threads, but not in a signal handler.
        namespace: Where everything is made.
        patience_seconds: How long failures that pass are waited out.
    """

    def __init__(
        self, api: Any, namespace: str, patience_seconds: float = PATIENCE_SECONDS
    ) -> None:
        self._api = api
        self.namespace = namespace
        self._patience_seconds = patience_seconds

    @classmethod
    def connect(cls, patience_seconds: float = PATIENCE_SECONDS) -> Self:
        """Return the pod's own cluster and namespace, or outside of any pod those of the kubeconfig.

        Raises:
            TrainingError: There is neither.
        """
        settings = client.Configuration()
        try:
            config.load_incluster_config(client_configuration=settings)
            namespace = _NAMESPACE_FILE.read_text(encoding="utf-8").strip()
        except config.ConfigException:
            # The client itself looks at the variable when it is imported, once.
            file = os.environ.get("KUBECONFIG")
            try:
                config.load_kube_config(file, client_configuration=settings)
                _, context = config.list_kube_config_contexts(file)
            except config.ConfigException as err:
                raise TrainingError(
                    f"trainer_mode=job must run where a Kubernetes cluster is; there is no service account and no "
                    f"kubeconfig here ({err}). Use trainer_mode=pod."
                ) from err
            namespace = context["context"].get("namespace", "default")
        return cls(client.ApiClient(settings), namespace, patience_seconds)

    def get_job(self, name: str) -> Manifest | None:
        """Return a Job, or None."""
        return self._call(
            "GET", f"/apis/batch/v1/namespaces/{self.namespace}/jobs/{name}", missing=404
        )

    def create_job(self, job: Manifest) -> Manifest | None:
        """Return the Job as the cluster made it, or None if there is one of that name."""
        return self._call(
            "POST", f"/apis/batch/v1/namespaces/{self.namespace}/jobs", body=job, missing=409
        )

    def delete_job(self, name: str, *, timeout_seconds: float = 10.0) -> None:
        """Delete a Job, and its pods after it; a missing one is fine."""
        path = f"/apis/batch/v1/namespaces/{self.namespace}/jobs/{name}"
        body = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}
        self._call(
            "DELETE",
            path,
            body=body,
            missing=404,
            timeout_seconds=(timeout_seconds, timeout_seconds),
        )

    def get_service(self, name: str) -> Manifest | None:
        """Return a Service, or None."""
        return self._call(
            "GET", f"/api/v1/namespaces/{self.namespace}/services/{name}", missing=404
        )

    def create_service(self, service: Manifest) -> Manifest | None:
        """Return the Service as the cluster made it, or None if there is one of that name."""
        return self._call(
            "POST", f"/api/v1/namespaces/{self.namespace}/services", body=service, missing=409
        )

    def delete_service(self, name: str) -> None:
        """Delete a Service; a missing one is fine."""
        self._call("DELETE", f"/api/v1/namespaces/{self.namespace}/services/{name}", missing=404)

    def list_pods(self, job_name: str) -> list[Manifest]:
        """Return the pods of a Job."""
        query = {"labelSelector": f"batch.kubernetes.io/job-name={job_name}"}
        found = self._call("GET", f"/api/v1/namespaces/{self.namespace}/pods", query=query)
        return list(found["items"]) if found else []

    def list_events(self, kind: str, name: str) -> list[Manifest]:
        """Return what the cluster reported of an object; nothing where that may not be read."""
        query = {"fieldSelector": f"involvedObject.kind={kind},involvedObject.name={name}"}
        found = self._call(
            "GET", f"/api/v1/namespaces/{self.namespace}/events", query=query, missing=403
        )
        return list(found["items"]) if found else []

    def read_log(self, pod: str, num_lines: int) -> str:
        """Return the last lines of a pod's log, or "" if there is none any more."""
        query = {"tailLines": str(num_lines)}
        path = f"/api/v1/namespaces/{self.namespace}/pods/{pod}/log"
        try:
            answer = self._request("GET", path, query=query, is_stream=True)
            return str(answer.read().decode(errors="replace"))
        except (client.ApiException, urllib3.exceptions.HTTPError):
            return ""

    def follow_log(self, pod: str, *, since: str = "") -> Iterator[str]:
        """Yield the lines of a pod's log as they come, each with a time stamp before it, until the pod ends.

        Args:
            pod: Name.
            since: A time stamp, to begin there.

        Raises:
            OSError: The connection broke.
        """
        query = {"follow": "true", "timestamps": "true"} | ({"sinceTime": since} if since else {})
        path = f"/api/v1/namespaces/{self.namespace}/pods/{pod}/log"
        try:
            answer = self._request(
                "GET", path, query=query, is_stream=True, timeout_seconds=(5.0, _SILENT_LOG_SECONDS)
            )
            for line in answer:
                yield line.decode(errors="replace").rstrip("\n")
        except (client.ApiException, urllib3.exceptions.HTTPError) as err:
            raise OSError(str(err)) from err

    def _call(self, method: str, path: str, *, missing: int = 0, **request: Any) -> Manifest | None:
        """Return the answer, or None for the status `missing`; wait out what passes."""
        deadline = time.monotonic() + self._patience_seconds
        while True:
            try:
                answer: Manifest = self._request(method, path, **request)
            except client.ApiException as err:
                if missing and err.status == missing:
                    return None
                if not _is_passing(err) or time.monotonic() >= deadline:
                    raise _explained(method, path, err) from err
                problem = f"{err.status} {err.reason}"
            except urllib3.exceptions.HTTPError as err:
                if time.monotonic() >= deadline:
                    raise _unreachable(method, path, err) from err
                problem = str(err)
            else:
                return answer
            _log.warning("Kubernetes does not answer, trying again: %s", problem)
            time.sleep(_PAUSE_SECONDS)

    def _request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Manifest | None = None,
        is_stream: bool = False,
        timeout_seconds: tuple[float, float] = _TIMEOUT_SECONDS,
    ) -> Any:
        return self._api.call_api(
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


def _is_passing(err: Any) -> bool:
    return err.status in (0, None, 429) or err.status >= 500


def _explained(method: str, path: str, err: Any) -> TrainingError:
    try:
        said = json.loads(err.body)["message"]
    except (TypeError, ValueError, KeyError):
        said = f"{err.status} {err.reason}"
    fixes = {
        401: "Its token is not valid here.",
        403: "Give the run's service account the rights of manifests/base/runner-role.yaml, or use trainer_mode=pod; "
        "`repot doctor` checks them.",
    }
    hint = fixes.get(err.status, "")
    return TrainingError(
        f"The cluster must accept {method} {path}; it answered: {said}. {hint}".strip()
    )


def _unreachable(method: str, path: str, err: Exception) -> TrainingError:
    return TrainingError(
        f"The Kubernetes API must be reachable; {method} {path} failed: {err}. Start the task again."
    )
