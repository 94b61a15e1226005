import os
from pathlib import Path

import pytest

from repot import progress
from repot.progress import Event, ProcessExited, TaskFinished, TaskProgress, TaskStarted
from repot_pipelines.local.events import follow_events, forward_events


def test_follow_reads_incomplete_lines_once_they_are_complete(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    chunks = iter(
        [
            b'{"event": "started", "process": "a", "ta',
            b'sk": "plan"}\n{"event": "exited", ',
            b'"process": "b", "status": 1}\n',
        ]
    )

    def append_next() -> bool:
        chunk = next(chunks, None)
        if chunk is not None:
            with path.open("ab") as file:
                file.write(chunk)
        return chunk is None

    path.touch()
    with path.open("rb") as stream:
        events = list(follow_events(stream, append_next))

    assert events == [
        TaskStarted(process="a", task="plan"),
        ProcessExited(process="b", status=1),
    ]


def test_follow_skips_lines_that_are_no_events(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text(
        '{"event": "started", "process\n{"event": "other"}\n{"event": "started", "task": "x"}\n'
        '[]\n{"event": "exited", "process": "b", "status": 1}\n'
    )

    with path.open("rb") as stream:
        events = list(follow_events(stream, lambda: True))

    assert events == [ProcessExited(process="b", status=1)]


def test_forward_passes_on_every_event_of_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(progress.EVENTS_VARIABLE, raising=False)
    events: list[Event] = []

    with forward_events(events.append), progress.task("plan"):
        progress.report("plan", 1, 2, unit="pictures")

    assert [type(event) for event in events] == [TaskStarted, TaskProgress, TaskFinished]
    assert progress.EVENTS_VARIABLE not in os.environ
