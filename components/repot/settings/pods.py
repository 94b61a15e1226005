"""Settings of the pods on a cluster: images, resources, node selection, the training Job."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from repot import cluster_names
from repot.container_images import CPU_IMAGE, TRAINER_IMAGE
from repot.kubernetes_rules import (
    cpu_problems,
    is_image_reference,
    memory_problems,
    name_problems,
    resource_problems,
    selector_problems,
    toleration_problems,
)
from repot.settings.fields import Rule, Settings, between, one_of, setting

MODES = ("pod", "job")
_MAX_WORKERS = 64
_MAX_ACCELERATORS = 64

_IMAGE = Rule(
    "be a container image reference such as ghcr.io/repot/repot-cpu:0.1.0, in lower case and "
    "without blanks or https://",
    is_image_reference,
)
# Kueue reads the queue from a label of the Job: https://kueue.sigs.k8s.io/docs/tasks/run/jobs/
_MAX_QUEUE_NAME = 63


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskSettings(Settings):
    """Where training runs, and what every task but the trainer needs from the cluster."""

    trainer_mode: str = setting(
        "pod",
        "pod trains in the task's own pod; job in a Kubernetes Job, which survives spot nodes.",
        rule=one_of(MODES),
        change_when="you use [spot nodes](spot-gpus.md) or [several nodes](several-nodes.md)",
        cluster_only=True,
        place="form",
    )
    cpu_image: str = setting(
        CPU_IMAGE,
        "Container image of every task except Train.",
        rule=_IMAGE,
        change_when="always until images are published; for each release, best with a digest",
        cluster_only=True,
        place="pipeline",
    )
    # Peak memory, measured on the sample with efficientnet_lite0: Plan 48 MiB, and 315 MiB for
    # 100,000 pictures; Train that follows a Job 75 MiB; Fetch checkpoint
    # 620 MiB; one builder process 160 MiB; Evaluate 680 MiB; Train 840 MiB.
    task_cpu: str = setting(
        "250m",
        "CPUs of the small pods: Plan, and Train if it only follows a Job.",
        change_when="listing the pictures takes long",
        cluster_only=True,
        cluster_default=True,
        in_plan_pod=True,
    )
    task_memory: str = setting(
        "512Mi",
        "Memory of the small pods: Plan, and Train if it only follows a Job.",
        change_when="there are more than 1,000,000 pictures, or a pod ends with OOMKilled",
        cluster_only=True,
        cluster_default=True,
        in_plan_pod=True,
    )
    task_node_selector: dict[str, Any] = setting(
        {},
        "Node labels that every pod except the trainer's requires, as a JSON object of strings.",
        change_when="all nodes are reserved, or some must stay free",
        cluster_only=True,
        cluster_default=True,
        in_plan_pod=True,
    )
    task_tolerations: list[Any] = setting(
        [],
        "Tolerations of every pod except the trainer's, as a JSON list.",
        change_when="all nodes are tainted",
        cluster_only=True,
        cluster_default=True,
        in_plan_pod=True,
    )
    fetcher_cpu: str = setting(
        "250m",
        "CPUs of the pod that fetches and converts the checkpoint.",
        change_when="nodes are smaller or larger",
        cluster_only=True,
        cluster_default=True,
    )
    fetcher_memory: str = setting(
        "2Gi",
        "Memory of the pod that fetches and converts the checkpoint.",
        change_when="a pod ends with OOMKilled",
        cluster_only=True,
        cluster_default=True,
    )
    builder_cpu: str = setting(
        "2",
        "CPUs of a shard builder pod.",
        change_when="nodes are smaller or larger",
        cluster_only=True,
        cluster_default=True,
    )
    builder_memory: str = setting(
        "4Gi",
        "Memory of a shard builder pod.",
        change_when="a pod ends with OOMKilled",
        cluster_only=True,
        cluster_default=True,
    )
    evaluator_cpu: str = setting(
        "2",
        "CPUs of the pod that scores models.",
        change_when="nodes are smaller or larger",
        cluster_only=True,
        cluster_default=True,
    )
    evaluator_memory: str = setting(
        "8Gi",
        "Memory of the pod that scores models; 2Gi is enough for a small backbone.",
        change_when="nodes are smaller, or a pod ends with OOMKilled",
        cluster_only=True,
        cluster_default=True,
    )

    def _problems(self) -> Iterator[str]:
        yield from Settings._problems(self)
        pods = ("task", "fetcher", "builder", "evaluator")
        yield from cpu_problems({f"{pod}_cpu": getattr(self, f"{pod}_cpu") for pod in pods})
        yield from memory_problems(
            {f"{pod}_memory": getattr(self, f"{pod}_memory") for pod in pods}
        )
        yield from selector_problems("task_node_selector", self.task_node_selector)
        yield from toleration_problems("task_tolerations", self.task_tolerations)


@dataclass(frozen=True, kw_only=True, slots=True)
class JobSettings(Settings):
    """What each training pod requests, how many there are, and how the training Job is run."""

    trainer_image: str = setting(
        TRAINER_IMAGE,
        "Container image of the trainer; without accelerators the CPU image works too.",
        rule=_IMAGE,
        change_when="always until images are published; for each release, best with a digest",
        cluster_only=True,
        cluster_default=True,
    )
    trainer_cpu: str = setting(
        "4",
        "CPUs of a training pod.",
        change_when="the GPU waits for pictures, or the node is smaller",
        cluster_only=True,
        cluster_default=True,
    )
    trainer_memory: str = setting(
        "16Gi",
        "Memory of a training pod, shared memory included.",
        change_when="a pod ends with OOMKilled, or the node is smaller",
        cluster_only=True,
        cluster_default=True,
    )
    accelerator_type: str = setting(
        "nvidia.com/gpu",
        "Resource name of the accelerator, as nodes list it; the GPU's model goes into "
        "trainer_node_selector.",
        change_when="you use devices of another vendor",
        cluster_only=True,
        cluster_default=True,
    )
    accelerator_count: int = setting(
        1,
        "Accelerators of each training pod; 0 for none.",
        rule=between(0, _MAX_ACCELERATORS),
        change_when="you train without a GPU, or on several GPUs of one node",
        cluster_only=True,
        cluster_default=True,
    )
    trainer_node_selector: dict[str, Any] = setting(
        {},
        "Node labels that a training pod requires, as a JSON object of strings: "
        '{"cloud.google.com/gke-accelerator": "nvidia-l4"}.',
        change_when="training must run on certain nodes",
        cluster_only=True,
        cluster_default=True,
    )
    trainer_tolerations: list[Any] = setting(
        [],
        'Tolerations of a training pod, as a JSON list: [{"key": "nvidia.com/gpu", '
        '"operator": "Exists", "effect": "NoSchedule"}].',
        change_when="GPU nodes are tainted",
        cluster_only=True,
        cluster_default=True,
    )
    num_workers: int = setting(
        1,
        "Pods that train together, each with its accelerators; more than 1 requires "
        "trainer_mode=job.",
        rule=between(1, _MAX_WORKERS),
        change_when="[one node is not enough](several-nodes.md)",
        cluster_only=True,
    )
    job_queue: str = setting(
        "",
        "Kueue queue of the training Job; none for no queue.",
        change_when="the cluster shares its GPUs through Kueue",
        cluster_only=True,
        cluster_default=True,
    )
    job_service_account: str = setting(
        cluster_names.WORKER_ACCOUNT,
        "Service account of the training Job's pods; it needs access to the storage, and no "
        "rights in the cluster.",
        change_when="the manifests were renamed",
        cluster_only=True,
        cluster_default=True,
    )
    job_priority_class: str = setting(
        "",
        "PriorityClass of the training Job's pods; none for the cluster's default. The "
        "manifests create `repot-training`.",
        change_when="training must yield to other work",
        cluster_only=True,
        cluster_default=True,
    )
    settings_config_map: str = setting(
        cluster_names.SETTINGS_CONFIG_MAP,
        "ConfigMap with the address of the S3 store and the administrator's defaults; it may be "
        "absent.",
        change_when="the overlay was renamed",
        cluster_only=True,
        place="pipeline",
    )
    s3_secret_name: str = setting(
        cluster_names.S3_SECRET,
        "Secret with accesskey and secretkey for the S3 store; it may be absent.",
        change_when="you use s3:// and the Secret has another name",
        cluster_only=True,
        place="pipeline",
    )
    google_secret_name: str = setting(
        cluster_names.GOOGLE_SECRET,
        "Secret with a Google service account key in key.json; it may be absent.",
        change_when="there is no workload identity and the Secret has another name",
        cluster_only=True,
        place="pipeline",
    )
    job_deadline_hours: int = setting(
        72,
        "Hours after which Kubernetes ends the training Job.",
        rule=between(1, 24 * 365),
        change_when="a training takes longer, or must not",
        cluster_only=True,
        cluster_default=True,
    )

    def _problems(self) -> Iterator[str]:
        yield from Settings._problems(self)
        yield from cpu_problems({"trainer_cpu": self.trainer_cpu})
        yield from memory_problems({"trainer_memory": self.trainer_memory})
        if self.job_queue:
            yield from name_problems({"job_queue": self.job_queue}, max_length=_MAX_QUEUE_NAME)
        yield from name_problems(
            {
                "job_priority_class": self.job_priority_class or "none",
                "job_service_account": self.job_service_account,
                "settings_config_map": self.settings_config_map,
                "s3_secret_name": self.s3_secret_name,
                "google_secret_name": self.google_secret_name,
            }
        )
        if self.accelerator_count:
            yield from resource_problems("accelerator_type", self.accelerator_type)
        yield from selector_problems("trainer_node_selector", self.trainer_node_selector)
        yield from toleration_problems("trainer_tolerations", self.trainer_tolerations)


def mode_problems(
    mode: str, *, num_workers: int, accelerator_count: int, batch_size: int
) -> list[str]:
    """Return one error message per conflict between trainer mode, workers and batch size.

    Values outside their own bounds are left to the classes that define the bounds.
    """
    if not (1 <= num_workers <= _MAX_WORKERS and 0 <= accelerator_count <= _MAX_ACCELERATORS):
        return []
    problems = []
    if num_workers > 1 and mode == "pod":
        problems.append(
            f"num_workers must be 1 with trainer_mode=pod; got num_workers={num_workers!r}. "
            "Use trainer_mode=job."
        )
    num_replicas = num_workers * max(1, accelerator_count)
    if 0 < batch_size < num_replicas:
        problems.append(
            f"batch_size must be at least one for each of the {num_replicas} accelerators or "
            f"workers; got batch_size={batch_size!r}."
        )
    return problems
