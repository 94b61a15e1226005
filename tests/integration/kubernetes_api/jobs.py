"""The controller of Indexed Jobs, as in a real cluster, with pods that are local processes.

There is one pod per index. It is replaced only after it has ended. The podFailurePolicy is applied
to failed pods, and the backoffLimit counts them. The host names of a Job's workers lead to local
ports if a Service exists that gives them names.
"""

import contextlib
import shutil
import signal
import tempfile
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from repot.kubernetes_rules import KubernetesObject
from tests.conftest import free_port
from tests.integration.http_api import Answer, StreamAnswer
from tests.integration.kubernetes_api.job_pods import (
    INDEX_LABEL,
    JOB_LABEL,
    POLL_SECONDS,
    Pod,
    now,
)
from tests.integration.kubernetes_api.resources import Target
from tests.integration.kubernetes_api.server import KubernetesApi
from tests.integration.kubernetes_api.status import ApiError, plain


class JobController:
    """Runs the Jobs of a server during a `with` block.

    Attributes:
        pods: All pods, also deleted ones, in order of creation.
        hold: Called with a new pod. Returns None to start it, or the status to wait with.
    """

    def __init__(self, api: KubernetesApi) -> None:
        self.api = api
        self.pods: list[Pod] = []
        self.hold: Callable[[KubernetesObject], KubernetesObject | None] = lambda _: None
        self._ports: dict[str, int] = {}
        self._folder = Path(tempfile.mkdtemp(prefix="repot-jobs-"))
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        api.subresources["pods", "log"] = self._read_log

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()
        for pod in self.pods:
            pod.send(signal.SIGKILL)
        for pod in self.pods:
            if pod.process is not None and pod.reader is not None:
                pod.process.wait()
                pod.reader.join()
        shutil.rmtree(self._folder)

    def alive(self) -> list[Pod]:
        """Return the pods whose process is running."""
        return [pod for pod in self.pods if pod.is_alive]

    def jobs(self) -> list[KubernetesObject]:
        """Return the Jobs in the store."""
        return [
            stored
            for (title, _, _), stored in list(self.api.store.objects.items())
            if title == "jobs.batch"
        ]

    def _run(self) -> None:
        while not self._ended.wait(POLL_SECONDS):
            jobs = self.jobs()
            for pod in self.pods:
                is_orphan = not any(pod.job is job for job in jobs)
                if is_orphan:
                    self._remove(pod)
                code = pod.report_end()
                if code and not is_orphan:
                    _apply_failure_policy(pod, code)
            for job in jobs:
                self._sync(job)

    def _sync(self, job: KubernetesObject) -> None:
        own = [pod for pod in self.pods if pod.job is job]
        if _has_ended(job):
            for pod in own:
                if not pod.is_finished:
                    self._remove(pod)
            return
        if job["spec"].get("suspend"):
            return
        succeeded = {pod.index for pod in own if pod.phase == "Succeeded"}
        if len(succeeded) == job["spec"]["completions"]:
            _end(job, "Complete", "CompletionsReached", "Reached expected number of succeeded pods")
            return
        # podReplacementPolicy Failed: a pod is replaced only after it has ended.
        taken = succeeded | {pod.index for pod in own if not pod.is_finished}
        own += [
            self._make(job, index)
            for index in range(job["spec"]["completions"])
            if index not in taken
        ]
        for pod in own:
            if pod.process is None and not pod.is_finished:
                self._start(pod)

    def _make(self, job: KubernetesObject, index: int) -> Pod:
        name = f"{job['metadata']['name']}-{index}-{uuid.uuid4().hex[:5]}"
        template = job["spec"]["template"]
        labels = {
            **template["metadata"]["labels"],
            INDEX_LABEL: str(index),
            JOB_LABEL: job["metadata"]["name"],
        }
        metadata = {"name": name, "namespace": job["metadata"]["namespace"], "labels": labels}
        status = {"phase": "Pending"}
        stored = self.api.store.put(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": metadata,
                "spec": template["spec"],
                "status": status,
            }
        )
        stored["metadata"]["creationTimestamp"] = now()
        folder = self._folder / name
        folder.mkdir()
        self.pods.append(Pod(stored=stored, job=job, folder=folder))
        return self.pods[-1]

    def _start(self, pod: Pod) -> None:
        held = self.hold(pod.stored)
        if held is not None:
            pod.stored["status"] = {"phase": "Pending", **held}
            return
        variables = {
            each["name"]: each.get("value") for each in pod.stored["spec"]["containers"][0]["env"]
        }
        names = [name for name in (variables.get("REPOT_WORKERS") or "").split(",") if name]
        if all(self._is_resolvable(pod.job, name) for name in names):
            ports = [
                self._ports.setdefault(pod.job["metadata"]["uid"] + name, free_port())
                for name in names
            ]
            pod.start(
                {"REPOT_WORKERS": ",".join(f"localhost:{port}" for port in ports)} if ports else {}
            )

    def _is_resolvable(self, job: KubernetesObject, name: str) -> bool:
        """Return whether the Job's Service exists, so that a worker's host name resolves.

        Host names are replaced by local ports when a pod starts, so it must exist before.
        """
        metadata, service_name = job["metadata"], name.partition(":")[0].partition(".")[2]
        service = self.api.store.objects.get(("services", metadata["namespace"], service_name))
        return (
            service is not None
            and service["metadata"]["ownerReferences"][0]["uid"] == metadata["uid"]
        )

    def _remove(self, pod: Pod) -> None:
        """Delete a pod: send SIGTERM, and remove the object when the process has ended."""
        metadata = pod.stored["metadata"]
        if pod.is_alive:
            if "deletionTimestamp" not in metadata:
                metadata["deletionTimestamp"] = now()[:19] + "Z"
                pod.send(signal.SIGTERM)
            return
        with contextlib.suppress(KeyError):
            del self.api.store.objects["pods", metadata["namespace"], pod.name]
        if pod.process is None:
            pod.stored["status"]["phase"] = "Failed"

    def _read_log(self, target: Target, query: dict[str, str], _: Any) -> Answer:
        found = [pod for pod in self.pods if pod.name == target.name]
        if not found or found[0].process is None:
            raise ApiError(
                "BadRequest", f'container "trainer" in pod "{target.name}" is waiting to start'
            )
        if query.get("follow") == "true":
            chunks = found[0].stream(query.get("sinceTime", ""), self._ended)
            return StreamAnswer(status=200, body=b"", kind="text/plain", chunks=chunks)
        return plain(
            "".join(found[0].log.splitlines(keepends=True)[-int(query.get("tailLines", 0)) :])
        )


