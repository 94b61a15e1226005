from typing import Any

import pytest

from repot.trainer.job.diagnosis import (
    end_condition,
    failure_rank,
    newest_pod,
    pod_failure,
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


def failed(code: int, **more: Any) -> dict[str, Any]:
    return make_pod(
        phase="Failed", containerStatuses=[{"state": {"terminated": {"exitCode": code, **more}}}]
    )


@pytest.mark.parametrize(
    ("pod", "text"),
    [
        (failed(2, message="no dataset\n"), "worker 0 exited with code 2: no dataset"),
        (failed(137, message="a log line"), "worker 0 exited with code 137 (killed)"),
        (
            failed(1, message="line\n" * 400 + "ValueError: x"),
            "worker 0 exited with code 1: ValueError: x",
        ),
        (failed(137, reason="OOMKilled"), "used more memory than trainer_memory"),
        (
            make_pod(phase="Failed", reason="Evicted", message="disk full"),
            "worker 0 was terminated: Evicted: disk full",
        ),
        (make_pod(phase="Running"), ""),
        (make_pod(phase="Succeeded"), ""),
    ],
)
def test_pod_failure_quotes_the_best_reason(pod: dict[str, Any], text: str) -> None:
    assert text in pod_failure(pod) if text else pod_failure(pod) == ""


def test_permanent_error_ranks_above_errors_that_may_follow_from_it() -> None:
    assert (
        failure_rank(failed(2))
        > failure_rank(failed(1))
        == failure_rank(failed(137))
        > failure_rank(failed(75))
    )


def test_end_condition_must_have_status_true() -> None:
    target = {"type": "FailureTarget", "status": "True"}
    failure = {"type": "Failed", "status": "True"}

    assert end_condition({}) is None
    assert (
        end_condition({"status": {"conditions": [target, {"type": "Failed", "status": "False"}]}})
        is None
    )
    assert end_condition({"status": {"conditions": [target, failure]}}) == failure


def test_newest_pod_is_that_of_the_worker() -> None:
    old, new, other = (
        make_pod(0, "2026-01-01"),
        make_pod(0, "2026-01-02"),
        make_pod(1, "2026-01-03"),
    )

    assert newest_pod([new, old, other], 0) == new
    assert newest_pod([other], 0) is None
