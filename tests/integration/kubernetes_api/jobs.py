"""What a cluster does with Jobs: a controller and a kubelet whose pods are processes of this machine.

Indexed Jobs are run as the real controller runs them: a pod for every index, replaced only when it has ended, judged
by the podFailurePolicy, counted against the backoffLimit. A container's command runs in this Python, with the
environment that the Job states; the names of its workers lead to ports of this machine.
"""

import contextlib
import datetime
import fnmatch
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.conftest import free_port
from tests.integration.kubernetes_api.addresses import Target
from tests.integration.kubernetes_api.server import KubernetesApi
from tests.integration.kubernetes_api.status import Answer, Refusal, Stream, plain

Facts = dict[str, Any]
INDEX_LABEL = "batch.kubernetes.io/job-completion-index"
JOB_LABEL = "batch.kubernetes.io/job-name"
_LOOK_SECONDS = 0.05


@dataclass(kw_only=True)
class Pod:
    """A pod, and the process that it is.

    Attributes:
        facts: The object in the store.
        process: None while it waits.
        lines: Its log: time stamps and lines.
    """

    facts: Facts
    job: Facts
    folder: Path
    process: subprocess.Popen[bytes] | None = None
    lines: list[tuple[str, bytes]] = field(default_factory=list)
    reader: threading.Thread | None = None

    @property
    def name(self) -> str:
        return str(self.facts["metadata"]["name"])

    @property
    def index(self) -> int:
        return int(self.facts["metadata"]["labels"][INDEX_LABEL])

    @property
    def phase(self) -> str:
        return str(self.facts["status"]["phase"])

    @property
    def is_over(self) -> bool:
        return self.phase in ("Succeeded", "Failed")


