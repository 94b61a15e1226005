"""Rejected models and failed runs on the cluster."""

import pytest

from repot.errors import EXIT_GATE_REJECTED
from repot.progress import find_failure
from tests.cluster.command_line import CommandResult
from tests.cluster.session import Session
from tests.cluster.waiting import TEST_SECONDS

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(TEST_SECONDS)]


def test_model_below_the_threshold_is_not_promoted_and_exits_with_3(
    session: Session, promoted: CommandResult
) -> None:
    del promoted
    before = session.champion("first")

    # After one epoch at least one of the pictures is misclassified.
    rejected = session.submit("first", epochs=1, seed=1, min_precision=1.0).expect(
        EXIT_GATE_REJECTED
    )

    assert "Not promoted" in rejected.output
    assert session.champion("first") == before


def test_wrong_parameters_fail_in_plan_and_are_all_reported(session: Session) -> None:
    missing_files = {
        "labels_file_uri": f"{session.folder_uri}/no.txt",
        "checkpoint": f"{session.folder_uri}/no.pth",
    }

    failed = session.submit("wrong", **missing_files).expect(1)

    assert "Plan: failed" in failed.output
    assert "The labels file must exist" in failed.errors
    assert f"{session.folder_uri}/no.pth" in failed.errors
    pods = session.cluster.task_pods(failed.run_id)
    assert {pod.task for pod in pods} == {"plan"}
    for pod in pods:
        reason = find_failure(session.cluster.log(pod.manifest["metadata"]["name"]))
        assert "The labels file must exist" in reason
        assert pod.termination_message == f"plan: {reason}"
    assert session.champion("wrong") is None
