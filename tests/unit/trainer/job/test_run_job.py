from typing import Any

import pytest

from repot.errors import TrainingError
from repot.settings import JobSettings, TrainingSettings
from repot.trainer.job import run_job
from repot.trainer.job.run_job import ensure_job
from repot.trainer.job.spec import job_name, make_job, make_service
from repot.trainer.request import TrainingRequest

REQUEST = TrainingRequest(
    dataset_uri="gs://b/datasets/d",
    weights_uri="gs://b/checkpoints/c",
    run_uri="gs://b/runs/x",
    training_id="0123456789abcdef",
    checkpoint_id="c",
    settings=TrainingSettings(),
)
NAME = job_name(REQUEST.training_id)
COMPLETE = {"conditions": [{"type": "Complete", "status": "True"}]}


class FakeApi:
    """In-memory Jobs and Services by name."""

    namespace = "kubeflow"

    def __init__(self) -> None:
        self.jobs: dict[str, Any] = {}
        self.services: dict[str, Any] = {}
        self.num_created = 0
        self.is_deleting = True

    def get_job(self, name: str) -> Any:
        return self.jobs.get(name)

    def create_job(self, job: Any) -> Any:
        return self._create(self.jobs, job)

    def delete_job(self, name: str) -> None:
        if self.is_deleting:
            del self.jobs[name]

    def get_service(self, name: str) -> Any:
        return self.services.get(name)

    def create_service(self, service: Any) -> Any:
        return self._create(self.services, service)

    def delete_service(self, name: str) -> None:
        if self.is_deleting:
            del self.services[name]

    def _create(self, objects: dict[str, Any], created: Any) -> Any:
        name = created["metadata"]["name"]
        if name in objects:
            return None
        self.num_created += 1
        metadata = {**created["metadata"], "uid": f"uid-{self.num_created}"}
        objects[name] = {**created, "metadata": metadata}
        return objects[name]


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_job, "_DELETION_PAUSE_SECONDS", 0.0)


@pytest.fixture
def api() -> Any:
    return FakeApi()


def job(num_workers: int = 1, request: TrainingRequest = REQUEST) -> dict[str, Any]:
    return make_job(JobSettings(num_workers=num_workers), request, environment={})


def test_missing_job_is_created_without_a_service_for_one_worker(api: Any) -> None:
    assert ensure_job(api, job(), REQUEST)["metadata"]["uid"] == "uid-1"

    assert list(api.jobs) == [NAME]
    assert api.services == {}


def test_several_workers_get_a_service_owned_by_the_job(api: Any) -> None:
    ensure_job(api, job(num_workers=2), REQUEST)

    (owner,) = api.services[NAME]["metadata"]["ownerReferences"]
    assert owner["uid"] == api.jobs[NAME]["metadata"]["uid"]


def test_running_job_and_its_service_are_adopted(api: Any) -> None:
    first = ensure_job(api, job(num_workers=2), REQUEST)

    assert ensure_job(api, job(num_workers=2), REQUEST) == first
    assert api.num_created == 2


def test_ended_job_and_the_service_of_its_predecessor_are_replaced(api: Any) -> None:
    ended = ensure_job(api, job(num_workers=2), REQUEST)
    ended["status"] = COMPLETE

    replaced = ensure_job(api, job(num_workers=2), REQUEST)

    assert replaced["metadata"]["uid"] != ended["metadata"]["uid"]
    (owner,) = api.services[NAME]["metadata"]["ownerReferences"]
    assert owner["uid"] == replaced["metadata"]["uid"]


def test_job_created_by_another_task_at_the_same_time_is_adopted(
    api: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = api.create_job

    def create_too_late(body: Any) -> Any:
        create(body)
        return create(body)

    monkeypatch.setattr(api, "create_job", create_too_late)

    assert ensure_job(api, job(), REQUEST)["metadata"]["uid"] == "uid-1"


def test_job_of_another_training_is_refused(api: Any) -> None:
    other = api.create_job(job())
    other["metadata"]["labels"] = {}

    with pytest.raises(TrainingError, match="it belongs to something else"):
        ensure_job(api, job(), REQUEST)


def test_running_job_with_another_run_folder_is_refused_and_an_ended_one_replaced(
    api: Any,
) -> None:
    other = api.create_job(job())
    other["metadata"]["annotations"] = {"repot/run-uri": "gs://other/runs/x"}

    with pytest.raises(TrainingError, match="writes to gs://other/runs/x"):
        ensure_job(api, job(), REQUEST)

    other["status"] = COMPLETE
    assert ensure_job(api, job(), REQUEST)["metadata"]["uid"] == "uid-2"


def test_objects_of_an_earlier_attempt_that_are_never_deleted_are_an_error(
    api: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_job, "DELETION_SECONDS", 0.0)
    api.is_deleting = False
    stale = make_service(REQUEST, owner={"metadata": {"name": NAME, "uid": "gone"}})
    api.create_service(stale)

    with pytest.raises(TrainingError, match=f"The Service {NAME} of an earlier attempt"):
        ensure_job(api, job(num_workers=2), REQUEST)

    api.jobs[NAME]["status"] = COMPLETE
    with pytest.raises(TrainingError, match=f"The Job {NAME} of an earlier attempt"):
        ensure_job(api, job(num_workers=2), REQUEST)
