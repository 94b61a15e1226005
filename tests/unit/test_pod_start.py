"""Statuses and events as Kubernetes 1.36 with containerd writes them; ids and names shortened."""

from typing import Any

import pytest

from repot.pod_start import (
    CONFIG,
    CONTAINER,
    GATED,
    IMAGE,
    NODE,
    OTHER,
    PULLING,
    QUEUE,
    QUOTA,
    SCALING,
    STARTING,
    UNSCHEDULABLE,
    VOLUME,
    Obstacle,
    describe_obstacle,
    find_job_obstacle,
    find_obstacle,
)

IMAGE_NAME = "ghcr.io/repot/repot-trainer:0.1.0"
NOT_FOUND = (
    f'failed to pull and unpack image "{IMAGE_NAME}": failed to resolve reference "{IMAGE_NAME}": '
    f"{IMAGE_NAME}: not found"
)
NO_CPU = (
    "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: 0/1 "
    "nodes are available: 1 Preemption is not helpful for scheduling."
)


def make_pod(
    *, phase: str = "Pending", node: str = "", labels: dict[str, str] | None = None, **status: Any
) -> dict[str, Any]:
    main = {
        "name": "main",
        "image": IMAGE_NAME,
        "resources": {
            "requests": {"cpu": "4", "memory": "16Gi"},
            "limits": {"memory": "16Gi", "nvidia.com/gpu": "1"},
        },
    }
    wait = {
        "name": "wait",
        "image": "argoexec",
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}},
    }
    return {
        "metadata": {"name": "p", "labels": labels or {}},
        "spec": {
            "initContainers": [{"name": "kfp-launcher", "image": "ghcr.io/kubeflow/launcher:2.17"}],
            "containers": [wait, main],
            **({"nodeName": node} if node else {}),
        },
        "status": {"phase": phase, **status},
    }


def waiting(reason: str, message: str = "", name: str = "main", **more: Any) -> dict[str, Any]:
    state = {"reason": reason, **({"message": message} if message else {})}
    return {"name": name, "restartCount": 0, "state": {"waiting": state}, **more}


def unscheduled(message: str, reason: str = "Unschedulable") -> dict[str, Any]:
    condition = {"type": "PodScheduled", "status": "False", "reason": reason, "message": message}
    return make_pod(conditions=[condition])


def event(reason: str, message: str, second: int = 0, **more: Any) -> dict[str, Any]:
    return {
        "type": "Warning",
        "reason": reason,
        "message": message,
        "lastTimestamp": f"2026-03-01T02:00:{second:02}Z",
        **more,
    }


def obstacle_of(pod: dict[str, Any], *events: dict[str, Any]) -> Obstacle:
    found = find_obstacle(pod, events)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("status", "cause", "text"),
    [
        (
            waiting("ErrImagePull", f"rpc error: code = NotFound desc = {NOT_FOUND}"),
            IMAGE,
            f"image {IMAGE_NAME} cannot be pulled: {IMAGE_NAME}: not found",
        ),
        (
            waiting(
                "ImagePullBackOff",
                f'Back-off pulling image "{IMAGE_NAME}": ErrImagePull: {NOT_FOUND}',
            ),
            IMAGE,
            f"image {IMAGE_NAME} cannot be pulled: {IMAGE_NAME}: not found",
        ),
        (
            waiting(
                "InvalidImageName",
                'Failed to apply default image tag "HTTP://x": couldn\'t parse image name '
                '"HTTP://x": invalid reference format',
            ),
            IMAGE,
            'cannot be pulled: Failed to apply default image tag "HTTP://x": couldn\'t parse',
        ),
        (
            waiting(
                "ErrImageNeverPull",
                f'Container image "{IMAGE_NAME}" is not present with pull policy of Never',
            ),
            IMAGE,
            "is not present with pull policy of Never",
        ),
        (
            waiting(
                "CreateContainerConfigError",
                "couldn't find key accesskey in Secret kubeflow/repot-s3",
            ),
            CONFIG,
            (
                "its container cannot be created: couldn't find key accesskey in Secret "
                "kubeflow/repot-s3"
            ),
        ),
        (
            waiting("CreateContainerError", 'failed to reserve container name "main_p_0"'),
            CONTAINER,
            "its container cannot be started: CreateContainerError: failed to reserve",
        ),
        (
            waiting(
                "RunContainerError",
                'failed to create containerd task: exec: "sh": executable file not found in $PATH',
            ),
            CONTAINER,
            'exec: "sh": executable file not found in $PATH',
        ),
        (
            waiting("SomethingNew", "of a later release"),
            OTHER,
            "SomethingNew: of a later release",
        ),
    ],
)
def test_waiting_container_tells_why(status: dict[str, Any], cause: str, text: str) -> None:
    found = obstacle_of(make_pod(node="n", containerStatuses=[status]))

    assert found.cause == cause
    assert text in found.text
    assert found.is_error


