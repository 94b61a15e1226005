"""Runs the console command as a user does: in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

REPOT = [sys.executable, "-c", "from repot_pipelines.cli import main; main()"]


def repot(*arguments: str, cwd: Path, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    """Run `repot ARGUMENTS` to its end."""
    return subprocess.run(
        [*REPOT, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env=dict(os.environ),
    )
