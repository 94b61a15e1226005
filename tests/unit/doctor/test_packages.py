import importlib.metadata

import pytest

from repot_pipelines.doctor.check import OK, PROBLEM
from repot_pipelines.doctor.packages import (
    check_packages,
    check_tensorflow,
    installed_versions,
    read_start,
)

GOOD = {"kfp": "2.17.0", "kfp-kubernetes": "2.17.0", "tensorflow": "2.21.0"}
NEEDED = [
    "kfp<2.18,>=2.17",
    "kfp-kubernetes<2.18,>=2.17",
    "tensorflow<2.22,>=2.21",
    "pytest; extra == 'test'",
]


def test_what_is_installed_here_fits() -> None:
    requirements = importlib.metadata.requires("repot") or []

    found = check_packages(requirements, installed_versions())

    assert found.state == OK, found
    assert "kfp 2.17" in found.finding


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            {"kfp": "2.16.1"},
            "kfp is 2.16.1 and must be <2.18,>=2.17; kfp and kfp-kubernetes are of different releases",
        ),
        ({"kfp-kubernetes": None}, "kfp-kubernetes is missing"),
        ({"tensorflow": None}, "tensorflow is missing"),
        (
            {"tensorflow": None, "tensorflow-cpu": "2.20.0"},
            "tensorflow is 2.20.0 and must be <2.22,>=2.21",
        ),
    ],
)
def test_every_misfit_is_told(change: dict[str, str | None], told: str) -> None:
    installed = {name: version for name, version in {**GOOD, **change}.items() if version}

    found = check_packages(NEEDED, installed)

    assert found.state == PROBLEM
    assert told in found.finding
    assert "pip install" in found.fix


@pytest.mark.parametrize(
    "change", [{}, {"tensorflow": None, "tensorflow-cpu": "2.21.0"}, {"tensorflow": "2.21.0rc1"}]
)
def test_a_stand_in_or_a_release_candidate_will_do(change: dict[str, str | None]) -> None:
    installed = {name: version for name, version in {**GOOD, **change}.items() if version}

    assert check_packages(["tensorflow<2.22,>=2.21rc0"], installed).state == OK


def test_pair_of_different_releases_is_a_misfit_even_where_each_would_do() -> None:
    found = check_packages(
        ["kfp>=2", "kfp-kubernetes>=2"], {"kfp": "2.17.0", "kfp-kubernetes": "2.16.0"}
    )

    assert "kfp and kfp-kubernetes are of different releases, 2.17.0 and 2.16.0" in found.finding


def test_tensorflow_starts_here() -> None:
    assert check_tensorflow().state == OK


@pytest.mark.parametrize(
    ("return_code", "output", "errors", "told"),
    [
        (0, "noise\n0\n", "warnings", "sees no GPU here"),
        (0, "1\n", "", "sees 1 GPU here"),
        (0, "2\n", "", "sees 2 GPUs here"),
        (-4, "", "", "signal 4"),
        (1, "", "Traceback\n  ...\nImportError: libcudart.so\n", "ImportError: libcudart.so"),
        (1, "", "", "no reason told"),
    ],
)
def test_end_of_the_import_is_read(return_code: int, output: str, errors: str, told: str) -> None:
    found = read_start(return_code, output, errors)

    assert told in found.finding
    assert (found.state == OK) == (return_code == 0)
    assert bool(found.fix) == (return_code != 0)
