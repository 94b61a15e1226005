"""Processes that write the same object at once, on every kind of storage."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from repot import storage
from tests.integration.faulty_proxy import proxy_of

NUM_PROCESSES = 8
# On s3:// a swap takes its time, here 2 s: whoever is slower than that on this machine may not be noticed.
NUM_SWAPS = {"local": 10, "gs": 10, "s3": 2, "s3 that ignores conditions": 1}

# Each waits for the line that starts them all, so that the imports are over.
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
    with proxy_of(request.getfixturevalue("s3_endpoint")) as proxy:
        proxy.dropped = {"if-match", "if-none-match"}
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        yield uri


def race(program: str, uri: str, kind: str) -> list[str]:
    """Run the program in several processes at once, and return what each printed last."""
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
    answers = [racer.communicate()[0].strip() for racer in racers]
    assert [racer.returncode for racer in racers] == [0] * NUM_PROCESSES
    return answers


def test_of_racing_create_only_writes_one_wins(kind: str, folder_uri: str) -> None:
    uri = f"{folder_uri}/x"
    answers = race(CREATE, uri, kind)
    assert sorted(answers) == ["lost"] * (NUM_PROCESSES - 1) + ["won"]
    assert storage.read_bytes(uri) == str(answers.index("won")).encode() * 100_000


def test_racing_swaps_lose_no_update(kind: str, folder_uri: str) -> None:
    uri = f"{folder_uri}/counter"
    # As many digits from the first to the last, so that a version is told by its time alone.
    storage.write_bytes(uri, b"000000")
    race(COUNT, uri, kind)
    assert int(storage.read_bytes(uri)) == NUM_PROCESSES * NUM_SWAPS[kind]
    assert [info.uri for info in storage.list_objects(folder_uri)] == [uri]
    if storage.is_local(folder_uri):
        assert [path.name for path in Path(folder_uri).iterdir()] == ["counter"]
