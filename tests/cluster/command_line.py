"""The command line as a user has it: in a process of its own, against the cluster of the tests."""

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

END_SECONDS = 30.0
_RUN = re.compile(r"^run +.*?([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a command ended."""

    words: tuple[str, ...]
    exit_code: int
    output: str
    errors: str

    @property
    def run_id(self) -> str:
        """Return the run that it started."""
        found = _RUN.search(self.output)
        assert found, f"no run was started:\n{self}"
        return found[1]

    def expect(self, exit_code: int) -> "Ended":
        """Return itself, if it ended with this code."""
        if self.exit_code != exit_code:
            pytest.fail(f"it must end with exit code {exit_code}; it did not:\n{self}")
        return self

    def __str__(self) -> str:
        return f"$ repot {' '.join(self.words)}\n{self.output}\n{self.errors}\nexit code {self.exit_code}"


@dataclass(frozen=True, kw_only=True)
class CommandLine:
    """`repot` with the environment of the tests.

    Attributes:
        settings: The cluster.
        folder: The working folder.
    """

    settings: ClusterSettings
    folder: Path

    def run(self, *words: str, seconds: float = RUN_SECONDS, **variables: str) -> Ended:
        """Run `repot WORDS` to its end."""
        done = subprocess.run(
            [*REPOT, *words],
            cwd=self.folder,
            env=self._environment(variables),
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        return Ended(words=words, exit_code=done.returncode, output=done.stdout, errors=done.stderr)

    @contextmanager
    def started(self, *words: str) -> Iterator["Started"]:
        """Start `repot WORDS`; what still runs at the end of the block is killed."""
        output_path = self.folder / "output.txt"
        with (
            output_path.open("w", encoding="utf-8") as output,
            subprocess.Popen(
                [*REPOT, *words],
                cwd=self.folder,
                env=self._environment({}),
                stdout=output,
                stderr=subprocess.STDOUT,
            ) as process,
        ):
            try:
                yield Started(words=words, process=process, output_path=output_path)
            finally:
                process.kill()

    def _environment(self, variables: dict[str, str]) -> dict[str, str]:
        # A wide terminal: no line is broken.
        return {
            **os.environ,
            **self.settings.variables,
            "COLUMNS": "300",
            "PYTHONUNBUFFERED": "1",
            **variables,
        }


@dataclass(frozen=True, kw_only=True)
class Started:
    """A command that runs."""

    words: tuple[str, ...]
    process: subprocess.Popen[bytes]
    output_path: Path

    @property
    def output(self) -> str:
        """Return what it has written so far."""
        return self.output_path.read_text(encoding="utf-8")

    def run_id(self) -> str:
        """Return the run that it started; "" before it did."""
        if self.process.poll() is not None:
            pytest.fail(f"it must go on; it ended:\n$ repot {' '.join(self.words)}\n{self.output}")
        found = _RUN.search(self.output)
        return found[1] if found else ""

    def wait(self, seconds: float) -> Ended:
        """Return how it ended."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            pytest.fail(f"it must end within {seconds:.0f} s; it did not:\n{self.output}")
        return Ended(words=self.words, exit_code=code, output=self.output, errors="")
