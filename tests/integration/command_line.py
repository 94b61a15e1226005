"""Run the console command in a process of its own, as a user does."""

import os
import subprocess
import sys
from pathlib import Path

# -P: like the console script, and unlike -c alone, not with the working folder on the import path.
REPOT = [sys.executable, "-P", "-c", "from repot_pipelines.cli import main; main()"]


def repot(*arguments: str, cwd: Path, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    """Run `repot ARGUMENTS` and return its output and exit code."""
    return subprocess.run(
        [*REPOT, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env=dict(os.environ),
    )
