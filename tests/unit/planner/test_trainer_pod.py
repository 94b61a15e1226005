from repot.planner.trainer_pod import choose_trainer_pod
from repot.settings import JobSettings, TaskSettings

SPOT = [{"key": "spot", "operator": "Exists", "effect": "NoSchedule"}]
JOB = JobSettings(
    trainer_image="gpu-image",
    accelerator_count=2,
    trainer_node_selector={"spot": "true"},
    trainer_tolerations=SPOT,
)


def test_pod_that_trains_gets_what_training_needs() -> None:
    pod = choose_trainer_pod(TaskSettings(trainer_mode="pod", cpu_image="cpu-image"), JOB)

    assert (pod.image, pod.cpu, pod.memory) == ("gpu-image", "4", "16Gi")
    assert (pod.accelerator_count, pod.node_selector, pod.tolerations) == (
        "2",
        {"spot": "true"},
        SPOT,
    )


def test_pod_that_follows_a_job_requests_no_gpu_and_no_spot_node() -> None:
    pod = choose_trainer_pod(TaskSettings(trainer_mode="job", cpu_image="cpu-image"), JOB)

    assert (pod.image, pod.cpu, pod.memory) == ("cpu-image", "250m", "1Gi")
    assert (pod.accelerator_count, pod.node_selector, pod.tolerations) == ("0", {}, [])
