"""The Kubernetes objects of a training: an Indexed Job, and a headless Service for its workers."""

from collections.abc import Mapping

from repot.cluster_names import (
    CONFIG_MAP_VARIABLES,
    GOOGLE_SECRET_VARIABLES,
    S3_SECRET_VARIABLES,
    TASK_POD_ANNOTATION,
    WORKER_LABELS,
    name_variables,
)
from repot.container_images import USER_ID
from repot.kubernetes_rules import KubernetesObject
from repot.pod_start import QUEUE_LABEL
from repot.progress import TERMINATION_LOG
from repot.settings import JobSettings
from repot.trainer.job.termination import EXIT_PERMANENT, EXIT_RESTART, GRACE_SECONDS
from repot.trainer.job.worker import WORKERS_VARIABLE
from repot.trainer.request import TrainingRequest

TRAINING_LABEL = "repot/training-id"
RUN_ANNOTATION = "repot/run-uri"
CONTAINER_NAME = "trainer"
WORKER_PORT = 2222

_RETRIES_PER_WORKER = 3
_KEEP_SECONDS = 24 * 3600


def job_name(training_id: str) -> str:
    """Return the name of a training's Job and Service."""
    return f"repot-train-{training_id}"


def worker_addresses(training_id: str, num_workers: int) -> tuple[str, ...]:
    """Return host:port of every worker, by index; empty for a single worker, which has no peers.

    Source: https://kubernetes.io/docs/tasks/job/job-with-pod-to-pod-communication/
    """
    name = job_name(training_id)
    if num_workers == 1:
        return ()
    return tuple(f"{name}-{index}.{name}:{WORKER_PORT}" for index in range(num_workers))


def make_job(
    settings: JobSettings,
    request: TrainingRequest,
    environment: Mapping[str, str],
    *,
    task_pod: str = "",
) -> KubernetesObject:
    """Return the Job.

    A pod that is evicted, preempted or lost with its node is always replaced. A pod with a
    permanent error ends the Job. A pod that fails for another reason is replaced a few times.

    Args:
        settings: Number and resources of the pods.
        request: The training; the Job's name contains its id.
        environment: Variables of the pods; must not contain secrets.
        task_pod: Name of the pod of the Train task; "" outside a cluster.
    """
    spec: KubernetesObject = {
        "completionMode": "Indexed",
        "completions": settings.num_workers,
        "parallelism": settings.num_workers,
        "backoffLimit": _RETRIES_PER_WORKER * settings.num_workers,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {"rules": _failure_rules()},
        "activeDeadlineSeconds": settings.job_deadline_hours * 3600,
        "ttlSecondsAfterFinished": _KEEP_SECONDS,
        "template": {
            "metadata": {
                # A service mesh's sidecar would outlive the worker: the Job would never complete.
                "labels": {**_labels(request), "sidecar.istio.io/inject": "false"},
                # The autoscaler must not evict a training to remove a node.
                "annotations": {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"},
            },
            "spec": _pod_spec(settings, request, environment),
        },
    }
    metadata = _metadata(request)
    if task_pod:
        metadata["annotations"][TASK_POD_ANNOTATION] = task_pod
    if settings.job_queue:
        # Kueue starts the Job when there is room for all of its pods.
        metadata["labels"][QUEUE_LABEL] = settings.job_queue
        spec["suspend"] = True
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}


def make_service(request: TrainingRequest, *, owner: KubernetesObject) -> KubernetesObject:
    """Return the headless Service that gives every worker a host name; deleted with the Job.

    Args:
        request: The training; the Service has the same name as the Job.
        owner: The Job, as returned by the cluster.
    """
    metadata = _metadata(request)
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
        # Workers connect to each other before all of them are ready.
        "publishNotReadyAddresses": True,
        "selector": {TRAINING_LABEL: request.training_id},
        "ports": [{"name": "grpc", "port": WORKER_PORT}],
    }
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}


