"""Python's and NumPy's global random states belong to the caller; storage never draws from them.

A training seeds them once. If a request or its repetition drew from them, one fault of the network
would give other weights.
"""

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from repot import storage
from repot.storage.s3 import objects, transfer
from tests.integration.faulty_proxy import FaultyProxy, run_proxy

_UPLOAD_BYTES = (8 << 20) + 1  # On gs:// a resumable upload of several requests.


@pytest.fixture(params=["gcs", "s3"])
def proxy(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[FaultyProxy, str]]:
    """Run a proxy in front of an object store; yield it and a bucket."""
    bucket = str(request.getfixturevalue(request.param))
    monkeypatch.setattr(objects, "SETTLE_SECONDS", 0.0)
    with run_proxy(request.getfixturevalue(f"{request.param}_endpoint")) as server:
        name = "STORAGE_EMULATOR_HOST" if request.param == "gcs" else "AWS_ENDPOINT_URL_S3"
        monkeypatch.setenv(name, server.url)
        yield server, bucket


def use_storage(folder_uri: str, folder: Path) -> None:
    """Make every kind of request."""
    info = storage.write_bytes(f"{folder_uri}/a", b"1", if_absent=True)
    storage.swap_bytes(f"{folder_uri}/a", b"2", expected_version=info.version)
    storage.stat(f"{folder_uri}/a")
    storage.list_objects(folder_uri)
    storage.read_bytes(f"{folder_uri}/a")
    storage.copy(f"{folder_uri}/a", f"{folder_uri}/b")
    (folder / "large").write_bytes(bytes(_UPLOAD_BYTES))
    storage.upload(folder / "large", f"{folder_uri}/large")
    storage.download(f"{folder_uri}/large", folder / "copy")
    storage.check_writable(folder_uri)
    storage.delete_folder(folder_uri)


def test_requests_and_their_repetition_leave_the_global_random_states(
    proxy: tuple[FaultyProxy, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, bucket = proxy
    monkeypatch.setattr("repot.storage.retries._FIRST_PAUSE_SECONDS", 0.01)
    states = random.getstate(), np.random.get_state()
    use_storage(f"{bucket}/folder", tmp_path)
    num_requests = len(server.requests)
    server.requests.clear()
    transfer._check_bucket.cache_clear()
    server.refuse_every_second_request()
    use_storage(f"{bucket}/folder", tmp_path)
    # Each request was refused once.
    assert len(server.requests) == 2 * num_requests
    assert random.getstate() == states[0]
    for now, before in zip(np.random.get_state(), states[1], strict=True):
        assert np.array_equal(now, before)
