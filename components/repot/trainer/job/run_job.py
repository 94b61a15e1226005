"""Train in a Kubernetes Job: create or adopt it, follow it, and return the training record."""

import logging
import os
import sys
import threading
import time
from dataclasses import dataclass, field

from repot.errors import TrainingError
from repot.json_record import write_record
from repot.kubernetes_rules import KubernetesObject
from repot.pod_start import PERMANENT_CAUSES, find_job_obstacle
from repot.settings import JobSettings
from repot.trainer.job.api import JobApi
from repot.trainer.job.diagnosis import (
    end_condition,
    failure_rank,
    newest_pod,
    pod_failure,
    pod_phase,
)
from repot.trainer.job.heartbeat import Heartbeat
from repot.trainer.job.spec import (
    RUN_ANNOTATION,
    TRAINING_LABEL,
    job_name,
    make_job,
    make_service,
)
from repot.trainer.job.termination import delete_job_on_sigterm
from repot.trainer.request import TrainingRequest, find_finished
from repot.training_record import TrainingRecord

POLL_SECONDS = 5.0
DELETION_SECONDS = 600.0
"""The Job and the Service of an earlier attempt must be gone after this time."""
WAITING_LOG_SECONDS = 120.0
"""Interval between the first log lines about a Job that waits; it grows with the time waited."""
STUCK_SECONDS = 600.0
"""A Job whose pods cannot start because of one of PERMANENT_CAUSES fails after this time."""

_DELETION_PAUSE_SECONDS = 1.0
_NUM_LOG_LINES = 20
_LOG_END_SECONDS = 10.0
_FORWARDED_VARIABLES = ("STORAGE_EMULATOR_HOST", "AWS_ENDPOINT_URL")

_log = logging.getLogger(__name__)


class JobFailedError(TrainingError):
    """The Job ended without a model; it is kept for inspection."""


def train_in_job(
    settings: JobSettings, request: TrainingRequest, *, poll_seconds: float = POLL_SECONDS
) -> TrainingRecord:
    """Train in a Job and wait for its end.

    A finished training returns at once. A running Job of the same training is adopted, a failed one
    is replaced. If this process is terminated, the Job is deleted.

    Args:
        settings: Settings of the Job.
        request: The training that its workers run.
        poll_seconds: Interval between two requests for the state of the Job.

    Returns:
        The record in training.json.

    Raises:
        TrainingError: The Job cannot be created, or it failed; the message quotes the reason from
            its pods, logs and events.
    """
    finished = find_finished(request)
    if finished is not None:
        _log.info("training %s is already finished", request.training_id)
        return finished
    name, api = job_name(request.training_id), JobApi.connect()
    environment = {
        variable: os.environ[variable]
        for variable in _FORWARDED_VARIABLES
        if variable in os.environ
    }
    with (
        delete_job_on_sigterm(JobApi.connect(retry_seconds=0), name, keep=JobFailedError),
        Heartbeat(request.heartbeat_uri),
    ):
        write_record(request.uri, request)
        # HOSTNAME is the pod's name: `repot submit --wait` finds the Job of its run by it.
        task_pod = os.environ.get("HOSTNAME", "")
        job = make_job(settings, request, environment, task_pod=task_pod)
        ensure_job(api, job, request)
        outcome = _JobFollower(api=api, name=name).follow(poll_seconds)
    finished = find_finished(request)
    if finished is None:
        raise JobFailedError(
            f"The Job {name} must leave a model; {outcome}. Its run folder is {request.run_uri}."
        )
    return finished


