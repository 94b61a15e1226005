"""The pods of a training's Job: names, resources, environment, and as few rights as they can do with."""

from collections.abc import Mapping
from typing import Any

from repot.settings import JobSettings
from repot.trainer.job.stop import GRACE_SECONDS
from repot.trainer.job.worker import TERMINATION_LOG_VARIABLE, WORKERS_VARIABLE

CONTAINER_NAME = "trainer"
WORKER_PORT = 2222

_USER = 65532  # as in images/
_TERMINATION_LOG = "/dev/termination-log"

Manifest = dict[str, Any]


def job_name(training_id: str) -> str:
    """Return the name of a training's Job and Service."""
    return f"repot-train-{training_id}"


def worker_addresses(training_id: str, num_workers: int) -> tuple[str, ...]:
    """Return host:port of every worker, by index; empty for a single one, which talks to nobody.

    Source: https://kubernetes.io/docs/tasks/job/job-with-pod-to-pod-communication/
    """
    name = job_name(training_id)
    if num_workers == 1:
        return ()
    return tuple(f"{name}-{index}.{name}:{WORKER_PORT}" for index in range(num_workers))


def make_pod_spec(
    settings: JobSettings, *, training_id: str, request_uri: str, environment: Mapping[str, str]
) -> Manifest:
    """Return the spec of the pods; arguments as `repot.trainer.job.job_spec.make_job` has them."""
    spec: Manifest = {
        "restartPolicy": "Never",
        "serviceAccountName": settings.job_service_account,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            _container(settings, request_uri, _variables(settings, training_id, environment))
        ],
        "volumes": [
            {"name": "scratch", "emptyDir": {}},
            {"name": "shared-memory", "emptyDir": {"medium": "Memory"}},
        ],
    }
    optional = {
        "nodeSelector": settings.trainer_node_selector,
        "tolerations": settings.trainer_tolerations,
        "priorityClassName": settings.job_priority_class,
        "subdomain": job_name(training_id) if settings.num_workers > 1 else "",
    }
    return spec | {name: value for name, value in optional.items() if value}


def _variables(
    settings: JobSettings, training_id: str, environment: Mapping[str, str]
) -> list[Manifest]:
    values = {**environment, TERMINATION_LOG_VARIABLE: _TERMINATION_LOG}
    if settings.num_workers > 1:
        values[WORKERS_VARIABLE] = ",".join(worker_addresses(training_id, settings.num_workers))
    plain: list[Manifest] = [{"name": name, "value": values[name]} for name in sorted(values)]
    return plain + _storage_variables(settings)


def _container(settings: JobSettings, request_uri: str, variables: list[Manifest]) -> Manifest:
    return {
        "name": CONTAINER_NAME,
        "image": settings.trainer_image,
        "command": ["python3", "-m", "repot.trainer.job.worker", request_uri],
        "env": variables,
        "resources": _resources(settings),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "terminationMessagePath": _TERMINATION_LOG,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "scratch", "mountPath": "/tmp"},  # noqa: S108 - a volume of the pod's own
            {"name": "shared-memory", "mountPath": "/dev/shm"},  # noqa: S108
        ],
    }


def _storage_variables(settings: JobSettings) -> list[Manifest]:
    """Return the variables that open the storage, as the pipeline gives them to every other task."""
    config_map = ("configMapKeyRef", settings.settings_config_map)
    s3_secret = ("secretKeyRef", settings.s3_secret_name)
    google_secret = ("secretKeyRef", settings.google_secret_name)
    sources = (
        ("AWS_ENDPOINT_URL_S3", config_map, "S3_ENDPOINT"),
        ("AWS_REGION", config_map, "S3_REGION"),
        ("AWS_ACCESS_KEY_ID", s3_secret, "accesskey"),
        ("AWS_SECRET_ACCESS_KEY", s3_secret, "secretkey"),
        ("REPOT_GOOGLE_KEY", google_secret, "key.json"),
    )
    return [
        {"name": variable, "valueFrom": {kind: {"name": name, "key": key, "optional": True}}}
        for variable, (kind, name), key in sources
    ]


def _resources(settings: JobSettings) -> Manifest:
    requests = {"cpu": settings.trainer_cpu, "memory": settings.trainer_memory}
    limits = {"memory": settings.trainer_memory}
    if settings.accelerator_count:
        # What is no CPU and no memory must have a limit, and the same request.
        limits[settings.accelerator_type] = str(settings.accelerator_count)
    return {"requests": requests, "limits": limits}
