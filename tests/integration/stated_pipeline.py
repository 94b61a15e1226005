"""Runs the compiled pipeline task by task, each by the very command that the YAML states for its container.

What Kubeflow does around a command is done here: its driver resolves the inputs of a task, its launcher hands them to
the command as an ExecutorInput and reads the outputs. Source: backend/src/v2/{driver,component} of KFP 2.17.
"""

import graphlib
import json
import os
import re
import subprocess
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

Facts = dict[str, Any]

TASK_SECONDS = 120.0
_PLACEHOLDER = re.compile(r"\{\{\$\.inputs\.parameters\['([^']+)'\]\}\}")
_CONDITION = re.compile(r"inputs\.parameter_values\['([^']+)'\] == '([^']*)'")
_READERS: dict[str, Callable[[str], Any]] = {
    "STRING": str,
    "LIST": json.loads,
    "STRUCT": json.loads,
}


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """What a task left under one name: a file, and metadata."""

    path: Path
    metadata: Facts


@dataclass(frozen=True, kw_only=True)
class EndedTask:
    """How one command ended.

    Attributes:
        executor: Its executor in the YAML.
        inputs: Its input parameters.
        exit_code: 0, or the task failed and has no outputs.
        log: What it wrote to both streams.
        parameters: Its output parameters.
        artifacts: Its output artifacts.
    """

    executor: str
    inputs: Facts
    exit_code: int
    log: str
    parameters: Facts
    artifacts: dict[str, Artifact]


class StatedPipeline:
    """A compiled pipeline.

    Args:
        path: The YAML.
        folder: For what Kubeflow keeps, e.g. the outputs of tasks.
    """

    def __init__(self, path: Path, folder: Path) -> None:
        self._spec: Facts = next(yaml.safe_load_all(path.read_text(encoding="utf-8")))
        self._folder = folder
        self._num_started = 0

    @property
    def executors(self) -> set[str]:
        """Return every executor that the YAML states."""
        return set(self._spec["deploymentSpec"]["executors"])

    def run(self, arguments: Facts) -> Iterator[EndedTask]:
        """Run task after task, and yield each as it ends; one that fails is the last."""
        inputs = self._spec["root"]["inputDefinitions"]["parameters"]
        defaults = {
            name: each["defaultValue"] for name, each in inputs.items() if "defaultValue" in each
        }
        assert set(arguments) <= set(inputs)
        for ended in self._run_graph(self._spec["root"], {**defaults, **arguments}):
            yield ended
            if ended.exit_code:
                return

    def _run_graph(self, component: Facts, values: Facts) -> Iterator[EndedTask]:
        tasks, outputs = component["dag"]["tasks"], dict[str, Facts]()
        order = graphlib.TopologicalSorter(
            {key: task.get("dependentTasks", ()) for key, task in tasks.items()}
        )
        for key in order.static_order():
            inner = self._spec["components"][tasks[key]["componentRef"]["name"]]
            for inputs in _iterations(tasks[key], _resolve(tasks[key], values, outputs)):
                if "dag" in inner:
                    yield from self._run_graph(inner, inputs)
                else:
                    ended = self._launch(inner, inputs)
                    outputs[key] = ended.parameters
                    yield ended

    def _launch(self, component: Facts, inputs: Facts) -> EndedTask:
        """Do what the launcher does in the task's container."""
        executor = component["executorLabel"]
        folder = self._folder / f"{self._num_started}-{executor}"
        self._num_started += 1
        definitions = component.get("outputDefinitions", {})
        request = _executor_input(inputs, definitions, folder)
        done = _run_command(
            self._spec["deploymentSpec"]["executors"][executor]["container"], request, folder
        )
        answer = Path(request["outputs"]["outputFile"])
        told: Facts = json.loads(answer.read_text()) if answer.exists() else {}
        is_done = done.returncode == 0
        return EndedTask(
            executor=executor,
            inputs=inputs,
            exit_code=done.returncode,
            log=done.stdout,
            parameters=_read_parameters(definitions, request, told) if is_done else {},
            artifacts=_read_artifacts(request, told) if is_done else {},
        )


