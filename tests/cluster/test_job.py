"""trainer_mode=job on the cluster: a lost pod is replaced and the training goes on; a terminated run leaves no Job."""

import csv
import io

import pytest

from repot import storage
from repot.trainer.job.diagnosis import end_condition
from tests.cluster.cluster import Facts
from tests.cluster.command_line import Ended
from tests.cluster.site import FOLLOWED, Site
from tests.cluster.waiting import RUN_SECONDS, TEST_SECONDS, wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(TEST_SECONDS)]

IN_JOB = {"trainer_mode": "job", "recipe": "fine_tune", "job_deadline_hours": 2}
NUM_EPOCHS = 30
GONE_SECONDS = 30.0


def wait_for_worker(site: Site, model_name: str, line: str) -> tuple[str, Facts]:
    """Return the name of the Job that trains now, and its pod, once the pod has logged something."""

    def look() -> tuple[str, Facts] | None:
        for job in site.cluster.jobs_below(site.storage_uri):
            for pod in (
                site.cluster.job_pods(job["metadata"]["name"]) if end_condition(job) is None else []
            ):
                if line in site.cluster.log(pod["metadata"]["name"]):
                    return job["metadata"]["name"], pod
        return None

    def seen() -> list[tuple[str, str]]:
        jobs = site.cluster.jobs_below(site.storage_uri)
        pods = [pod for job in jobs for pod in site.cluster.job_pods(job["metadata"]["name"])]
        return [
            (pod["metadata"]["name"], site.cluster.log(pod["metadata"]["name"])[-500:])
            for pod in pods
        ]

    found = wait_for(
        f"a pod of {model_name} that logs {line!r}", look, seconds=RUN_SECONDS, state=seen
    )
    assert found is not None
    return found


def numbers(site: Site, model_name: str) -> list[dict[str, str]]:
    """Return what a champion's training measured in every epoch, the times left out."""
    champion = site.champion(model_name)
    assert champion is not None
    text = storage.read_text(f"{site.run_folder(champion['version'])}/history.csv")
    return [
        {name: value for name, value in row.items() if "second" not in name}
        for row in csv.DictReader(io.StringIO(text))
    ]


def test_lost_pod_is_replaced_and_the_training_ends_as_if_nothing_had_been(
    site: Site, promoted: Ended
) -> None:
    del promoted
    words = site.request("disturbed", **IN_JOB, epochs=NUM_EPOCHS)
    with site.commands.started("submit", *words, *FOLLOWED) as started:
        job, pod = wait_for_worker(site, "disturbed", "fine_tune epoch 2 ")
        site.cluster.delete_pod(pod["metadata"]["name"])
        started.wait(RUN_SECONDS).expect(0)

    last = site.cluster.job_pods(job)[-1]
    assert last["metadata"]["uid"] != pod["metadata"]["uid"]
    assert "resuming after epoch" in site.cluster.log(last["metadata"]["name"])
    (ended,) = [
        each
        for each in site.cluster.jobs_below(site.storage_uri)
        if each["metadata"]["name"] == job
    ]
    assert (end_condition(ended) or {})["type"] == "Complete"

    site.submit("undisturbed", **IN_JOB, epochs=NUM_EPOCHS, rebuild="undisturbed").expect(0)

    measured, expected = numbers(site, "disturbed"), numbers(site, "undisturbed")
    assert len(measured) == len(expected) > NUM_EPOCHS
    jobs = [each["metadata"]["name"] for each in site.cluster.jobs_below(site.storage_uri)]
    nodes = {each["spec"]["nodeName"] for name in jobs for each in site.cluster.job_pods(name)} | {
        pod["spec"]["nodeName"]
    }
    # Two kinds of CPU do not agree in the last digit.
    if len(nodes) == 1:
        assert measured == expected


def test_terminated_run_takes_its_job_with_it(site: Site, promoted: Ended) -> None:
    del promoted
    with site.commands.started(
        "submit", *site.request("terminated", **IN_JOB, epochs=2000), *FOLLOWED
    ) as started:
        run_id = wait_for("the id of the run", started.run_id, seconds=120)
        job, _ = wait_for_worker(site, "terminated", "fine_tune epoch 1 ")
        site.kubeflow.terminate(run_id)
        wait_for(
            f"the end of the Job {job}",
            lambda: (
                job
                not in [
                    each["metadata"]["name"] for each in site.cluster.jobs_below(site.storage_uri)
                ]
            ),
            seconds=GONE_SECONDS,
        )
        ended = started.wait(600).expect(1)

    assert f"The run {run_id} was terminated before its end." in ended.output
    wait_for("the end of its pods", lambda: not site.cluster.job_pods(job), seconds=180)
    assert site.champion("terminated") is None
