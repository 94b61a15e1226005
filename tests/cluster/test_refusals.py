"""What ends badly on the cluster: a model that is not good enough, and parameters that only the run can refuse."""

import pytest

from repot.errors import EXIT_GATE_REJECTED
from tests.cluster.command_line import Ended
from tests.cluster.site import Site
from tests.cluster.waiting import TEST_SECONDS

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(TEST_SECONDS)]


def test_model_below_the_threshold_is_not_promoted_and_the_exit_code_says_so(
    site: Site, promoted: Ended
) -> None:
    del promoted
    before = site.champion("first")

    # One epoch of four classes gets some picture wrong.
    rejected = site.submit("first", epochs=1, seed=1, min_precision=1.0).expect(EXIT_GATE_REJECTED)

    assert "Not promoted" in rejected.output
    assert site.champion("first") == before


def test_wrong_parameters_fail_in_plan_and_are_all_told(site: Site) -> None:
    nowhere = {
        "labels_file_uri": f"{site.folder_uri}/no.txt",
        "checkpoint": f"{site.folder_uri}/no.pth",
    }

    failed = site.submit("wrong", **nowhere).expect(1)

    assert "Plan: check everything, list the pictures: failed" in failed.output
    assert "The labels file must exist" in failed.errors
    assert f"{site.folder_uri}/no.pth" in failed.errors
    assert {pod.task for pod in site.cluster.task_pods(failed.run_id)} == {"plan"}
    assert site.champion("wrong") is None