def _failure_rules() -> list[KubernetesObject]:
    """Return the rules for failed pods; the first match decides, and no match counts as a failure.

    Source: https://kubernetes.io/docs/concepts/workloads/controllers/job/#pod-failure-policy
    """
    codes: KubernetesObject = {"containerName": CONTAINER_NAME, "operator": "In"}
    return [
        {"action": "FailJob", "onExitCodes": {**codes, "values": [EXIT_PERMANENT]}},
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "Ignore", "onExitCodes": {**codes, "values": [EXIT_RESTART]}},
    ]


def _metadata(request: TrainingRequest) -> KubernetesObject:
    return {
        "name": job_name(request.training_id),
        "labels": _labels(request),
        "annotations": {RUN_ANNOTATION: request.run_uri},
    }


def _labels(request: TrainingRequest) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "repot",
        **WORKER_LABELS,
        "app.kubernetes.io/managed-by": "repot",
        TRAINING_LABEL: request.training_id,
    }


def _pod_spec(
    settings: JobSettings, request: TrainingRequest, environment: Mapping[str, str]
) -> KubernetesObject:
    """Return the spec of a worker's pod, with as few permissions as possible."""
    spec: KubernetesObject = {
        "restartPolicy": "Never",
        "serviceAccountName": settings.job_service_account,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(settings, request, environment)],
        "volumes": [
            {"name": "scratch", "emptyDir": {}},
            {"name": "shared-memory", "emptyDir": {"medium": "Memory"}},
        ],
    }
    optional = {
        "nodeSelector": settings.trainer_node_selector,
        "tolerations": settings.trainer_tolerations,
        "priorityClassName": settings.job_priority_class,
        "subdomain": job_name(request.training_id) if settings.num_workers > 1 else "",
    }
    return spec | {name: value for name, value in optional.items() if value}


def _container(
    settings: JobSettings, request: TrainingRequest, environment: Mapping[str, str]
) -> KubernetesObject:
    variables = {
        **environment,
        **name_variables(
            config_map=settings.settings_config_map,
            s3_secret=settings.s3_secret_name,
            google_secret=settings.google_secret_name,
        ),
    }
    if settings.num_workers > 1:
        addresses = worker_addresses(request.training_id, settings.num_workers)
        variables[WORKERS_VARIABLE] = ",".join(addresses)
    return {
        "name": CONTAINER_NAME,
        "image": settings.trainer_image,
        "command": ["python3", "-m", "repot.trainer.job.worker", request.uri],
        "env": [
            *({"name": name, "value": variables[name]} for name in sorted(variables)),
            *_storage_variables(settings),
        ],
        "resources": _resources(settings),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "terminationMessagePath": str(TERMINATION_LOG),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "scratch", "mountPath": "/tmp"},  # noqa: S108 - a volume of this pod only
            {"name": "shared-memory", "mountPath": "/dev/shm"},  # noqa: S108
        ],
    }


def _storage_variables(settings: JobSettings) -> list[KubernetesObject]:
    """Return the variables for storage access, the same as in every other task of the pipeline."""
    sources = (
        ("configMapKeyRef", settings.settings_config_map, CONFIG_MAP_VARIABLES),
        ("secretKeyRef", settings.s3_secret_name, S3_SECRET_VARIABLES),
        ("secretKeyRef", settings.google_secret_name, GOOGLE_SECRET_VARIABLES),
    )
    return [
        {"name": variable, "valueFrom": {kind: {"name": name, "key": key, "optional": True}}}
        for kind, name, variables in sources
        for key, variable in variables.items()
    ]


def _resources(settings: JobSettings) -> KubernetesObject:
    requests = {"cpu": settings.trainer_cpu, "memory": settings.trainer_memory}
    limits = {"memory": settings.trainer_memory}
    if settings.accelerator_count:
        # Extended resources need a limit; the request defaults to the same value.
        limits[settings.accelerator_type] = str(settings.accelerator_count)
    return {"requests": requests, "limits": limits}
