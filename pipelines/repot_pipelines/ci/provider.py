"""What the CI system says: the commit that it builds, and where its summary of a job goes."""

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from repot import __version__

COMMIT_VARIABLES = ("GITHUB_SHA", "CI_COMMIT_SHA", "COMMIT_SHA")
"""GitHub Actions, GitLab CI, Cloud Build (whose build file must hand it on)."""

SUMMARY_VARIABLE = "GITHUB_STEP_SUMMARY"
COMMIT_LENGTH = 12


def read_commit(environment: Mapping[str, str], folder: Path) -> str:
    """Return the commit that is built: what the CI system says, else that of the folder; "" where there is none."""
    told = next(
        (environment[name] for name in COMMIT_VARIABLES if environment.get(name)), ""
    ) or _git_commit(folder)
    return told.strip().lower() if re.fullmatch(r"\s*[0-9a-fA-F]{7,64}\s*", told) else ""


def commit_version(commit: str) -> str:
    """Return the name of the pipeline's version: repot's version and the commit; "" without a commit."""
    return f"{__version__}-{commit[:COMMIT_LENGTH]}" if commit else ""


def summary_path(environment: Mapping[str, str]) -> Path | None:
    """Return the file whose content GitHub shows on the page of the job; None elsewhere."""
    return Path(environment[SUMMARY_VARIABLE]) if environment.get(SUMMARY_VARIABLE) else None


def _git_commit(folder: Path) -> str:
    git = shutil.which("git")
    if git is None:
        return ""
    done = subprocess.run(  # noqa: S603 - fixed words
        [git, "rev-parse", "--verify", "HEAD"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout if done.returncode == 0 else ""
