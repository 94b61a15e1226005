"""The pods of Jobs as processes of this machine: a kubelet that starts, ends and reports them."""

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
from typing import Any

Facts = dict[str, Any]
INDEX_LABEL = "batch.kubernetes.io/job-completion-index"
JOB_LABEL = "batch.kubernetes.io/job-name"
LOOK_SECONDS = 0.05


@dataclass(kw_only=True)
class Pod:
    """A pod, and the process that it is.

    Attributes:
        facts: The object in the store.
        job: The Job, in the store.
        folder: For what the container leaves.
        process: None while it waits.
        lines: Its log: time stamps and lines.
        reader: Collects them.
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

    @property
    def is_alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def log(self) -> str:
        return b"".join(line for _, line in list(self.lines)).decode()

    @property
    def exit_code(self) -> int:
        return int(self.facts["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"])

    def start(self, environment: dict[str, str]) -> None:
        """Run the container's command in this Python, with its own environment over this one."""
        container = self.facts["spec"]["containers"][0]
        stated = {each["name"]: each["value"] for each in container["env"] if "value" in each}
        stated["REPOT_TERMINATION_LOG"] = str(self.folder / "termination-log")
        self.process = subprocess.Popen(
            [sys.executable, *container["command"][1:]],
            env={**os.environ, **stated, "JOB_COMPLETION_INDEX": str(self.index), **environment},
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
        """End it as a node's drain or a preemption does: with warning."""
        self._disrupt("PreemptionByScheduler")
        self.send(signal.SIGTERM)

    def lose(self) -> None:
        """End it as a node does that vanishes: without warning."""
        self._disrupt("DeletionByPodGC")
        self.send(signal.SIGKILL)

    def note_end(self) -> int | None:
        """Report how the process ended, and return its exit code; None if it has not, or that was noted before."""
        if self.process is None or self.is_over or self.process.poll() is None:
            return None
        assert self.reader is not None
        self.reader.join()
        code = self.process.returncode
        code = code if code >= 0 else 128 - code
        reason = "Completed" if code == 0 else "Error"
        ended = {
            "exitCode": code,
            "reason": reason,
            "finishedAt": now()[:19] + "Z",
            "message": self._message(code),
        }
        self._report("Succeeded" if code == 0 else "Failed", {"terminated": ended})
        return code

    def stream(self, since: str, has_ended: threading.Event) -> Iterator[bytes]:
        """Yield the lines of the log with their time stamps, until the pod is over."""
        sent = 0
        while True:
            is_over = self.is_over or has_ended.is_set()
            while sent < len(self.lines):
                stamp, line = self.lines[sent]
                sent += 1
                # The real server compares whole seconds: lines come twice.
                if stamp[:19] >= since[:19]:
                    yield f"{stamp} ".encode() + line
            if is_over:
                return
            time.sleep(LOOK_SECONDS)

    def _message(self, code: int) -> str:
        """Return what terminationMessagePolicy FallbackToLogsOnError says."""
        left = self.folder / "termination-log"
        if left.exists():
            return left.read_text()[:4096]
        return self.log[-2048:] if code else ""

    def _collect(self) -> None:
        assert self.process is not None
        assert self.process.stdout is not None
        with self.process.stdout as output:
            for line in output:
                self.lines.append((now(), line))

    def _disrupt(self, reason: str) -> None:
        condition = {"type": "DisruptionTarget", "status": "True", "reason": reason}
        self.facts["status"].setdefault("conditions", []).append(condition)

    def _report(self, phase: str, state: Facts) -> None:
        container = self.facts["spec"]["containers"][0]
        status = {
            "name": container["name"],
            "image": container["image"],
            "imageID": "",
            "ready": False,
        }
        self.facts["status"]["containerStatuses"] = [{**status, "restartCount": 0, "state": state}]
        self.facts["status"]["phase"] = phase


def now() -> str:
    """Return a time stamp with nine digits after the point, as in logs."""
    seconds, nanoseconds = divmod(time.time_ns(), 10**9)
    day = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return f"{day:%Y-%m-%dT%H:%M:%S}.{nanoseconds:09d}Z"
