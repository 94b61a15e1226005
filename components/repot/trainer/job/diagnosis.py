"""What a Job, its pods and their events say of why it waits or why it failed; pure functions of the objects."""

from collections.abc import Iterable, Sequence
from typing import Any

from repot.trainer.job.stop import START_AGAIN, WILL_NOT_HELP

INDEX_LABEL = "batch.kubernetes.io/job-completion-index"
HOPELESS = {
    "CreateContainerConfigError",
    "ErrImageNeverPull",
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
}
"""Reasons to wait that no waiting ends."""

_SIGKILL_CODE = 137
_LONGEST_MESSAGE = 1000

Manifest = dict[str, Any]


def end_of(job: Manifest) -> Manifest | None:
    """Return the condition that ended a Job, of type Complete or Failed, or None while it runs."""
    conditions = (job.get("status") or {}).get("conditions") or []
    found = [
        each
        for each in conditions
        if each["type"] in ("Complete", "Failed") and each["status"] == "True"
    ]
    return found[0] if found else None


def worker_of(pod: Manifest) -> str:
    """Return which worker a pod is, e.g. `worker 0`."""
    return f"worker {pod['metadata'].get('labels', {}).get(INDEX_LABEL, '?')}"


def newest_of_worker(pods: Iterable[Manifest], index: int) -> Manifest | None:
    """Return the youngest pod of one worker, or None."""
    own = [pod for pod in pods if pod["metadata"].get("labels", {}).get(INDEX_LABEL) == str(index)]
    return max(own, key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")), default=None)


def waiting_reason(pod: Manifest) -> tuple[str, str]:
    """Return why a pod does not run yet: a reason of Kubernetes and a sentence; ("", "") if it does or did."""
    status = pod.get("status") or {}
    if status.get("phase", "Pending") != "Pending":
        return "", ""
    for container in status.get("containerStatuses") or []:
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason", "ContainerCreating") != "ContainerCreating":
            return waiting["reason"], waiting.get("message", "")
    for condition in status.get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return condition.get("reason", "Unschedulable"), condition.get("message", "")
    return "Pending", "the pod is being started"


def why_waiting(job: Manifest, pods: Sequence[Manifest], events: Iterable[Manifest]) -> str:
    """Return why not all workers run, or "" if they do."""
    spec = job["spec"]
    if spec.get("suspend"):
        queue = job["metadata"].get("labels", {}).get("kueue.x-k8s.io/queue-name")
        return (
            f"the Job is suspended; queue {queue} lets it go when there is room"
            if queue
            else "the Job is suspended"
        )
    if len(pods) < spec["parallelism"]:
        warnings = _warnings(events)
        return f"not all pods exist yet: {warnings[-1]}" if warnings else "not all pods exist yet"
    for pod in pods:
        reason, message = waiting_reason(pod)
        if reason:
            return f"{worker_of(pod)}: {reason}: {message}"
    return ""


def failure_of(pod: Manifest) -> str:
    """Return how a pod failed, or "" if it did not."""
    status = pod.get("status") or {}
    if status.get("phase") != "Failed":
        return ""
    ended = _terminated(pod)
    if ended is None:
        return f"{worker_of(pod)} was ended: {status.get('reason', 'Failed')}: {status.get('message', '')}".rstrip(
            ": "
        )
    code = ended.get("exitCode")
    text = f"{worker_of(pod)} ended with exit code {code}"
    if ended.get("reason") == "OOMKilled":
        return f"{text} (OOMKilled): it took more memory than trainer_memory. Give it more"
    if code == _SIGKILL_CODE:
        return f"{text} (killed)"
    message = ended.get("message", "").strip()
    if len(message) > _LONGEST_MESSAGE:
        # Not the worker's own words, but the end of its log.
        message = message.splitlines()[-1]
    return f"{text}: {message}" if message else text


def rank_of(pod: Manifest) -> int:
    """Return how much a failed pod explains: 2 for an error that lasts, 0 for one that only followed another's end."""
    code = (_terminated(pod) or {}).get("exitCode", -1)
    return {WILL_NOT_HELP: 2, START_AGAIN: 0}.get(code, 1)


def _terminated(pod: Manifest) -> Manifest | None:
    for container in (pod.get("status") or {}).get("containerStatuses") or []:
        ended: Manifest | None = (container.get("state") or {}).get("terminated")
        if ended:
            return ended
    return None


def _warnings(events: Iterable[Manifest]) -> list[str]:
    chosen = [event for event in events if event.get("type") == "Warning"]
    chosen.sort(key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or ""))
    return [f"{event.get('reason', '')}: {event.get('message', '')}" for event in chosen]
