from typing import Any

import kubernetes_validate
import pytest
import yaml

from repot.cluster_names import INTEGRATION_SECRET_VARIABLES, INTEGRATION_VARIABLES
from repot.settings import JobSettings, TrainingSettings
from repot.trainer.job.spec import job_name, make_job, make_service, worker_addresses
from repot.trainer.job.termination import EXIT_PERMANENT, EXIT_RESTART
from repot.trainer.request import TrainingRequest
from repot_pipelines.compiled import find_compiled
from tests.pod_security import restricted_violations

ID = "0123456789abcdef"
REQUEST = TrainingRequest(
    dataset_uri="gs://b/datasets/d",
    weights_uri="gs://b/checkpoints/c",
    run_uri="gs://b/runs/x",
    training_id=ID,
    checkpoint_id="c",
    settings=TrainingSettings(),
)
OWNER = {"metadata": {"name": job_name(ID), "uid": "1-2"}}
SPOT = [{"key": "spot", "operator": "Exists", "effect": "NoSchedule"}]


def make(**settings: Any) -> dict[str, Any]:
    return make_job(
        JobSettings(**{"trainer_image": "ghcr.io/repot/repot-trainer:1", **settings}),
        REQUEST,
        environment={"STORAGE_EMULATOR_HOST": "http://gcs"},
    )


def container_of(job: dict[str, Any]) -> dict[str, Any]:
    (container,) = job["spec"]["template"]["spec"]["containers"]
    return dict(container)


@pytest.mark.parametrize("version", ["1.30", "1.36"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"accelerator_count": 0},
        {
            "num_workers": 4,
            "job_queue": "gpus",
            "trainer_node_selector": {"a": "b"},
            "trainer_tolerations": SPOT,
            "job_priority_class": "low",
        },
    ],
)
def test_job_and_service_are_valid(settings: dict[str, Any], version: str) -> None:
    job = make(**settings)
    service = make_service(REQUEST, owner=OWNER)

    kubernetes_validate.validate(job, version, strict=True)
    kubernetes_validate.validate(service, version, strict=True)


def test_failure_rules_ignore_lost_pods_and_end_the_job_on_permanent_errors() -> None:
    spec = make(num_workers=2)["spec"]

    assert spec["podFailurePolicy"]["rules"] == [
        {
            "action": "FailJob",
            "onExitCodes": {
                "containerName": "trainer",
                "operator": "In",
                "values": [EXIT_PERMANENT],
            },
        },
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {
            "action": "Ignore",
            "onExitCodes": {"containerName": "trainer", "operator": "In", "values": [EXIT_RESTART]},
        },
    ]
    assert (spec["backoffLimit"], spec["podReplacementPolicy"], spec["completionMode"]) == (
        6,
        "Failed",
        "Indexed",
    )
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    assert "suspend" not in spec


def test_queued_job_is_created_suspended() -> None:
    job = make(job_queue="gpus")

    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    assert job["spec"]["suspend"] is True


def test_accelerators_are_limits_and_absent_for_count_0() -> None:
    assert container_of(make(accelerator_count=2))["resources"] == {
        "requests": {"cpu": "4", "memory": "16Gi"},
        "limits": {"memory": "16Gi", "nvidia.com/gpu": "2"},
    }
    assert "nvidia.com/gpu" not in str(make(accelerator_count=0))


def test_workers_have_addresses_only_if_there_are_several() -> None:
    assert worker_addresses(ID, 1) == ()
    assert "subdomain" not in make()["spec"]["template"]["spec"]

    job = make(num_workers=2)
    addresses = (
        f"repot-train-{ID}-0.repot-train-{ID}:2222",
        f"repot-train-{ID}-1.repot-train-{ID}:2222",
    )
    assert worker_addresses(ID, 2) == addresses
    assert job["spec"]["template"]["spec"]["subdomain"] == job["metadata"]["name"]
    assert {"name": "REPOT_WORKERS", "value": ",".join(addresses)} in container_of(job)["env"]
    service = make_service(REQUEST, owner=OWNER)
    assert service["metadata"]["name"] == job["metadata"]["name"]
    assert (
        service["spec"]["selector"].items() <= job["spec"]["template"]["metadata"]["labels"].items()
    )


def test_pods_get_the_same_storage_variables_as_pipeline_tasks() -> None:
    _, platform = yaml.safe_load_all(find_compiled().read_text())
    task = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-train"]
    expected = {
        each["envVar"]: each["configMapKey"]
        for source in task["configMapAsEnv"]
        for each in source["keyToEnv"]
    } | {
        each["envVar"]: each["secretKey"]
        for source in task["secretAsEnv"]
        for each in source["keyToEnv"]
    }

    references = {
        each["name"]: next(iter(each["valueFrom"].values()))
        for each in container_of(make())["env"]
        if "valueFrom" in each
    }
    # The workers of a Job report to their task, which alone tells other services about the run.
    of_tasks_only = {*INTEGRATION_VARIABLES.values(), *INTEGRATION_SECRET_VARIABLES.values()}
    assert {name: reference["key"] for name, reference in references.items()} == {
        variable: key for variable, key in expected.items() if variable not in of_tasks_only
    }
    assert all(reference["optional"] for reference in references.values())


def test_pods_know_the_names_of_objects_that_are_not_the_usual_ones() -> None:
    def literals(job: Any) -> dict[str, str]:
        return {
            each["name"]: each["value"]
            for each in container_of(job)["env"]
            if each["name"].endswith(("_SECRET", "_CONFIG_MAP"))
        }

    assert literals(make()) == {}
    assert literals(make(s3_secret_name="team-s3", settings_config_map="store")) == {
        "REPOT_S3_SECRET": "team-s3",
        "REPOT_SETTINGS_CONFIG_MAP": "store",
    }


@pytest.mark.parametrize("num_workers", [1, 4])
def test_pod_meets_the_pod_security_standard_restricted(num_workers: int) -> None:
    assert restricted_violations(make(num_workers=num_workers)["spec"]["template"]["spec"]) == []


def test_pod_runs_unprivileged() -> None:
    pod = make()["spec"]["template"]["spec"]

    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["serviceAccountName"] == "repot-worker"
    assert container_of(make())["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    writable = {mount["mountPath"] for mount in container_of(make())["volumeMounts"]}
    assert writable == {"/tmp", "/dev/shm"}