def _resolve(task: Facts, values: Facts, outputs: dict[str, Facts]) -> Facts:
    """Return the inputs of a task: constants, inputs of the graph that it is in, outputs of other tasks."""
    found: Facts = {}
    for name, source in task.get("inputs", {}).get("parameters", {}).items():
        if "taskOutputParameter" in source:
            reference = source["taskOutputParameter"]
            found[name] = outputs[reference["producerTask"]][reference["outputParameterKey"]]
        elif "componentInputParameter" in source:
            found[name] = values[source["componentInputParameter"]]
        else:
            found[name] = source["runtimeValue"]["constant"]
    return {
        name: _PLACEHOLDER.sub(lambda at: str(found[at[1]]), value)
        if isinstance(value, str)
        else value
        for name, value in found.items()
    }


def _iterations(task: Facts, inputs: Facts) -> Iterator[Facts]:
    """Yield the inputs once, for each item of a loop, or not at all where a condition does not hold."""
    if "triggerPolicy" in task:
        condition = _CONDITION.fullmatch(task["triggerPolicy"]["condition"])
        assert condition is not None, task["triggerPolicy"]
        if inputs[condition[1]] != condition[2]:
            return
    if "parameterIterator" not in task:
        yield inputs
        return
    loop = task["parameterIterator"]
    for item in inputs[loop["items"]["inputParameter"]]:
        yield {**inputs, loop["itemInput"]: item}


def _executor_input(inputs: Facts, definitions: Facts, folder: Path) -> Facts:
    """Return the launcher's message to the command; the folders of all outputs are made, as the launcher does."""
    places = {name: folder / "parameters" / name for name in definitions.get("parameters", {})}
    artifacts = {
        name: {
            "artifacts": [
                {
                    "name": name,
                    "type": each["artifactType"],
                    "uri": str(folder / name),
                    "metadata": {},
                }
            ]
        }
        for name, each in definitions.get("artifacts", {}).items()
    }
    (folder / "parameters").mkdir(parents=True)
    return {
        "inputs": {"parameterValues": _as_go_writes(inputs)},
        "outputs": {
            "parameters": {name: {"outputFile": str(path)} for name, path in places.items()},
            "artifacts": artifacts,
            "outputFile": str(folder / "kfp_outputs" / "output_metadata.json"),
        },
    }


def _as_go_writes(values: Facts) -> Facts:
    """Return values as they arrive in a pod: Go writes a float without a fraction as 0, not as 0.0."""

    def read_float(text: str) -> float:
        return int(float(text)) if float(text).is_integer() else float(text)

    arrived: Facts = json.loads(json.dumps(values), parse_float=read_float)
    return arrived


def _run_command(
    container: Facts, request: Facts, folder: Path
) -> subprocess.CompletedProcess[str]:
    # Where `python3` is this one, as in the images.
    path = f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}"
    pod = {"KFP_POD_NAME": folder.name, "KFP_POD_UID": "0", "NAMESPACE": "kubeflow"}
    return subprocess.run(
        [
            word.replace("{{$}}", json.dumps(request))
            for word in (*container["command"], *container["args"])
        ],
        cwd=folder,
        env={**os.environ, **pod, "PATH": path, "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TASK_SECONDS,
        check=False,
    )


def _read_parameters(definitions: Facts, request: Facts, told: Facts) -> Facts:
    """Return the output parameters: those that the command returned, the others from their files."""
    returned = told.get("parameterValues", {})
    return {
        name: returned[name]
        if name in returned
        else _READERS[each["parameterType"]](
            Path(request["outputs"]["parameters"][name]["outputFile"]).read_text()
        )
        for name, each in definitions.get("parameters", {}).items()
    }


def _read_artifacts(request: Facts, told: Facts) -> dict[str, Artifact]:
    found = {}
    for name, listed in {**request["outputs"]["artifacts"], **told.get("artifacts", {})}.items():
        (artifact,) = listed["artifacts"]
        found[name] = Artifact(path=Path(artifact["uri"]), metadata=artifact.get("metadata", {}))
    return found
