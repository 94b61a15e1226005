import pytest

from repot_pipelines.ci.comment import (
    MARKER,
    StartedRun,
    failure_comment,
    stopped_comment,
    verdict_comment,
)
from repot_pipelines.ci.lineage import Lineage
from repot_pipelines.watch.gate_result import (
    PROMOTED,
    REJECTED,
    UNCHANGED,
    UNDECIDED,
    UNKNOWN,
    GateResult,
)

RUN = StartedRun(
    run_id="r-1",
    url="https://kfp.example/#/runs/details/r-1",
    version_name="0.1.0-abc",
    model_name="a`b",
)
GITHUB_LIMIT = 65_536


@pytest.mark.parametrize(
    ("verdict", "start"),
    [
        (PROMOTED, "### repot: promoted ``a`b``"),
        (REJECTED, "### repot: not promoted ``a`b``"),
        (UNDECIDED, "### repot: undecided about ``a`b``"),
        (UNKNOWN, "### repot: verdict unknown: ``a`b``"),
        (UNCHANGED, "**repot: unchanged.**"),
    ],
)
def test_comment_starts_with_the_verdict(verdict: str, start: str) -> None:
    comment = verdict_comment(RUN, GateResult(verdict=verdict), Lineage())

    assert comment.startswith(f"{MARKER}\n{start}")
    assert comment.endswith("\n")


@pytest.mark.parametrize(
    "uri", ["/local/report.html", "s3://bucket/report.html", "gs://bucket/a b.html", "gs://b/<x>"]
)
def test_report_without_browser_url_is_not_linked(uri: str) -> None:
    comment = verdict_comment(RUN, GateResult(verdict=PROMOTED, report_uri=uri), Lineage())

    assert f"report `{uri}`" in comment


def test_run_without_url_is_not_linked() -> None:
    run = StartedRun(
        run_id="r-1",
        url="http://localhost:8080/x (after `kubectl ...`)",
        version_name="",
        model_name="m",
    )

    assert stopped_comment(run).rstrip().endswith("the run continues. run `r-1`")


def test_failure_shows_first_line_as_text_and_the_rest_as_code() -> None:
    comment = failure_comment("It <b>failed</b>.\n  Train:\n    @octocat", RUN)

    assert "It \\<b\\>failed\\</b\\>." in comment
    assert "```text\n  Train:\n    @octocat\n```" in comment


def test_longest_comments_fit_the_limit_of_github() -> None:
    result = GateResult(
        verdict=REJECTED,
        headline="|" * 10_000,
        reasons=("_" * 10_000,) * 5,
        report_uri="x" * 10_000,
    )

    assert len(failure_comment("*" * 100_000 + "\n" + "`" * 100_000, RUN)) < GITHUB_LIMIT
    assert len(verdict_comment(RUN, result, Lineage(problem="*" * 10_000))) < GITHUB_LIMIT


def test_unknown_scores_are_reported() -> None:
    comment = verdict_comment(RUN, GateResult(verdict=UNKNOWN), Lineage())

    assert "The scores are unknown" in comment


def test_job_stopped_before_its_run_reports_no_result() -> None:
    assert "stopped before it started a run" in stopped_comment(None)
