"""The real command line in this process: what it prints, and its exit code."""

import contextlib
import io
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from repot_pipelines import cli


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a command ended."""

    exit_code: int
    output: str
    errors: str


def run_repot(*arguments: str | Path) -> Ended:
    """Run `repot` with these arguments."""
    output, errors, before, handler = (
        io.StringIO(),
        io.StringIO(),
        sys.argv,
        signal.getsignal(signal.SIGTERM),
    )
    sys.argv = ["repot", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            cli.main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
        return Ended(exit_code=code, output=output.getvalue(), errors=errors.getvalue())
    finally:
        sys.argv = before
        signal.signal(signal.SIGTERM, handler)
    raise AssertionError("the command line must end with an exit code")
