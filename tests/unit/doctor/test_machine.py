from pathlib import Path

import pytest

from repot_pipelines.doctor import machine
from repot_pipelines.doctor.results import OK, PROBLEM, WARNING


@pytest.mark.parametrize(
    ("free_bytes", "state"),
    [
        (machine.MIN_MEMORY_BYTES - 1, PROBLEM),
        (machine.MIN_MEMORY_BYTES, WARNING),
        (machine.RECOMMENDED_MEMORY_BYTES - 1, WARNING),
        (machine.RECOMMENDED_MEMORY_BYTES, OK),
    ],
)
def test_memory_has_a_minimum_and_a_recommendation(free_bytes: int, state: str) -> None:
    assert machine.check_memory(free_bytes).state == state


@pytest.mark.parametrize(
    ("min_bytes", "recommended_bytes", "state"),
    [(0, 0, OK), (0, 1 << 62, WARNING), (1 << 62, 1 << 62, PROBLEM)],
)
def test_disk_has_a_minimum_and_a_recommendation(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    min_bytes: int,
    recommended_bytes: int,
    state: str,
) -> None:
    monkeypatch.setattr(machine, "MIN_DISK_BYTES", min_bytes)
    monkeypatch.setattr(machine, "RECOMMENDED_DISK_BYTES", recommended_bytes)

    result = machine.check_disk("disk", tmp_path / "not" / "there")

    assert result.state == state
    assert str(tmp_path) in result.finding


def test_nearest_existing_folder_skips_missing_parents(tmp_path: Path) -> None:
    assert machine.nearest_existing_folder(tmp_path / "a" / "b") == tmp_path
    assert machine.nearest_existing_folder(tmp_path) == tmp_path


def test_free_memory_is_a_plausible_number() -> None:
    assert 0 < machine.free_memory_bytes() < 1 << 50


def test_memory_limit_of_a_container_is_respected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit, used, statistics = (tmp_path / f"memory.{name}" for name in ("max", "current", "stat"))
    monkeypatch.setattr(machine, "_CGROUP_LIMIT_PATH", limit)
    monkeypatch.setattr(machine, "_CGROUP_USED_PATH", used)
    monkeypatch.setattr(machine, "_CGROUP_STATISTICS_PATH", statistics)
    without_container = machine.free_memory_bytes()
    limit.write_text("5000\n")
    used.write_text("2000\n")
    statistics.write_text("anon 500\nfile 1500\ninactive_file 1200\nactive_file 300\n")

    assert machine.free_memory_bytes() == 4200  # files that were read once do not count
    statistics.write_text("anon 2000\n")
    assert machine.free_memory_bytes() == 3000
    limit.write_text("max\n")
    assert machine.free_memory_bytes() > 3000
    assert without_container > 3000


def test_without_meminfo_the_total_memory_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    available = machine._machine_memory_bytes()
    monkeypatch.setattr(machine, "_MEMINFO_PATH", tmp_path / "none")

    assert machine._machine_memory_bytes() > available


@pytest.mark.parametrize(
    ("layers", "platform", "state", "expected"),
    [
        (("limits", "Landlock 7", "seccomp"), "linux", OK, "with limits, Landlock 7, seccomp"),
        (("limits", "namespaces", "seccomp"), "linux", WARNING, "without Landlock."),
        (("limits",), "linux", WARNING, "without Landlock and seccomp."),
        (("limits",), "darwin", OK, "the other layers exist on Linux only"),
    ],
)
def test_missing_layers_of_the_sandbox_are_named(
    layers: tuple[str, ...], platform: str, state: str, expected: str
) -> None:
    result = machine.read_sandbox(layers, platform=platform)

    assert result.state == state
    assert expected in result.finding


def test_sandbox_of_this_machine_is_checked() -> None:
    assert "limits" in machine.check_sandbox().finding
