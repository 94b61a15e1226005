"""What a cluster does with Indexed Jobs, as the real controller does it; the pods are processes of this machine.

There is a pod for every index, replaced only when it has ended, judged by the podFailurePolicy, and counted against
the backoffLimit. The names of a Job's workers lead to ports of this machine, if a Service gives them names.
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

from tests.conftest import free_port
from tests.integration.kubernetes_api.addresses import Target
from tests.integration.kubernetes_api.job_pods import (
    INDEX_LABEL,
    JOB_LABEL,
    LOOK_SECONDS,
    Facts,
    Pod,
    now,
)
from tests.integration.kubernetes_api.server import KubernetesApi
from tests.integration.kubernetes_api.status import Answer, Refusal, Stream, plain


class JobController:
    """Runs the Jobs of a server from `with` to its end.

    Attributes:
        pods: Every pod that ever was, in order.
        hold: Returns what keeps a new pod from starting: what to put into its status; None to start it.
    """

    def __init__(self, api: KubernetesApi) -> None:
        self.api = api
        self.pods: list[Pod] = []
        self.hold: Callable[[Facts], Facts | None] = lambda _: None
        self._ports: dict[str, int] = {}
        self._folder = Path(tempfile.mkdtemp(prefix="repot-jobs-"))
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        api.parts["pods", "log"] = self._read_log

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
        """Return the pods whose process runs."""
        return [pod for pod in self.pods if pod.is_alive]

    def jobs(self) -> list[Facts]:
        """Return the Jobs in the store."""
        return [
            facts
            for (title, _, _), facts in list(self.api.store.objects.items())
            if title == "jobs.batch"
        ]

    def _run(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            jobs = self.jobs()
            for pod in self.pods:
                is_orphan = not any(pod.job is job for job in jobs)
                if is_orphan:
                    self._remove(pod)
                code = pod.note_end()
                if code and not is_orphan:
                    _judge(pod, code)
            for job in jobs:
                self._sync(job)

    def _sync(self, job: Facts) -> None:
        own = [pod for pod in self.pods if pod.job is job]
        if _is_ended(job):
            for pod in own:
                if not pod.is_over:
                    self._remove(pod)
            return
        if job["spec"].get("suspend"):
            return
        done = {pod.index for pod in own if pod.phase == "Succeeded"}
        if len(done) == job["spec"]["completions"]:
            _end(job, "Complete", "CompletionsReached", "Reached expected number of succeeded pods")
            return
        # podReplacementPolicy Failed: a pod has to be over before its index gets another one.
        taken = done | {pod.index for pod in own if not pod.is_over}
        own += [
            self._make(job, index)
            for index in range(job["spec"]["completions"])
            if index not in taken
        ]
        for pod in own:
            if pod.process is None and not pod.is_over:
                self._start(pod)

    def _make(self, job: Facts, index: int) -> Pod:
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
        self.pods.append(Pod(facts=stored, job=job, folder=folder))
        return self.pods[-1]

    def _start(self, pod: Pod) -> None:
        held = self.hold(pod.facts)
        if held is not None:
            pod.facts["status"] = {"phase": "Pending", **held}
            return
        variables = {
            each["name"]: each.get("value") for each in pod.facts["spec"]["containers"][0]["env"]
        }
        names = [name for name in (variables.get("REPOT_WORKERS") or "").split(",") if name]
        if all(self._is_known(pod.job, name) for name in names):
            ports = [
                self._ports.setdefault(pod.job["metadata"]["uid"] + name, free_port())
                for name in names
            ]
            pod.start(
                {"REPOT_WORKERS": ",".join(f"localhost:{port}" for port in ports)} if ports else {}
            )

    def _is_known(self, job: Facts, name: str) -> bool:
        """Return whether this Job's Service gives a worker its name: nothing here can learn of one after its start."""
        metadata, service_name = job["metadata"], name.partition(":")[0].partition(".")[2]
        service = self.api.store.objects.get(("services", metadata["namespace"], service_name))
        return (
            service is not None
            and service["metadata"]["ownerReferences"][0]["uid"] == metadata["uid"]
        )

    def _remove(self, pod: Pod) -> None:
        """Delete a pod: SIGTERM first, and gone when it has ended."""
        metadata = pod.facts["metadata"]
        if pod.is_alive:
            if "deletionTimestamp" not in metadata:
                metadata["deletionTimestamp"] = now()[:19] + "Z"
                pod.send(signal.SIGTERM)
            return
        with contextlib.suppress(KeyError):
            del self.api.store.objects["pods", metadata["namespace"], pod.name]
        if pod.process is None:
            pod.facts["status"]["phase"] = "Failed"

    def _read_log(self, target: Target, query: dict[str, str], _: Any) -> Answer:
        found = [pod for pod in self.pods if pod.name == target.name]
        if not found or found[0].process is None:
            raise Refusal(
                "BadRequest", f'container "trainer" in pod "{target.name}" is waiting to start'
            )
        if query.get("follow") == "true":
            chunks = found[0].stream(query.get("sinceTime", ""), self._ended)
            return Stream(status=200, body=b"", kind="text/plain", chunks=chunks)
        return plain(
            "".join(found[0].log.splitlines(keepends=True)[-int(query.get("tailLines", 0)) :])
        )


def _judge(pod: Pod, code: int) -> None:
    """Do what the podFailurePolicy says of a failed pod; the first rule that fits counts."""
    spec, status = pod.job["spec"], pod.job.setdefault("status", {})
    for rule in spec["podFailurePolicy"]["rules"]:
        if _fits(rule, pod, code):
            if rule["action"] == "FailJob":
                why = f"Container trainer for pod {pod.name} failed with exit code {code} matching FailJob rule"
                _end(pod.job, "Failed", "PodFailurePolicy", why)
            return
    status["failed"] = status.get("failed", 0) + 1
    if status["failed"] > spec["backoffLimit"]:
        _end(
            pod.job, "Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit"
        )


def _fits(rule: Facts, pod: Pod, code: int) -> bool:
    if "onExitCodes" in rule:
        return bool(
            (code in rule["onExitCodes"]["values"]) == (rule["onExitCodes"]["operator"] == "In")
        )
    conditions = {
        (each["type"], each["status"]) for each in pod.facts["status"].get("conditions", [])
    }
    return any((each["type"], each["status"]) in conditions for each in rule["onPodConditions"])


def _end(job: Facts, kind: str, reason: str, message: str) -> None:
    if not _is_ended(job):
        condition = {"type": kind, "status": "True", "reason": reason, "message": message}
        job.setdefault("status", {}).setdefault("conditions", []).append(condition)


def _is_ended(job: Facts) -> bool:
    return bool((job.get("status") or {}).get("conditions"))
