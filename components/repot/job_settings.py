"""What a user can say about the Kubernetes Job that trains, and what the task that starts it asks for itself.

Zero and "none" mean none, or "choose for me": the Kubeflow UI has no empty number.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from repot.errors import UsageError
from repot.kubernetes_rules import (
    name_problems,
    quantity_problems,
    resource_problems,
    selector_problems,
    toleration_problems,
)
from repot.settings import given

MODES = ("pod", "job")
MAX_WORKERS = 64
MAX_ACCELERATORS = 64


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
            ("accelerator_count", self.accelerator_count, 0, MAX_ACCELERATORS),
            ("job_deadline_hours", self.deadline_hours, 1, 24 * 365),
        )
        return [
            f"{name} must lie in {low}..{high}; got {name}={value!r}."
            for name, value, low, high in rules
            if not low <= value <= high
        ]

    def _name_problems(self) -> list[str]:
        problems = (
            [] if self.image.strip() else ["trainer_image must be given; got trainer_image=''."]
        )
        problems += quantity_problems({"trainer_cpu": self.cpu, "trainer_memory": self.memory})
        names = {
            "job_queue": self.queue or "none",
            "job_priority_class": self.priority_class or "none",
            "job_service_account": self.service_account,
            "settings_config_map": self.settings_config_map,
            "s3_secret_name": self.s3_secret_name,
            "google_secret_name": self.google_secret_name,
        }
        return problems + name_problems(names)

    def _placement_problems(self) -> list[str]:
        problems = (
            resource_problems("accelerator_type", self.accelerator_type)
            if self.accelerator_count
            else []
        )
        problems += selector_problems("trainer_node_selector", self.node_selector)
        return problems + toleration_problems("trainer_tolerations", self.tolerations)


def read_job_settings(facts: Mapping[str, Any]) -> JobSettings:
    """Return the settings of these fields, with `accelerator_count` as text, as a run's parameters have it.

    Raises:
        UsageError: Lists everything that is wrong.
    """
    count, problems = facts["accelerator_count"], []
    if not count.isdecimal():
        problems = [
            f"accelerator_count must be a whole number as text, '0' for none; got accelerator_count={count!r}."
        ]
    try:
        texts = {name: given(facts[name]) for name in ("queue", "priority_class") if name in facts}
        settings = JobSettings(
            **{**facts, **texts, "accelerator_count": 0 if problems else int(count)}
        )
    except UsageError as err:
        raise UsageError([*problems, *err.problems]) from err
    if problems:
        raise UsageError(problems)
    return settings


def mode_problems(
    mode: str, *, num_workers: int, accelerator_count: int, batch_size: int
) -> list[str]:
    """Return a sentence for everything in which mode, workers and batch size do not go together.

    Numbers that are out of their own bounds are left to the classes that have these bounds.
    """
    problems = []
    if mode not in MODES:
        problems.append(
            f"trainer_mode must be one of {', '.join(MODES)}; got trainer_mode={mode!r}."
        )
    if not (1 <= num_workers <= MAX_WORKERS and 0 <= accelerator_count <= MAX_ACCELERATORS):
        return problems
    if num_workers > 1 and mode == "pod":
        problems.append(
            f"num_workers must be 1 with trainer_mode=pod; got num_workers={num_workers!r}. Use trainer_mode=job."
        )
    num_replicas = num_workers * max(1, accelerator_count)
    if 0 < batch_size < num_replicas:
        problems.append(
            f"batch_size must be at least one for each of the {num_replicas} accelerators or workers; "
            f"got batch_size={batch_size!r}."
        )
    return problems
