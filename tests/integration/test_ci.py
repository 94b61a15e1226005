"""`repot ci` against a server that speaks KFP's API over HTTP, and a real GCS server process for what changed."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from repot import __version__, storage
from repot.evaluator.verdict import NO_CHAMPION, Decision, Pairing, Score, Verdict
from repot_pipelines.ci import sample_check
from repot_pipelines.ci.comment import MARKER
from repot_pipelines.ci.origins import read_origins
from tests.integration.kfp_api.answers import plain
from tests.integration.kfp_api.command_line import Ended, run_repot
from tests.integration.kfp_api.play import NOT_PROMOTED, PROMOTED, TRAINING, Stage, gate_log, play
from tests.integration.kfp_api.server import KfpApi

COMMIT = "0123456789abcdef0123456789abcdef01234567"
VERSION_NAME = f"{__version__}-{COMMIT[:12]}"
SECRET = "s3cret-session-of-mine"
CHALLENGER, CHAMPION = "b" * 16, "a" * 16
VERDICT = Verdict(
    verdict="promote",
    reasons=(
        "It is right 2 pictures more than the champion.",
        "precision@1 of 0.9000 reaches the threshold of 0.8.",
    ),
    version=CHALLENGER,
    champion_version=CHAMPION,
    min_precision=0.8,
    challenger=Score(precision_at_1=0.9, interval=(0.77, 0.96), num_examples=40),
    champion=Score(precision_at_1=0.85, interval=(0.71, 0.93), num_examples=40),
    pairing=Pairing(
        both_right=33,
        only_champion=1,
        only_challenger=3,
        both_wrong=3,
        difference=0.05,
        interval=(-0.04, 0.14),
        p_value=0.625,
    ),
)


@dataclass(frozen=True)
class Job:
    """A CI job: its server, and the files that it writes."""

    api: KfpApi
    comment_path: Path
    summary_path: Path
    storage_uri: str = "gs://repot/here"

    def run(self, *arguments: str | Path) -> Ended:
        return run_repot("ci", *self.words(*arguments))

    def words(self, *arguments: str | Path) -> list[str]:
        places = (
            "gs://pictures/flowers",
            "--storage-uri",
            self.storage_uri,
            "--host",
            self.api.address,
        )
        fast = ("--skip-sample", "--poll-seconds", "0.05", "--comment-file", self.comment_path)
        return [str(word) for word in (*places, *fast, *arguments)]

    @property
    def comment(self) -> str:
        return self.comment_path.read_text(encoding="utf-8")


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Job]:
    for name in [name for name in os.environ if name.startswith("KF_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GITHUB_SHA", COMMIT)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    # Nobody waits for a metadata server that is not there.
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    with KfpApi() as api:
        yield Job(api, tmp_path / "comment.md", tmp_path / "summary.md")


def said(verdict: Decision, **changes: Any) -> tuple[tuple[str, str], ...]:
    facts = replace(VERDICT, verdict=verdict, **changes).to_json()
    return gate_log(facts.pop("verdict"), **facts)


def write_training(storage_uri: str, version: str, **changes: Any) -> None:
    facts = {
        "dataset_id": "d" * 16,
        "checkpoint_id": "c" * 64,
        "settings": {"backbone": "inception_v3", "recipe": "fine_tune", "epochs": 1},
        "labels": ["daisy", "roses"],
        "num_examples": {"train": 1000, "validation": 200},
        "versions": {"repot": "0.1.0"},
        **changes,
    }
    storage.write_json(f"{storage_uri}/runs/{version}/training.json", facts)


def test_a_promotion_is_told_with_its_numbers_and_what_changed(job: Job, gcs: str) -> None:
    write_training(gcs, CHAMPION)
    write_training(
        gcs,
        CHALLENGER,
        dataset_id="e" * 16,
        labels=["daisy", "tul|ips"],
        num_examples={"train": 1200, "validation": 210},
        settings={"backbone": "inception_v3", "recipe": "fine_tune", "epochs": 2},
    )
    play(job.api, [Stage("RUNNING", TRAINING), Stage("SUCCEEDED", PROMOTED, said("promote"))])

    ended = replace(job, storage_uri=gcs).run("--ui-host", "https://kfp.example")

    assert ended.exit_code == 0, ended.errors
    (run_id,) = job.api.store.runs
    for line in (
        MARKER,
        f"### repot: promoted `classifier` `{CHALLENGER}`",
        "| precision@1, 95 % interval | 0.8500 \\[0.7100, 0.9300\\] | 0.9000 \\[0.7700, 0.9600\\] |",
        "| pictures that only this one gets right | 1 | 3 |",
        "- It is right 2 pictures more than the champion.",
        "What changed: the data and the settings.",
        f"| data set | `{'d' * 16}` | `{'e' * 16}` |",
        "| pictures, training + validation | 1,000 + 200 | 1,200 + 210 |",
        "| epochs | `1` | `2` |",
        "Labels added: `tul\\|ips`",
        "Labels removed: `roses`",
    ):
        assert line in job.comment.splitlines()
    assert "exact McNemar p = 0.62" in job.comment
    assert f"[run `{run_id}`](<https://kfp.example/#/runs/details/{run_id}>)" in job.comment
    assert "https://storage.cloud.google.com/repot/here/runs/1/gate/none/report.html" in job.comment
    assert f"`{VERSION_NAME}`" in job.comment
    assert "backbone" not in job.comment
    assert job.summary_path.read_text() == job.comment


def test_no_from_the_gate_is_three(job: Job) -> None:
    play(job.api, [Stage("SUCCEEDED", NOT_PROMOTED, said("reject"))])

    ended = job.run()

    assert ended.exit_code == 3, ended.errors
    assert f"### repot: not promoted `classifier` `{CHALLENGER}`" in job.comment
    assert "What changed is not known here" in job.comment


def test_unchanged_is_one_line_and_fine(job: Job) -> None:
    play(
        job.api, [Stage("SUCCEEDED", NOT_PROMOTED, said("unchanged", champion_version=CHALLENGER))]
    )

    ended = job.run()

    assert ended.exit_code == 0, ended.errors
    (line,) = job.comment.removeprefix(MARKER).strip().splitlines()
    assert line.startswith("**repot: unchanged.**")


def test_first_version_has_no_champion_beside_it(job: Job, gcs: str) -> None:
    write_training(gcs, CHALLENGER)
    logs = said("promote", champion_version=NO_CHAMPION, champion=None, pairing=None)
    play(job.api, [Stage("SUCCEEDED", PROMOTED, logs)])

    assert replace(job, storage_uri=gcs).run().exit_code == 0

    assert "There is no champion yet" in job.comment
    assert "| pictures, training + validation | 1,000 + 200 |" in job.comment


@pytest.mark.parametrize(("phases", "exit_code"), [(PROMOTED, 0), (NOT_PROMOTED, 3)])
def test_a_gate_without_log_is_told_without_numbers(
    job: Job, phases: dict[str, str], exit_code: int
) -> None:
    job.api.has_logs = False
    play(job.api, [Stage("SUCCEEDED", phases)])

    assert job.run().exit_code == exit_code

    assert "The scores are not known here" in job.comment
    assert ("### repot: promoted" in job.comment) == (exit_code == 0)


def test_verdict_of_another_repot_is_told_in_its_own_words(job: Job) -> None:
    play(job.api, [Stage("SUCCEEDED", NOT_PROMOTED, gate_log("reject", novelty=1))])

    assert job.run().exit_code == 3

    assert "Reject: 0.91 on 40 pictures" in job.comment
    assert "- Because." in job.comment


def test_the_same_commit_uses_its_version_again(job: Job) -> None:
    play(job.api, [Stage("SUCCEEDED", PROMOTED, said("promote"))])

    first, second = job.run(), job.run()

    assert f"version  {VERSION_NAME} (uploaded)" in first.output
    assert f"version  {VERSION_NAME} (there already)" in second.output
    assert len(job.api.store.versions) == 1
    assert len(job.api.store.runs) == 2


def test_a_job_that_is_started_again_follows_the_run_that_goes_on(job: Job) -> None:
    play(job.api, [Stage("SUCCEEDED", PROMOTED, said("promote"))])
    submitted = run_repot("submit", *job.words()[:5], "--version-name", VERSION_NAME)
    assert submitted.exit_code == 0, submitted.errors

    same, other = job.run(), job.run("--seed", "7")

    assert "going on since an earlier job" in same.output
    assert "going on since" not in other.output
    assert [other.exit_code, same.exit_code, len(job.api.store.runs)] == [0, 0, 2]


def test_without_the_cache_there_is_no_version_and_a_new_run(job: Job) -> None:
    play(job.api, [Stage("SUCCEEDED", PROMOTED, said("promote"))])

    assert job.run("--no-cache").exit_code == 0

    assert job.api.store.versions == {}
    assert "pipeline version" not in job.comment


def test_a_failed_task_is_in_the_comment_with_its_last_words_and_no_secret(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KF_PIPELINES_COOKIE", f"authservice_session={SECRET}")
    job.api.cookie = f"authservice_session={SECRET}"
    words = f"train: cannot read https://x/y?X-Goog-Signature=abcdef0123 ({SECRET})\n```\n@octocat # not a title\n"
    play(
        job.api,
        [Stage("FAILED", {**TRAINING, "train": "Failed"}, (("root.train.executor", words),))],
    )

    ended = job.run("--logs")

    assert ended.exit_code == 1
    assert "### repot: failed" in job.comment
    assert "train: cannot read https://x/y?X-Goog-Signature=*** (***)" in job.comment
    assert "````text\n" in job.comment
    assert "X-Goog-Signature=***" in ended.errors
    everything = ended.output + ended.errors + job.comment + job.summary_path.read_text()
    assert SECRET not in everything
    assert "abcdef0123" not in everything


@pytest.mark.parametrize("secret", ["se_cret*value~123456", "p$ss&word<123456>"])
def test_a_secret_with_signs_of_markdown_is_masked_in_the_comment(
    job: Job, monkeypatch: pytest.MonkeyPatch, secret: str
) -> None:
    monkeypatch.setenv("KF_PIPELINES_TOKEN", secret)
    job.api.answers = [("POST", "/runs", plain(f"who is {secret}?", status=400))]

    assert job.run().exit_code == 1

    assert "who is" in job.comment
    assert secret not in job.comment.replace("\\", "").replace("\u200b", "")


def test_a_password_in_the_address_is_masked_in_the_comment(job: Job) -> None:
    words = job.words()
    words[words.index("--host") + 1] = "http://user:hunter2secret@127.0.0.1:9"

    assert run_repot("ci", *words).exit_code == 1

    assert "hunter2secret" not in job.comment


def test_a_traceback_has_no_secret_either(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KF_PIPELINES_TOKEN", SECRET)
    job.api.answers = [("POST", "/runs", plain(f"who is {SECRET}?", status=400))]

    ended = job.run("--debug")

    assert ended.exit_code == 1
    assert "Traceback" in ended.errors
    assert "who is ***?" in ended.errors
    assert SECRET not in ended.errors + job.comment


@pytest.mark.parametrize("last", ["FAILED", "CANCELED"])
def test_a_run_that_somebody_terminates_is_told(job: Job, last: str) -> None:
    play(
        job.api,
        [
            Stage("RUNNING", TRAINING),
            Stage("CANCELING", TRAINING),
            Stage(last, {**TRAINING, "train": "Failed"}),
        ],
    )

    ended = job.run()

    assert ended.exit_code == 1
    (run_id,) = job.api.store.runs
    assert f"The run {run_id} was terminated before its end." in job.comment
    assert "was terminated before its end" in ended.errors


def test_an_expired_token_is_told_and_nothing_runs(job: Job, tmp_path: Path) -> None:
    job.api.token = "the right one"
    (tmp_path / "token").write_text("an expired one")
    started = time.monotonic()

    # With the sample: the server is asked first.
    ended = run_repot(
        "ci",
        *[word for word in job.words() if word != "--skip-sample"],
        "--token-file",
        tmp_path / "token",
    )

    assert ended.exit_code == 1
    assert time.monotonic() - started < 10
    assert "does not accept the credentials (401)" in job.comment
    assert "No run was started on the cluster." in job.comment
    assert "an expired one" not in job.comment + ended.errors


def test_a_token_that_expires_while_waiting_is_told_with_the_run(job: Job) -> None:
    play(job.api, [Stage("RUNNING", TRAINING)])
    played = job.api.before

    def expire(number: int, method: str, path: str) -> None:
        played(number, method, path)
        if sum("/runs/" in seen for _, seen in job.api.requests) == 2:
            job.api.token = "a newer one"

    job.api.before = expire

    ended = job.run()

    assert ended.exit_code == 1
    (run_id,) = job.api.store.runs
    assert f"repot submit --attach {run_id}" in ended.errors
    assert f"run `{run_id}`" in job.comment


def test_no_cluster_is_told_at_once(job: Job) -> None:
    words = job.words()
    words[words.index("--host") + 1] = "http://127.0.0.1:9"

    ended = run_repot("ci", *words)

    assert ended.exit_code == 1
    assert "nothing listens at http://127.0.0.1:9" in job.comment.replace("\u200b", "")
    assert ended.errors.count("Error:") == 1


def test_wrong_parameters_are_two_and_in_the_comment(job: Job) -> None:
    ended = job.run("-p", "epoch=3", "--batch-size", "0")

    assert ended.exit_code == 2
    assert "Did you mean epochs?" in ended.errors
    assert "batch_size must lie" in job.comment.replace("\\", "")
    assert job.api.requests == []


@pytest.mark.parametrize("place", ["missing/comment.md", "."])
def test_a_comment_file_that_cannot_be_is_two_and_nobody_is_contacted(
    job: Job, tmp_path: Path, place: str
) -> None:
    ended = replace(job, comment_path=tmp_path / place).run()

    assert ended.exit_code == 2
    assert "--comment-file must name a file that can be written" in ended.errors
    assert job.api.requests == []


def test_a_summary_that_cannot_be_written_is_told_and_the_comment_is_there(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path))
    play(job.api, [Stage("SUCCEEDED", NOT_PROMOTED, said("reject"))])

    ended = job.run()

    assert ended.exit_code == 3
    assert f"The comment cannot be written to {tmp_path}" in ended.errors
    assert "not promoted" in job.comment


def test_a_job_that_is_stopped_leaves_the_run_alone_and_says_so(job: Job) -> None:
    play(job.api, [Stage("RUNNING", TRAINING)])
    command = [
        sys.executable,
        "-c",
        "from repot_pipelines import cli; cli.main()",
        "ci",
        *job.words(),
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 60
        while (
            sum("/runs/" in path for _, path in list(job.api.requests)) < 2
            and time.monotonic() < deadline
        ):
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)

    (run_id,) = job.api.store.runs
    assert process.returncode == 130
    assert f"repot submit --attach {run_id}" in errors
    assert "The job was stopped while it waited; the run goes on." in job.comment
    assert job.api.store.runs[run_id]["state"] == "RUNNING"


def test_the_comment_of_an_earlier_job_is_gone_when_this_one_is_killed(job: Job) -> None:
    job.comment_path.write_text("promoted!")
    play(job.api, [Stage("RUNNING", TRAINING)])
    command = [
        sys.executable,
        "-c",
        "from repot_pipelines import cli; cli.main()",
        "ci",
        *job.words(),
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while not job.api.store.runs and time.monotonic() < deadline:
            time.sleep(0.05)
        process.kill()

    assert "no result" in job.comment


def test_the_real_sample_passes_and_its_training_can_be_compared(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(
        f"{sample_check.__name__}.tempfile.TemporaryDirectory",
        lambda **_: contextlib.nullcontext(str(scratch)),
    )
    play(job.api, [Stage("SUCCEEDED", PROMOTED, said("promote"))])

    ended = run_repot("ci", *[word for word in job.words() if word != "--skip-sample"])

    assert ended.exit_code == 0, ended.errors
    assert "sample   precision@1 0." in ended.output
    (version,) = [path.parent.name for path in scratch.glob("storage/runs/*/training.json")]
    origins = read_origins(str(scratch / "storage"), version=version, champion_version=version)
    assert origins.challenger is not None
    assert origins.challenger == origins.champion
    assert origins.challenger.num_examples == {"train": 92, "validation": 40}


def test_a_sample_that_fails_stops_the_job_before_the_cluster(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pictures").mkdir()
    monkeypatch.setattr(sample_check, "SAMPLE_FOLDER", tmp_path / "pictures")

    ended = run_repot("ci", *[word for word in job.words() if word != "--skip-sample"])

    assert ended.exit_code == 1
    assert (
        "The check on the sample pictures failed, and nothing was sent to the cluster."
        in ended.errors
    )
    assert "The check on the sample pictures failed" in job.comment
    assert job.api.changes == []
