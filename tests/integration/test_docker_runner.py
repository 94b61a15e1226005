"""`repot run --runner docker`: the pipeline in containers of a real image, all removed at the end.

REPOT_CPU_IMAGE selects the image (`make images` builds one); a Docker daemon must answer, on this
machine or at DOCKER_HOST.
"""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.integration.command_line import REPOT, repot

IMAGE = os.environ.get("REPOT_CPU_IMAGE", "")
needs_image = pytest.mark.skipif(
    not IMAGE, reason="set REPOT_CPU_IMAGE to an image that `make images` built"
)


def containers() -> str:
    listed = ["docker", "ps", "--all", "--quiet", "--filter", "label=repot-run"]
    return subprocess.run(listed, capture_output=True, text=True, check=True).stdout


def test_missing_docker_daemon_is_reported_before_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/missing.sock")
    done = repot("run", "--sample", "--runner", "docker", cwd=tmp_path)
    assert done.returncode == 1
    assert "Start Docker, or set DOCKER_HOST" in done.stderr
    assert "Traceback" not in done.stderr


@needs_image
def test_unavailable_image_is_reported_before_the_run(tmp_path: Path) -> None:
    images = ["--cpu-image", IMAGE, "--trainer-image", "localhost:1/nothing:0"]
    done = repot("run", "--sample", "--runner", "docker", *images, cwd=tmp_path)
    assert done.returncode == 1
    assert "The image localhost:1/nothing:0 must be on this machine" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "repot-storage").exists()


@needs_image
@pytest.mark.slow
def test_pipeline_runs_in_containers_and_removes_them(tmp_path: Path) -> None:
    images = ["--cpu-image", IMAGE, "--trainer-image", IMAGE]
    done = repot("run", "--sample", "--runner", "docker", *images, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "repot-output" / "metrics.json").read_text())["promoted"] is True
    assert containers() == ""


@needs_image
@pytest.mark.slow
@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_run_removes_its_containers(signal_number: int, tmp_path: Path) -> None:
    options = [
        "--sample",
        "--epochs",
        "5000",
        "--runner",
        "docker",
        "--cpu-image",
        IMAGE,
        "--trainer-image",
        IMAGE,
    ]
    with subprocess.Popen(
        [*REPOT, "run", *options], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert any(line.startswith("train ...") for line in process.stdout)
        process.send_signal(signal_number)
        process.wait(timeout=30)
    for _ in range(50):
        if containers() == "":
            return
        subprocess.run(["sleep", "0.2"], check=True)
    pytest.fail(f"containers remain: {containers()}")
