"""The four steps of 2016, exactly as the README shows them."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import repot_pipelines

ROOT = Path(__file__).parents[2]
SAMPLE = Path(repot_pipelines.__file__).parent / "sample" / "pictures"


def example() -> str:
    """Return the README's commands."""
    section = (ROOT / "README.md").read_text("utf-8").partition("## The four steps of 2016")[2]
    found = re.search(r"```sh\n(.*?)```", section, re.DOTALL)
    assert found
    return found[1]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_example_trains_a_good_model_without_a_warning(tmp_path: Path) -> None:
    shutil.copytree(SAMPLE, tmp_path / "pictures")
    labels = sorted(path.name for path in (SAMPLE / "train").iterdir())
    (tmp_path / "labels.txt").write_text("".join(f"{label}\n" for label in labels))

    done = subprocess.run(
        ["sh", "-e", "-c", example()],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr
    precision = re.search(r"precision @ 1 = ([\d.]+)", done.stdout)
    assert precision is not None
    assert float(precision[1]) >= 0.75
