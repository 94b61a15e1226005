"""The wheel contains everything that an editable checkout has."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


def build(target: str, source: Path, folder: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    return zipfile.ZipFile(build("wheel", ROOT, tmp_path_factory.mktemp("wheel")))


def test_wheel_contains_every_file_of_both_packages(wheel: zipfile.ZipFile) -> None:
    sources = [
        path.relative_to(parent).as_posix()
        for parent in (ROOT / "components", ROOT / "pipelines")
        for package in ("repot", "repot_pipelines")
        for path in (parent / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]

    assert set(sources) <= set(wheel.namelist())
    assert {
        "repot/py.typed",
        "repot_pipelines/py.typed",
        "repot_pipelines/sample/PROVENANCE.md",
    } <= set(sources)


def test_wheel_contains_the_compiled_pipeline(wheel: zipfile.ZipFile) -> None:
    committed = ROOT / "pipelines" / "compiled" / "finetune.yaml"

    assert wheel.read("repot_pipelines/compiled/finetune.yaml") == committed.read_bytes()


def test_wheel_contains_only_the_packages_and_their_metadata(wheel: zipfile.ZipFile) -> None:
    top_folders = {name.split("/")[0] for name in wheel.namelist()}

    assert {top.split("-")[0] for top in top_folders} == {"repot", "repot_pipelines"}


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_wheel_with_an_extra_works_in_a_new_environment(tmp_path: Path) -> None:
    """The commands of docs/installation.md, with the package index that pip is configured for."""
    page = (ROOT / "docs" / "installation.md").read_text(encoding="utf-8")
    commands = re.search(r"```sh\n(.*pip wheel(?:.|\n)*?)```", page)
    assert commands
    checkout = tmp_path / "checkout"
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (checkout / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, checkout / name)
    venv.create(tmp_path / "venv", with_pip=True)
    path = f"{tmp_path / 'venv' / 'bin'}:/usr/bin:/bin"
    environment = {**os.environ, "PATH": path}

    subprocess.run(["bash", "-ec", commands[1]], cwd=checkout, env=environment, check=True)

    shutil.rmtree(checkout)
    program = "import boto3, repot, repot_pipelines; print(repot.__file__)"
    for command in (
        ["python", "-c", program],
        ["repot", "doctor", "--format", "json"],
        ["python", "-m", "pip", "check"],
    ):
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert str(ROOT) not in done.stdout


def test_wheel_built_from_the_source_distribution_is_identical(
    wheel: zipfile.ZipFile, tmp_path: Path
) -> None:
    archive = build("sdist", ROOT, tmp_path / "sdist")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()

    again = zipfile.ZipFile(build("wheel", unpacked, tmp_path / "wheel"))

    assert {info.filename: info.CRC for info in again.infolist()} == {
        info.filename: info.CRC for info in wheel.infolist()
    }