def ensure_job(api: JobApi, job: KubernetesObject, request: TrainingRequest) -> KubernetesObject:
    """Return the running Job of a training, created or adopted, with the Service of its workers.

    An ended Job is replaced. Two Jobs of one training never run at once.

    Args:
        api: Access to the namespace.
        job: The Job to create if none is running.
        request: The training; an adopted Job must have the same id and the same run folder.

    Raises:
        TrainingError: The Job cannot be created, or a different Job has its name.
    """
    name, deadline = job["metadata"]["name"], time.monotonic() + DELETION_SECONDS
    while True:
        found = api.get_job(name)
        if found is None:
            # None again if another task created it in the meantime: the next turn finds that Job.
            found = api.create_job(job)
            if found is not None:
                _log.info("created Job %s in namespace %s", name, api.namespace)
        else:
            _check_same_training(found, request)
        if found is not None and _is_active(found):
            _ensure_service(api, found, request)
            return found
        if found is not None and not _is_being_deleted(found):
            _log.info("replacing Job %s of an earlier attempt, which has ended", name)
            api.delete_job(name)
        if time.monotonic() > deadline:
            raise TrainingError(
                f"The Job {name} of an earlier attempt must be deleted; it still exists after "
                f"{DELETION_SECONDS:.0f} s. Delete it and its pods."
            )
        if found is not None:
            time.sleep(_DELETION_PAUSE_SECONDS)


def _is_active(job: KubernetesObject) -> bool:
    return end_condition(job) is None and not _is_being_deleted(job)


def _is_being_deleted(job: KubernetesObject) -> bool:
    return "deletionTimestamp" in job["metadata"]


def _check_same_training(job: KubernetesObject, request: TrainingRequest) -> None:
    metadata = job["metadata"]
    owner = metadata.get("labels", {}).get(TRAINING_LABEL)
    if owner != request.training_id:
        raise TrainingError(
            f"The Job {metadata['name']} must belong to training {request.training_id}; it "
            f"belongs to {owner or 'something else'}. Delete it."
        )
    other_uri = metadata.get("annotations", {}).get(RUN_ANNOTATION)
    if other_uri != request.run_uri and _is_active(job):
        raise TrainingError(
            f"The Job {metadata['name']} must write to {request.run_uri}; a running Job of that "
            f"name writes to {other_uri}. Wait until it ends, or use another namespace for the "
            "other storage."
        )


def _ensure_service(api: JobApi, job: KubernetesObject, request: TrainingRequest) -> None:
    """Create the Service of several workers.

    The Service of an earlier Job is replaced: Kubernetes deletes it together with that Job.
    """
    if job["spec"]["parallelism"] == 1:
        return
    service = make_service(request, owner=job)
    name, job_uid = service["metadata"]["name"], job["metadata"]["uid"]
    deadline = time.monotonic() + DELETION_SECONDS
    while api.create_service(service) is None:
        found = api.get_service(name)
        if found is not None:
            owners = found["metadata"].get("ownerReferences", [])
            if [owner["uid"] for owner in owners] == [job_uid]:
                return
        if time.monotonic() > deadline:
            raise TrainingError(
                f"The Service {name} of an earlier attempt must be deleted; it still exists after "
                f"{DELETION_SECONDS:.0f} s. Delete it."
            )
        api.delete_service(name)
        time.sleep(_DELETION_PAUSE_SECONDS)


