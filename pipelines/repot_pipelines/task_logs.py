"""Lines of a task's log without those that Kubeflow adds, which are ten times as many.

On a cluster, KFP's launcher and Argo write into the log of the pod, and everywhere KFP's executor
does. Most of it is one JSON document in a hundred lines. The executor also puts a prefix in front
of what repot logs.

Source: backend/src/v2/component/launcher_v2.go and sdk/python/kfp/dsl/executor_main.py of KFP 2.14
to 2.17; cmd/argoexec of Argo 3.6 to 4.0.
"""

import re
from collections.abc import Iterable, Iterator

_EXECUTOR = re.compile(r"\[KFP Executor [^\]]* (?P<level>[A-Z]+)\]: (?P<text>.*)")
_EXECUTOR_OWN = (
    "--component_module_path is not specified",
    "Did not write output file",
    "Got executor_input",
    "Loading KFP component",
    "Looking for component",
    "Wrote executor output file",
)
_RESULT = "result: {"
"""What `repot.progress.result` logs for programs."""

# Information, warnings and errors of the launcher; it reports why it ends as a fatal error (F).
_LAUNCHER = re.compile(r"[IWE]\d{4} |executorInput=")
_ARGO = re.compile(r"time=\S+ level=")
# How both report that the task's own process ended with an error, after it gave the reason.
_EXIT_STATUS = re.compile(
    r"((F\d{4} .*|Error: )?(failed to execute component: )?exit status \d+)\s*$"
)
_JSON_START = ("{", "[", "executor_input:")
_JSON_LINE = re.compile(r'\s*("[^"]*": .*|[{}\[\]]+,?\s*|\{".*\})$')

# KFP's local runner; the output of a task is indented below "Streamed logs:".
_LOCAL_HEADER = re.compile(r"\d\d:\d\d:\d\d\.\d{3} - [A-Z]+ - (?P<text>.*)")
_LOCAL_TASK = re.compile(r"Executing task '(?P<task>[^']+)'")
_LOCAL_INDENT = "    "
_TERMINAL_CODES = re.compile(r"\x1b\[[0-9;]*m")


class LogFilter:
    """Yields the lines that the task itself wrote into one log; gets the log in parts, in order."""

    def __init__(self) -> None:
        self._is_in_json = False

    def read(self, lines: Iterable[str]) -> Iterator[str]:
        """Yield the task's own lines, without the executor's prefix.

        Args:
            lines: The next lines of the log, without line ends.
        """
        for line in lines:
            text = self._own_text(line)
            if text is not None:
                yield text

    def _own_text(self, line: str) -> str | None:
        if self._is_in_json:
            # Between its first and its last line, a document is indented.
            self._is_in_json = bool(line) and line[0] in " \t{["
            if self._is_in_json or not line or line[0] in "}]":
                return None
        executor = _EXECUTOR.fullmatch(line)
        if executor is None:
            if not (_LAUNCHER.match(line) or _ARGO.match(line) or _EXIT_STATUS.match(line)):
                is_empty = not line.strip() or _JSON_LINE.fullmatch(line)
                return None if is_empty else line
        elif not executor["text"].startswith((*_EXECUTOR_OWN, _RESULT)):
            is_alarm = executor["level"] in ("WARNING", "ERROR", "CRITICAL")
            return f"{executor['level'].lower()}: " * is_alarm + executor["text"]
        self._is_in_json = line.rstrip().endswith(_JSON_START)
        return None


class LocalLogFilter:
    """Yields the lines that tasks wrote into the log of a local run; gets it in parts, in order."""

    def __init__(self) -> None:
        self._task = ""
        self._filter: LogFilter | None = None

    def read(self, lines: Iterable[str]) -> Iterator[str]:
        """Yield the lines of the tasks, each with the task's name in front.

        Args:
            lines: The next lines of the log, without line ends.
        """
        for line in lines:
            header = _LOCAL_HEADER.fullmatch(_TERMINAL_CODES.sub("", line))
            if header is not None:
                started = _LOCAL_TASK.match(header["text"])
                self._task = started["task"] if started else self._task
                self._filter = LogFilter() if header["text"] == "Streamed logs:" else None
            elif self._filter is not None and line.startswith(_LOCAL_INDENT):
                for text in self._filter.read([line.removeprefix(_LOCAL_INDENT)]):
                    yield with_task_name(self._task, text)


def with_task_name(key: str, line: str) -> str:
    """Return a line with the task's name in front, unless it begins with that name already.

    Args:
        key: The task's name in the compiled YAML, e.g. build-shards.
        line: A line that the task wrote.
    """
    prefix = f"{key.replace('-', ' ')}: "
    return line if line.startswith(prefix) else f"{prefix}{line}"


def log_tail(log: str, *, num_lines: int = 12) -> str:
    """Return the last lines that the task itself wrote into a log."""
    lines = [line.rstrip() for line in LogFilter().read(log.splitlines())]
    return "\n".join(lines[-num_lines:])