def test_init_container_is_seen_and_names_its_own_image() -> None:
    launcher = waiting("ErrImagePull", "no such host", name="kfp-launcher")
    later = waiting("PodInitializing")

    found = obstacle_of(make_pod(initContainerStatuses=[launcher], containerStatuses=[later]))

    assert found.text == "image ghcr.io/kubeflow/launcher:2.17 cannot be pulled: no such host"


def test_back_off_without_a_cause_takes_it_from_the_events() -> None:
    status = waiting("ImagePullBackOff", f'Back-off pulling image "{IMAGE_NAME}"')
    events = [
        event("Failed", f'Failed to pull image "{IMAGE_NAME}": pull access denied', 1),
        event("Failed", "Error: ErrImagePull", 2),
        event("BackOff", f'Back-off pulling image "{IMAGE_NAME}"', 3),
    ]

    with_events = obstacle_of(make_pod(containerStatuses=[status]), *events)
    without = obstacle_of(make_pod(containerStatuses=[status]))

    assert with_events.text == f"image {IMAGE_NAME} cannot be pulled: pull access denied"
    assert without.text == f"image {IMAGE_NAME} cannot be pulled: ImagePullBackOff"
    assert with_events.key == without.key


def test_unschedulable_pod_tells_what_it_requests() -> None:
    found = obstacle_of(unscheduled(NO_CPU))

    assert found.cause == UNSCHEDULABLE
    assert found.text == (
        "0/1 nodes are available: 1 Insufficient cpu; it requests cpu 4, memory 16Gi, "
        "nvidia.com/gpu 1"
    )


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (
            (
                "0/3 nodes are available: pod has unbound immediate PersistentVolumeClaims. "
                "preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling."
            ),
            "0/3 nodes are available: pod has unbound immediate PersistentVolumeClaims;",
        ),
        ('persistentvolumeclaim "data" not found', 'persistentvolumeclaim "data" not found;'),
        (
            (
                "0/2 nodes are available: 1 Insufficient memory, 1 node(s) had untolerated taint "
                "{nvidia.com/gpu: present}. preemption: not eligible due to preemptionPolicy=Never."
            ),
            "1 Insufficient memory, 1 node(s) had untolerated taint {nvidia.com/gpu: present};",
        ),
    ],
)
def test_remarks_on_preemption_are_left_out(message: str, text: str) -> None:
    found = obstacle_of(unscheduled(message)).text

    assert text in found
    assert "reemption" not in found


def test_autoscaler_that_adds_a_node_is_another_obstacle() -> None:
    scale_up = event("TriggeredScaleUp", "pod triggered scale-up: [{gpu-pool 0->1 (max: 4)}]", 5)
    refusal = event(
        "NotTriggerScaleUp", "pod didn't trigger scale-up: 1 max node group size reached", 1
    )
    nominated = event("Nominated", "Pod should schedule on: nodeclaim/gpu-x", 5)

    scaling = obstacle_of(unscheduled(NO_CPU), scale_up, refusal)
    refused = obstacle_of(unscheduled(NO_CPU), refusal)

    assert scaling.cause == obstacle_of(unscheduled(NO_CPU), nominated).cause == SCALING
    assert "the autoscaler is adding a node (pod triggered scale-up: [{gpu-pool" in scaling.text
    assert (refused.cause, "max node group size reached" in refused.text) == (UNSCHEDULABLE, True)
    assert len({scaling.key, refused.key, obstacle_of(unscheduled(NO_CPU)).key}) == 3


def test_gated_pod_is_not_called_unschedulable() -> None:
    found = obstacle_of(
        unscheduled("Scheduling is blocked due to non-empty scheduling gates", "SchedulingGated")
    )

    assert (found.cause, found.text) == (
        GATED,
        "Scheduling is blocked due to non-empty scheduling gates",
    )


@pytest.mark.parametrize(
    ("events", "cause", "text"),
    [
        (
            [
                event("Scheduled", "Successfully assigned kubeflow/p to n", 0),
                event(
                    "FailedMount",
                    'MountVolume.SetUp failed for volume "v" : secret "x" not found',
                    1,
                ),
            ],
            VOLUME,
            'a volume cannot be mounted: MountVolume.SetUp failed for volume "v" : secret "x" not',
        ),
        (
            [event("FailedAttachVolume", "Multi-Attach error for volume pvc-1", 1)],
            VOLUME,
            "Multi-Attach error",
        ),
        (
            [
                event(
                    "FailedCreatePodSandBox", "Failed to create pod sandbox: plugin type=calico", 1
                )
            ],
            NODE,
            "node n cannot set it up: Failed to create pod sandbox: plugin type=calico",
        ),
        (
            [event("Pulling", f'Pulling image "{IMAGE_NAME}"', 1, type="Normal")],
            PULLING,
            f"image {IMAGE_NAME} is being pulled",
        ),
        (
            [
                event("FailedMount", "timed out", 1),
                event("Pulling", f'Pulling image "{IMAGE_NAME}"', 2),
                event("Pulled", f'Successfully pulled image "{IMAGE_NAME}"', 3),
            ],
            STARTING,
            "the pod is starting",
        ),
        ([], STARTING, "the pod is starting"),
    ],
)
def test_latest_event_tells_what_a_pod_with_a_node_waits_for(
    events: list[dict[str, Any]], cause: str, text: str
) -> None:
    statuses = [waiting("PodInitializing"), waiting("ContainerCreating", name="wait")]

    found = obstacle_of(make_pod(node="n", containerStatuses=statuses), *reversed(events))

    assert found.cause == cause
    assert text in found.text
    assert found.is_error == (cause not in (PULLING, STARTING))


