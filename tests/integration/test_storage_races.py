"""Processes that write the same object at the same time, on every backend."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from repot import storage
from repot.model_registry import Champion, read_champion
from tests.integration.faulty_proxy import run_proxy

NUM_PROCESSES = 8
# On s3:// each swap takes the settle time, here 2 s; a process slower than that may go unnoticed.
NUM_SWAPS = {"local": 10, "gs": 10, "s3": 2, "s3 that ignores conditions": 1}

# How many different champions are read; a promotion replaces one in milliseconds.
NUM_CHAMPIONS = {"local": 60, "gs": 30, "s3": 15, "s3 that ignores conditions": 10}

# Each process finishes its imports, then waits for the line that starts all of them.
START = """
import sys
from repot import storage
from repot.errors import AlreadyExistsError, ConflictError, StorageError
from repot.storage.s3 import objects as s3_objects
s3_objects.SETTLE_SECONDS = 2.0
uri, name, num_swaps = sys.argv[1:]
storage.exists(uri)
print("ready", flush=True)
sys.stdin.readline()
"""
CREATE = """
try:
    storage.write_bytes(uri, name.encode() * 100_000, if_absent=True)
    print("won")
except AlreadyExistsError:
    print("lost")
"""
COUNT = """
done = 0
while done < int(num_swaps):
    info = storage.stat(uri)
    try:
        number = int(storage.read_bytes(uri, version=info.version)) + 1
        storage.swap_bytes(uri, b"%06d" % number, expected_version=info.version)
        done += 1
    except (ConflictError, StorageError) as err:
        if "change" not in str(err):
            raise
"""

# Replaces a champion until standard input is closed; every champion has the same size.
PROMOTE = """
import threading
from repot.model_registry import Champion, read_champion
closed = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), closed.set()), daemon=True).start()
number, version = 0, read_champion(uri).object_version
s3_objects.SETTLE_SECONDS = 0.0
while not closed.is_set():
    number += 1
    champion = Champion(
        model_name=name, version=f"{number:09d}", dataset_id="d", precision_at_1=number / 1e9
    )
    version = storage.swap_bytes(uri, champion.to_bytes(), expected_version=version).version
print(number)
"""


@pytest.fixture(params=NUM_SWAPS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def folder_uri(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    if kind == "local":
        yield str(tmp_path)
        return
    uri = str(request.getfixturevalue("gcs" if kind == "gs" else "s3"))
    if "ignores" not in kind:
        yield uri
        return
    with run_proxy(request.getfixturevalue("s3_endpoint")) as proxy:
        proxy.dropped_headers = {"if-match", "if-none-match"}
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        yield uri


def race(program: str, uri: str, kind: str) -> list[str]:
    """Run the program in several processes at once, and return the output of each."""
    pipe = subprocess.PIPE
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", START + program, uri, str(number), str(NUM_SWAPS[kind])],
            stdin=pipe,
            stdout=pipe,
            text=True,
        )
        for number in range(NUM_PROCESSES)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    outputs = [racer.communicate()[0].strip() for racer in racers]
    assert [racer.returncode for racer in racers] == [0] * NUM_PROCESSES
    return outputs


def test_champion_can_be_read_while_promotions_replace_it(kind: str, folder_uri: str) -> None:
    uri = f"{folder_uri}/champion.json"
    champion = Champion(model_name="m", version="0", dataset_id="d", precision_at_1=0.0)
    storage.write_bytes(uri, champion.to_bytes())
    command = [sys.executable, "-c", START + PROMOTE, uri, "m", "0"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as promotions:
        assert promotions.stdout is not None
        assert promotions.stdin is not None
        assert promotions.stdout.readline() == "ready\n"
        promotions.stdin.write("go\n")
        promotions.stdin.flush()
        seen: dict[str, Champion] = {}
        while len(seen) < NUM_CHAMPIONS[kind]:
            read, object_version = read_champion(uri)
            assert read is not None
            assert object_version is not None
            # A version is one content.
            assert seen.setdefault(object_version, read) == read
            assert read.precision_at_1 == int(read.version) / 1e9
        num_promotions = int(promotions.communicate()[0])
    assert promotions.returncode == 0
    assert num_promotions >= len(seen) - 1


def test_one_of_racing_create_only_writes_wins(kind: str, folder_uri: str) -> None:
    uri = f"{folder_uri}/x"
    outputs = race(CREATE, uri, kind)
    assert sorted(outputs) == ["lost"] * (NUM_PROCESSES - 1) + ["won"]
    assert storage.read_bytes(uri) == str(outputs.index("won")).encode() * 100_000


def test_racing_swaps_lose_no_update(kind: str, folder_uri: str) -> None:
    uri = f"{folder_uri}/counter"
    # Every value has the same size, so that local versions differ by their time alone.
    storage.write_bytes(uri, b"000000")
    race(COUNT, uri, kind)
    assert int(storage.read_bytes(uri)) == NUM_PROCESSES * NUM_SWAPS[kind]
    assert [info.uri for info in storage.list_objects(folder_uri)] == [uri]
    if storage.is_local(folder_uri):
        assert [path.name for path in Path(folder_uri).iterdir()] == ["counter"]
