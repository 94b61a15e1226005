"""MLflow runs of trainings, through its real client: in a folder, and on a real server if slow."""

import contextlib
import dataclasses
import logging
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from repot import storage
from repot.errors import RepotError, UsageError
from repot.evaluator.after_verdict import report_outcome
from repot.evaluator.mlflow_tracking import COMPLETE_TAG, MlflowError, track_run
from repot.settings.integrations import IntegrationSettings
from tests.conftest import free_port
from tests.integration.evaluator.results import (
    DATA,
    change_champion,
    make_result,
    put_into_production,
    write_model_record,
)

SERVER = Path(sys.prefix) / "mlflow-server" / "bin" / "mlflow"
"""What `make mlflow-server` installs."""


class Tracker:
    """An MLflow store, and its client."""

    def __init__(self, uri: str) -> None:
        mlflow = pytest.importorskip("mlflow", reason="make venv EXTRAS=mlflow")
        self.settings = IntegrationSettings(mlflow_tracking_uri=uri)
        self.client: Any = mlflow.MlflowClient(tracking_uri=uri)

    def runs(self) -> list[Any]:
        experiment = self.client.get_experiment_by_name("repot-flowers")
        return list(self.client.search_runs([experiment.experiment_id]))

    def artifact(self, run_id: str, name: str, folder: Path) -> str:
        return Path(self.client.download_artifacts(run_id, name, str(folder))).read_text()


@pytest.fixture
def tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tracker:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return Tracker(f"file://{tmp_path}/mlflow")


@pytest.fixture
def storage_uri(tmp_path: Path) -> str:
    return str(tmp_path / "storage")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Tracker]:
    """Run `mlflow server` with a database and its own store of artifacts."""
    if not SERVER.exists():
        pytest.skip("run `make mlflow-server` first")
    port = free_port()
    command = [SERVER, "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path}/mlflow.db"]
    command += ["--artifacts-destination", str(tmp_path / "artifacts")]
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    process = subprocess.Popen(
        list(map(str, command)), cwd=tmp_path, env=environment, start_new_session=True
    )
    try:
        wait_until_healthy(f"http://127.0.0.1:{port}/health", process)
        yield Tracker(f"http://127.0.0.1:{port}")
    finally:
        os.killpg(process.pid, 15)
        process.wait()


