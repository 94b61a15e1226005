"""What a user can say about the Kubernetes Job that trains, and what the task that starts it asks for itself.

Zero and "" mean none, or "choose for me": the Kubeflow UI has no empty number.
"""

import dataclasses
import json
import re
from dataclasses import dataclass, field
from typing import Any, Self

from repot.errors import UsageError

MODES = ("pod", "job")
MAX_WORKERS = 64
_QUANTITY = re.compile(r"\d+(\.\d+)?(m|[kMGTPE]|[KMGTPE]i)?")
_DNS_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?")
_EFFECTS = ("", "NoSchedule", "PreferNoSchedule", "NoExecute")


@dataclass(frozen=True, kw_only=True, slots=True)
class JobSettings:
    """The Job that trains: what each of its pods asks for, and how many there are.

    Attributes:
        image: Of the pods.
        cpu, memory: Kubernetes quantities, of each pod.
        accelerator_type: Resource name, e.g. nvidia.com/gpu.
        accelerator_count: Of each pod; 0 for none.
        node_selector: Node labels that the pods need.
        tolerations: As in a pod's spec.
        num_workers: Pods that train together.
        queue: Name of a Kueue queue; "" for none.
        service_account: Of the pods; it must reach the storage.
        priority_class: Of the pods; "" for the cluster's default.
        settings_config_map, s3_secret_name, google_secret_name: What opens the storage, as in every other task; what
            does not exist is left out.
        deadline_hours: After which Kubernetes ends the Job.
    """

    image: str
    cpu: str = "4"
    memory: str = "16Gi"
    accelerator_type: str = "nvidia.com/gpu"
    accelerator_count: int = 1
    node_selector: dict[str, str] = field(default_factory=dict)
    tolerations: list[dict[str, Any]] = field(default_factory=list)
    num_workers: int = 1
    queue: str = ""
    service_account: str = "repot-worker"
    priority_class: str = ""
    settings_config_map: str = "repot-settings"
    s3_secret_name: str = "repot-s3"
    google_secret_name: str = "repot-google-key"
    deadline_hours: int = 72

    def __post_init__(self) -> None:
        problems = [
            *self._number_problems(),
            *self._name_problems(),
            *self._placement_problems(),
        ]
        if problems:
            raise UsageError(problems)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Build from what `to_json` returned.

        Raises:
            UsageError: A value breaks a rule.
        """
        return cls(**json.loads(text))

    def to_json(self) -> str:
        """Return JSON, the same for the same settings."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    def _number_problems(self) -> list[str]:
        rules = (
            ("num_workers", self.num_workers, 1, MAX_WORKERS),
            ("accelerator_count", self.accelerator_count, 0, 64),
            ("job_deadline_hours", self.deadline_hours, 1, 24 * 365),
        )
        return [
            f"{name} must lie in {low}..{high}; got {name}={value!r}."
            for name, value, low, high in rules
            if not low <= value <= high
        ]

    def _name_problems(self) -> list[str]:
        problems = [] if self.image.strip() else ["trainer_image must be given; got trainer_image=''."]
        problems += [
            f"trainer_{name} must be a Kubernetes quantity such as 4, 500m or 16Gi; got trainer_{name}={value!r}."
            for name, value in (("cpu", self.cpu), ("memory", self.memory))
            if not _QUANTITY.fullmatch(value)
        ]
        names = {
            "job_queue": self.queue or "none",
            "job_priority_class": self.priority_class or "none",
            "job_service_account": self.service_account,
            "settings_config_map": self.settings_config_map,
            "s3_secret_name": self.s3_secret_name,
            "google_secret_name": self.google_secret_name,
        }
        problems += [
            f"{name} must be the name of a Kubernetes object: lower-case letters, digits, '-' and '.'; "
            f"got {name}={value!r}."
            for name, value in names.items()
            if not _DNS_NAME.fullmatch(value)
        ]
        return problems

    def _placement_problems(self) -> list[str]:
        problems = []
        if not all(isinstance(part, str) for pair in self.node_selector.items() for part in pair):
            problems.append(
                "trainer_node_selector must map label names to texts; "
                f"got trainer_node_selector={self.node_selector!r}."
            )
        for index, toleration in enumerate(self.tolerations):
            if not isinstance(toleration, dict) or toleration.get("effect", "") not in _EFFECTS:
                problems.append(
                    f"trainer_tolerations must be a list of tolerations as in a pod's spec, each with an effect of "
                    f"{', '.join(_EFFECTS[1:])} or none; got trainer_tolerations[{index}]={toleration!r}."
                )
        return problems


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskPod:
    """What the pod of the trainer task asks for.

    Attributes:
        image: Of the task.
        cpu, memory: Kubernetes quantities.
        accelerator_count: As text: the Kubeflow server takes no number.
        node_selector, tolerations: As in a pod's spec.
    """

    image: str
    cpu: str
    memory: str
    accelerator_count: str
    node_selector: dict[str, str]
    tolerations: list[dict[str, Any]]


def choose_task_pod(mode: str, job: JobSettings, *, cpu_image: str) -> TaskPod:
    """Return what the trainer task's pod asks for: all of it where it trains itself, else little and no spot node.

    Args:
        mode: One of `MODES`, checked.
        job: What training needs.
        cpu_image: Image of the other tasks; enough to start a Job and follow it.
    """
    if mode == "pod":
        return TaskPod(
            image=job.image,
            cpu=job.cpu,
            memory=job.memory,
            accelerator_count=str(job.accelerator_count),
            node_selector=job.node_selector,
            tolerations=job.tolerations,
        )
    return TaskPod(image=cpu_image, cpu="250m", memory="1Gi", accelerator_count="0", node_selector={}, tolerations=[])
