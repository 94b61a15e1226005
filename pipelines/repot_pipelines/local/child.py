"""The child process of `repot run`: runs the compiled pipeline with KFP's local runner.

KFP replaces `builtins.print` and the root logger's handlers from threads and offers no way to stop
a loop, so it runs in a process, and a process group, of its own. Standard input is a pipe that only
the parent holds: when it closes, the parent has exited, and the whole group is killed.

Usage: python -m repot_pipelines.local.child REQUEST.json
"""

import contextlib
import functools
import importlib
import importlib.metadata
import json
import os
import re
import shlex
import shutil
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from repot import progress
from repot.errors import RepotError
from repot.json_record import JsonRecord
from repot.masking import MaskedStream, read_secrets, secret_parts
from repot.settings import (
    DEFAULTS,
    FORM_FIELDS,
    SETTINGS_FIELD,
    ParameterValues,
    to_arguments,
)
from repot_pipelines.compiled import read_pipeline
from repot_pipelines.local import task_client
from repot_pipelines.local.docker import make_runner, remove_containers, run_container
from repot_pipelines.local.task_server import KFP_RUNTIME_VARIABLE, TaskServers
from repot_pipelines.parameters import with_defaults

# An executor's container image that is a pipeline parameter, as the KFP compiler writes it.
_IMAGE_PLACEHOLDER = re.compile(
    r"^( *image: )'\{\{\$\.inputs\.parameters\[''pipelinechannel--([\w-]+)''\]\}\}'$", re.MULTILINE
)

# What colours and moves the cursor on a terminal, and the other control characters: ECMA-48.
_TERMINAL_CODES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\].*?(?:\x07|\x1b\\)|\x1b[ -/]*[0-~]|[\x00-\x08\x0b-\x1f\x7f]"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ChildRequest(JsonRecord):
    """What the child process runs; the content of REQUEST.json.

    Attributes:
        pipeline: Path of the compiled pipeline.
        arguments: Settings by name.
        work_folder: Existing folder for KFP's artifacts and temporary files.
        runner: "subprocess" or "docker".
    """

    pipeline: str
    arguments: dict[str, Any]
    work_folder: str
    runner: str


def main() -> None:
    """Run the pipeline of the request file named on the command line."""
    if not sys.stdout.isatty():
        stream: Any = _PlainStream(sys.stdout)
        sys.stdout = sys.stderr = stream
    request = ChildRequest.from_text(Path(sys.argv[1]).read_text(encoding="utf-8"))
    _mask_output(request.arguments)
    work_folder = Path(request.work_folder)
    uses_docker = request.runner == "docker"
    clean_up = functools.partial(remove_containers, work_folder) if uses_docker else _do_nothing
    threading.Thread(target=_exit_with_parent, args=[clean_up, work_folder], daemon=True).start()
    try:
        _run(request, work_folder, uses_docker=uses_docker)
    except RepotError as err:
        progress.emit(
            progress.TaskFailed(
                process=progress.PROCESS,
                task="local runner",
                message=str(err),
                exit_code=err.exit_code,
                traceback=traceback.format_exc(),
            )
        )
        sys.exit(err.exit_code)


def _run(request: ChildRequest, work_folder: Path, *, uses_docker: bool) -> None:
    """Run the pipeline with KFP's runner for processes or for containers."""
    if uses_docker:
        _import_kfp()
        _run_pipeline(request, _make_docker_runner(request.arguments, work_folder))
        return
    servers = TaskServers(work_folder)
    servers.start()  # first: they import libraries while this process does
    _import_kfp()
    try:
        _run_pipeline(request, _make_subprocess_runner(work_folder, servers))
    finally:
        servers.stop()


def _mask_output(arguments: ParameterValues) -> None:
    """Mask secrets: KFP prints all arguments, and what tasks print."""
    secrets = {part for value in arguments.values() for part in secret_parts(str(value))}
    secrets |= read_secrets(os.environ)
    sys.stdout, sys.stderr = (MaskedStream(stream, secrets) for stream in (sys.stdout, sys.stderr))


def _import_kfp() -> None:
    """Import KFP without its client for servers, which takes more than half of the time."""
    variables = dict(os.environ)
    os.environ[KFP_RUNTIME_VARIABLE] = "true"
    importlib.import_module("kfp")
    # Only now, because without it kfp.dsl would lack what this process needs.
    os.environ.clear()
    os.environ.update(variables)
    from kfp.local import graph_utils

    # KFP runs tasks in the order of a protobuf map, which differs from run to run. Sorted, the
    # checkpoint comes after the first shards, and TensorFlow is imported for it meanwhile.
    _replace_in_kfp(
        graph_utils,
        "topological_sort",
        lambda sort: lambda tasks: sort(dict(sorted(tasks.items()))),
    )


def _replace_in_kfp(module: Any, name: str, replace: Callable[[Any], Any]) -> None:
    """Replace a function of KFP's local runner where its interface has no other way.

    Args:
        module: A module of kfp.
        name: The function's name.
        replace: Returns the new function; gets KFP's.

    Raises:
        RepotError: This version of kfp does not have the function.
    """
    if not hasattr(module, name):
        raise RepotError(
            f"The local runner must have {module.__name__}.{name}; the installed "
            f"kfp {importlib.metadata.version('kfp')} does not. `repot doctor` prints the command "
            "that installs a version that repot has been tested with."
        )
    setattr(module, name, replace(getattr(module, name)))


