"""Pods that are deleted while they work: the run ends with the numbers of an undisturbed one."""

import csv
import io
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from repot import layout, storage
from repot.kubernetes_rules import KubernetesObject
from tests.cluster.cluster import TaskPod
from tests.cluster.command_line import CommandResult
from tests.cluster.session import WAIT_OPTIONS, Session
from tests.cluster.waiting import RUN_SECONDS, TEST_SECONDS, wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(TEST_SECONDS)]

NUM_EPOCHS = 30
FINE_TUNING: dict[str, Any] = {"recipe": "fine_tune", "epochs": NUM_EPOCHS}
JOB: dict[str, Any] = {"trainer_mode": "job", "job_deadline_hours": 2}
NUM_SHARDS = 16
NUM_PICTURES = 800
PICTURE_SIZE = (2048, 1536)


def wait_for_log(
    session: Session, what: str, pods: Callable[[], list[KubernetesObject]], line: str
) -> KubernetesObject:
    """Wait until one of the pods logs a line, and return that pod."""

    def name(pod: KubernetesObject) -> str:
        return str(pod["metadata"]["name"])

    found = wait_for(
        f"{line!r} in the log of {what}",
        lambda: [pod for pod in pods() if line in session.cluster.log(name(pod))],
        seconds=RUN_SECONDS,
        state=lambda: [(name(pod), session.cluster.log(name(pod))[-500:]) for pod in pods()],
    )
    return found[-1]


def task_pods(session: Session, run_id: str, task: str) -> list[KubernetesObject]:
    """Return the pods of a task, those of earlier attempts included."""
    found: list[TaskPod] = session.cluster.task_pods(run_id)
    return [pod.manifest for pod in found if pod.task == task]


def read_history(session: Session, model_name: str) -> list[dict[str, str]]:
    """Return the history of the champion's training without its times."""
    champion = session.champion(model_name)
    assert champion is not None
    text = storage.read_text(f"{session.run_folder(champion['version'])}/history.csv")
    return [
        {name: value for name, value in row.items() if "second" not in name}
        for row in csv.DictReader(io.StringIO(text))
    ]


@pytest.fixture(scope="module")
def undisturbed(session: Session, promoted: CommandResult) -> list[dict[str, str]]:
    """Return the history of a training whose pod ran to its end."""
    del promoted
    session.submit("undisturbed", **FINE_TUNING, rebuild="undisturbed").expect(0)
    return read_history(session, "undisturbed")


def assert_equal_history(
    session: Session, model_name: str, undisturbed: list[dict[str, str]], nodes: set[str]
) -> None:
    """Compare two histories; pods on nodes with other CPUs may differ in the last digit."""
    measured = read_history(session, model_name)
    assert len(measured) == len(undisturbed) > NUM_EPOCHS
    if len(nodes) == 1:
        assert measured == undisturbed


def test_training_whose_task_pod_is_deleted_gives_the_same_numbers(
    session: Session, undisturbed: list[dict[str, str]]
) -> None:
    arguments = session.run_arguments("pod-deleted", **FINE_TUNING, rebuild="pod-deleted")
    with session.commands.start("submit", *arguments, *WAIT_OPTIONS) as command:
        run_id = wait_for("the id of the run", command.run_id, seconds=120)
        first = wait_for_log(
            session, "Train", partial(task_pods, session, run_id, "train"), "fine_tune epoch 2 "
        )
        session.cluster.delete_pod(first["metadata"]["name"])
        command.wait(RUN_SECONDS).expect(0)

    last = task_pods(session, run_id, "train")[-1]
    assert last["metadata"]["uid"] != first["metadata"]["uid"]
    assert "resuming after epoch" in session.cluster.log(last["metadata"]["name"])
    nodes = {each["spec"]["nodeName"] for each in (first, last)}
    assert_equal_history(session, "pod-deleted", undisturbed, nodes)


def test_training_whose_worker_pod_is_deleted_gives_the_same_numbers(
    session: Session, undisturbed: list[dict[str, str]]
) -> None:
    def worker_pods() -> list[KubernetesObject]:
        jobs = session.cluster.jobs_below(session.storage_uri)
        return [pod for job in jobs for pod in session.cluster.job_pods(job["metadata"]["name"])]

    earlier = {pod["metadata"]["uid"] for pod in worker_pods()}

    def new_pods() -> list[KubernetesObject]:
        return [pod for pod in worker_pods() if pod["metadata"]["uid"] not in earlier]

    arguments = session.run_arguments("worker-deleted", **FINE_TUNING, **JOB, rebuild="worker")
    with session.commands.start("submit", *arguments, *WAIT_OPTIONS) as command:
        first = wait_for_log(session, "a worker", new_pods, "fine_tune epoch 2 ")
        session.cluster.delete_pod(first["metadata"]["name"])
        command.wait(RUN_SECONDS).expect(0)

    last = new_pods()[-1]
    assert last["metadata"]["uid"] != first["metadata"]["uid"]
    assert "resuming after epoch" in session.cluster.log(last["metadata"]["name"])
    nodes = {each["spec"]["nodeName"] for each in (first, last)}
    assert_equal_history(session, "worker-deleted", undisturbed, nodes)


@pytest.fixture(scope="module")
def many_pictures(session: Session, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Upload pictures that take a builder tens of seconds, and return their folder."""
    folder = tmp_path_factory.mktemp("pictures")
    for index in range(NUM_PICTURES):
        write_picture(folder / ("dark", "light")[index % 2] / f"{index:04}.jpg", index)
    uri = storage.join(session.folder_uri, "many-pictures")
    storage.upload_folder(folder, uri)
    yield uri
    storage.delete_folder(uri)


def write_picture(path: Path, index: int) -> None:
    """Write a large picture that compresses well: a gradient, darker or lighter by its index."""
    path.parent.mkdir(exist_ok=True)
    levels = [(level + index) % 128 + index % 2 * 128 for level in range(256)]
    Image.linear_gradient("L").point(levels).resize(PICTURE_SIZE).convert("RGB").save(path)


def test_shards_whose_builder_is_deleted_are_the_same(session: Session, many_pictures: str) -> None:
    manifests = []
    for folder, is_disturbed in (("disturbed", True), ("whole", False)):
        storage_uri = storage.join(session.folder_uri, folder)
        arguments = session.run_arguments(
            "builder-deleted",
            pictures_uri=many_pictures,
            storage_uri=storage_uri,
            train_shards=NUM_SHARDS,
            epochs=1,
        )
        with session.commands.start("submit", *arguments, *WAIT_OPTIONS) as command:
            run_id = wait_for("the id of the run", command.run_id, seconds=120)
            if is_disturbed:
                builder = wait_for_log(
                    session,
                    "a builder",
                    partial(task_pods, session, run_id, "build-shards"),
                    " records, ",
                )
                session.cluster.delete_pod(builder["metadata"]["name"])
            command.wait(RUN_SECONDS).expect(0)
        manifests.append(read_manifest(storage_uri))

    assert manifests[0] == manifests[1]


def read_manifest(storage_uri: str) -> tuple[str, str]:
    """Return the dataset id and the content of a storage's only manifest, with all checksums."""
    (uri,) = [
        each.uri
        for each in storage.list_objects(storage_uri)
        if each.uri.endswith(f"/{layout.MANIFEST_NAME}")
    ]
    return uri.split("/")[-2], storage.read_text(uri)
