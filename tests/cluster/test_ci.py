"""`repot ci` on the cluster: a version for each commit, and a comment on what came out."""

import secrets
from pathlib import Path

import pytest

from repot import __version__
from repot.errors import EXIT_GATE_REJECTED
from repot_pipelines.ci.comment import MARKER
from tests.cluster.command_line import Ended
from tests.cluster.site import Site
from tests.cluster.waiting import TEST_SECONDS

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(TEST_SECONDS)]


@pytest.fixture
def comment_path(tmp_path: Path) -> Path:
    return tmp_path / "comment.md"


def run_ci(site: Site, commit: str, comment_path: Path, *words: str) -> Ended:
    options = ["--skip-sample", "--poll-seconds", "2", "--comment-file", str(comment_path)]
    summary = str(comment_path.with_name("summary.md"))
    return site.commands.run("ci", *words, *options, GITHUB_SHA=commit, GITHUB_STEP_SUMMARY=summary)


def test_new_commit_is_a_new_version_and_without_new_data_nothing_changes(
    site: Site, promoted: Ended, comment_path: Path
) -> None:
    del promoted
    champion, commit = site.champion("first"), secrets.token_hex(20)

    ended = run_ci(site, commit, comment_path, *site.request("first")).expect(0)

    comment = comment_path.read_text(encoding="utf-8")
    assert f"{__version__}-{commit[:12]} (uploaded)" in ended.output
    assert comment.startswith(f"{MARKER}\n**repot: unchanged.**")
    assert ended.run_id in comment
    assert comment_path.with_name("summary.md").read_text(encoding="utf-8").strip() in comment
    assert site.champion("first") == champion


def test_comment_has_the_scores_of_what_was_promoted_and_of_what_was_not(
    site: Site, promoted: Ended, comment_path: Path
) -> None:
    del promoted
    commit = secrets.token_hex(20)

    run_ci(site, commit, comment_path, *site.request("ci")).expect(0)

    comment = comment_path.read_text(encoding="utf-8")
    champion = site.champion("ci")
    assert champion is not None
    assert f"### repot: promoted `ci` `{champion['version']}`" in comment
    assert f"{champion['precision_at_1']:.4f}" in comment

    worse = site.request("ci", epochs=1, seed=1, min_precision=1.0)
    run_ci(site, commit, comment_path, *worse).expect(EXIT_GATE_REJECTED)

    comment = comment_path.read_text(encoding="utf-8")
    assert "### repot: not promoted `ci`" in comment
    assert f"champion `{champion['version']}`" in comment
    assert site.champion("ci") == champion


def test_failure_is_a_comment_too(site: Site, comment_path: Path) -> None:
    wrong = site.request("wrong", labels_file_uri=f"{site.folder_uri}/no.txt")

    run_ci(site, secrets.token_hex(20), comment_path, *wrong).expect(1)

    comment = comment_path.read_text(encoding="utf-8")
    assert comment.startswith(f"{MARKER}\n### repot: failed")
    assert "The labels file must exist" in comment
