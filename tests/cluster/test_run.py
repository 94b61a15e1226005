"""A run on the cluster from the pictures to the champion, and the same run again."""

import collections
import re

import pytest
import yaml

from repot import storage
from repot_pipelines.compiled import find_compiled
from repot_pipelines.watch.tasks import read_tasks
from tests.cluster.cluster import TaskPod
from tests.cluster.command_line import Ended
from tests.cluster.site import NUM_BUILDERS, SMALL, Site
from tests.cluster.waiting import TEST_SECONDS

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(TEST_SECONDS)]


def pods_of(site: Site, run_id: str, task: str) -> list[TaskPod]:
    """Return one pod for each time that a task ran, the last try of each."""
    found = {pod.node: pod for pod in site.cluster.task_pods(run_id) if pod.task == task}
    return list(found.values())


def test_first_run_is_promoted_and_its_report_is_there(site: Site, promoted: Ended) -> None:
    champion = site.champion("first")

    assert champion is not None
    assert champion["previous"] == ""
    assert "Promoted" in promoted.output
    report = re.search(r"^report  (\S+)$", promoted.output, re.MULTILINE)
    assert report, promoted
    assert "Promoted" in storage.read_text(report[1])
    assert storage.exists(f"{site.storage_uri}/models/first/{champion['version']}/model.json")


def test_every_task_is_followed_under_its_own_name(promoted: Ended) -> None:
    pipeline = next(yaml.safe_load_all(find_compiled().read_text(encoding="utf-8")))

    for task in read_tasks(pipeline):
        assert re.search(rf"^{re.escape(task.title)}: done", promoted.output, re.MULTILINE), (
            promoted
        )


def test_several_builders_ran_with_what_the_parameters_give_them(
    site: Site, promoted: Ended
) -> None:
    builders = pods_of(site, promoted.run_id, "build-shards")

    assert len(builders) == NUM_BUILDERS
    assert f"Build shards: done {NUM_BUILDERS}/{NUM_BUILDERS}" in promoted.output
    for pod in builders:
        resources = pod.main["resources"]
        assert resources["requests"]["cpu"] == SMALL["builder_cpu"]
        assert (
            resources["requests"]["memory"]
            == resources["limits"]["memory"]
            == SMALL["builder_memory"]
        )
        assert pod.main["image"] == site.settings.image


def test_trainer_has_what_the_parameters_give_it_and_no_gpu(site: Site, promoted: Ended) -> None:
    (trainer,) = pods_of(site, promoted.run_id, "train")

    resources = trainer.main["resources"]
    assert resources["requests"]["cpu"] == SMALL["trainer_cpu"]
    assert (
        resources["requests"]["memory"] == resources["limits"]["memory"] == SMALL["trainer_memory"]
    )
    assert resources["limits"].get("nvidia.com/gpu", "0") == "0"
    assert trainer.facts["status"]["phase"] == "Succeeded"


def test_same_run_again_trains_nothing_and_changes_nothing(site: Site, promoted: Ended) -> None:
    del promoted
    champion = site.champion("first")
    assert champion is not None
    training_version = site.training_version(champion["version"])

    again = site.submit("first").expect(0)

    assert "Unchanged" in again.output
    assert "(there already)" in again.output
    assert site.champion("first") == champion
    assert site.training_version(champion["version"]) == training_version
    # Of a task that Kubeflow takes from its cache there is no pod; the builder's one share is new, or it is known too.
    nodes = {(pod.task, pod.node) for pod in site.cluster.task_pods(again.run_id)}
    tasks = collections.Counter(task for task, _ in nodes)
    builders = tasks.pop("build-shards", 0)
    assert builders <= 1
    assert tasks == {"plan": 1, "gate": 1}


def test_replaced_checkpoint_is_noticed_and_trained_from(site: Site, promoted: Ended) -> None:
    del promoted
    weights_uri = f"{site.folder_uri}/replaced.pth"
    data = storage.read_bytes(f"{site.folder_uri}/weights.pth")
    trained = []
    # What follows the pickle is no part of it: another file with the same weights.
    for written in (data, data + b"\n"):
        storage.write_bytes(weights_uri, written)
        ended = site.submit("replaced", checkpoint=weights_uri).expect(0)
        assert len(pods_of(site, ended.run_id, "fetch-checkpoint")) == 1
        trained.append(len(pods_of(site, ended.run_id, "train")))

    # The first file is the one that the first run trained from, under another name.
    assert trained == [0, 1]