def _run_pipeline(request: ChildRequest, runner: Any) -> None:
    from kfp import components, local

    warnings.filterwarnings("ignore")
    local.init(runner, pipeline_root=str(Path(request.work_folder) / "artifacts"))
    path = Path(request.pipeline)
    values = with_defaults(request.arguments, read_pipeline(path))
    text = path.read_text(encoding="utf-8")
    pipeline = components.load_component_from_text(_insert_container_images(text, values))
    pipeline(**_explicit_arguments(values))


def _explicit_arguments(values: ParameterValues) -> dict[str, Any]:
    """Return the pipeline's arguments for settings, without settings that have their defaults.

    KFP's local runner loses defaults inside a loop, so every field of the form is given explicitly.
    """
    chosen = {
        name: value
        for name, value in values.items()
        if name in FORM_FIELDS or value != DEFAULTS[name]
    }
    return {SETTINGS_FIELD: {}, **to_arguments(chosen)}


def _insert_container_images(text: str, values: ParameterValues) -> str:
    """Replace every image placeholder in a compiled pipeline by the image reference.

    KFP resolves these placeholders on a cluster; its local runner would pass the placeholder itself
    to Docker.
    """
    # The trainer's image is an output of plan, which has not run yet; this is the same choice as in
    # repot.planner.outputs.
    trainer_image = values["cpu_image" if values["trainer_mode"] == "job" else "trainer_image"]
    images = {"plan-trainer_pod_image": trainer_image}
    return _IMAGE_PLACEHOLDER.sub(lambda match: f"{match[1]}{json.dumps(images[match[2]])}", text)


def _make_subprocess_runner(work_folder: Path, servers: TaskServers) -> Any:
    """Return KFP's runner that starts each task as a process of this Python."""
    from kfp import local
    from kfp.local import subprocess_task_handler

    # KFP replaces the text "python3" in every argument by the path of its interpreter, which breaks
    # paths such as lib/python3.11/site-packages. Leave arguments alone, and make the command
    # `python3` find this interpreter instead.
    _replace_in_kfp(
        subprocess_task_handler, "replace_python_executable", lambda _: lambda command, _: command
    )

    def with_server(run: Callable[..., int]) -> Callable[..., int]:
        def run_with_server(full_command: list[str], env_vars: dict[str, str] | None = None) -> int:
            function = full_command[full_command.index("--function_to_execute") + 1]
            variables = {**(env_vars or {}), **servers.environment_for(function)}
            return int(run(full_command, variables))

        return _reporting_status(run_with_server)

    _replace_in_kfp(subprocess_task_handler, "run_local_subprocess", with_server)
    _put_python3_on_path(work_folder)
    return local.SubprocessRunner(use_venv=False)


def _make_docker_runner(arguments: ParameterValues, work_folder: Path) -> Any:
    """Return KFP's runner that starts each task as a container."""
    from kfp.local import docker_task_handler

    _replace_in_kfp(
        docker_task_handler, "run_docker_container", lambda _: _reporting_status(run_container)
    )
    return make_runner(arguments, work_folder)


def _reporting_status(run: Callable[..., int]) -> Callable[..., int]:
    """Return a function that runs the process of a task, with an event for its exit status.

    KFP forgets with which status a task ended, which tells a killed task from a failed one.
    """

    @functools.wraps(run)
    def run_and_report(*args: Any, **kwargs: Any) -> int:
        status = run(*args, **kwargs)
        progress.emit(progress.ProcessExited(process=progress.PROCESS, status=status))
        return status

    return run_and_report


class _PlainStream:
    """A text stream without terminal codes; everything else is done by the wrapped stream."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write the text without terminal codes."""
        return self._stream.write(_TERMINAL_CODES.sub("", text))


def _put_python3_on_path(work_folder: Path) -> None:
    """Make `python3` run `task_client` in this interpreter, even if its path contains blanks."""
    folder = work_folder / "bin"
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / "python3"
    # -I and -S: it starts in milliseconds, and imports nothing from the user's working folder.
    command = shlex.join([sys.executable, "-I", "-S", task_client.__file__])
    script.write_text(f'#!/bin/sh\nexec {command} "$@"\n', encoding="utf-8")
    script.chmod(0o755)
    os.environ["PATH"] = f"{folder}{os.pathsep}{os.environ.get('PATH', os.defpath)}"


def _exit_with_parent(clean_up: Callable[[], None], work_folder: Path) -> None:
    """Wait until the parent closes standard input, then clean up and kill this process group."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    try:
        clean_up()
        _remove_folder(work_folder)
    finally:
        os.killpg(os.getpgrp(), signal.SIGKILL)


def _remove_folder(folder: Path) -> None:
    """Remove a folder that tasks may still write to; renaming it first hides it from them."""
    renamed = folder.with_name(f"{folder.name}.gone")
    with contextlib.suppress(FileNotFoundError):  # the parent has removed it
        folder.rename(renamed)
    shutil.rmtree(renamed, ignore_errors=True)


def _do_nothing() -> None:
    return None


if __name__ == "__main__":
    main()