@dataclass(kw_only=True, slots=True)
class _JobFollower:
    """Follows a Job and remembers its failed pods, which may be deleted before the Job ends.

    Attributes:
        api: Access to the namespace.
        name: Name of the Job.
        failures: Rank and message by name of the failed pod, in the order in which they were seen.
        waiting_since: Monotonic time since which not all workers are running; None if they are.
        logged_at: Monotonic time of the last log line about it.
    """

    api: JobApi
    name: str
    failures: dict[str, tuple[int, str]] = field(default_factory=dict)
    waiting_since: float | None = None
    logged_at: float = 0.0

    def follow(self, poll_seconds: float) -> str:
        """Return how the Job ended if it did not fail: it succeeded, or it was deleted.

        Raises:
            TrainingError: The Job failed, or its pods can never start.
        """
        worker_log = _WorkerLog(self.api)
        while True:
            job = self.api.get_job(self.name)
            if job is None:
                return "it was deleted"
            pods = self.api.list_pods(self.name)
            self._record_failures(pods)
            worker_log.follow(pods)
            end = end_condition(job)
            if end is not None:
                worker_log.finish(pods, _LOG_END_SECONDS)
                if end["type"] == "Failed":
                    raise self._failure(end)
                return "it is complete, but training.json is missing"
            self._check_waiting(job, pods)
            time.sleep(poll_seconds)

    def _record_failures(self, pods: list[KubernetesObject]) -> None:
        for pod in pods:
            name, message = pod["metadata"]["name"], pod_failure(pod)
            if message and name not in self.failures:
                self.failures[name] = failure_rank(pod), message
                _log.warning("%s", message)

    def _failure(self, end: KubernetesObject) -> JobFailedError:
        reason = f"{end.get('reason', 'Failed')}: {end.get('message', '')}".rstrip(": ")
        parts = [f"The training Job {self.name} must succeed; it failed ({reason})."]
        if self.failures:
            # The last failure of the highest rank: max returns the first of equal ones.
            pod, (_, message) = max(reversed(self.failures.items()), key=lambda item: item[1][0])
            parts.append(f"{message.rstrip('.')}.")
            log = self.api.read_log(pod, _NUM_LOG_LINES).strip()
            if log:
                parts.append(f"The last lines of {pod}:\n{log}")
        return JobFailedError(" ".join(parts))

    def _check_waiting(self, job: KubernetesObject, pods: list[KubernetesObject]) -> None:
        """Log, at increasing intervals, why workers are pending; fail if they can never start."""
        now = time.monotonic()
        active = [pod for pod in pods if pod_phase(pod) not in ("Failed", "Succeeded")]
        # Fewer pods than workers are normal once one has succeeded.
        has_succeeded = any(pod_phase(pod) == "Succeeded" for pod in pods)
        obstacle = None if has_succeeded else find_job_obstacle(job, active)
        if obstacle is None:
            self.waiting_since = None
            return
        if self.waiting_since is None:
            # The first line comes after half the interval.
            self.waiting_since, self.logged_at = now, now - WAITING_LOG_SECONDS / 2
        waited_seconds = now - self.waiting_since
        is_stuck = obstacle.cause in PERMANENT_CAUSES
        if is_stuck and waited_seconds >= STUCK_SECONDS:
            raise TrainingError(
                f"The training Job {self.name} must start; it cannot: {obstacle.text}. "
                "Fix the cause and run again."
            )
        if now - self.logged_at >= max(WAITING_LOG_SECONDS, waited_seconds / 2):
            self.logged_at = now
            if not active:
                events = self.api.list_events("Job", self.name)
                obstacle = find_job_obstacle(job, active, events) or obstacle
            minutes = waited_seconds / 60
            _log.warning(
                "Job %s has been waiting for %.0f min: %s", self.name, minutes, obstacle.text
            )


class _WorkerLog:
    """Copies the log of worker 0 to stdout: every line once, across all pods of that worker."""

    def __init__(self, api: JobApi) -> None:
        self._api = api
        self._thread: threading.Thread | None = None
        self._last_timestamp: dict[str, str] = {}

    def follow(self, pods: list[KubernetesObject]) -> None:
        """Start to follow the newest pod of worker 0 if it runs and no pod is being followed."""
        pod = newest_pod(pods, 0)
        if pod is None or pod_phase(pod) == "Pending":
            return
        if self._thread is None or not self._thread.is_alive():
            name = pod["metadata"]["name"]
            self._thread = threading.Thread(target=self._copy, args=[name], name="log", daemon=True)
            self._thread.start()

    def finish(self, pods: list[KubernetesObject], seconds: float) -> None:
        """Wait for the rest of the log after the Job has ended."""
        if self._thread is not None:
            self._thread.join(seconds)
        # The connection may have broken early: read again from the last line.
        self.follow(pods)
        if self._thread is not None:
            self._thread.join(seconds)

    def _copy(self, pod: str) -> None:
        last = self._last_timestamp.get(pod, "")
        try:
            for line in self._api.follow_log(pod, since=last):
                timestamp, _, text = line.partition(" ")
                # The server compares whole seconds and so repeats lines.
                if timestamp > last:
                    sys.stdout.write(f"{text}\n")
                    sys.stdout.flush()
                    last = self._last_timestamp[pod] = timestamp
        except OSError as err:
            _log.debug("the log of %s broke off: %s", pod, err)