class JobController:
    """Runs the Jobs of a server from `with` to its end.

    Attributes:
        pods: Every pod that ever was, in order.
        hold: Returns what keeps a new pod from starting: what to put into its status; None to start it.
        environment: More variables for every process.
    """

    def __init__(self, api: KubernetesApi) -> None:
        self.api = api
        self.pods: list[Pod] = []
        self.hold: Callable[[Facts], Facts | None] = lambda _: None
        self.environment: dict[str, str] = {}
        self._ports: dict[str, int] = {}
        self._folder = Path(tempfile.mkdtemp(prefix="repot-jobs-"))
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        api.parts["pods", "log"] = self._read_log

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        for pod in self.pods:
            if pod.process is not None and pod.process.poll() is None:
                pod.process.kill()
                pod.process.wait()
        for pod in self.pods:
            if pod.reader is not None:
                pod.reader.join()
        shutil.rmtree(self._folder)

    def alive(self) -> list[Pod]:
        """Return the pods whose process runs."""
        return [pod for pod in self.pods if pod.process is not None and pod.process.poll() is None]

    def evict(self, pod: Pod) -> None:
        """End a pod as a node's drain or preemption does: with warning."""
        pod.facts["status"].setdefault("conditions", []).append(
            {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}
        )
        assert pod.process is not None
        pod.process.send_signal(signal.SIGTERM)

    def lose(self, pod: Pod) -> None:
        """End a pod as a node does that vanishes: without warning."""
        pod.facts["status"].setdefault("conditions", []).append(
            {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC"}
        )
        assert pod.process is not None
        pod.process.kill()

    def log_of(self, pod: Pod) -> str:
        """Return a pod's log."""
        return b"".join(line for _, line in pod.lines).decode()

    def _run(self) -> None:
        while not self._ended.wait(_LOOK_SECONDS):
            jobs = [facts for (title, _, _), facts in list(self.api.store.objects.items()) if title == "jobs.batch"]
            for pod in self.pods:
                self._look_at(pod, gone=pod.job["metadata"]["uid"] not in {job["metadata"]["uid"] for job in jobs})
            for job in jobs:
                self._sync(job)

    def _look_at(self, pod: Pod, *, gone: bool) -> None:
        if gone:
            self._remove(pod)
        if pod.process is None or pod.is_over or pod.process.poll() is None:
            return
        assert pod.reader is not None
        pod.reader.join()
        code = pod.process.returncode
        code = code if code >= 0 else 128 - code
        ended: Facts = {
            "exitCode": code,
            "reason": "Completed" if code == 0 else "Error",
            "finishedAt": _now()[:19] + "Z",
        }
        message = self._message(pod, code)
        if message:
            ended["message"] = message
        pod.facts["status"]["phase"] = "Succeeded" if code == 0 else "Failed"
        pod.facts["status"]["containerStatuses"] = [_container_status(pod.facts, {"terminated": ended})]
        if code != 0 and not gone:
            self._judge(pod, code)

    def _message(self, pod: Pod, code: int) -> str:
        log = pod.folder / "termination-log"
        if log.exists():
            return log.read_text()[:4096]
        return self.log_of(pod)[-2048:] if code else ""

    def _judge(self, pod: Pod, code: int) -> None:
        """Do what the podFailurePolicy says of a failed pod; the first rule that fits counts."""
        spec, status = pod.job["spec"], pod.job.setdefault("status", {})
        for rule in spec.get("podFailurePolicy", {}).get("rules", []):
            if _fits(rule, pod, code):
                if rule["action"] == "FailJob":
                    why = f"Container trainer for pod {pod.name} failed with exit code {code} matching FailJob rule"
                    _end(pod.job, "Failed", "PodFailurePolicy", why)
                if rule["action"] in ("FailJob", "Ignore"):
                    return
        status["failed"] = status.get("failed", 0) + 1
        if status["failed"] > spec["backoffLimit"]:
            _end(pod.job, "Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit")

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
        for index in range(job["spec"]["completions"]):
            if index not in taken:
                own.append(self._make(job, index))
        for pod in own:
            if pod.process is None and not pod.is_over:
                self._start(pod)

    def _make(self, job: Facts, index: int) -> Pod:
        name = f"{job['metadata']['name']}-{index}-{uuid.uuid4().hex[:5]}"
        template = job["spec"]["template"]
        labels = {**template["metadata"]["labels"], INDEX_LABEL: str(index), JOB_LABEL: job["metadata"]["name"]}
        facts = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": job["metadata"]["namespace"], "labels": labels},
            "spec": template["spec"],
            "status": {"phase": "Pending"},
        }
        folder = self._folder / name
        folder.mkdir()
        stored = self.api.store.put(facts)
        stored["metadata"]["creationTimestamp"] = _now()
        self.pods.append(Pod(facts=stored, job=job, folder=folder))
        return self.pods[-1]

    def _start(self, pod: Pod) -> None:
        held = self.hold(pod.facts)
        if held is not None:
            pod.facts["status"] = {"phase": "Pending", **held}
            return
        container = pod.facts["spec"]["containers"][0]
        command = [sys.executable, *container["command"][1:]]
        pod.process = subprocess.Popen(
            command, env=self._environment(pod, container), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        pod.reader = threading.Thread(target=self._collect, args=[pod], daemon=True)
        pod.reader.start()
        pod.facts["status"] = {
            "phase": "Running",
            "containerStatuses": [_container_status(pod.facts, {"running": {}})],
        }

    def _environment(self, pod: Pod, container: Facts) -> dict[str, str]:
        stated = {each["name"]: each["value"] for each in container["env"] if "value" in each}
        stated["REPOT_TERMINATION_LOG"] = str(pod.folder / "termination-log")
        if "REPOT_WORKERS" in stated:
            addresses = stated["REPOT_WORKERS"].split(",")
            stated["REPOT_WORKERS"] = ",".join(self._address(pod.job, address) for address in addresses)
        return {**os.environ, **stated, **self.environment, "JOB_COMPLETION_INDEX": str(pod.index)}

    def _address(self, job: Facts, address: str) -> str:
        """Return where a worker is on this machine; there is no such name without a Service."""
        service = address.partition(":")[0].partition(".")[2]
        if not any(key[0] == "services" and fnmatch.fnmatch(key[2], service) for key in self.api.store.objects):
            return address
        return f"localhost:{self._ports.setdefault(job['metadata']['uid'] + address, free_port())}"

    def _collect(self, pod: Pod) -> None:
        assert pod.process is not None
        assert pod.process.stdout is not None
        with pod.process.stdout as output:
            for line in output:
                pod.lines.append((_now(), line))

    def _remove(self, pod: Pod) -> None:
        """Delete a pod: SIGTERM first, and gone when it has ended."""
        if pod.process is not None and pod.process.poll() is None:
            if not pod.facts["metadata"].get("deletionTimestamp"):
                pod.facts["metadata"]["deletionTimestamp"] = _now()[:19] + "Z"
                pod.process.send_signal(signal.SIGTERM)
            return
        with contextlib.suppress(KeyError):
            del self.api.store.objects["pods", pod.facts["metadata"]["namespace"], pod.name]
        if pod.process is None:
            pod.facts["status"]["phase"] = "Failed"

    def _read_log(self, target: Target, query: dict[str, str], _: Any) -> Answer:
        found = [pod for pod in self.pods if pod.name == target.name]
        if not found or found[0].process is None:
            raise Refusal("BadRequest", f'container "trainer" in pod "{target.name}" is waiting to start')
        if query.get("follow") == "true":
            return Stream(status=200, body=b"", kind="text/plain", chunks=self._stream(found[0], query))
        lines = [line for _, line in found[0].lines]
        return plain(b"".join(lines[-int(query.get("tailLines", 0)) :]).decode())

    def _stream(self, pod: Pod, query: dict[str, str]) -> Iterator[bytes]:
        sent = 0
        while True:
            is_over = pod.is_over
            while sent < len(pod.lines):
                stamp, line = pod.lines[sent]
                sent += 1
                # The real server compares whole seconds: lines come twice.
                if stamp[:19] >= query.get("sinceTime", "")[:19]:
                    yield f"{stamp} ".encode() + line
            if is_over or self._ended.is_set():
                return
            time.sleep(_LOOK_SECONDS)


def _fits(rule: Facts, pod: Pod, code: int) -> bool:
    if "onExitCodes" in rule:
        return bool((code in rule["onExitCodes"]["values"]) == (rule["onExitCodes"]["operator"] == "In"))
    conditions = {(each["type"], each["status"]) for each in pod.facts["status"].get("conditions", [])}
    return any((each["type"], each["status"]) in conditions for each in rule["onPodConditions"])


def _end(job: Facts, kind: str, reason: str, message: str) -> None:
    if not _is_ended(job):
        condition = {"type": kind, "status": "True", "reason": reason, "message": message}
        job.setdefault("status", {}).setdefault("conditions", []).append(condition)


def _is_ended(job: Facts) -> bool:
    return bool((job.get("status") or {}).get("conditions"))


def _container_status(facts: Facts, state: Facts) -> Facts:
    container = facts["spec"]["containers"][0]
    return {
        "name": container["name"],
        "image": container["image"],
        "imageID": "",
        "ready": False,
        "restartCount": 0,
        "state": state,
    }


def _now() -> str:
    """Return a time stamp with nine digits after the point, as in logs; each later than the one before."""
    seconds, nanoseconds = divmod(time.time_ns(), 10**9)
    day = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return f"{day:%Y-%m-%dT%H:%M:%S}.{nanoseconds:09d}Z"
