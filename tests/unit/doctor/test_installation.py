import importlib.metadata
import re
from pathlib import Path

import pytest

from repot import checkpoints
from repot.errors import RepotError
from repot_pipelines.compiled import find_compiled
from repot_pipelines.doctor import installation
from repot_pipelines.doctor.installation import (
    check_packages,
    check_python,
    check_tensorflow,
    check_weights,
    installed_versions,
    read_installed_pipeline,
    read_tensorflow_import,
)
from repot_pipelines.doctor.results import OK, PROBLEM

GOOD = {"kfp": "2.17.0", "kfp-kubernetes": "2.17.0", "tensorflow": "2.21.0"}
REQUIREMENTS = [
    "kfp<2.18,>=2.17",
    "kfp-kubernetes<2.18,>=2.17",
    "tensorflow<2.22,>=2.21",
    "pytest; extra == 'test'",
]


def changed(changes: dict[str, str | None]) -> dict[str, str]:
    return {name: version for name, version in {**GOOD, **changes}.items() if version}


@pytest.mark.parametrize(
    ("supported", "state"), [(">=3.11,<3.14", OK), (">=4", PROBLEM), ("<3.11", PROBLEM)]
)
def test_python_version_must_be_supported(supported: str, state: str) -> None:
    assert check_python(supported).state == state


def test_packages_of_this_environment_are_ok() -> None:
    requirements = importlib.metadata.requires("repot") or []

    result = check_packages(requirements, installed_versions())

    assert result.state == OK, result
    assert "kfp 2.17" in result.finding


@pytest.mark.parametrize(
    ("changes", "finding"),
    [
        (
            {"kfp": "2.16.1"},
            (
                "kfp is 2.16.1 and must be <2.18,>=2.17; "
                "kfp and kfp-kubernetes have different releases"
            ),
        ),
        ({"kfp-kubernetes": None}, "kfp-kubernetes is missing"),
        ({"tensorflow": None}, "tensorflow is missing"),
        (
            {"tensorflow": None, "tensorflow-cpu": "2.20.0"},
            "tensorflow is 2.20.0 and must be <2.22,>=2.21",
        ),
    ],
)
def test_every_package_mismatch_is_reported(changes: dict[str, str | None], finding: str) -> None:
    result = check_packages(REQUIREMENTS, changed(changes))

    assert result.state == PROBLEM
    assert finding in result.finding
    assert "pip install" in result.fix
    assert result.fix.split()[-1].strip("'") not in ("repot", "install")
    assert "--upgrade" not in result.fix


@pytest.mark.parametrize(
    "changes", [{}, {"tensorflow": None, "tensorflow-cpu": "2.21.0"}, {"tensorflow": "2.21.0rc1"}]
)
def test_tensorflow_cpu_or_a_release_candidate_meets_the_requirement(
    changes: dict[str, str | None],
) -> None:
    assert check_packages(["tensorflow<2.22,>=2.21rc0"], changed(changes)).state == OK


def test_kfp_packages_of_different_releases_are_a_problem_even_if_each_is_allowed() -> None:
    result = check_packages(
        ["kfp>=2", "kfp-kubernetes>=2"], {"kfp": "2.17.0", "kfp-kubernetes": "2.16.0"}
    )

    assert "kfp and kfp-kubernetes have different releases, 2.17.0 and 2.16.0" in result.finding


def test_tensorflow_of_this_environment_can_be_imported() -> None:
    assert check_tensorflow().state == OK


@pytest.mark.parametrize(
    ("return_code", "output", "errors", "finding"),
    [
        (0, "noise\n0\n", "warnings", "no GPU visible"),
        (0, "1\n", "", "1 GPU visible"),
        (0, "2\n", "", "2 GPUs visible"),
        (-4, "", "", "signal 4"),
        (1, "", "Traceback\n  ...\nImportError: libcudart.so\n", "ImportError: libcudart.so"),
        (1, "", "", "no reason reported"),
    ],
)
def test_exit_of_the_tensorflow_import_is_interpreted(
    return_code: int, output: str, errors: str, finding: str
) -> None:
    result = read_tensorflow_import(return_code, output, errors)

    assert finding in result.finding
    assert (result.state == OK) == (return_code == 0)
    assert bool(result.fix) == (return_code != 0)
    if return_code > 0:
        assert re.search(r"--force-reinstall 'tensorflow[<>=]+\d", result.fix)


def test_installed_pipeline_has_defaults_and_container_images() -> None:
    pipeline = read_installed_pipeline()

    assert pipeline.check.state == OK
    assert str(find_compiled()) in pipeline.check.finding
    assert [name for name, _ in pipeline.container_images] == ["cpu image", "trainer image"]
    assert all("/" in reference and ":" in reference for _, reference in pipeline.container_images)
    assert {
        "accelerator_type",
        "accelerator_count",
        "trainer_node_selector",
        "trainer_tolerations",
    } <= set(pipeline.defaults)


@pytest.mark.parametrize("text", ["", "[", "just text", "root: {}", "pipelineInfo: {name: x}"])
def test_damaged_pipeline_is_a_problem(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "finetune.yaml"
    path.write_text(text)
    monkeypatch.setattr(installation, "find_compiled", lambda: path)

    pipeline = read_installed_pipeline()

    assert pipeline.check.state == PROBLEM
    assert pipeline.check.fix
    assert pipeline.container_images == []


def test_missing_pipeline_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def find() -> Path:
        raise RepotError("The file is missing. Compile it.")

    monkeypatch.setattr(installation, "find_compiled", find)

    assert read_installed_pipeline().check.fix == "Compile it."


def test_packaged_weights_have_the_right_checksum() -> None:
    assert check_weights().state == OK


def test_missing_or_damaged_weights_are_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "weights.pth"
    monkeypatch.setattr(checkpoints, "_installed_weights", lambda: str(path))
    missing = check_weights()
    path.write_bytes(b"not these")
    damaged = check_weights()

    assert (missing.state, damaged.state) == (PROBLEM, PROBLEM)
    assert "not installed" in missing.finding
    assert "SHA-256" in damaged.finding
