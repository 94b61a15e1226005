"""Choose what the pod of the Train task requests: image, resources, node selector, tolerations."""

from dataclasses import dataclass
from typing import Any

from repot.settings import JobSettings, TaskSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainerPod:
    """What the pod of the Train task requests.

    Attributes:
        image: Container image.
        cpu, memory: Kubernetes quantities.
        accelerator_count: As text, because KFP's server rejects a number.
        node_selector, tolerations: As in a pod's spec.
    """

    image: str
    cpu: str
    memory: str
    accelerator_count: str
    node_selector: dict[str, str]
    tolerations: list[dict[str, Any]]


def choose_trainer_pod(task: TaskSettings, job: JobSettings) -> TrainerPod:
    """Return the requests of the Train task's pod.

    A pod that trains itself gets everything that training needs. A pod that only starts a Job and
    follows it gets little, and no spot node.
    """
    if task.trainer_mode == "pod":
        return TrainerPod(
            image=job.trainer_image,
            cpu=job.trainer_cpu,
            memory=job.trainer_memory,
            accelerator_count=str(job.accelerator_count),
            node_selector=job.trainer_node_selector,
            tolerations=job.trainer_tolerations,
        )
    return TrainerPod(
        image=task.cpu_image,
        cpu="250m",
        memory="1Gi",
        accelerator_count="0",
        node_selector={},
        tolerations=[],
    )
