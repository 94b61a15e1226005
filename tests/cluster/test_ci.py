"""`repot ci` on the cluster: one pipeline version per commit, and a comment with the outcome."""

import secrets
from pathlib import Path

import pytest

from repot import __version__
from repot.errors import EXIT_GATE_REJECTED
from repot_pipelines.ci.comment import MARKER
from tests.cluster.command_line import CommandResult
from tests.cluster.session import Session
from tests.cluster.waiting import TEST_SECONDS

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(TEST_SECONDS)]


@pytest.fixture
def comment_path(tmp_path: Path) -> Path:
    return tmp_path / "comment.md"


def run_ci(session: Session, commit: str, comment_path: Path, *arguments: str) -> CommandResult:
    options = ["--skip-sample", "--poll-seconds", "2", "--comment-file", str(comment_path)]
    summary = str(comment_path.with_name("summary.md"))
    return session.commands.run(
        "ci", *arguments, *options, GITHUB_SHA=commit, GITHUB_STEP_SUMMARY=summary
    )


def test_new_commit_without_new_data_uploads_a_version_and_keeps_the_champion(
    session: Session, promoted: CommandResult, comment_path: Path
) -> None:
    del promoted
    champion, commit = session.champion("first"), secrets.token_hex(20)

    ended = run_ci(session, commit, comment_path, *session.run_arguments("first")).expect(0)

    comment = comment_path.read_text(encoding="utf-8")
    assert f"{__version__}-{commit[:12]} (uploaded)" in ended.output
    assert comment.startswith(f"{MARKER}\n**repot: unchanged.**")
    assert ended.run_id in comment
    assert comment_path.with_name("summary.md").read_text(encoding="utf-8").strip() in comment
    assert session.champion("first") == champion


def test_comment_has_the_scores_of_promoted_and_rejected_models(
    session: Session, promoted: CommandResult, comment_path: Path
) -> None:
    del promoted
    commit = secrets.token_hex(20)

    run_ci(session, commit, comment_path, *session.run_arguments("ci")).expect(0)

    comment = comment_path.read_text(encoding="utf-8")
    champion = session.champion("ci")
    assert champion is not None
    assert f"### repot: promoted `ci` `{champion['version']}`" in comment
    assert f"{champion['precision_at_1']:.4f}" in comment

    worse = session.run_arguments("ci", epochs=1, seed=1, min_precision=1.0)
    run_ci(session, commit, comment_path, *worse).expect(EXIT_GATE_REJECTED)

    comment = comment_path.read_text(encoding="utf-8")
    assert "### repot: not promoted `ci`" in comment
    assert f"champion `{champion['version']}`" in comment
    assert session.champion("ci") == champion


def test_failed_run_is_reported_in_the_comment(session: Session, comment_path: Path) -> None:
    wrong = session.run_arguments("wrong", labels_file_uri=f"{session.folder_uri}/no.txt")

    run_ci(session, secrets.token_hex(20), comment_path, *wrong).expect(1)

    comment = comment_path.read_text(encoding="utf-8")
    assert comment.startswith(f"{MARKER}\n### repot: failed")
    assert "The labels file must exist" in comment
