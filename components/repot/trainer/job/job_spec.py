"""The Kubernetes objects of a training: an Indexed Job and, for several workers, a headless Service for their names."""

from collections.abc import Mapping
from typing import Any

from repot.settings import JobSettings
from repot.trainer.job.pod_spec import CONTAINER_NAME, WORKER_PORT, job_name, make_pod_spec
from repot.trainer.job.stop import START_AGAIN, WILL_NOT_HELP

TRAINING_LABEL = "repot/training-id"
RUN_ANNOTATION = "repot/run-uri"

_QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
_RETRIES_PER_WORKER = 3
_KEEP_SECONDS = 24 * 3600

Manifest = dict[str, Any]


def make_job(
    settings: JobSettings,
    *,
    training_id: str,
    run_uri: str,
    request_uri: str,
    environment: Mapping[str, str],
) -> Manifest:
    """Return the Job.

    A pod that is evicted, preempted or whose node is gone is replaced, however often; one that fails for a reason
    that lasts ends the Job; one that fails for any other is replaced a few times.

    Args:
        settings: What each pod asks for, and how many there are.
        training_id: Names it.
        run_uri: Folder of the training.
        request_uri: What the workers do.
        environment: Variables of the pods; nothing secret.
    """
    spec: Manifest = {
        "completionMode": "Indexed",
        "completions": settings.num_workers,
        "parallelism": settings.num_workers,
        "backoffLimit": _RETRIES_PER_WORKER * settings.num_workers,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {"rules": _failure_rules()},
        "activeDeadlineSeconds": settings.job_deadline_hours * 3600,
        "ttlSecondsAfterFinished": _KEEP_SECONDS,
        "template": {
            "metadata": {"labels": _pod_labels(training_id), "annotations": _pod_annotations()},
            "spec": make_pod_spec(
                settings, training_id=training_id, request_uri=request_uri, environment=environment
            ),
        },
    }
    metadata = _metadata(training_id, run_uri)
    if settings.job_queue:
        # Kueue starts the Job when there is room for all of its pods.
        metadata["labels"][_QUEUE_LABEL] = settings.job_queue
        spec["suspend"] = True
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}


def make_service(training_id: str, run_uri: str, owner: Manifest) -> Manifest:
    """Return the headless Service that gives every worker a name; it goes when the Job goes.

    Args:
        training_id: Names it.
        run_uri: Folder of the training.
        owner: The Job, as the cluster returned it.
    """
    metadata = _metadata(training_id, run_uri)
    metadata["ownerReferences"] = [
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "name": owner["metadata"]["name"],
            "uid": owner["metadata"]["uid"],
        }
    ]
    spec = {
        "clusterIP": "None",
        # Workers find each other before all of them are ready.
        "publishNotReadyAddresses": True,
        "selector": {TRAINING_LABEL: training_id},
        "ports": [{"name": "grpc", "port": WORKER_PORT}],
    }
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}


def _failure_rules() -> list[Manifest]:
    """Return the rules; the first that fits a failed pod counts, and no rule means that it counts as a failure.

    Source: https://kubernetes.io/docs/concepts/workloads/controllers/job/#pod-failure-policy
    """
    codes: Manifest = {"containerName": CONTAINER_NAME, "operator": "In"}
    return [
        {"action": "FailJob", "onExitCodes": {**codes, "values": [WILL_NOT_HELP]}},
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "Ignore", "onExitCodes": {**codes, "values": [START_AGAIN]}},
    ]


def _metadata(training_id: str, run_uri: str) -> Manifest:
    return {
        "name": job_name(training_id),
        "labels": _labels(training_id),
        "annotations": {RUN_ANNOTATION: run_uri},
    }


def _labels(training_id: str) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "repot",
        "app.kubernetes.io/component": "worker",
        "app.kubernetes.io/part-of": "repot",
        "app.kubernetes.io/managed-by": "repot",
        TRAINING_LABEL: training_id,
    }


def _pod_labels(training_id: str) -> dict[str, str]:
    # A service mesh's sidecar would outlive the worker, and the Job would never be complete.
    return {**_labels(training_id), "sidecar.istio.io/inject": "false"}


def _pod_annotations() -> dict[str, str]:
    # The autoscaler is not to move a training to save a node.
    return {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"}
