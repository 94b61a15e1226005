"""Pods of Jobs as local processes: the part of a kubelet that starts, ends and reports them."""

import contextlib
import datetime
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from repot.kubernetes_rules import KubernetesObject

INDEX_LABEL = "batch.kubernetes.io/job-completion-index"
JOB_LABEL = "batch.kubernetes.io/job-name"
POLL_SECONDS = 0.05


@dataclass(kw_only=True)
class Pod:
    """A pod and its process.

    Attributes:
        stored: The pod's object in the store.
        job: The Job's object in the store.
        folder: For the container's termination message.
        process: None while the pod waits.
        lines: The log: timestamps and lines.
        reader: Thread that collects the log.
    """

    stored: KubernetesObject
    job: KubernetesObject
    folder: Path
    process: subprocess.Popen[bytes] | None = None
    lines: list[tuple[str, bytes]] = field(default_factory=list)
    reader: threading.Thread | None = None

    @property
    def name(self) -> str:
        return str(self.stored["metadata"]["name"])

    @property
    def index(self) -> int:
        return int(self.stored["metadata"]["labels"][INDEX_LABEL])

    @property
    def phase(self) -> str:
        return str(self.stored["status"]["phase"])

    @property
    def is_finished(self) -> bool:
        return self.phase in ("Succeeded", "Failed")

    @property
    def is_alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def log(self) -> str:
        return b"".join(line for _, line in list(self.lines)).decode()

    @property
    def exit_code(self) -> int:
        return int(self.stored["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"])

    def start(self, environment: dict[str, str]) -> None:
        """Run the container's command with this Python; its variables override the current ones."""
        container = self.stored["spec"]["containers"][0]
        variables = {each["name"]: each["value"] for each in container["env"] if "value" in each}
        variables["REPOT_TERMINATION_LOG"] = str(self.folder / "termination-log")
        self.process = subprocess.Popen(
            [sys.executable, *container["command"][1:]],
            env={**os.environ, **variables, "JOB_COMPLETION_INDEX": str(self.index), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.reader = threading.Thread(target=self._collect, daemon=True)
        self.reader.start()
        self._report("Running", {"running": {}})

    def send(self, signal_number: int) -> None:
        """Send the process a signal, if it runs."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal_number)

    def evict(self) -> None:
        """End the pod like a drained node or a preemption: with SIGTERM."""
        self._disrupt("PreemptionByScheduler")
        self.send(signal.SIGTERM)

    def lose(self) -> None:
        """End the pod like a lost node: with SIGKILL."""
        self._disrupt("DeletionByPodGC")
        self.send(signal.SIGKILL)

    def report_end(self) -> int | None:
        """Report the end of the process and return its exit code; None if nothing changed."""
        if self.process is None or self.is_finished or self.process.poll() is None:
            return None
        assert self.reader is not None
        self.reader.join()
        code = self.process.returncode
        code = code if code >= 0 else 128 - code
        reason = "Completed" if code == 0 else "Error"
        terminated = {
            "exitCode": code,
            "reason": reason,
            "finishedAt": now()[:19] + "Z",
            "message": self._message(code),
        }
        self._report("Succeeded" if code == 0 else "Failed", {"terminated": terminated})
        return code

    def stream(self, since: str, has_ended: threading.Event) -> Iterator[bytes]:
        """Yield the lines of the log with their timestamps, until the pod has ended."""
        sent = 0
        while True:
            is_finished = self.is_finished or has_ended.is_set()
            while sent < len(self.lines):
                timestamp, line = self.lines[sent]
                sent += 1
                # The real server compares whole seconds, so lines can be repeated.
                if timestamp[:19] >= since[:19]:
                    yield f"{timestamp} ".encode() + line
            if is_finished:
                return
            time.sleep(POLL_SECONDS)

    def _message(self, code: int) -> str:
        """Return the message according to terminationMessagePolicy FallbackToLogsOnError."""
        path = self.folder / "termination-log"
        if path.exists():
            return path.read_text()[:4096]
        return self.log[-2048:] if code else ""

    def _collect(self) -> None:
        assert self.process is not None
        assert self.process.stdout is not None
        with self.process.stdout as output:
            for line in output:
                self.lines.append((now(), line))

    def _disrupt(self, reason: str) -> None:
        condition = {"type": "DisruptionTarget", "status": "True", "reason": reason}
        self.stored["status"].setdefault("conditions", []).append(condition)

    def _report(self, phase: str, state: KubernetesObject) -> None:
        container = self.stored["spec"]["containers"][0]
        status = {
            "name": container["name"],
            "image": container["image"],
            "imageID": "",
            "ready": False,
        }
        self.stored["status"]["containerStatuses"] = [{**status, "restartCount": 0, "state": state}]
        self.stored["status"]["phase"] = phase


def now() -> str:
    """Return the current time with nanoseconds, as in pod logs."""
    seconds, nanoseconds = divmod(time.time_ns(), 10**9)
    day = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return f"{day:%Y-%m-%dT%H:%M:%S}.{nanoseconds:09d}Z"
