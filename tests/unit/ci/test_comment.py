import pytest

from repot_pipelines.ci.comment import (
    MARKER,
    StartedRun,
    failure_comment,
    stopped_comment,
    verdict_comment,
)
from repot_pipelines.ci.origins import Origins
from repot_pipelines.watch.gate_result import PROMOTED, REJECTED, UNCHANGED, UNKNOWN, GateVerdict

RUN = StartedRun(
    run_id="r-1",
    address="https://kfp.example/#/runs/details/r-1",
    version_name="0.1.0-abc",
    model_name="a`b",
)
GITHUB_LIMIT = 65_536


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        (PROMOTED, "### repot: promoted ``a`b``"),
        (REJECTED, "### repot: not promoted ``a`b``"),
        (UNKNOWN, "### repot: not promoted ``a`b``"),
        (UNCHANGED, "**repot: unchanged.**"),
    ],
)
def test_verdict_is_in_the_first_words(verdict: str, words: str) -> None:
    comment = verdict_comment(RUN, GateVerdict(verdict=verdict), Origins())

    assert comment.startswith(f"{MARKER}\n{words}")
    assert comment.endswith("\n")


@pytest.mark.parametrize(
    "uri", ["/local/report.html", "s3://bucket/report.html", "gs://bucket/a b.html", "gs://b/<x>"]
)
def test_report_that_no_browser_opens_is_named_only(uri: str) -> None:
    comment = verdict_comment(RUN, GateVerdict(verdict=PROMOTED, report_uri=uri), Origins())

    assert f"report `{uri}`" in comment


def test_run_without_a_page_is_named_only() -> None:
    run = StartedRun(
        run_id="r-1",
        address="http://localhost:8080/x (after `kubectl ...`)",
        version_name="",
        model_name="m",
    )

    assert stopped_comment(run).rstrip().endswith("the run goes on. run `r-1`")


def test_failure_has_its_first_line_as_text_and_the_rest_as_code() -> None:
    comment = failure_comment("It <b>failed</b>.\n  Train:\n    @octocat", RUN)

    assert "It \\<b\\>failed\\</b\\>." in comment
    assert "```text\n  Train:\n    @octocat\n```" in comment


def test_comment_of_the_longest_failure_is_taken_by_github() -> None:
    said = GateVerdict(
        verdict=REJECTED,
        headline="|" * 10_000,
        reasons=("_" * 10_000,) * 5,
        report_uri="x" * 10_000,
    )

    assert len(failure_comment("*" * 100_000 + "\n" + "`" * 100_000, RUN)) < GITHUB_LIMIT
    assert len(verdict_comment(RUN, said, Origins(problem="*" * 10_000))) < GITHUB_LIMIT
