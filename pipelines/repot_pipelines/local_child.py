"""The child process of `repot run`: runs the compiled pipeline with kfp's local runner, and dies with its parent.

kfp swaps `builtins.print` and the root logger's handlers from threads and gives no way to stop a loop, so it gets a
process, and a process group, of its own. Standard input is a pipe that only the parent holds: when it closes, the
parent is gone and the whole group goes too.

Usage: python -m repot_pipelines.local_child REQUEST.json
"""

import json
import os
import shlex
import signal
import sys
import threading
import warnings
from pathlib import Path
from typing import Any


def main() -> None:
    """Run the pipeline that the request file describes: `pipeline`, `arguments`, `work_folder`."""
    threading.Thread(target=_die_with_parent, daemon=True).start()
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    run_pipeline(request["pipeline"], request["arguments"], Path(request["work_folder"]))


def run_pipeline(pipeline: str, arguments: dict[str, Any], work_folder: Path) -> None:
    """Run a compiled pipeline task by task in this Python, artifacts below `work_folder`."""
    from kfp import components, local
    from kfp.local import subprocess_task_handler

    # The runner writes its Python's path over the text "python3" wherever it stands, paths in arguments included.
    subprocess_task_handler.replace_python_executable = lambda command, _: command
    _put_python3_first(work_folder)
    warnings.filterwarnings("ignore")
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(work_folder / "artifacts"))
    text = Path(pipeline).read_text(encoding="utf-8")
    run = components.load_component_from_text(text)
    run(**{**_defaults(text), **arguments})


def _defaults(text: str) -> dict[str, Any]:
    """Return the defaults of a compiled pipeline's parameters; the local runner forgets them inside a loop."""
    import yaml

    parameters = next(yaml.safe_load_all(text))["root"]["inputDefinitions"]["parameters"]
    return {name: facts["defaultValue"] for name, facts in parameters.items() if "defaultValue" in facts}


def _put_python3_first(work_folder: Path) -> None:
    """Make `python3` mean this interpreter for every task, whatever blanks its path has."""
    folder = work_folder / "bin"
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / "python3"
    script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n', encoding="utf-8")
    script.chmod(0o755)
    os.environ["PATH"] = f"{folder}{os.pathsep}{os.environ.get('PATH', os.defpath)}"


def _die_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    main()
