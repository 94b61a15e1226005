"""Modules that must start fast must not import slow packages."""

import subprocess
import sys

import pytest

SLOW_PACKAGES = {"tensorflow", "keras", "kfp", "kubernetes", "google.cloud.storage", "PIL", "numpy"}


@pytest.mark.parametrize("module", ["repot.settings", "repot_pipelines.cli"])
def test_fast_modules_load_no_slow_package(module: str) -> None:
    program = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()

    assert SLOW_PACKAGES.isdisjoint(loaded)


@pytest.mark.parametrize("module", ["planner.plan", "shard_builder.build", "shard_builder.merge"])
def test_planner_and_shard_builder_never_load_tensorflow(module: str) -> None:
    program = f"import sys, repot.{module}; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()

    assert {"tensorflow", "keras"}.isdisjoint(loaded)
