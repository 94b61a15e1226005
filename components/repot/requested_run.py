"""run_request.json: what a run was asked for, as a command that repeats it and as pods.

Plan makes it, and the report shows it. With the durations of training and evaluation, the requests
are what the run cost.
"""

import json
import shlex
from dataclasses import dataclass

from repot.json_record import JsonRecord
from repot.masking import mask, secret_parts
from repot.settings import (
    DEFAULTS,
    PARAMETERS,
    JobSettings,
    ParameterValues,
    TaskSettings,
    empty_if_none,
    option_name,
)

_ALWAYS = ("backbone",)
"""Settings whose default depends on the preset, so that the command states them always."""
_IN_PLACE = ("pictures_uri", "storage_uri")


@dataclass(frozen=True, kw_only=True, slots=True)
class PodRequest(JsonRecord):
    """What the pods of a task request.

    Attributes:
        num_pods: Their number.
        cpu, memory: Kubernetes quantities of each.
        accelerator: Name of the GPU's resource, such as nvidia.com/gpu; "" without GPUs.
        num_accelerators: GPUs of each pod.
        node_selector: Labels of the nodes, which may name the GPU model.
    """

    num_pods: int
    cpu: str
    memory: str
    accelerator: str
    num_accelerators: int
    node_selector: dict[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestedRun(JsonRecord):
    """What run_request.json holds.

    Attributes:
        command: The command that repeats the run.
        trainer, evaluator: What these pods request; None for a run on a single machine.
    """

    command: str
    trainer: PodRequest | None = None
    evaluator: PodRequest | None = None


def describe_run(values: ParameterValues, *, in_pods: bool) -> RequestedRun:
    """Return what a run was asked for.

    Args:
        values: Every setting by name.
        in_pods: Whether its tasks run in pods of a cluster.
    """
    command = repeat_command(values, in_pods=in_pods)
    if not in_pods:
        return RequestedRun(command=command)
    job = JobSettings.from_parameters(values)
    task = TaskSettings.from_parameters(values)
    return RequestedRun(
        command=command,
        trainer=PodRequest(
            num_pods=job.num_workers,
            cpu=job.trainer_cpu,
            memory=job.trainer_memory,
            accelerator=job.accelerator_type if job.accelerator_count else "",
            num_accelerators=job.accelerator_count,
            node_selector=job.trainer_node_selector,
        ),
        evaluator=PodRequest(
            num_pods=1,
            cpu=task.evaluator_cpu,
            memory=task.evaluator_memory,
            accelerator="",
            num_accelerators=0,
            node_selector=task.task_node_selector,
        ),
    )


def repeat_command(values: ParameterValues, *, in_pods: bool) -> str:
    """Return the command that starts a run with the same settings; credentials are masked.

    Args:
        values: Every setting by name.
        in_pods: Whether the run is one on a cluster, which `repot submit` starts.
    """
    words = ["repot", "submit" if in_pods else "run", str(values["pictures_uri"])]
    words += ["--storage-uri", str(values["storage_uri"])]
    for name, field in PARAMETERS.items():
        if name in _IN_PLACE or name not in values:
            continue
        value = values[name]
        # The default of an optional text is NONE, which the settings read as "".
        if empty_if_none(str(value)) == empty_if_none(str(DEFAULTS.get(name))) and (
            name not in _ALWAYS
        ):
            continue
        option = option_name(field)
        if option and value is True:
            words.append(option)
        elif option and not isinstance(value, bool):
            words += [option, str(value)]
        elif in_pods:
            text = value if isinstance(value, str) else json.dumps(value)
            words += ["-p", f"{name}={text}"]
    secrets = [part for word in words for part in secret_parts(word)]
    return mask(shlex.join(words), secrets)
