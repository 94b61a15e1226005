import subprocess
from pathlib import Path

import pytest

from repot import __version__
from repot_pipelines.ci.provider import commit_version, read_commit, summary_path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize("name", ["GITHUB_SHA", "CI_COMMIT_SHA", "COMMIT_SHA"])
def test_commit_is_what_the_ci_system_says(name: str, tmp_path: Path) -> None:
    assert read_commit({name: COMMIT.upper()}, tmp_path) == COMMIT


def test_commit_is_that_of_the_folder_elsewhere(tmp_path: Path) -> None:
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    assert read_commit({"COMMIT_SHA": ""}, tmp_path) == ""
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "--message", "x"], check=True)
    head = subprocess.run(
        [*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True
    ).stdout.strip()

    assert read_commit({}, tmp_path) == head


@pytest.mark.parametrize("told", ["main", "012345", "0" * 65, "$COMMIT_SHA"])
def test_what_is_no_commit_names_no_version(told: str, tmp_path: Path) -> None:
    assert read_commit({"COMMIT_SHA": told}, tmp_path) == ""


def test_version_is_named_after_repot_and_the_commit() -> None:
    assert commit_version(COMMIT) == f"{__version__}-0123456789ab"
    assert commit_version("") == ""


def test_summary_is_where_github_wants_it() -> None:
    assert summary_path({"GITHUB_STEP_SUMMARY": "/x/y"}) == Path("/x/y")
    assert summary_path({"GITHUB_STEP_SUMMARY": ""}) is None
    assert summary_path({}) is None
