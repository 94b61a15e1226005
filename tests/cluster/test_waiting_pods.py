"""Pods that cannot start on the cluster: `repot submit --wait` says why, and ends the run."""

from typing import Any

import pytest

from tests.cluster.command_line import CommandResult
from tests.cluster.session import Session
from tests.cluster.waiting import RUN_SECONDS, TEST_SECONDS

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(TEST_SECONDS)]

TIMEOUT_SECONDS = 60


def submit(session: Session, model_name: str, **parameters: Any) -> CommandResult:
    """Submit a run that must not start, with a short limit."""
    return session.commands.run(
        "submit",
        *session.run_arguments(model_name, **parameters),
        *("--wait", "--poll-seconds", "2", "--no-cache"),
        *("--start-timeout", str(TIMEOUT_SECONDS), "--terminate-on-timeout"),
    ).expect(1)


def test_pod_larger_than_every_node_is_explained_and_its_run_terminated(session: Session) -> None:
    failed = submit(session, "large", builder_cpu="1000")

    assert "warning: builder pods request cpu 1000" in failed.errors
    assert "shards is waiting" in failed.output
    assert "Insufficient cpu; it requests cpu 1k" in failed.output or (
        "Insufficient cpu; it requests cpu 1000" in failed.output
    )
    assert "shards must start within 1 min" in failed.errors
    assert f"The run {failed.run_id} was terminated." in failed.errors
    assert session.kubeflow.end_of(failed.run_id, RUN_SECONDS) in ("FAILED", "CANCELED")


def test_image_that_does_not_exist_is_explained(session: Session) -> None:
    image = f"{session.settings.image.partition('@')[0].rpartition(':')[0]}:no-such-tag"

    failed = submit(session, "image", trainer_image=image, seed=7)

    assert f"Train is waiting: image {image} cannot be pulled" in failed.output
    assert "give the run's service account a pull secret" in failed.errors
    assert session.kubeflow.end_of(failed.run_id, RUN_SECONDS) in ("FAILED", "CANCELED")
