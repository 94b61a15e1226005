from typing import Any

import pytest

from repot.trainer.job.diagnosis import (
    end_of,
    failure_of,
    newest_of_worker,
    rank_of,
    waiting_reason,
    why_waiting,
)

LABEL = "batch.kubernetes.io/job-completion-index"


def make_pod(
    index: int = 0, created: str = "2026-01-01T00:00:00Z", **status: Any
) -> dict[str, Any]:
    return {
        "metadata": {
            "name": f"p-{index}-{created}",
            "labels": {LABEL: str(index)},
            "creationTimestamp": created,
        },
        "status": status,
    }


def ended(code: int, **more: Any) -> dict[str, Any]:
    return make_pod(
        phase="Failed", containerStatuses=[{"state": {"terminated": {"exitCode": code, **more}}}]
    )


def make_job(**spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"labels": {"kueue.x-k8s.io/queue-name": "q"}},
        "spec": {"parallelism": 1, **spec},
    }


@pytest.mark.parametrize(
    ("pod", "text"),
    [
        (ended(2, message="no data set\n"), "worker 0 ended with exit code 2: no data set"),
        (ended(137, message="a log line"), "worker 0 ended with exit code 137 (killed)"),
        (
            ended(1, message="line\n" * 400 + "ValueError: x"),
            "worker 0 ended with exit code 1: ValueError: x",
        ),
        (ended(137, reason="OOMKilled"), "took more memory than trainer_memory"),
        (
            make_pod(phase="Failed", reason="Evicted", message="disk full"),
            "worker 0 was ended: Evicted: disk full",
        ),
        (make_pod(phase="Running"), ""),
        (make_pod(phase="Succeeded"), ""),
    ],
)
def test_failure_of_a_pod(pod: dict[str, Any], text: str) -> None:
    assert text in failure_of(pod) if text else failure_of(pod) == ""


def test_error_that_lasts_explains_more_than_what_followed_it() -> None:
    assert rank_of(ended(2)) > rank_of(ended(1)) == rank_of(ended(137)) > rank_of(ended(75))


@pytest.mark.parametrize(
    ("pod", "reason"),
    [
        (make_pod(phase="Running"), ""),
        (make_pod(phase="Pending"), "Pending"),
        (make_pod(), "Pending"),
        (
            make_pod(
                phase="Pending",
                conditions=[{"type": "PodScheduled", "status": "False", "reason": "X"}],
            ),
            "X",
        ),
        (
            make_pod(
                phase="Pending",
                containerStatuses=[{"state": {"waiting": {"reason": "ErrImagePull"}}}],
            ),
            "ErrImagePull",
        ),
        (
            make_pod(
                phase="Pending",
                containerStatuses=[{"state": {"waiting": {"reason": "ContainerCreating"}}}],
            ),
            "Pending",
        ),
    ],
)
def test_reason_to_wait(pod: dict[str, Any], reason: str) -> None:
    assert waiting_reason(pod)[0] == reason


def test_job_that_waits_names_its_queue_its_quota_or_its_pod() -> None:
    quota = {
        "type": "Warning",
        "reason": "FailedCreate",
        "message": "exceeded quota",
        "lastTimestamp": "2",
    }
    older = {"type": "Warning", "reason": "Old", "message": "", "lastTimestamp": "1"}
    normal = {"type": "Normal", "reason": "Created", "message": "", "lastTimestamp": "3"}

    assert "queue q lets it go" in why_waiting(make_job(suspend=True), [], [])
    assert why_waiting(make_job(), [], [quota, older, normal]).endswith(
        "FailedCreate: exceeded quota"
    )
    assert why_waiting(make_job(), [make_pod(phase="Pending")], []).startswith("worker 0: Pending")
    assert why_waiting(make_job(), [make_pod(phase="Running")], []) == ""


def test_only_a_true_condition_ends_a_job() -> None:
    target = {"type": "FailureTarget", "status": "True"}
    failed = {"type": "Failed", "status": "True"}

    assert end_of({}) is None
    assert (
        end_of({"status": {"conditions": [target, {"type": "Failed", "status": "False"}]}}) is None
    )
    assert end_of({"status": {"conditions": [target, failed]}}) == failed


def test_newest_pod_of_a_worker() -> None:
    old, new, other = (
        make_pod(0, "2026-01-01"),
        make_pod(0, "2026-01-02"),
        make_pod(1, "2026-01-03"),
    )

    assert newest_of_worker([new, old, other], 0) == new
    assert newest_of_worker([other], 0) is None
