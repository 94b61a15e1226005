"""Training Jobs on the cluster: deleted pods are replaced, terminated runs delete their Job."""

import csv
import io

import pytest

from repot import storage
from repot.kubernetes_rules import KubernetesObject
from repot.trainer.job.diagnosis import end_condition
from tests.cluster.command_line import CommandResult
from tests.cluster.session import WAIT_OPTIONS, Session
from tests.cluster.waiting import RUN_SECONDS, TEST_SECONDS, wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(TEST_SECONDS)]

JOB_PARAMETERS = {"trainer_mode": "job", "recipe": "fine_tune", "job_deadline_hours": 2}
NUM_EPOCHS = 30
JOB_DELETION_SECONDS = 30.0


def wait_for_worker(session: Session, model_name: str, line: str) -> tuple[str, KubernetesObject]:
    """Wait until a pod of a running Job logs a line; return the Job's name and the pod."""

    def find_pod() -> tuple[str, KubernetesObject] | None:
        for job in session.cluster.jobs_below(session.storage_uri):
            for pod in (
                session.cluster.job_pods(job["metadata"]["name"])
                if end_condition(job) is None
                else []
            ):
                if line in session.cluster.log(pod["metadata"]["name"]):
                    return job["metadata"]["name"], pod
        return None

    def pod_logs() -> list[tuple[str, str]]:
        jobs = session.cluster.jobs_below(session.storage_uri)
        pods = [pod for job in jobs for pod in session.cluster.job_pods(job["metadata"]["name"])]
        return [
            (pod["metadata"]["name"], session.cluster.log(pod["metadata"]["name"])[-500:])
            for pod in pods
        ]

    found = wait_for(
        f"a pod of {model_name} that logs {line!r}", find_pod, seconds=RUN_SECONDS, state=pod_logs
    )
    assert found is not None
    return found


def read_history(session: Session, model_name: str) -> list[dict[str, str]]:
    """Return the history of the champion's training without its times."""
    champion = session.champion(model_name)
    assert champion is not None
    text = storage.read_text(f"{session.run_folder(champion['version'])}/history.csv")
    return [
        {name: value for name, value in row.items() if "second" not in name}
        for row in csv.DictReader(io.StringIO(text))
    ]


def test_training_with_a_deleted_pod_gives_the_same_numbers(
    session: Session, promoted: CommandResult
) -> None:
    del promoted
    arguments = session.run_arguments("disturbed", **JOB_PARAMETERS, epochs=NUM_EPOCHS)
    with session.commands.start("submit", *arguments, *WAIT_OPTIONS) as command:
        job, pod = wait_for_worker(session, "disturbed", "fine_tune epoch 2 ")
        session.cluster.delete_pod(pod["metadata"]["name"])
        command.wait(RUN_SECONDS).expect(0)

    last = session.cluster.job_pods(job)[-1]
    assert last["metadata"]["uid"] != pod["metadata"]["uid"]
    assert "resuming after epoch" in session.cluster.log(last["metadata"]["name"])
    (ended,) = [
        each
        for each in session.cluster.jobs_below(session.storage_uri)
        if each["metadata"]["name"] == job
    ]
    assert (end_condition(ended) or {})["type"] == "Complete"

    session.submit(
        "undisturbed", **JOB_PARAMETERS, epochs=NUM_EPOCHS, rebuild="undisturbed"
    ).expect(0)

    measured, expected = read_history(session, "disturbed"), read_history(session, "undisturbed")
    assert len(measured) == len(expected) > NUM_EPOCHS
    jobs = [each["metadata"]["name"] for each in session.cluster.jobs_below(session.storage_uri)]
    nodes = {
        each["spec"]["nodeName"] for name in jobs for each in session.cluster.job_pods(name)
    } | {pod["spec"]["nodeName"]}
    # Different CPU models differ in the last digit.
    if len(nodes) == 1:
        assert measured == expected


def test_terminated_run_deletes_its_job(session: Session, promoted: CommandResult) -> None:
    del promoted
    with session.commands.start(
        "submit", *session.run_arguments("terminated", **JOB_PARAMETERS, epochs=2000), *WAIT_OPTIONS
    ) as command:
        run_id = wait_for("the id of the run", command.run_id, seconds=120)
        job, _ = wait_for_worker(session, "terminated", "fine_tune epoch 1 ")
        session.kubeflow.terminate(run_id)
        wait_for(
            f"the end of the Job {job}",
            lambda: (
                job
                not in [
                    each["metadata"]["name"]
                    for each in session.cluster.jobs_below(session.storage_uri)
                ]
            ),
            seconds=JOB_DELETION_SECONDS,
        )
        ended = command.wait(600).expect(1)

    assert f"The run {run_id} was terminated before its end." in ended.output
    wait_for("the end of its pods", lambda: not session.cluster.job_pods(job), seconds=180)
    assert session.champion("terminated") is None
