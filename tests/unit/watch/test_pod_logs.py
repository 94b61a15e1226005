import datetime
from typing import Any

import pytest

from repot_pipelines.watch import pod_logs
from repot_pipelines.watch.tasks import read_statuses, read_tasks
from tests.unit.watch.run_nodes import PIPELINE, simulated_nodes

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace the server: the last text in the list is the log of every pod."""
    texts = [""]
    monkeypatch.setattr(pod_logs, "read_pod_log", lambda *_: texts[-1])
    return texts


def test_each_line_of_a_growing_log_is_shown_once(log: list[str]) -> None:
    nodes, _ = simulated_nodes({"plan": "Succeeded", "train": "Running"})
    statuses = [
        status
        for status in read_statuses(read_tasks(PIPELINE), nodes, now=NOW)
        if status.task.key == "train"
    ]
    server: Any = None
    follower = pod_logs.PodLogFollower(server, "run", "tasks")

    def new_lines(text: str) -> list[str]:
        log.append(text)
        return list(follower.new_lines(statuses, nodes))

    assert new_lines("a\nb\nhal") == ["train: a", "train: b"]
    assert new_lines("") == []  # the server did not answer
    assert new_lines("a\nb\nhalf\n") == ["train: half"]
    assert new_lines("a\nb\nhalf\n") == []
    # The kubelet begins a new file when the old one is large, and returns that one only.
    assert new_lines("new\n") == ["train: new"]
    assert new_lines("new\nlines\n") == ["train: lines"]
