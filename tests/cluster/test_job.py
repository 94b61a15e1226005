"""A terminated run deletes its training Job."""

from typing import Any

import pytest

from repot.kubernetes_rules import KubernetesObject
from repot.trainer.job.diagnosis import end_condition
from tests.cluster.command_line import CommandResult
from tests.cluster.session import WAIT_OPTIONS, Session
from tests.cluster.waiting import RUN_SECONDS, TEST_SECONDS, wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(TEST_SECONDS)]

JOB_PARAMETERS: dict[str, Any] = {
    "trainer_mode": "job",
    "recipe": "fine_tune",
    "job_deadline_hours": 2,
}
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
