from pathlib import Path

import pytest

from repot_pipelines.doctor import machine
from repot_pipelines.doctor.check import OK, PROBLEM, WARNING


@pytest.mark.parametrize(
    ("supported", "state"), [(">=3.11,<3.14", OK), (">=4", PROBLEM), ("<3.11", PROBLEM)]
)
def test_python_is_compared_with_what_the_distribution_supports(supported: str, state: str) -> None:
    assert machine.check_python(supported).state == state


@pytest.mark.parametrize(
    ("free_bytes", "state"),
    [
        (machine.LEAST_MEMORY_BYTES - 1, PROBLEM),
        (machine.LEAST_MEMORY_BYTES, WARNING),
        (machine.GOOD_MEMORY_BYTES - 1, WARNING),
        (machine.GOOD_MEMORY_BYTES, OK),
    ],
)
def test_memory_has_two_bounds(free_bytes: int, state: str) -> None:
    assert machine.check_memory(free_bytes).state == state


@pytest.mark.parametrize(
    ("least_bytes", "good_bytes", "state"),
    [(0, 0, OK), (0, 1 << 62, WARNING), (1 << 62, 1 << 62, PROBLEM)],
)
def test_disk_has_two_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, least_bytes: int, good_bytes: int, state: str
) -> None:
    monkeypatch.setattr(machine, "LEAST_DISK_BYTES", least_bytes)
    monkeypatch.setattr(machine, "GOOD_DISK_BYTES", good_bytes)

    found = machine.check_disk("disk", tmp_path / "not" / "there")

    assert found.state == state
    assert str(tmp_path) in found.finding


def test_nearest_folder_is_the_first_that_exists(tmp_path: Path) -> None:
    assert machine.nearest_folder(tmp_path / "a" / "b") == tmp_path
    assert machine.nearest_folder(tmp_path) == tmp_path


def test_free_memory_is_below_that_of_the_machine() -> None:
    assert 0 < machine.free_memory_bytes() < 1 << 50


def test_limit_of_a_container_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit, used = tmp_path / "memory.max", tmp_path / "memory.current"
    monkeypatch.setattr(machine, "_LIMIT", limit)
    monkeypatch.setattr(machine, "_USED", used)
    unbounded = machine.free_memory_bytes()
    limit.write_text("5000\n")
    used.write_text("2000\n")

    assert machine.free_memory_bytes() == 3000
    limit.write_text("max\n")
    assert machine.free_memory_bytes() > 3000
    assert unbounded > 3000


def test_without_proc_the_whole_memory_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = machine._available_bytes()
    monkeypatch.setattr(machine, "_MEMORY_FACTS", tmp_path / "none")

    assert machine._available_bytes() > free