def wait_until_healthy(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        assert process.poll() is None
        with contextlib.suppress(urllib.error.URLError), urllib.request.urlopen(url):
            return
        time.sleep(0.2)
    pytest.fail(f"{url} does not answer")


def check_first_report(tracker: Tracker, storage_uri: str, folder: Path) -> str:
    """Report a promoted version, check everything that MLflow has of it, and return its run."""
    result = make_result(storage_uri)
    run_id = track_run(result, tracker.settings)

    (run,) = tracker.runs()
    assert (run.info.run_id, run.info.status) == (run_id, "FINISHED")
    assert run.info.run_name == "flowers 0123456789abcdef"
    assert DATA.training is not None
    settings = {name: str(value) for name, value in DATA.training.settings.to_json().items()}
    settings["image_size"] = "299"  # the resolved one
    assert settings.items() <= run.data.params.items()
    assert run.data.params["train_examples"] == "1000"
    assert run.data.params["pictures_uri"] == DATA.dataset.pictures_uri
    assert run.data.metrics["precision_at_1"] == 0.5
    history = tracker.client.get_metric_history(run_id, "validation_loss")
    assert [(each.step, each.value) for each in sorted(history, key=lambda each: each.step)] == [
        (step, epoch.validation_loss) for step, epoch in enumerate(DATA.history, start=1)
    ]
    tags = run.data.tags
    assert {
        "repot.training_id": "0123456789abcdef",
        "repot.model": "flowers",
        "repot.model_uri": result.version_uri,
        "repot.report_uri": result.report_uri,
        "repot.dataset_id": "d1d1",
        "repot.versions.tensorflow": "2.21.0",
        "repot.verdict": "promote",
        "repot.champion": "true",
        "repot.run_id": "run 1",
    }.items() <= tags.items()
    assert tags["mlflow.note.content"].endswith("It is the first version.")
    names = {each.path for each in tracker.client.list_artifacts(run_id)}
    assert names == {"metrics.json", "model_card.md", "report.html", "verdict.json"}
    assert tracker.artifact(run_id, "report.html", folder) == "<html>promote</html>"
    return run_id


def test_training_becomes_a_run(tracker: Tracker, storage_uri: str, tmp_path: Path) -> None:
    check_first_report(tracker, storage_uri, tmp_path)


@pytest.mark.slow
def test_training_becomes_a_run_on_a_server(
    server: Tracker, storage_uri: str, tmp_path: Path
) -> None:
    run_id = check_first_report(server, storage_uri, tmp_path)
    settings = dataclasses.replace(server.settings, mlflow_log_model=True)

    again = track_run(make_result(storage_uri, "reject"), settings)
    other = track_run(make_result(storage_uri, version="fedcba9876543210"), settings)

    assert again == run_id
    assert len(server.client.get_metric_history(run_id, "validation_loss")) == 4
    champions = {run.info.run_id: run.data.tags["repot.champion"] for run in server.runs()}
    assert champions == {run_id: "false", other: "true"}
    assert server.artifact(other, "model/model.json", tmp_path).startswith("model.json of fedc")


def test_repeated_report_updates_the_verdict_of_the_same_run(
    tracker: Tracker, storage_uri: str, tmp_path: Path
) -> None:
    first = track_run(make_result(storage_uri, "reject"), tracker.settings)
    assert "repot.champion" not in tracker.runs()[0].data.tags

    again = track_run(make_result(storage_uri, "promote"), tracker.settings)

    (run,) = tracker.runs()
    assert first == again == run.info.run_id
    assert run.data.tags["repot.verdict"] == "promote"
    assert len(tracker.client.get_metric_history(first, "train_loss")) == 4
    assert tracker.artifact(first, "report.html", tmp_path) == "<html>promote</html>"


def test_interrupted_report_is_completed(tracker: Tracker, storage_uri: str) -> None:
    result = make_result(storage_uri)
    storage.delete(f"{result.version_uri}/metrics.json")
    with pytest.raises(RepotError, match=r"metrics\.json"):
        track_run(result, tracker.settings)
    assert COMPLETE_TAG not in tracker.runs()[0].data.tags

    track_run(make_result(storage_uri), tracker.settings)

    (run,) = tracker.runs()
    assert run.data.tags[COMPLETE_TAG] == "true"


def test_only_the_newest_promoted_version_is_the_champion(
    tracker: Tracker, storage_uri: str
) -> None:
    old = track_run(make_result(storage_uri, version="a" * 16), tracker.settings)
    new = track_run(make_result(storage_uri, version="b" * 16), tracker.settings)

    champions = {run.info.run_id: run.data.tags["repot.champion"] for run in tracker.runs()}
    assert champions == {old: "false", new: "true"}


@pytest.mark.parametrize("is_configured", [True, False])
def test_rollback_moves_the_tag_at_once_or_with_the_next_run(
    tracker: Tracker, storage_uri: str, monkeypatch: pytest.MonkeyPatch, is_configured: bool
) -> None:
    variable, uri = "MLFLOW_TRACKING_URI", tracker.settings.mlflow_tracking_uri
    put_into_production(storage_uri, "a" * 16, "b" * 16)
    old = track_run(make_result(storage_uri, version="a" * 16), tracker.settings)
    new = track_run(make_result(storage_uri, version="b" * 16), tracker.settings)
    for version in ("a" * 16, "b" * 16):
        write_model_record(storage_uri, version)
    if is_configured:
        monkeypatch.setenv(variable, uri)

    change_champion("rollback", storage_uri)

    if not is_configured:
        monkeypatch.setenv(variable, uri)
        make_result(storage_uri, "reject", version="b" * 16)
        report_outcome(storage_uri, f"runs/{'b' * 16}/gate/verdict.json")
    champions = {run.info.run_id: run.data.tags["repot.champion"] for run in tracker.runs()}
    assert champions == {old: "true", new: "false"}


def test_rollback_to_a_version_without_a_run_leaves_no_tag(
    tracker: Tracker,
    storage_uri: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    put_into_production(storage_uri, "a" * 16, "b" * 16)
    track_run(make_result(storage_uri, version="b" * 16), tracker.settings)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracker.settings.mlflow_tracking_uri)

    change_champion("rollback", storage_uri)

    (run,) = tracker.runs()
    assert run.data.tags["repot.champion"] == "false"
    assert f"MLflow has no entry of flowers {'a' * 16}" in caplog.text


def test_model_is_copied_if_chosen(tracker: Tracker, storage_uri: str, tmp_path: Path) -> None:
    settings = dataclasses.replace(
        tracker.settings, mlflow_log_model=True, mlflow_experiment_name="mine"
    )

    run_id = track_run(make_result(storage_uri), settings)

    assert tracker.client.get_experiment_by_name("repot-flowers") is None
    assert tracker.artifact(run_id, "model/model.json", tmp_path).startswith("model.json of")


def test_deleted_experiment_is_reported(tracker: Tracker, storage_uri: str) -> None:
    experiment_id = tracker.client.create_experiment("repot-flowers")
    tracker.client.delete_experiment(experiment_id)

    with pytest.raises(MlflowError, match="'repot-flowers' must be active; it was deleted"):
        track_run(make_result(storage_uri), tracker.settings)


def test_missing_package_is_named(storage_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow.tracking", None)

    with pytest.raises(UsageError, match="Run `make venv EXTRAS=mlflow`"):
        track_run(make_result(storage_uri), IntegrationSettings(mlflow_tracking_uri="http://h"))


def test_missing_package_in_a_pod_names_the_image(
    storage_uri: str, monkeypatch: pytest.MonkeyPatch, task_pod: None
) -> None:
    del task_pod
    monkeypatch.setitem(sys.modules, "mlflow.tracking", None)

    with pytest.raises(UsageError, match="Use a cpu_image with it") as caught:
        track_run(make_result(storage_uri), IntegrationSettings(mlflow_tracking_uri="http://h"))

    assert "the key MLFLOW_TRACKING_URI of the ConfigMap repot-settings" in str(caught.value)


@pytest.mark.parametrize("is_required", [False, True])
def test_unreachable_server_is_a_warning_unless_required(
    storage_uri: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    is_required: bool,
) -> None:
    pytest.importorskip("mlflow", reason="make venv EXTRAS=mlflow")
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:pass9word@127.0.0.1:{free_port()}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("REPOT_INTEGRATIONS_REQUIRED", str(is_required))
    make_result(storage_uri)
    expected = (
        pytest.raises(RepotError, match="was not logged to MLflow")
        if is_required
        else contextlib.nullcontext()
    )

    with expected:
        report_outcome(storage_uri, "runs/0123456789abcdef/gate/verdict.json")

    said = "\n".join(each.getMessage() for each in caplog.records if each.name.startswith("repot"))
    assert "The run was not logged to MLflow. MLflow at http://***@127.0.0.1" in said
    assert "Check MLFLOW_TRACKING_URI" in said
    assert "pass9word" not in said


def test_outcome_of_a_run_is_logged(
    tracker: Tracker, storage_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracker.settings.mlflow_tracking_uri)
    monkeypatch.setenv("REPOT_RUN_ID", "run 7")
    make_result(storage_uri)

    report_outcome(storage_uri, "runs/0123456789abcdef/gate/verdict.json")

    (run,) = tracker.runs()
    assert run.data.tags["repot.run_id"] == "run 7"
    assert run.data.tags["repot.report_uri"].endswith("/gate/report.html")
