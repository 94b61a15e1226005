"""Choose the image and resources of the trainer task's pod."""

from dataclasses import dataclass
from typing import Any

from repot.job_settings import JobSettings


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
    return TaskPod(
        image=cpu_image,
        cpu="250m",
        memory="1Gi",
        accelerator_count="0",
        node_selector={},
        tolerations=[],
    )
