"""What Plan passes on: settings for later tasks, and what each of their pods requests."""

import json
from typing import Any

from repot.errors import is_task_pod
from repot.planner.finished import FinishedWork
from repot.planner.plan import PlannedWork
from repot.planner.preflight import Parameters
from repot.requested_run import describe_run
from repot.settings import NONE

_TASK_OUTPUTS = (
    "task_cpu",
    "task_memory",
    "task_node_selector",
    "task_tolerations",
    "builder_cpu",
    "builder_memory",
    "evaluator_cpu",
    "evaluator_memory",
)


def plan_outputs(
    parameters: Parameters, work: PlannedWork, finished: FinishedWork, *, checkpoint_version: str
) -> dict[str, str]:
    """Return the text of every output parameter of Plan, by name.

    Args:
        parameters: The checked settings of the run.
        work: The planned dataset and its work items.
        finished: What the storage has already.
        checkpoint_version: Version of the checkpoint's files.
    """
    run, task = parameters.run, parameters.task
    job = parameters.job if task.trainer_mode == "job" else None
    outputs: dict[str, Any] = {
        "used_storage_uri": run.storage_uri,
        "dataset_id": work.dataset_id,
        "first_item": work.items[0],
        "steps": finished.steps,
        "finished_training_id": finished.training_id or NONE,
        "gate_settings": parameters.gate.to_text(),
        "run_request": describe_run(parameters.values, in_pods=is_task_pod()).to_text(),
        "checkpoint_sha256": parameters.checkpoint_settings.checkpoint_sha256 or NONE,
        "checkpoint_values": parameters.checkpoint_settings.checkpoint_values,
        "checkpoint_version": checkpoint_version,
        "training_settings": parameters.training.to_text(),
        "rebuild": run.rebuild or NONE,
        "trainer_job": job.to_text() if job else "null",
        **{name: getattr(task, name) for name in _TASK_OUTPUTS},
        **_fetcher_pod(parameters, finished),
        **{f"trainer_pod_{name}": value for name, value in _trainer_pod(parameters).items()},
    }
    return {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in outputs.items()
    }


def _fetcher_pod(parameters: Parameters, finished: FinishedWork) -> dict[str, str]:
    """Return what the pod of Fetch checkpoint requests: little if it only finds a stored one."""
    size = "task" if finished.checkpoint_id else "fetcher"
    names = ("cpu", "memory")
    return {f"fetcher_{name}": getattr(parameters.task, f"{size}_{name}") for name in names}


def _trainer_pod(parameters: Parameters) -> dict[str, Any]:
    """Return what the pod of Train requests.

    A pod that trains itself gets everything that training needs. A pod that only starts a Job and
    follows it is like every other small task: it needs no GPU and no spot node.
    """
    task, job = parameters.task, parameters.job
    trains = task.trainer_mode == "pod"
    return {
        "image": job.trainer_image if trains else task.cpu_image,
        "cpu": job.trainer_cpu if trains else task.task_cpu,
        "memory": job.trainer_memory if trains else task.task_memory,
        "accelerator_type": job.accelerator_type,
        # As text: KFP's server ignores a number.
        "accelerator_count": str(job.accelerator_count if trains else 0),
        "node_selector": job.trainer_node_selector if trains else task.task_node_selector,
        "tolerations": job.trainer_tolerations if trains else task.task_tolerations,
    }
