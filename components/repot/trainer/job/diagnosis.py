"""How a Job and its pods ended, according to their status; pure functions."""

from collections.abc import Iterable

from repot.kubernetes_rules import KubernetesObject
from repot.pod_start import INDEX_LABEL
from repot.trainer.job.termination import EXIT_PERMANENT, EXIT_RESTART

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
