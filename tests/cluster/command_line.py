"""Run `repot` in a process of its own against the cluster of the tests."""

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster.cluster_settings import ClusterSettings
from tests.cluster.waiting import RUN_SECONDS
from tests.integration.command_line import REPOT

_RUN = re.compile(r"^run +.*?([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class CommandResult:
    """Output and exit code of a command."""

    arguments: tuple[str, ...]
    exit_code: int
    output: str
    errors: str

    @property
    def run_id(self) -> str:
        """Return the id of the run that it started."""
        found = _RUN.search(self.output)
        assert found, f"the command started no run:\n{self}"
        return found[1]

    def expect(self, exit_code: int) -> "CommandResult":
        """Fail the test unless the exit code is this one; return the result."""
        if self.exit_code != exit_code:
            pytest.fail(f"the exit code must be {exit_code}:\n{self}")
        return self

    def __str__(self) -> str:
        command = f"$ repot {' '.join(self.arguments)}"
        return f"{command}\n{self.output}\n{self.errors}\nexit code {self.exit_code}"


@dataclass(frozen=True, kw_only=True)
class CommandLine:
    """Runs `repot` with the environment of the tests.

    Attributes:
        settings: The cluster.
        folder: The working folder.
    """

    settings: ClusterSettings
    folder: Path

    def run(self, *arguments: str, seconds: float = RUN_SECONDS, **variables: str) -> CommandResult:
        """Run `repot ARGUMENTS` and return its result."""
        done = subprocess.run(
            [*REPOT, *arguments],
            cwd=self.folder,
            env=self._environment(variables),
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        return CommandResult(
            arguments=arguments, exit_code=done.returncode, output=done.stdout, errors=done.stderr
        )

    @contextmanager
    def start(self, *arguments: str) -> Iterator["RunningCommand"]:
        """Start `repot ARGUMENTS`; kill it at the end of the block if it still runs."""
        output_path = self.folder / "output.txt"
        with (
            output_path.open("w", encoding="utf-8") as output,
            subprocess.Popen(
                [*REPOT, *arguments],
                cwd=self.folder,
                env=self._environment({}),
                stdout=output,
                stderr=subprocess.STDOUT,
            ) as process,
        ):
            try:
                yield RunningCommand(arguments=arguments, process=process, output_path=output_path)
            finally:
                process.kill()

    def _environment(self, variables: dict[str, str]) -> dict[str, str]:
        # A wide terminal, so that no line wraps.
        return {
            **os.environ,
            **self.settings.variables,
            "COLUMNS": "300",
            "PYTHONUNBUFFERED": "1",
            **variables,
        }


@dataclass(frozen=True, kw_only=True)
class RunningCommand:
    """A command that is running."""

    arguments: tuple[str, ...]
    process: subprocess.Popen[bytes]
    output_path: Path

    @property
    def output(self) -> str:
        """Return its output so far."""
        return self.output_path.read_text(encoding="utf-8")

    def run_id(self) -> str:
        """Return the id of the run that it started; "" if it has not started one yet."""
        if self.process.poll() is not None:
            pytest.fail(
                f"the command ended early:\n$ repot {' '.join(self.arguments)}\n{self.output}"
            )
        found = _RUN.search(self.output)
        return found[1] if found else ""

    def wait(self, seconds: float) -> CommandResult:
        """Wait for its end, and return the result."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            pytest.fail(f"the command did not end within {seconds:.0f} s:\n{self.output}")
        return CommandResult(
            arguments=self.arguments, exit_code=code, output=self.output, errors=""
        )
