"""The interface to the CI system: the commit that it builds, and the files for the comment."""

import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from repot import __version__
from repot.errors import UsageError

COMMIT_VARIABLES = ("GITHUB_SHA", "CI_COMMIT_SHA", "COMMIT_SHA")
"""GitHub Actions, GitLab CI, Cloud Build (whose build file must pass it on)."""

SUMMARY_VARIABLE = "GITHUB_STEP_SUMMARY"
COMMIT_LENGTH = 12


def read_commit(environment: Mapping[str, str], folder: Path) -> str:
    """Return the commit that is built, from the CI system or else from Git; "" if there is none.

    Args:
        environment: Environment variables by name.
        folder: The Git checkout to fall back on.
    """
    variables = (environment[name] for name in COMMIT_VARIABLES if environment.get(name))
    commit = next(variables, "") or _git_commit(folder)
    return commit.strip().lower() if re.fullmatch(r"\s*[0-9a-fA-F]{7,64}\s*", commit) else ""


def commit_version(commit: str) -> str:
    """Return the pipeline version's name: repot's version and the commit; "" without a commit."""
    return f"{__version__}-{commit[:COMMIT_LENGTH]}" if commit else ""


def summary_path(environment: Mapping[str, str]) -> Path | None:
    """Return the file that GitHub shows as the summary of the job; None elsewhere."""
    return Path(environment[SUMMARY_VARIABLE]) if environment.get(SUMMARY_VARIABLE) else None


@dataclass(frozen=True, kw_only=True, slots=True)
class CommentFiles:
    """The files that the comment is written to.

    Attributes:
        path: File that holds only the comment, for the workflow to post; None for none.
        summary_path: File that the comment is appended to; None for none.
        clean: Masks secrets in the comment.
    """

    path: Path | None
    summary_path: Path | None
    clean: Callable[[str], str]

    def open(self, comment: str) -> None:
        """Replace the comment of an earlier job; this text remains if the job is killed.

        Raises:
            UsageError: The file cannot be written.
        """
        if self.path is None:
            return
        try:
            self.path.write_text(self.clean(comment), encoding="utf-8")
        except OSError as err:
            raise UsageError(
                f"--comment-file must name a writable file; got {self.path}: {err.strerror}. "
                "Create its folder first, or name another file."
            ) from err

    def write(self, comment: str) -> list[str]:
        """Write the comment to both files; return one message per file that cannot be written."""
        text = self.clean(comment)
        return [*_write(self.path, text, mode="w"), *_write(self.summary_path, text, mode="a")]


def _write(path: Path | None, text: str, *, mode: str) -> list[str]:
    if path is None:
        return []
    try:
        with path.open(mode, encoding="utf-8") as file:
            file.write(text)
    except OSError as err:
        return [f"The comment cannot be written to {path}: {err.strerror}."]
    return []


def _git_commit(folder: Path) -> str:
    git = shutil.which("git")
    if git is None:
        return ""
    done = subprocess.run(  # noqa: S603 - fixed arguments
        [git, "rev-parse", "--verify", "HEAD"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout if done.returncode == 0 else ""
