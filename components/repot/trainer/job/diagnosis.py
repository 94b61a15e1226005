"""Why a Job waits or failed, according to the Job, its pods and their events; pure functions."""

from collections.abc import Iterable, Sequence

from repot.kubernetes_rules import KubernetesObject
from repot.trainer.job.termination import EXIT_PERMANENT, EXIT_RESTART

INDEX_LABEL = "batch.kubernetes.io/job-completion-index"
STUCK_REASONS = {
    "CreateContainerConfigError",
    "ErrImageNeverPull",
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
}
"""Reasons for which a pod waits indefinitely until the cause is fixed."""

_QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
_SIGKILL_CODE = 137
_MAX_MESSAGE_CHARACTERS = 1000


def end_condition(job: KubernetesObject) -> KubernetesObject | None:
    """Return the condition that ended a Job, of type Complete or Failed, or None."""
    for condition in (job.get("status") or {}).get("conditions") or []:
        if condition["type"] in ("Complete", "Failed") and condition["status"] == "True":
            return dict(condition)
    return None


def pod_phase(pod: KubernetesObject) -> str:
    """Return the phase of a pod: Pending, Running, Succeeded, Failed or Unknown."""
    return str((pod.get("status") or {}).get("phase", "Pending"))


def newest_pod(pods: Iterable[KubernetesObject], index: int) -> KubernetesObject | None:
    """Return the newest pod of the worker with this index, or None."""
    own = [pod for pod in pods if _worker_index(pod) == str(index)]
    return max(own, key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")), default=None)


def pod_waiting_reason(pod: KubernetesObject) -> tuple[str, str]:
    """Return why a pod has not started: Kubernetes' reason and message; ("", "") if it has."""
    if pod_phase(pod) != "Pending":
        return "", ""
    status = pod.get("status") or {}
    for container in status.get("containerStatuses") or []:
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason", "ContainerCreating") != "ContainerCreating":
            return waiting["reason"], waiting.get("message", "")
    for condition in status.get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return condition.get("reason", "Unschedulable"), condition.get("message", "")
    return "Pending", "the pod is starting"


def job_waiting_reason(
    job: KubernetesObject, pods: Sequence[KubernetesObject], events: Iterable[KubernetesObject]
) -> str:
    """Return why not all workers of a Job are running, or "" if they are.

    Args:
        job: The Job.
        pods: Its pods that have not ended.
        events: Events of the Job; the latest warning explains missing pods.
    """
    spec = job["spec"]
    if spec.get("suspend"):
        queue = job["metadata"].get("labels", {}).get(_QUEUE_LABEL)
        if queue:
            return f"the Job is suspended; queue {queue} starts it when there is room"
        return "the Job is suspended"
    if len(pods) < spec["parallelism"]:
        warnings = _warnings(events)
        return f"not all pods exist yet: {warnings[-1]}" if warnings else "not all pods exist yet"
    for pod in pods:
        reason, message = pod_waiting_reason(pod)
        if reason:
            return f"{_worker_name(pod)}: {reason}: {message}"
    return ""


def pod_failure(pod: KubernetesObject) -> str:
    """Return how a pod failed, or "" if it did not fail."""
    if pod_phase(pod) != "Failed":
        return ""
    terminated = _terminated_state(pod)
    if terminated is None:
        status = pod["status"]
        reason = f"{status.get('reason', 'Failed')}: {status.get('message', '')}"
        return f"{_worker_name(pod)} was terminated: {reason}".rstrip(": ")
    code = terminated.get("exitCode")
    text = f"{_worker_name(pod)} exited with code {code}"
    if terminated.get("reason") == "OOMKilled":
        return f"{text} (OOMKilled): it used more memory than trainer_memory allows. Increase it"
    if code == _SIGKILL_CODE:
        return f"{text} (killed)"
    message = terminated.get("message", "").strip()
    if len(message) > _MAX_MESSAGE_CHARACTERS:
        # Not the worker's termination message, but the end of its log.
        message = message.splitlines()[-1]
    return f"{text}: {message}" if message else text


def failure_rank(pod: KubernetesObject) -> int:
    """Return how well a failed pod explains the failure of its Job.

    2 for a permanent error, 0 for a pod that only ended because another one did, 1 for the rest.
    """
    code = (_terminated_state(pod) or {}).get("exitCode", -1)
    return {EXIT_PERMANENT: 2, EXIT_RESTART: 0}.get(code, 1)


def _worker_index(pod: KubernetesObject) -> str:
    return str(pod["metadata"].get("labels", {}).get(INDEX_LABEL, "?"))


def _worker_name(pod: KubernetesObject) -> str:
    return f"worker {_worker_index(pod)}"


def _terminated_state(pod: KubernetesObject) -> KubernetesObject | None:
    for container in (pod.get("status") or {}).get("containerStatuses") or []:
        terminated: KubernetesObject | None = (container.get("state") or {}).get("terminated")
        if terminated:
            return terminated
    return None


def _warnings(events: Iterable[KubernetesObject]) -> list[str]:
    """Return reason and message of the warnings, oldest first."""
    warnings = [event for event in events if event.get("type") == "Warning"]
    warnings.sort(key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or ""))
    return [f"{event.get('reason', '')}: {event.get('message', '')}" for event in warnings]
