import os
from pathlib import Path

import pytest

from repot import progress
from repot_pipelines.local.events import Event, follow_events, forward_events


def test_follow_reads_incomplete_lines_once_they_are_complete(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    chunks = iter([b'{"event": "sta', b'rted"}\n{"event"', b': "finished"}\n'])

    def append_next() -> bool:
        chunk = next(chunks, None)
        if chunk is not None:
            with path.open("ab") as file:
                file.write(chunk)
        return chunk is None

    path.touch()
    with path.open("rb") as stream:
        events = list(follow_events(stream, append_next))

    assert [event["event"] for event in events] == ["started", "finished"]


def test_forward_passes_on_every_event_of_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(progress.EVENTS_VARIABLE, raising=False)
    events: list[Event] = []

    with forward_events(events.append), progress.task("plan"):
        progress.report("plan", 1, 2, unit="pictures")

    assert [event["event"] for event in events] == ["started", "progress", "finished"]
    assert progress.EVENTS_VARIABLE not in os.environ