@pytest.mark.parametrize("phase", ["Running", "Succeeded", "Failed"])
def test_started_and_ended_pods_have_no_obstacle(phase: str) -> None:
    assert find_obstacle(make_pod(phase=phase)) is None


def test_container_that_never_ran_in_a_running_pod_is_an_obstacle_but_a_restarted_one_is_not() -> (
    None
):
    stuck = waiting("ImagePullBackOff", "denied")
    restarted = waiting("CrashLoopBackOff", "back-off 10s restarting", restartCount=3)

    assert obstacle_of(make_pod(phase="Running", containerStatuses=[stuck])).cause == IMAGE
    assert find_obstacle(make_pod(phase="Running", containerStatuses=[restarted])) is None


@pytest.mark.parametrize(
    ("reason", "message", "cause", "text"),
    [
        (
            "",
            (
                'Pending pods "p" is forbidden: exceeded quota: small, requested: requests.cpu=4, '
                "used: requests.cpu=0, limited: requests.cpu=2"
            ),
            QUOTA,
            (
                "exceeded quota: small, requested: requests.cpu=4, used: requests.cpu=0, limited: "
                "requests.cpu=2"
            ),
        ),
        ("PodInitializing", "", STARTING, "the pod is starting"),
        ("Unschedulable", NO_CPU, UNSCHEDULABLE, "0/1 nodes are available: 1 Insufficient cpu"),
        (
            "ImagePullBackOff",
            f'Back-off pulling image "{IMAGE_NAME}"',
            IMAGE,
            f"image {IMAGE_NAME} cannot be pulled: ImagePullBackOff",
        ),
    ],
)
def test_words_of_argo_are_described_without_the_pod(
    reason: str, message: str, cause: str, text: str
) -> None:
    found = describe_obstacle(reason, message)

    assert (found.cause, found.text) == (cause, text)


def test_terminal_escapes_of_a_message_are_not_printed() -> None:
    found = describe_obstacle("CreateContainerError", "\x1b[31mred\x1b[0m")

    assert "\x1b" not in found.text
    assert "red" in found.text


def test_long_message_is_cut() -> None:
    found = describe_obstacle("SomethingNew", "x" * 5000)

    assert 400 < len(found.text) < 450


def make_job(**spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"labels": {"kueue.x-k8s.io/queue-name": "q"}},
        "spec": {"parallelism": 1, **spec},
    }


def job_obstacle(job: dict[str, Any], *pods: dict[str, Any], **events: Any) -> Obstacle:
    found = find_job_obstacle(job, pods, **events)
    assert found is not None
    return found


def test_suspended_job_names_its_queue() -> None:
    found = job_obstacle(make_job(suspend=True))

    assert (found.cause, found.text) == (
        QUEUE,
        "the Job is suspended; queue q starts it when there is room",
    )


def test_missing_pods_of_a_job_are_explained_by_its_latest_warning() -> None:
    quota = event(
        "FailedCreate", 'Error creating: pods "x" is forbidden: exceeded quota: gpus, used: 1', 2
    )
    older, normal = event("Old", "", 1), event("SuccessfulCreate", "", 3, type="Normal")

    found = job_obstacle(make_job(), events=[normal, quota, older])

    assert (found.cause, found.text) == (
        QUOTA,
        "not all pods of the Job exist yet: exceeded quota: gpus, used: 1",
    )
    assert job_obstacle(make_job()).cause == QUEUE


def test_worker_that_never_starts_comes_before_those_that_only_wait() -> None:
    starting = make_pod(labels={"batch.kubernetes.io/job-completion-index": "0"})
    stuck = make_pod(
        labels={"batch.kubernetes.io/job-completion-index": "1"},
        containerStatuses=[waiting("ErrImagePull", "denied")],
    )

    found = job_obstacle(make_job(parallelism=2), starting, stuck)

    assert (found.cause, found.text) == (
        IMAGE,
        f"worker 1: image {IMAGE_NAME} cannot be pulled: denied",
    )


def test_events_of_a_worker_explain_its_waiting() -> None:
    pod = unscheduled(NO_CPU)
    scale_up = event("TriggeredScaleUp", "pod triggered scale-up", involvedObject={"name": "p"})
    of_another = event("TriggeredScaleUp", "pod triggered scale-up", involvedObject={"name": "q"})

    assert job_obstacle(make_job(), pod, events=[scale_up]).cause == SCALING
    assert job_obstacle(make_job(), pod, events=[of_another]).cause == UNSCHEDULABLE


def test_job_whose_workers_run_has_no_obstacle() -> None:
    assert find_job_obstacle(make_job(), [make_pod(phase="Running")]) is None
