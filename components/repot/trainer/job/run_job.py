"""Trains in a Kubernetes Job: creates it or adopts the one that is there, follows it, and judges its end."""

import logging
import os
import time
from dataclasses import dataclass, field
from typing import Any

from repot.errors import TrainingError
from repot.json_record import write_record
from repot.settings import JobSettings
from repot.trainer.job.adopt import ensure_job
from repot.trainer.job.cluster import Cluster
from repot.trainer.job.diagnosis import (
    HOPELESS,
    end_of,
    failure_of,
    rank_of,
    waiting_reason,
    why_waiting,
)
from repot.trainer.job.heartbeat import Heartbeat
from repot.trainer.job.job_spec import make_job
from repot.trainer.job.log_stream import LogStream
from repot.trainer.job.pod_spec import job_name
from repot.trainer.job.terminate import deleted_when_terminated
from repot.trainer.request import TrainingRequest
from repot.trainer.train import find_finished
from repot.training_record import TrainingRecord

POLL_SECONDS = 5.0
PENDING_SECONDS = 120.0
HOPELESS_SECONDS = 600.0
_NUM_LOG_LINES = 20
_DRAIN_SECONDS = 10.0
_PASSED_ON = ("STORAGE_EMULATOR_HOST", "AWS_ENDPOINT_URL")

_log = logging.getLogger(__name__)

Manifest = dict[str, Any]


class JobFailedError(TrainingError):
    """The Job ended without a model; it is left there to be looked at."""


def train_in_job(
    settings: JobSettings, request: TrainingRequest, *, poll_seconds: float = POLL_SECONDS
) -> TrainingRecord:
    """Train in a Job and wait for its end.

    A Job of this training that runs already is adopted, one that failed is replaced; a training that is finished is
    only looked up. The Job is deleted when this process is asked to end.

    Args:
        settings: The Job.
        request: What its workers do.
        poll_seconds: Between two looks at the Job.

    Returns:
        The record in training.json.

    Raises:
        TrainingError: The Job failed, with the reason that its pods, their logs and events give; or it cannot be made.
    """
    finished = find_finished(request)
    if finished is not None:
        _log.info("training %s is already finished", request.training_id)
        return finished
    name, cluster = job_name(request.training_id), Cluster.connect()
    job = make_job(
        settings,
        training_id=request.training_id,
        run_uri=request.run_uri,
        request_uri=request.uri,
        environment={
            variable: os.environ[variable] for variable in _PASSED_ON if variable in os.environ
        },
    )
    with deleted_when_terminated(name, unless=JobFailedError), Heartbeat(request.heartbeat_uri):
        write_record(request.uri, request)
        ensure_job(cluster, job, training_id=request.training_id, run_uri=request.run_uri)
        end = _Follower(cluster=cluster, name=name).follow(poll_seconds)
    finished = find_finished(request)
    if finished is None:
        raise JobFailedError(
            f"The Job {name} must leave a model; {end}. Its run folder is {request.run_uri}."
        )
    return finished


@dataclass(kw_only=True, slots=True)
class _Follower:
    """What was seen of a Job so far: its failed pods may be gone when it ends."""

    cluster: Cluster
    name: str
    failures: dict[str, tuple[int, str]] = field(default_factory=dict)
    waiting_since: float | None = None
    told_at: float = 0.0

    def follow(self, poll_seconds: float) -> str:
        """Return how the Job ended, if it did so well or was deleted.

        Raises:
            TrainingError: It failed, or waits for what will never be.
        """
        logs = LogStream(self.cluster)
        while True:
            job = self.cluster.get_job(self.name)
            if job is None:
                return "somebody deleted it"
            pods = self.cluster.list_pods(self.name)
            self._note_failures(pods)
            logs.look(pods)
            end = end_of(job)
            if end is not None:
                logs.drain(pods, _DRAIN_SECONDS)
                if end["type"] == "Failed":
                    raise self._failed(end)
                return "it is complete, but training.json is missing"
            self._tell_waiting(job, pods)
            time.sleep(poll_seconds)

    def _note_failures(self, pods: list[Manifest]) -> None:
        for pod in pods:
            name, text = pod["metadata"]["name"], failure_of(pod)
            if text and name not in self.failures:
                self.failures[name] = rank_of(pod), text
                _log.warning("%s", text)

    def _failed(self, end: Manifest) -> JobFailedError:
        why = f"{end.get('reason', 'Failed')}: {end.get('message', '')}".rstrip(": ")
        parts = [f"The training Job {self.name} must finish; it failed ({why})."]
        if self.failures:
            # The last one of the highest rank: dicts keep the order in which they were seen.
            pod, (_, text) = max(reversed(self.failures.items()), key=lambda item: item[1][0])
            parts.append(f"{text.rstrip('.')}.")
            log = self.cluster.read_log(pod, _NUM_LOG_LINES).strip()
            if log:
                parts.append(f"The last lines of {pod}:\n{log}")
        return JobFailedError(" ".join(parts))

    def _tell_waiting(self, job: Manifest, pods: list[Manifest]) -> None:
        """Log, ever more rarely, why not all workers run; give up where waiting is of no use."""
        now = time.monotonic()
        alive = [
            pod
            for pod in pods
            if (pod.get("status") or {}).get("phase") not in ("Failed", "Succeeded")
        ]
        done = len([pod for pod in pods if (pod.get("status") or {}).get("phase") == "Succeeded"])
        why = "" if done else why_waiting(job, alive, [])
        if not why:
            self.waiting_since = None
            return
        if self.waiting_since is None:
            self.waiting_since, self.told_at = now, now - PENDING_SECONDS / 2
        waited = now - self.waiting_since
        if waited >= HOPELESS_SECONDS and any(waiting_reason(pod)[0] in HOPELESS for pod in alive):
            raise TrainingError(
                f"The training Job {self.name} must start; it does not: {why}. Correct that."
            )
        if now - self.told_at >= max(PENDING_SECONDS, waited / 2):
            self.told_at = now
            if not alive:
                why = why_waiting(job, alive, self.cluster.list_events("Job", self.name))
            _log.warning("Job %s has been waiting for %.0f min: %s", self.name, waited / 60, why)
