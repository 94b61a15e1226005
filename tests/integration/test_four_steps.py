"""The four steps of 2016, as the README shows them, except for the download of the checkpoint."""

import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import repot_pipelines
from repot.backbone_weights import save_weights, stable_names
from repot.json_record import read_record
from repot.training_record import TrainingRecord
from repot.zoo import build_backbone

ROOT = Path(__file__).parents[2]
SAMPLE = Path(repot_pipelines.__file__).parent / "sample" / "pictures"


def example() -> str:
    """Return the README's commands."""
    section = (ROOT / "README.md").read_text("utf-8").partition("## The four steps of 2016")[2]
    found = re.search(r"```sh\n(.*?)```", section, re.DOTALL)
    assert found
    return found[1]


def run_example(folder: Path, changes: dict[str, str]) -> tuple[str, str]:
    """Run the README's commands on the sample with some texts replaced; return both outputs."""
    shutil.copytree(SAMPLE, folder / "pictures")
    labels = sorted(path.name for path in (SAMPLE / "train").iterdir())
    (folder / "labels.txt").write_text("".join(f"{label}\n" for label in labels))
    commands = example()
    for text, replacement in changes.items():
        assert commands.count(text) == 1
        commands = commands.replace(text, replacement)

    done = subprocess.run(
        ["sh", "-e", "-c", commands],
        cwd=folder,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_example_with_the_installed_weights_trains_a_good_model(tmp_path: Path) -> None:
    output, errors = run_example(
        tmp_path,
        {
            "inception-v3-2016-03-01": "efficientnet-lite0 --backbone efficientnet_lite0",
            "--fine-tune --initial-learning-rate 0.001": "--backbone efficientnet_lite0",
        },
    )

    warnings = [line for line in errors.splitlines() if "warning" in line]
    assert [line for line in warnings if "labels that may be wrong" not in line] == []
    precision = re.search(r"precision @ 1 = ([\d.]+)", output)
    assert precision is not None
    assert float(precision[1]) >= 0.75


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_example_trains_inception_v3_as_in_2016(tmp_path: Path) -> None:
    backbone = build_backbone("inception_v3", image_size=75)
    names = stable_names(backbone)
    weights = dict(zip(names, backbone.get_weights(), strict=True))
    save_weights(tmp_path / "inception.h5", weights)

    output, errors = run_example(
        tmp_path,
        {
            "inception-v3-2016-03-01": "inception.h5",  # random weights, not a download
            "--initial-learning-rate 0.001": "--initial-learning-rate 0.001 --image-size 75 "
            "--num-epochs 2",
        },
    )

    assert "precision @ 1 = " in output
    assert "should take at least 1000 steps; got 4." in " ".join(errors.split())
    record = read_record(f"{tmp_path}/train/training.json", TrainingRecord)
    assert (record.settings.recipe, record.last_epoch.phase) == ("inception_2016",) * 2
    assert record.settings.learning_rate == 0.001
    assert math.isfinite(record.last_epoch.train_loss)
