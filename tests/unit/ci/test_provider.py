import subprocess
from pathlib import Path

import pytest

from repot import __version__
from repot.errors import UsageError
from repot_pipelines.ci.provider import CommentFiles, commit_version, read_commit, summary_path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize("name", ["GITHUB_SHA", "CI_COMMIT_SHA", "COMMIT_SHA"])
def test_commit_comes_from_the_variable_of_the_ci_system(name: str, tmp_path: Path) -> None:
    assert read_commit({name: COMMIT.upper()}, tmp_path) == COMMIT


def test_commit_comes_from_git_without_a_variable(tmp_path: Path) -> None:
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    assert read_commit({"COMMIT_SHA": ""}, tmp_path) == ""
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "--message", "x"], check=True)
    head = subprocess.run(
        [*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True
    ).stdout.strip()

    assert read_commit({}, tmp_path) == head


@pytest.mark.parametrize("value", ["main", "012345", "0" * 65, "$COMMIT_SHA"])
def test_value_that_is_not_a_commit_is_ignored(value: str, tmp_path: Path) -> None:
    assert read_commit({"COMMIT_SHA": value}, tmp_path) == ""


def test_version_name_joins_version_of_repot_and_commit() -> None:
    assert commit_version(COMMIT) == f"{__version__}-0123456789ab"
    assert commit_version("") == ""


def test_summary_path_comes_from_the_variable_of_github() -> None:
    assert summary_path({"GITHUB_STEP_SUMMARY": "/x/y"}) == Path("/x/y")
    assert summary_path({"GITHUB_STEP_SUMMARY": ""}) is None
    assert summary_path({}) is None


def test_comment_replaces_its_file_and_is_appended_to_the_summary(tmp_path: Path) -> None:
    path, summary = tmp_path / "comment.md", tmp_path / "summary.md"
    path.write_text("earlier\n")
    summary.write_text("earlier\n")
    files = CommentFiles(path=path, summary_path=summary, clean=str.upper)

    files.open("first")
    assert path.read_text() == "FIRST"
    assert files.write("last") == []

    assert path.read_text() == "LAST"
    assert summary.read_text() == "earlier\nLAST"


def test_unwritable_comment_file_is_a_usage_error_at_first_and_a_message_later(
    tmp_path: Path,
) -> None:
    files = CommentFiles(path=tmp_path, summary_path=tmp_path, clean=str)

    with pytest.raises(UsageError, match="--comment-file must name a writable file"):
        files.open("text")
    assert len(files.write("text")) == 2


def test_without_files_nothing_is_written() -> None:
    files = CommentFiles(path=None, summary_path=None, clean=str)

    files.open("text")
    assert files.write("text") == []
