"""Every comparison is recorded once, on every kind of storage, whatever is killed or races."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from repot import layout, storage
from repot.errors import ModelError
from repot.evaluator.comparison_log import (
    MAX_ENTRIES,
    ComparisonEntry,
    ComparisonLog,
    read_comparisons,
    record_comparison,
)
from repot.evaluator.decision_rule import PairedCounts, next_alpha
from repot.evaluator.gate import decide
from repot.evaluator.versions import promote
from repot.model_registry import ChampionChange
from repot.settings import GateSettings
from tests.integration.evaluator.colours import MakeRun
from tests.integration.evaluator.test_gate import FIRST, HALF, evaluate_version

COUNTS = PairedCounts(only_champion=1, only_challenger=3, num_compared=40)
NUM_PROCESSES = 4


@pytest.fixture(params=["local", "gcs", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URI of an empty storage of each kind."""
    return str(tmp_path) if request.param == "local" else request.getfixturevalue(request.param)


def record(uri: str, challenger: str, pictures: str = "p", per_year: int = 365) -> ComparisonEntry:
    return record_comparison(
        uri,
        "m",
        champion="old",
        challenger=challenger,
        pictures_id=pictures,
        counts=COUNTS,
        comparisons_per_year=per_year,
    )[0]


def test_each_comparison_is_recorded_once_with_its_level(store: str) -> None:
    first, second = record(store, "a"), record(store, "b")
    again = record(store, "a")
    # Another setting does not change what a recorded comparison may spend.
    with_other_setting = record(store, "a", per_year=1)
    on_other_pictures = record(store, "a", "q")

    assert (first.number, first.alpha) == (1, next_alpha(0))
    assert (second.number, second.alpha) == (2, next_alpha(1))
    assert again == with_other_setting == first
    assert on_other_pictures.number == 3
    log = read_comparisons(store, "m")
    assert log.num_comparisons == 3
    assert [pairing.challenger for pairing in log.pairings(up_to=2)] == ["a", "b"]
    assert log.entries[0].pairing.counts == COUNTS
    assert read_comparisons(store, "another").num_comparisons == 0


def test_racing_runs_record_all_their_comparisons(store: str) -> None:
    program = (
        "import sys; from repot.evaluator.comparison_log import record_comparison;"
        "from repot.evaluator.decision_rule import PairedCounts;"
        "uri, name = sys.argv[1:]; print('ready', flush=True); sys.stdin.readline();"
        "[record_comparison(uri, 'm', champion='old', challenger=each, pictures_id='p',"
        " counts=PairedCounts(only_champion=0, only_challenger=1, num_compared=2),"
        " comparisons_per_year=365) for each in (name, 'shared', name + ' 2')]"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, store, str(i)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(NUM_PROCESSES)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        process.communicate(timeout=100)
        assert process.returncode == 0

    log = read_comparisons(store, "m")
    names = {entry.challenger for entry in log.entries}
    assert names == {"shared", *(f"{i}{end}" for i in range(NUM_PROCESSES) for end in ("", " 2"))}
    assert [entry.number for entry in log.entries] == list(range(1, len(names) + 1))
    assert log.num_comparisons == len(names)


def test_file_is_bounded_and_keeps_the_number_of_all_comparisons(tmp_path: Path) -> None:
    entries = tuple(
        ComparisonEntry(
            number=i + 1,
            champion="0123456789abcdef",
            challenger=f"{i:016x}",
            pictures_id="0123456789abcdef",
            only_champion=100,
            only_challenger=100,
            num_compared=10_000,
            alpha=1e-4,
        )
        for i in range(MAX_ENTRIES)
    )
    full = ComparisonLog(num_comparisons=MAX_ENTRIES, entries=entries)
    uri = layout.comparisons_uri(str(tmp_path), "m")
    storage.swap_bytes(uri, full.to_text().encode(), expected_version=None)

    entry = record(str(tmp_path), "new")

    log = read_comparisons(str(tmp_path), "m")
    assert entry.number == log.num_comparisons == MAX_ENTRIES + 1
    assert len(log.entries) == MAX_ENTRIES
    assert log.entries[0].number == 2
    assert len(storage.read_bytes(uri)) < 400_000


@pytest.mark.parametrize("content", [b"{", b'{"num_comparisons": "3"}', b"\xff", b"[]"])
def test_damaged_file_is_an_error_that_says_what_to_do(tmp_path: Path, content: bytes) -> None:
    uri = layout.comparisons_uri(str(tmp_path), "m")
    storage.write_bytes(uri, content)

    with pytest.raises(
        ModelError, match=r"comparisons\.json must be a JSON object of .* delete it"
    ):
        record(str(tmp_path), "a")


# The pod is killed when the comparison is recorded and nothing else is.
KILLED = """
import os, signal, sys
from repot.evaluator import gate
from repot.settings import GateSettings
gate.judge = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
gate.decide(storage_uri=sys.argv[1], dataset_id="colours", training_id="new", model_name="m",
            settings=GateSettings(comparisons_per_year=1), decided_at="2026-11-27T14:05:00Z")
"""


@pytest.mark.parametrize("kind", ["local", "gcs"])
def test_killed_gate_spends_nothing_when_it_is_started_again(
    make_run: MakeRun, storage_uri: str, dataset: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    runs = {
        version: make_run(version, colours=colours)
        for version, colours in (("old", HALF), ("new", ("red", "green", "blue")))
    }
    uri = storage_uri
    if kind != "local":
        uri = request.getfixturevalue(kind)
        storage.copy_folder(str(dataset), layout.dataset_uri(uri, "colours"))
        for version, run_uri in runs.items():
            storage.copy_folder(run_uri, layout.run_uri(uri, version))
    for version in runs:
        evaluate_version(uri, version)
    change = ChampionChange(version="old", action="promote", time=FIRST)
    promote(uri, "m", change, expected_champion="none")

    killed = subprocess.run([sys.executable, "-c", KILLED, uri], check=False, capture_output=True)
    recorded = read_comparisons(uri, "m")
    verdict = decide(
        storage_uri=uri,
        dataset_id="colours",
        training_id="new",
        model_name="m",
        settings=GateSettings(comparisons_per_year=1),
        decided_at=FIRST,
    ).verdict

    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert [entry.challenger for entry in recorded.entries] == ["new"]
    assert read_comparisons(uri, "m") == recorded
    assert verdict.comparison is not None
    assert verdict.comparison.rule is not None
    assert verdict.comparison.rule.number == 1
    assert verdict.comparison.rule.alpha == recorded.entries[0].alpha
    assert (recorded.entries[0].only_champion, recorded.entries[0].only_challenger) == (0, 7)
    assert verdict.decision == "promote"
