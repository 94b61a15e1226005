"""The child process of `repot run`: runs the compiled pipeline with kfp's local runner, and dies with its parent.

kfp swaps `builtins.print` and the root logger's handlers from threads and gives no way to stop a loop, so it gets a
process, and a process group, of its own. Standard input is a pipe that only the parent holds: when it closes, the
parent is gone and the whole group goes too.

Usage: python -m repot_pipelines.local.child REQUEST.json
"""

import contextlib
import functools
import json
import os
import re
import shlex
import shutil
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from repot_pipelines.local.docker import make_runner, remove_containers

_IMAGE_PARAMETER = re.compile(
    r"^( *image: )'\{\{\$\.inputs\.parameters\[''pipelinechannel--([\w-]+)''\]\}\}'$", re.MULTILINE
)


def main() -> None:
    """Run the pipeline that the request file describes: `pipeline`, `arguments`, `work_folder`, `runner`."""
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    arguments, work_folder = request["arguments"], Path(request["work_folder"])
    in_containers = request["runner"] == "docker"
    clean_up = functools.partial(remove_containers, work_folder) if in_containers else _nothing
    threading.Thread(target=_die_with_parent, args=[clean_up, work_folder], daemon=True).start()
    runner = (
        make_runner(arguments, work_folder) if in_containers else _subprocess_runner(work_folder)
    )
    run_pipeline(request["pipeline"], arguments, work_folder, runner)


def run_pipeline(pipeline: str, arguments: dict[str, Any], work_folder: Path, runner: Any) -> None:
    """Run a compiled pipeline task by task, artifacts below `work_folder`."""
    from kfp import components, local

    warnings.filterwarnings("ignore")
    local.init(runner, pipeline_root=str(work_folder / "artifacts"))
    text = Path(pipeline).read_text(encoding="utf-8")
    values = {**_defaults(text), **arguments}
    run = components.load_component_from_text(_with_images(text, values))
    run(**values)


def _defaults(text: str) -> dict[str, Any]:
    """Return the defaults of a compiled pipeline's parameters; the local runner forgets them inside a loop."""
    import yaml

    parameters = next(yaml.safe_load_all(text))["root"]["inputDefinitions"]["parameters"]
    return {
        name: facts["defaultValue"] for name, facts in parameters.items() if "defaultValue" in facts
    }


def _with_images(text: str, values: Mapping[str, Any]) -> str:
    """Return a compiled pipeline with the images that its parameters name; the local runner takes them literally."""
    # Plan has not run yet, and says the same (`repot.planner.trainer_pod`).
    of_trainer = values["cpu_image" if values["trainer_mode"] == "job" else "trainer_image"]
    images = {**values, "plan-trainer_pod_image": of_trainer}
    return _IMAGE_PARAMETER.sub(lambda match: f"{match[1]}{json.dumps(images[match[2]])}", text)


def _subprocess_runner(work_folder: Path) -> Any:
    """Return kfp's runner of tasks as processes of this Python."""
    from kfp import local
    from kfp.local import subprocess_task_handler

    # The runner writes its Python's path over the text "python3" wherever it stands, paths in arguments included.
    subprocess_task_handler.replace_python_executable = lambda command, _: command
    _put_python3_first(work_folder)
    return local.SubprocessRunner(use_venv=False)


def _put_python3_first(work_folder: Path) -> None:
    """Make `python3` mean this interpreter for every task, whatever blanks its path has."""
    folder = work_folder / "bin"
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / "python3"
    script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n', encoding="utf-8")
    script.chmod(0o755)
    os.environ["PATH"] = f"{folder}{os.pathsep}{os.environ.get('PATH', os.defpath)}"


def _die_with_parent(clean_up: Callable[[], None], work_folder: Path) -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    try:
        clean_up()
        _remove(work_folder)
    finally:
        os.killpg(os.getpgrp(), signal.SIGKILL)


def _remove(folder: Path) -> None:
    """Remove a folder in which tasks may still be writing: renamed, it is where none of them looks."""
    gone = folder.with_name(f"{folder.name}.gone")
    with contextlib.suppress(FileNotFoundError):  # the parent did it
        folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def _nothing() -> None:
    return None


if __name__ == "__main__":
    main()