def _apply_failure_policy(pod: Pod, code: int) -> None:
    """Apply the podFailurePolicy to a failed pod; the first matching rule decides."""
    spec, status = pod.job["spec"], pod.job.setdefault("status", {})
    for rule in spec["podFailurePolicy"]["rules"]:
        if _matches(rule, pod, code):
            if rule["action"] == "FailJob":
                message = (
                    f"Container trainer for pod {pod.name} failed with exit code {code} "
                    "matching FailJob rule"
                )
                _end(pod.job, "Failed", "PodFailurePolicy", message)
            return
    status["failed"] = status.get("failed", 0) + 1
    if status["failed"] > spec["backoffLimit"]:
        _end(
            pod.job, "Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit"
        )


def _matches(rule: KubernetesObject, pod: Pod, code: int) -> bool:
    if "onExitCodes" in rule:
        return bool(
            (code in rule["onExitCodes"]["values"]) == (rule["onExitCodes"]["operator"] == "In")
        )
    conditions = {
        (each["type"], each["status"]) for each in pod.stored["status"].get("conditions", [])
    }
    return any((each["type"], each["status"]) in conditions for each in rule["onPodConditions"])


def _end(job: KubernetesObject, kind: str, reason: str, message: str) -> None:
    if not _has_ended(job):
        condition = {"type": kind, "status": "True", "reason": reason, "message": message}
        job.setdefault("status", {}).setdefault("conditions", []).append(condition)


def _has_ended(job: KubernetesObject) -> bool:
    return bool((job.get("status") or {}).get("conditions"))
