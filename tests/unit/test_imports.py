"""Modules that must start fast must not import slow packages."""

import ast
import inspect
import os
import subprocess
import sys
import textwrap
from typing import Any

import pytest

from repot.checkpoint_fetcher.component import fetch_checkpoint
from repot.evaluator.component import evaluate
from repot.planner.component import plan
from repot.shard_builder.component import build_shards
from repot.trainer.component import train

SLOW_PACKAGES = {"tensorflow", "keras", "kfp", "kubernetes", "google.cloud.storage", "PIL", "numpy"}


@pytest.mark.parametrize("module", ["repot.shard_builder.shard", "repot_pipelines.cli"])
def test_local_files_need_no_http(module: str) -> None:
    program = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()

    assert {"http.client", "requests", "urllib3"}.isdisjoint(loaded)


@pytest.mark.parametrize("module", ["repot.settings", "repot_pipelines.cli"])
def test_fast_modules_load_no_slow_package(module: str) -> None:
    program = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()

    assert SLOW_PACKAGES.isdisjoint(loaded)


@pytest.mark.parametrize(("given", "used"), [(None, "4"), ("26", "26")])
def test_threads_of_numpy_do_not_spin_in_a_command(given: str | None, used: str) -> None:
    program = (
        "import atexit, os, sys; from repot_pipelines.cli import main\n"
        "timeout = 'OPENBLAS_THREAD_TIMEOUT'\n"
        "atexit.register(lambda: print(os.environ[timeout], 'numpy' in sys.modules))\n"
        "sys.argv = ['repot', '--version']; main()"
    )
    environment = {**os.environ, "OPENBLAS_THREAD_TIMEOUT": given or ""}
    if given is None:
        del environment["OPENBLAS_THREAD_TIMEOUT"]
    output = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment
    ).stdout.splitlines()

    assert output[-1] == f"{used} False"


@pytest.mark.parametrize(
    "module", ["planner.plan", "shard_builder.build", "shard_builder.complete"]
)
def test_planner_and_shard_builder_never_load_tensorflow(module: str) -> None:
    program = f"import sys, repot.{module}; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()

    assert {"tensorflow", "keras"}.isdisjoint(loaded)


@pytest.mark.parametrize(
    ("component", "needed"),
    [
        (plan, {"numpy"}),
        # The contents of the pictures of train and validation are compared.
        (build_shards, {"numpy"}),
        (fetch_checkpoint, set()),
        (train, set()),
        # The report has thumbnails and charts.
        (evaluate, {"PIL", "numpy"}),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_pods_start_without_packages_that_they_may_not_need(
    component: Any, needed: set[str]
) -> None:
    """A pod that finds its work finished must not wait for TensorFlow, nor need its memory."""
    source = textwrap.dedent(inspect.getsource(component.python_func))
    (function,) = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    imports = [ast.unparse(n) for n in function.body if isinstance(n, ast.Import | ast.ImportFrom)]
    assert imports
    program = "\n".join([*imports, "import sys", "print(*sys.modules)"])

    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()

    optional = {"boto3", "botocore", "h5py", "mlflow", "pandas", "model_registry", "google.auth"}
    assert (SLOW_PACKAGES | optional) & set(loaded) == needed
