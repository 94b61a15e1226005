"""A complete run on the cluster, and the same run again."""

import collections
import re

import pytest
import yaml

from repot import storage
from repot_pipelines.compiled import find_compiled
from repot_pipelines.watch.tasks import read_tasks
from tests.cluster.cluster import TaskPod
from tests.cluster.command_line import CommandResult
from tests.cluster.session import NUM_BUILDERS, SMALL_PODS, Session
from tests.cluster.waiting import TEST_SECONDS

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(TEST_SECONDS)]


def pods_of(session: Session, run_id: str, task: str) -> list[TaskPod]:
    """Return the last pod of each execution of a task, ignoring retries."""
    found = {pod.node: pod for pod in session.cluster.task_pods(run_id) if pod.task == task}
    return list(found.values())


def test_first_run_is_promoted_and_has_a_report(session: Session, promoted: CommandResult) -> None:
    champion = session.champion("first")

    assert champion is not None
    assert champion["previous"] == ""
    assert "Promoted" in promoted.output
    report = re.search(r"^report  (\S+)$", promoted.output, re.MULTILINE)
    assert report, promoted
    assert "Promoted" in storage.read_text(report[1])
    assert storage.exists(f"{session.storage_uri}/models/first/{champion['version']}/model.json")


def test_output_follows_every_task_by_name(promoted: CommandResult) -> None:
    pipeline = next(yaml.safe_load_all(find_compiled().read_text(encoding="utf-8")))

    for task in read_tasks(pipeline):
        # The gate of a run whose training is finished already.
        state = "skipped" if task.key == "evaluate-2" else "done"
        assert re.search(rf"^{re.escape(task.title)}: {state}", promoted.output, re.MULTILINE), (
            promoted
        )


def test_builders_have_the_requested_resources(session: Session, promoted: CommandResult) -> None:
    builders = [
        pod
        for task in ("build-shards", "build-shards-2")
        for pod in pods_of(session, promoted.run_id, task)
    ]

    assert len(builders) == NUM_BUILDERS
    for pod in builders:
        resources = pod.main["resources"]
        assert resources["requests"]["cpu"] == SMALL_PODS["builder_cpu"]
        assert (
            resources["requests"]["memory"]
            == resources["limits"]["memory"]
            == SMALL_PODS["builder_memory"]
        )
        assert pod.main["image"] == session.settings.image


def test_trainer_has_the_requested_resources_and_no_gpu(
    session: Session, promoted: CommandResult
) -> None:
    (trainer,) = pods_of(session, promoted.run_id, "train")

    resources = trainer.main["resources"]
    assert resources["requests"]["cpu"] == SMALL_PODS["trainer_cpu"]
    assert (
        resources["requests"]["memory"]
        == resources["limits"]["memory"]
        == SMALL_PODS["trainer_memory"]
    )
    assert resources["limits"].get("nvidia.com/gpu", "0") == "0"
    assert trainer.manifest["status"]["phase"] == "Succeeded"


def test_second_run_does_not_train_and_changes_nothing(
    session: Session, promoted: CommandResult
) -> None:
    del promoted
    champion = session.champion("first")
    assert champion is not None
    training_version = session.training_version(champion["version"])

    again = session.submit("first").expect(0)

    assert "Unchanged" in again.output
    assert "(already there)" in again.output
    assert session.champion("first") == champion
    assert session.training_version(champion["version"]) == training_version
    assert "Train: skipped" in again.output
    # Skipped tasks have no pods: nothing is trained, whatever KFP's cache holds.
    nodes = {(pod.task, pod.node) for pod in session.cluster.task_pods(again.run_id)}
    assert collections.Counter(task for task, _ in nodes) == {"plan": 1, "evaluate-2": 1}


def test_replaced_checkpoint_is_detected_and_used(
    session: Session, promoted: CommandResult
) -> None:
    del promoted
    weights_uri = f"{session.folder_uri}/replaced.pth"
    data = storage.read_bytes(f"{session.folder_uri}/weights.pth")
    num_trainings = []
    # Bytes after the pickle are ignored: a different file with the same weights.
    for written in (data, data + b"\n"):
        storage.write_bytes(weights_uri, written)
        ended = session.submit("replaced", checkpoint=weights_uri).expect(0)
        assert len(pods_of(session, ended.run_id, "fetch-checkpoint")) == 1
        num_trainings.append(len(pods_of(session, ended.run_id, "train")))

    # The first file is a copy of the weights that the first run trained from.
    assert num_trainings == [0, 1]
