"""Run the tasks of the compiled pipeline with exactly the container commands in the YAML.

CompiledPipeline does what Kubeflow does around each command: the driver resolves the inputs of a
task, the launcher passes them to the command as an ExecutorInput and reads the outputs.
Source: backend/src/v2/{driver,component} of KFP 2.17.
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

Json = dict[str, Any]
"""A part of the pipeline spec, or parameters by name."""

TASK_SECONDS = 400.0
_RUN_ID_PLACEHOLDER = "{{$.pipeline_job_uuid}}"
_PLACEHOLDER = re.compile(r"\{\{\$\.inputs\.parameters\['([^']+)'\]\}\}")
_CONDITION = re.compile(r"inputs\.parameter_values\['([^']+)'\] == '([^']*)'")
_PARSERS: dict[str, Callable[[str], Any]] = {
    "STRING": str,
    "LIST": json.loads,
    "STRUCT": json.loads,
    "BOOLEAN": json.loads,
    "NUMBER_DOUBLE": json.loads,
}


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """An output artifact: its file and metadata."""

    path: Path
    metadata: Json


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """How one task ended.

    Attributes:
        executor: Its executor in the YAML.
        inputs: Its input parameters.
        exit_code: Exit code of its command; if not 0, there are no outputs.
        log: Output of the command to both streams.
        parameters: Its output parameters.
        artifacts: Its output artifacts.
    """

    executor: str
    inputs: Json
    exit_code: int
    log: str
    parameters: Json
    artifacts: dict[str, Artifact]


class CompiledPipeline:
    """A compiled pipeline that runs on this machine, without KFP.

    Args:
        path: The YAML.
        folder: For the files Kubeflow manages, e.g. outputs of tasks; its name is the run's id.
    """

    def __init__(self, path: Path, folder: Path) -> None:
        self._spec: Json = next(yaml.safe_load_all(path.read_text(encoding="utf-8")))
        self._folder = folder
        self._num_started = 0

    @property
    def executors(self) -> set[str]:
        """Return the names of all executors in the YAML."""
        return set(self._spec["deploymentSpec"]["executors"])

    def run(self, arguments: Json) -> Iterator[TaskResult]:
        """Run the tasks one after another, and yield each result; stop after the first failure."""
        inputs = self._spec["root"]["inputDefinitions"]["parameters"]
        defaults = {
            name: each["defaultValue"] for name, each in inputs.items() if "defaultValue" in each
        }
        assert set(arguments) <= set(inputs)
        for result in self._run_graph(self._spec["root"], {**defaults, **arguments}):
            yield result
            if result.exit_code:
                return

    def start(self, executor: str, inputs: Json) -> "subprocess.Popen[str]":
        """Start one task's command as a pod does: in a process group of its own."""
        (component,) = (
            each
            for each in self._spec["components"].values()
            if each.get("executorLabel") == executor
        )
        container, request, folder = self._prepare(component, inputs)
        return _start_command(container, request, folder)

    def _run_graph(self, component: Json, values: Json) -> Iterator[TaskResult]:
        tasks, outputs = component["dag"]["tasks"], dict[str, Json]()
        order = graphlib.TopologicalSorter(
            {key: task.get("dependentTasks", ()) for key, task in tasks.items()}
        )
        skipped = set[str]()
        for key in order.static_order():
            # Argo omits what depends on a task that did not run.
            if not skipped.isdisjoint(tasks[key].get("dependentTasks", ())):
                skipped.add(key)
                continue
            resolved = _resolve_inputs(tasks[key], values, outputs, run_id=self._folder.name)
            if not _is_triggered(tasks[key], resolved):
                skipped.add(key)
                continue
            inner = self._spec["components"][tasks[key]["componentRef"]["name"]]
            for inputs in _iterations(tasks[key], resolved):
                if "dag" in inner:
                    yield from self._run_graph(inner, inputs)
                else:
                    result = self._launch(inner, inputs)
                    outputs[key] = result.parameters
                    yield result

    def _launch(self, component: Json, inputs: Json) -> TaskResult:
        """Do what the launcher does in the task's container."""
        container, request, folder = self._prepare(component, inputs)
        with _start_command(container, request, folder) as process:
            log, _ = process.communicate(timeout=TASK_SECONDS)
        output_path = Path(request["outputs"]["outputFile"])
        output: Json = json.loads(output_path.read_text()) if output_path.exists() else {}
        succeeded = process.returncode == 0
        return TaskResult(
            executor=component["executorLabel"],
            inputs=inputs,
            exit_code=process.returncode,
            log=log,
            parameters=_read_parameters(component.get("outputDefinitions", {}), request, output)
            if succeeded
            else {},
            artifacts=_read_artifacts(request, output) if succeeded else {},
        )

    def _prepare(self, component: Json, inputs: Json) -> tuple[Json, Json, Path]:
        """Return the container of a task, its ExecutorInput and its folder."""
        executor = component["executorLabel"]
        folder = self._folder / f"{self._num_started}-{executor}"
        self._num_started += 1
        request = _make_executor_input(inputs, component.get("outputDefinitions", {}), folder)
        return self._spec["deploymentSpec"]["executors"][executor]["container"], request, folder


