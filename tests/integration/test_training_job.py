"""Training in a Kubernetes Job: the real client over HTTP, and real worker processes as pods."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from repot.errors import RepotError, TrainingError
from repot.json_record import read_record, write_record
from repot.settings import JobSettings, TrainingSettings
from repot.trainer.job import run_job
from repot.trainer.job.heartbeat import Heartbeat
from repot.trainer.job.run_job import train_in_job
from repot.trainer.job.spec import make_job
from repot.trainer.job.termination import EXIT_PERMANENT, EXIT_RESTART
from repot.trainer.request import TrainingRequest
from repot.trainer.state import SavedState
from repot.training_record import TrainingRecord
from repot_pipelines.local.run import SAMPLE_FOLDER, run_pipeline
from repot_pipelines.presets import PRESETS
from tests.integration.kubernetes_api.jobs import JobController
from tests.integration.kubernetes_api.kubeconfig import write_kubeconfig
from tests.integration.kubernetes_api.ready import JOB_RUNNER, NAMESPACE, prepare
from tests.integration.kubernetes_api.server import KubernetesApi
from tests.training_records import make_training_record

WAIT_SECONDS = 400.0
SETTINGS = TrainingSettings(backbone="efficientnet_lite0", recipe="head", epochs=20, image_size=64)
TASK = """
import sys
from repot.settings import JobSettings
from repot.json_record import read_record
from repot.trainer.job.run_job import train_in_job
from repot.trainer.request import TrainingRequest
request = read_record(sys.argv[2], TrainingRequest)
train_in_job(JobSettings.from_text(sys.argv[1]), request, poll_seconds=0.1)
"""
TOKEN = "of-the-runner"


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubernetesApi]:
    """A cluster where the account of a run with a Job has the permissions of the manifests."""
    with KubernetesApi() as api:
        prepare(api)
        api.users[TOKEN] = JOB_RUNNER
        path = write_kubeconfig(tmp_path / "kubeconfig", api.address, token=TOKEN)
        path.write_text(
            path.read_text().replace("user: test", f"user: test\n    namespace: {NAMESPACE}")
        )
        monkeypatch.setenv("KUBECONFIG", str(path))
        yield api


@pytest.fixture
def jobs(api: KubernetesApi) -> Iterator[JobController]:
    with JobController(api) as controller:
        yield controller


@pytest.fixture
def request_of(
    tmp_path: Path, sample_dataset_uri: str, lite0_weights_uri: str
) -> Callable[..., TrainingRequest]:
    def make(**changes: Any) -> TrainingRequest:
        values = {
            "dataset_uri": sample_dataset_uri,
            "weights_uri": lite0_weights_uri,
            "run_uri": str(tmp_path / "run"),
            "training_id": "0123456789abcdef",
            "checkpoint_id": "c",
            "settings": SETTINGS,
        }
        return TrainingRequest(**{**values, **changes})

    return make


def settings(**changes: Any) -> JobSettings:
    return JobSettings(trainer_image="repot", accelerator_count=0, **changes)


def train(request: TrainingRequest, **changes: Any) -> TrainingRecord:
    return train_in_job(settings(**changes), request, poll_seconds=0.1)


def start_task(request: TrainingRequest, **changes: Any) -> subprocess.Popen[bytes]:
    write_record(request.uri, request)
    command = [
        sys.executable,
        "-W",
        "error",
        "-c",
        TASK,
        settings(**changes).to_text(),
        request.uri,
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def wait_until(condition: Callable[[], Any], seconds: float = WAIT_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_task_returns_the_record_and_prints_the_log_of_the_worker(
    jobs: JobController,
    request_of: Callable[..., TrainingRequest],
    capfd: pytest.CaptureFixture[str],
) -> None:
    request = request_of()

    record = train(request)

    assert record.training_id == request.training_id
    assert read_record(f"{request.run_uri}/training.json", TrainingRecord) == record
    (pod,) = jobs.pods
    assert pod.phase == "Succeeded"
    lines = [line for line in pod.log.splitlines() if "head epoch" in line]
    assert len(lines) == 20
    assert [line for line in capfd.readouterr().out.splitlines() if "head epoch" in line] == lines


def test_finished_training_creates_no_job(
    api: KubernetesApi, request_of: Callable[..., TrainingRequest]
) -> None:
    request = request_of()
    record = make_training_record(training_id=request.training_id)
    write_record(f"{request.run_uri}/training.json", record)

    assert train(request) == record

    assert api.requests == []


def test_permanent_error_of_a_worker_is_quoted_by_the_task(
    jobs: JobController, request_of: Callable[..., TrainingRequest], tmp_path: Path
) -> None:
    request = request_of(dataset_uri=str(tmp_path / "nothing"))

    with pytest.raises(
        TrainingError, match=r"PodFailurePolicy.*worker 0 exited with code 2: .*nothing"
    ):
        train(request)

    assert len(jobs.pods) == 1
    assert jobs.jobs(), "a failed Job is kept for inspection"


def test_failed_job_of_an_earlier_attempt_is_replaced(
    jobs: JobController, request_of: Callable[..., TrainingRequest], tmp_path: Path
) -> None:
    with pytest.raises(TrainingError):
        train(request_of(dataset_uri=str(tmp_path / "nothing")))
    (failed,) = jobs.jobs()

    train(request_of())

    assert [job["metadata"]["uid"] for job in jobs.jobs()] != [failed["metadata"]["uid"]]


def test_sigterm_deletes_the_job_within_a_second(
    jobs: JobController, request_of: Callable[..., TrainingRequest]
) -> None:
    with start_task(request_of()) as task:
        wait_until(jobs.alive)
        pod = jobs.alive()[0]
        sent = time.monotonic()
        task.send_signal(signal.SIGTERM)
        wait_until(lambda: not jobs.jobs(), seconds=1.0)
        code = task.wait(2)

    assert code == 128 + signal.SIGTERM
    assert time.monotonic() - sent < 1.5
    assert (
        "DELETE",
        f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs/repot-train-0123456789abcdef",
    ) in [(method, path) for _, method, path in jobs.api.requests]
    wait_until(lambda: not pod.is_alive)


def test_second_task_adopts_the_running_job(
    jobs: JobController, request_of: Callable[..., TrainingRequest]
) -> None:
    with start_task(request_of()) as first:
        wait_until(jobs.alive)
        first.kill()

    train(request_of())

    assert len(jobs.pods) == 1
    created = [
        path for _, method, path in jobs.api.requests if method == "POST" and path.endswith("/jobs")
    ]
    assert len(created) == 1


def test_evicted_worker_saves_its_state_and_a_new_pod_resumes(
    jobs: JobController, request_of: Callable[..., TrainingRequest], tmp_path: Path
) -> None:
    request = request_of(settings=TrainingSettings(**{**SETTINGS.to_json(), "epochs": 400}))
    with start_task(request) as task:
        wait_until(lambda: jobs.pods and "head epoch 15 " in jobs.pods[0].log)
        jobs.pods[0].evict()
        wait_until(lambda: len(jobs.pods) == 2)
        state = read_record(f"{tmp_path}/run/state/latest.json", SavedState)
        assert task.wait(WAIT_SECONDS) == 0

    assert jobs.pods[0].exit_code == EXIT_RESTART
    assert state.position.phase == "head"
    assert state.position.epoch >= 14
    assert f"resuming after epoch {state.position.epoch}" in jobs.pods[1].log


def test_two_workers_resume_together_after_one_is_lost(
    jobs: JobController, request_of: Callable[..., TrainingRequest]
) -> None:
    request = request_of(settings=TrainingSettings(**{**SETTINGS.to_json(), "epochs": 60}))
    with start_task(request, num_workers=2) as task:
        wait_until(lambda: jobs.pods and "head epoch 12 " in jobs.pods[0].log)
        next(pod for pod in jobs.pods if pod.index == 1).lose()
        assert task.wait(300) == 0
        output = task.stdout.read().decode() if task.stdout else ""

    ends = sorted((pod.index, pod.exit_code) for pod in jobs.pods)
    assert ends == [(0, 0), (0, EXIT_RESTART), (1, 0), (1, 137)]
    assert "worker 1 exited with code 137 (killed)" in output
    assert output.count("head epoch 60 of 60") == 1
    assert json.loads((Path(request.run_uri) / "training.json").read_text())["epochs"] == 60
    (service,) = [
        stored for (title, _, _), stored in jobs.api.store.objects.items() if title == "services"
    ]
    assert service["metadata"]["ownerReferences"][0]["uid"] == jobs.jobs()[0]["metadata"]["uid"]


def test_service_of_an_earlier_job_is_replaced(
    jobs: JobController, request_of: Callable[..., TrainingRequest], tmp_path: Path
) -> None:
    for _ in range(2):
        with pytest.raises(TrainingError, match="exited with code 2"):
            train(
                request_of(dataset_uri=str(tmp_path / "nothing"), run_uri=str(tmp_path / "run")),
                num_workers=2,
            )

    (service,) = [
        stored for (title, _, _), stored in jobs.api.store.objects.items() if title == "services"
    ]
    assert service["metadata"]["ownerReferences"][0]["uid"] == jobs.jobs()[0]["metadata"]["uid"]


def test_reason_why_the_job_waits_is_logged(
    jobs: JobController,
    request_of: Callable[..., TrainingRequest],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(run_job, "WAITING_LOG_SECONDS", 0.2)
    reason = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "0/3 nodes: no GPU",
    }
    jobs.hold = lambda _: {"conditions": [reason]} if "no GPU" not in caplog.text else None

    train(request_of())

    assert "worker 0: 0/3 nodes: no GPU" in caplog.text


def test_job_whose_image_cannot_be_pulled_fails_and_is_deleted(
    jobs: JobController, request_of: Callable[..., TrainingRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_job, "STUCK_SECONDS", 0.3)
    waiting = {"reason": "ImagePullBackOff", "message": "Back-off pulling image repot"}
    status = {"name": "trainer", "image": "repot", "imageID": "", "ready": False, "restartCount": 0}
    jobs.hold = lambda _: {"containerStatuses": [{**status, "state": {"waiting": waiting}}]}

    with pytest.raises(TrainingError, match="worker 0: image repot cannot be pulled"):
        train(request_of())

    assert jobs.jobs() == []


def test_missing_permission_is_reported(
    api: KubernetesApi, request_of: Callable[..., TrainingRequest]
) -> None:
    api.rules.grants.clear()

    with pytest.raises(TrainingError, match=r"cannot get resource .*jobs.*repot-job-runner"):
        train(request_of())


def test_job_that_writes_to_another_storage_is_not_adopted(
    api: KubernetesApi, request_of: Callable[..., TrainingRequest], tmp_path: Path
) -> None:
    job = make_job(settings(), request_of(run_uri=str(tmp_path / "other")), environment={})
    api.store.put(job, namespace=NAMESPACE)

    with pytest.raises(TrainingError, match="other storage"):
        train(request_of())


def test_pipeline_trains_in_a_job_and_promotes_the_model(
    jobs: JobController, gcs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = {
        **PRESETS["laptop"],
        "recipe": "head",
        "pictures_uri": str(SAMPLE_FOLDER),
        "storage_uri": f"{gcs}/store",
        "trainer_mode": "job",
        "accelerator_count": 0,
        "image_size": 64,
    }

    run_pipeline(arguments, output_path=tmp_path / "output", console=Console(), verbose=False)

    (pod,) = jobs.pods
    (job,) = jobs.jobs()
    assert pod.phase == "Succeeded"
    assert job["spec"]["template"]["spec"]["serviceAccountName"] == "repot-worker"
    assert json.loads((tmp_path / "output" / "metrics.json").read_text())["promoted"] is True


def test_missing_cluster_is_reported(
    request_of: Callable[..., TrainingRequest], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nothing"))

    with pytest.raises(RepotError, match="trainer_mode=pod"):
        train(request_of())


def test_worker_stops_when_the_heartbeat_of_the_task_stops(
    request_of: Callable[..., TrainingRequest],
) -> None:
    request = request_of(settings=TrainingSettings(**{**SETTINGS.to_json(), "epochs": 9000}))
    write_record(request.uri, request)
    environment = {**os.environ, "REPOT_SILENCE_SECONDS": "4"}
    command = [sys.executable, "-m", "repot.trainer.job.worker", request.uri]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as worker:
        with Heartbeat(request.heartbeat_uri, seconds=0.5):
            wait_until((Path(request.run_uri) / "state" / "latest.json").exists)
            time.sleep(5)
            assert worker.poll() is None
        _, log = worker.communicate(timeout=60)

    assert worker.returncode == EXIT_PERMANENT
    assert "sent no heartbeat for 4 s" in log
    assert "saved its state" in log
