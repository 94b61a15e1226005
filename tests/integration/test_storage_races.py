"""Processes that write the same object at once, locally and on Google Cloud Storage."""

import subprocess
import sys
from pathlib import Path

import pytest

from repot import storage

NUM_PROCESSES = 8
NUM_SWAPS = 10

# Each waits for the line that starts them all, so that the imports are over.
START = """
import sys
from repot import storage
from repot.errors import AlreadyExistsError, ConflictError, StorageError
uri, name = sys.argv[1:]
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
COUNT = f"""
done = 0
while done < {NUM_SWAPS}:
    info = storage.stat(uri)
    try:
        number = int(storage.read_bytes(uri, version=info.version)) + 1
        storage.swap_bytes(uri, b"%06d" % number, expected_version=info.version)
        done += 1
    except (ConflictError, StorageError) as err:
        if "change" not in str(err):
            raise
"""


@pytest.fixture(params=["local", "gs"])
def folder_uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "local" else str(request.getfixturevalue("gcs"))


def race(program: str, uri: str) -> list[str]:
    """Run the program in several processes at once, and return what each printed last."""
    command = [sys.executable, "-c", START + program, uri]
    pipe = subprocess.PIPE
    racers = [
        subprocess.Popen([*command, str(number)], stdin=pipe, stdout=pipe, text=True) for number in range(NUM_PROCESSES)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    answers = [racer.communicate()[0].strip() for racer in racers]
    assert [racer.returncode for racer in racers] == [0] * NUM_PROCESSES
    return answers


def test_of_racing_create_only_writes_one_wins(folder_uri: str) -> None:
    uri = f"{folder_uri}/x"
    answers = race(CREATE, uri)
    assert sorted(answers) == ["lost"] * (NUM_PROCESSES - 1) + ["won"]
    assert storage.read_bytes(uri) == str(answers.index("won")).encode() * 100_000


def test_racing_swaps_lose_no_update(folder_uri: str) -> None:
    uri = f"{folder_uri}/counter"
    # As many digits from the first to the last, so that a version is told by its time alone.
    storage.write_bytes(uri, b"000000")
    race(COUNT, uri)
    assert int(storage.read_bytes(uri)) == NUM_PROCESSES * NUM_SWAPS
    assert [info.uri for info in storage.list_objects(folder_uri)] == [uri]
    if storage.is_local(folder_uri):
        assert [path.name for path in Path(folder_uri).iterdir()] == ["counter"]