def _resolve_inputs(task: Json, values: Json, outputs: dict[str, Json], run_id: str) -> Json:
    """Return a task's inputs: constants, inputs of its graph, and outputs of other tasks."""
    resolved: Json = {}
    for name, source in task.get("inputs", {}).get("parameters", {}).items():
        if "taskOutputParameter" in source:
            reference = source["taskOutputParameter"]
            resolved[name] = outputs[reference["producerTask"]][reference["outputParameterKey"]]
        elif "componentInputParameter" in source:
            resolved[name] = values[source["componentInputParameter"]]
        else:
            constant = source["runtimeValue"]["constant"]
            resolved[name] = run_id if constant == _RUN_ID_PLACEHOLDER else constant
    # Constants may contain placeholders of other inputs.
    return {
        name: _PLACEHOLDER.sub(lambda match: str(resolved[match[1]]), value)
        if isinstance(value, str)
        else value
        for name, value in resolved.items()
    }


def _is_triggered(task: Json, inputs: Json) -> bool:
    """Return whether the condition of a task is true, which only uses the task's own inputs."""
    if "triggerPolicy" not in task:
        return True
    condition = _CONDITION.fullmatch(task["triggerPolicy"]["condition"])
    assert condition is not None, task["triggerPolicy"]
    return bool(inputs[condition[1]] == condition[2])


def _iterations(task: Json, inputs: Json) -> Iterator[Json]:
    """Yield the inputs once, or per item of a loop."""
    if "parameterIterator" not in task:
        yield inputs
        return
    loop = task["parameterIterator"]
    for item in inputs[loop["items"]["inputParameter"]]:
        yield {**inputs, loop["itemInput"]: item}


def _make_executor_input(inputs: Json, definitions: Json, folder: Path) -> Json:
    """Return the launcher's ExecutorInput, and create the folders of all outputs."""
    paths = {name: folder / "parameters" / name for name in definitions.get("parameters", {})}
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
        "inputs": {"parameterValues": _as_written_by_go(inputs)},
        "outputs": {
            "parameters": {name: {"outputFile": str(path)} for name, path in paths.items()},
            "artifacts": artifacts,
            "outputFile": str(folder / "kfp_outputs" / "output_metadata.json"),
        },
    }


def _as_written_by_go(values: Json) -> Json:
    """Return values as a pod receives them: Go writes the float 0.0 as 0."""

    def read_float(text: str) -> float:
        return int(float(text)) if float(text).is_integer() else float(text)

    received: Json = json.loads(json.dumps(values), parse_float=read_float)
    return received


def _start_command(container: Json, request: Json, folder: Path) -> "subprocess.Popen[str]":
    # `python3` must be this interpreter, as it is in the images.
    path = f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}"
    pod = {"KFP_POD_NAME": folder.name, "KFP_POD_UID": "0", "NAMESPACE": "kubeflow"}
    return subprocess.Popen(
        [
            argument.replace("{{$}}", json.dumps(request))
            for argument in (*container["command"], *container["args"])
        ],
        cwd=folder,
        env={**os.environ, **pod, "PATH": path, "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def _read_parameters(definitions: Json, request: Json, output: Json) -> Json:
    """Return the output parameters: returned values, otherwise the content of their files."""
    returned = output.get("parameterValues", {})
    return {
        name: returned[name]
        if name in returned
        else _PARSERS[each["parameterType"]](
            Path(request["outputs"]["parameters"][name]["outputFile"]).read_text()
        )
        for name, each in definitions.get("parameters", {}).items()
    }


def _read_artifacts(request: Json, output: Json) -> dict[str, Artifact]:
    artifacts = {}
    for name, listed in {**request["outputs"]["artifacts"], **output.get("artifacts", {})}.items():
        (artifact,) = listed["artifacts"]
        artifacts[name] = Artifact(
            path=Path(artifact["uri"]), metadata=artifact.get("metadata", {})
        )
    return artifacts
