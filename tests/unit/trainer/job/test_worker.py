import json
from pathlib import Path

import pytest

from repot.errors import DataError, StoppedError, StorageError
from repot.json_record import write_record
from repot.settings import TrainingSettings
from repot.trainer.job import worker
from repot.trainer.job.termination import EXIT_FAILED, EXIT_PERMANENT, EXIT_RESTART, StopRequest
from repot.trainer.job.worker import make_tf_config, run_worker
from repot.trainer.request import TrainingRequest


class UnavailableError(Exception):
    """Named like TensorFlow's error for a lost worker."""


@pytest.fixture
def request_uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("REPOT_TERMINATION_LOG", str(tmp_path / "message"))
    monkeypatch.setenv("TF_CONFIG", "")  # restored after the test, which may overwrite it
    monkeypatch.setattr(StopRequest, "watch_heartbeat", lambda *_: None)
    request = TrainingRequest(
        dataset_uri="d",
        weights_uri="w",
        run_uri=str(tmp_path),
        training_id="t",
        checkpoint_id="c",
        settings=TrainingSettings(),
    )
    write_record(request.uri, request)
    return request.uri


def run(request_uri: str, num_workers: int = 1) -> int:
    addresses = [f"localhost:{2222 + index}" for index in range(num_workers)]
    return run_worker(request_uri, addresses=addresses, index=0, stop=StopRequest())


def fail_with(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(worker, "train", train)


def test_tf_config_lists_all_workers_and_the_own_index() -> None:
    assert json.loads(make_tf_config(["a:2222", "b:2222"], 1)) == {
        "cluster": {"worker": ["a:2222", "b:2222"]},
        "task": {"type": "worker", "index": 1},
    }


@pytest.mark.parametrize(
    ("error", "num_workers", "exit_code"),
    [
        (DataError("no pictures"), 1, EXIT_PERMANENT),
        (StorageError("no answer"), 1, EXIT_FAILED),
        (StoppedError("stopped"), 1, EXIT_RESTART),
        (ValueError("a bug"), 1, EXIT_FAILED),
        (UnavailableError("a peer is gone"), 1, EXIT_FAILED),
        (UnavailableError("a peer is gone"), 2, EXIT_RESTART),
    ],
)
def test_exit_code_and_message_depend_on_the_error(
    *,
    request_uri: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    num_workers: int,
    exit_code: int,
) -> None:
    fail_with(error, monkeypatch)

    assert run(request_uri, num_workers) == exit_code

    assert (tmp_path / "message").read_text().endswith(str(error))


def test_invalid_request_is_a_permanent_error(request_uri: str) -> None:
    Path(request_uri).write_text("{}")

    assert run(request_uri) == EXIT_PERMANENT


def test_success_exits_with_0_without_a_message(
    request_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "train", lambda *_, **__: None)

    assert run(request_uri) == 0
    assert not (tmp_path / "message").exists()
