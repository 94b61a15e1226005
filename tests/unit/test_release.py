"""The release workflow must be valid, and repot and make must accept its command lines."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from repot import __version__
from repot.container_images import CPU_IMAGE, TRAINER_IMAGE
from repot_pipelines.cli import repot

ROOT = Path(__file__).parent.parent.parent
WORKFLOW = ROOT / ".github" / "workflows" / "release.yml"
SPEC = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))
SCRIPTS = [step["run"] for step in SPEC["jobs"]["release"]["steps"] if "run" in step]
DIGEST = f"sha256:{'1' * 64}"


def run_script(words: str, folder: Path, programs: dict[str, str]) -> list[str]:
    """Run the script with these words and fake programs; return what they write to `output`."""
    (script,) = [script for script in SCRIPTS if words in script]
    for name, text in programs.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    environment = {"PATH": f"{folder}:/usr/bin:/bin", "IMAGE_PREFIX": "here/repot"}
    environment["GITHUB_REF_NAME"] = f"v{__version__}"
    subprocess.run(["bash", "-e", "-c", script], cwd=folder, env=environment, check=True)
    return (folder / "output").read_text(encoding="utf-8").split()


def test_workflow_is_valid() -> None:
    pytest.importorskip("check_jsonschema", reason="pip install check-jsonschema")
    command = [
        sys.executable,
        "-m",
        "check_jsonschema",
        "--builtin-schema",
        "vendor.github-workflows",
        str(WORKFLOW),
    ]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_are_valid_shell_without_interpolated_expressions(script: str) -> None:
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert "${{" not in script


def test_base_image_matches_the_dockerfiles() -> None:
    base = SPEC["jobs"]["release"]["env"]["BASE_IMAGE"]

    for name in ("cpu", "trainer"):
        dockerfile = (ROOT / "images" / name / "Dockerfile").read_text(encoding="utf-8")
        assert re.findall(r"(?m)^ARG BASE_IMAGE=(.*)$", dockerfile) == [base]


def test_image_names_match_the_pipeline() -> None:
    prefix = SPEC["jobs"]["release"]["env"]["IMAGE_PREFIX"].replace(
        "${{ github.repository_owner }}", "repot"
    )

    assert [f"{prefix}-{name}:{__version__}" for name in ("cpu", "trainer")] == [
        CPU_IMAGE,
        TRAINER_IMAGE,
    ]


def test_pipeline_is_compiled_with_the_pushed_digests(tmp_path: Path) -> None:
    programs = {
        "docker": f'test "$2" = inspect && echo "${{5%%:*}}@{DIGEST}"',
        ".venv/bin/repot": 'echo "$@" > output',
    }

    name, *words = run_script("repot compile", tmp_path, programs)

    params = repot.commands[name].make_context(name, words).params
    assert params["cpu_image"] == f"here/repot-cpu@{DIGEST}"
    assert params["trainer_image"] == f"here/repot-trainer@{DIGEST}"
    assert str(params["output"]) in next(
        script for script in SCRIPTS if "gh release" in script
    ).replace("${GITHUB_REF_NAME#v}", __version__)


@pytest.mark.parametrize(("index", "code"), [("test $4 = pip", 0), ("true", 1), ("false", 1)])
def test_release_stops_if_repot_is_on_an_index_or_the_index_is_unreachable(
    index: str, code: int, tmp_path: Path
) -> None:
    (script,) = [script for script in SCRIPTS if "pip index" in script]
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\n# -m pip index versions NAME\nset -- $2 $3 $4 $5\n{index}\n")
    python.chmod(0o755)

    done = subprocess.run(["bash", "-e", "-c", script], cwd=tmp_path, check=False)

    assert done.returncode == code


def test_release_has_the_wheel_and_its_checksum(tmp_path: Path) -> None:
    (script,) = [script for script in SCRIPTS if "pip wheel" in script]
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\nmkdir dist && echo wheel > dist/repot-1-py3-none-any.whl\n")
    python.chmod(0o755)

    subprocess.run(["bash", "-e", "-c", script], cwd=tmp_path, check=True)

    check = ["sha256sum", "--check", "SHA256SUMS"]
    done = subprocess.run(check, cwd=tmp_path / "dist", capture_output=True, text=True, check=True)
    assert done.stdout == "repot-1-py3-none-any.whl: OK\n"
    release = next(script for script in SCRIPTS if "gh release" in script)
    assert "dist/*.whl dist/SHA256SUMS" in release


def test_makefile_accepts_prefix_and_base_image_of_the_workflow() -> None:
    (line,) = [
        line for script in SCRIPTS for line in script.splitlines() if line.startswith("make images")
    ]
    words = shlex.split(line.replace("$base", f"python@{DIGEST}"))

    command = [*words, "--dry-run", "IMAGE_BUILD=docker build", "IMAGE_PREFIX=here/repot"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)

    assert f"--build-arg BASE_IMAGE=python@{DIGEST}" in done.stdout
    assert f"--tag here/repot-trainer:{__version__}" in done.stdout
