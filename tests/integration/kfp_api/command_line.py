"""Run the real command line in this process and capture its output and exit code."""

import contextlib
import io
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from repot_pipelines import cli


@dataclass(frozen=True, kw_only=True)
class CommandResult:
    """Exit code, standard output and standard error of a command."""

    exit_code: int
    output: str
    errors: str


def run_repot(*arguments: str | Path) -> CommandResult:
    """Run `repot` with these arguments."""
    output, errors = io.StringIO(), io.StringIO()
    argv, handler = sys.argv, signal.getsignal(signal.SIGTERM)
    sys.argv = ["repot", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            cli.main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
        return CommandResult(exit_code=code, output=output.getvalue(), errors=errors.getvalue())
    finally:
        sys.argv = argv
        signal.signal(signal.SIGTERM, handler)
    raise AssertionError("the command line must end with an exit code")
