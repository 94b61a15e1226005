"""`repot ci` against a fake KFP server over HTTP, and a GCS server process for the lineage."""

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

from repot import __version__
from repot.errors import EXIT_GATE_REJECTED, EXIT_INTERRUPTED
from repot.evaluator.verdict import NO_CHAMPION, Decision, PairedComparison, Score, Verdict
from repot.json_record import write_record
from repot.settings import TrainingSettings
from repot.training_record import EpochRecord, TrainingRecord
from repot_pipelines.ci import job as ci_job
from repot_pipelines.ci.comment import MARKER
from repot_pipelines.ci.lineage import read_lineage
from repot_pipelines.local.scratch import Scratch
from tests.integration.kfp_api.answers import plain
from tests.integration.kfp_api.command_line import CommandResult, run_repot
from tests.integration.kfp_api.scripted_runs import (
    FINISHED,
    TRAINING,
    Stage,
    gate_log,
    script_runs,
)
from tests.integration.kfp_api.server import KfpApi

COMMIT = "0123456789abcdef0123456789abcdef01234567"
VERSION_NAME = f"{__version__}-{COMMIT[:12]}"
SECRET = "s3cret-session-of-mine"
CHALLENGER, CHAMPION = "b" * 16, "a" * 16
VERDICT = Verdict(
    decision="promote",
    reasons=(
        "It is right 2 pictures more than the champion.",
        "precision@1 of 0.9000 reaches the threshold of 0.8.",
    ),
    model_name="classifier",
    version=CHALLENGER,
    champion_version=CHAMPION,
    decided_at="2026-11-27T14:05:00Z",
    min_precision=0.8,
    challenger=Score(precision_at_1=0.9, interval=(0.77, 0.96), num_examples=40),
    champion=Score(precision_at_1=0.85, interval=(0.71, 0.93), num_examples=40),
    comparison=PairedComparison(
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
    """A CI job: its KFP server, and the files that it writes."""

    api: KfpApi
    comment_path: Path
    summary_path: Path
    storage_uri: str = "gs://repot/here"

    def run(self, *arguments: str | Path) -> CommandResult:
        return run_repot("ci", *self.arguments(*arguments))

    def arguments(self, *more: str | Path) -> list[str]:
        locations = (
            "gs://pictures/flowers",
            "--storage-uri",
            self.storage_uri,
            "--host",
            self.api.address,
        )
        fast = ("--skip-sample", "--poll-seconds", "0.05", "--comment-file", self.comment_path)
        return [str(argument) for argument in (*locations, *fast, *more)]

    @property
    def comment(self) -> str:
        return self.comment_path.read_text(encoding="utf-8")


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gcs_endpoint: str) -> Iterator[Job]:
    for name in [name for name in os.environ if name.startswith("KF_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GITHUB_SHA", COMMIT)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    # No test may contact the user's cluster.
    monkeypatch.setenv("KUBECONFIG", os.devnull)
    # No test may contact the real service; the bucket of the job does not exist here.
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs_endpoint)
    with KfpApi() as api:
        yield Job(api, tmp_path / "comment.md", tmp_path / "summary.md")


def verdict_log(verdict: Decision, **changes: Any) -> tuple[tuple[str, str], ...]:
    values = replace(VERDICT, decision=verdict, **changes).to_json()
    return gate_log(values.pop("decision"), **values)


def write_training(storage_uri: str, version: str, **changes: Any) -> None:
    last_epoch = EpochRecord(
        phase="fine_tune",
        epoch=1,
        learning_rate=0.0,
        train_loss=0.5,
        train_precision_at_1=0.9,
        validation_loss=0.5,
        validation_precision_at_1=0.9,
        seconds=1.0,
    )
    values: dict[str, Any] = {
        "training_id": version,
        "dataset_id": "d" * 16,
        "checkpoint_id": "c" * 64,
        "settings": TrainingSettings(epochs=1),
        "image_size": 299,
        "labels": ("daisy", "roses"),
        "num_examples": {"train": 1000, "validation": 200},
        "num_parameters": 22_000_000,
        "epochs": 1,
        "seconds": 1.0,
        "train_examples_per_second": 1000.0,
        "last_epoch": last_epoch,
        "versions": {"repot": "0.1.0"},
        **changes,
    }
    write_record(f"{storage_uri}/runs/{version}/training.json", TrainingRecord(**values))


def test_promotion_comment_has_scores_and_what_changed(job: Job, gcs: str) -> None:
    write_training(gcs, CHAMPION)
    write_training(
        gcs,
        CHALLENGER,
        dataset_id="e" * 16,
        labels=("daisy", "tul|ips"),
        num_examples={"train": 1200, "validation": 210},
        settings=TrainingSettings(epochs=2),
    )
    script_runs(
        job.api, [Stage("RUNNING", TRAINING), Stage("SUCCEEDED", FINISHED, verdict_log("promote"))]
    )

    ended = replace(job, storage_uri=gcs).run("--ui-host", "https://kfp.example")

    assert ended.exit_code == 0, ended.errors
    (run_id,) = job.api.store.runs
    champion_score, challenger_score = "0.8500 \\[0.7100, 0.9300\\]", "0.9000 \\[0.7700, 0.9600\\]"
    for line in (
        MARKER,
        f"### repot: promoted `classifier` `{CHALLENGER}`",
        f"| precision@1, 95 % interval | {champion_score} | {challenger_score} |",
        "| pictures that only this version classifies correctly | 1 | 3 |",
        "- It is right 2 pictures more than the champion.",
        "What changed: the data and the settings.",
        f"| dataset | `{'d' * 16}` | `{'e' * 16}` |",
        "| pictures, training + validation | 1,000 + 200 | 1,200 + 210 |",
        "| epochs | `1` | `2` |",
        "Labels added: `tul\\|ips`",
        "Labels removed: `roses`",
    ):
        assert line in job.comment.splitlines()
    assert "exact McNemar p = 0.62" in job.comment
    assert f"[run `{run_id}`](<https://kfp.example/#/runs/details/{run_id}>)" in job.comment
    report_url = "https://storage.cloud.google.com/repot/here/runs/1/gate/none/report.html"
    assert report_url in job.comment
    assert f"`{VERSION_NAME}`" in job.comment
    assert "backbone" not in job.comment
    assert job.summary_path.read_text() == job.comment


def test_gate_rejection_exits_with_3(job: Job) -> None:
    script_runs(job.api, [Stage("SUCCEEDED", FINISHED, verdict_log("reject"))])

    ended = job.run()

    assert ended.exit_code == EXIT_GATE_REJECTED, ended.errors
    assert f"### repot: not promoted `classifier` `{CHALLENGER}`" in job.comment
    assert "What changed is unknown" in job.comment


def test_unchanged_model_exits_with_0_and_a_one_line_comment(job: Job) -> None:
    script_runs(
        job.api,
        [Stage("SUCCEEDED", FINISHED, verdict_log("unchanged", champion_version=CHALLENGER))],
    )

    ended = job.run()

    assert ended.exit_code == 0, ended.errors
    (line,) = job.comment.removeprefix(MARKER).strip().splitlines()
    assert line.startswith("**repot: unchanged.**")


def test_first_version_is_commented_without_a_champion(job: Job, gcs: str) -> None:
    write_training(gcs, CHALLENGER)
    logs = verdict_log("promote", champion_version=NO_CHAMPION, champion=None, comparison=None)
    script_runs(job.api, [Stage("SUCCEEDED", FINISHED, logs)])

    assert replace(job, storage_uri=gcs).run().exit_code == 0

    assert "There is no champion yet" in job.comment
    assert "| pictures, training + validation | 1,000 + 200 |" in job.comment


def test_comment_without_gate_log_has_no_scores(job: Job) -> None:
    job.api.has_logs = False
    script_runs(job.api, [Stage("SUCCEEDED", FINISHED)])

    assert job.run().exit_code == EXIT_GATE_REJECTED

    assert "### repot: verdict unknown" in job.comment
    assert "The scores are unknown" in job.comment


def test_verdict_of_another_version_is_quoted_without_its_numbers(job: Job) -> None:
    script_runs(job.api, [Stage("SUCCEEDED", FINISHED, gate_log("reject", novelty=1))])

    assert job.run().exit_code == EXIT_GATE_REJECTED

    assert "Reject: 0.91 on 40 pictures" in job.comment
    assert "- Because." in job.comment


def test_same_commit_reuses_its_pipeline_version(job: Job) -> None:
    script_runs(job.api, [Stage("SUCCEEDED", FINISHED, verdict_log("promote"))])

    first, second = job.run(), job.run()

    assert f"version  {VERSION_NAME} (uploaded)" in first.output
    assert f"version  {VERSION_NAME} (already there)" in second.output
    assert len(job.api.store.versions) == 1
    assert len(job.api.store.runs) == 2


def test_restarted_job_follows_the_unfinished_run_of_the_same_commit(job: Job) -> None:
    script_runs(job.api, [Stage("SUCCEEDED", FINISHED, verdict_log("promote"))])
    submitted = run_repot("submit", *job.arguments()[:5], "--version-name", VERSION_NAME)
    assert submitted.exit_code == 0, submitted.errors

    same, other = job.run(), job.run("--seed", "7")

    assert "started by an earlier job" in same.output
    assert "started by an earlier job" not in other.output
    assert [other.exit_code, same.exit_code, len(job.api.store.runs)] == [0, 0, 2]


def test_no_cache_starts_a_run_without_a_pipeline_version(job: Job) -> None:
    script_runs(job.api, [Stage("SUCCEEDED", FINISHED, verdict_log("promote"))])

    assert job.run("--no-cache").exit_code == 0

    assert job.api.store.versions == {}
    assert "pipeline version" not in job.comment


def test_failure_comment_quotes_the_log_of_the_task_without_secrets(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KF_PIPELINES_COOKIE", f"authservice_session={SECRET}")
    job.api.cookie = f"authservice_session={SECRET}"
    error = f"train: cannot read https://x/y?X-Goog-Signature=abcdef0123 ({SECRET})"
    log = f"{error}\n```\n@octocat # not a title\n"
    script_runs(
        job.api,
        [Stage("FAILED", {**TRAINING, "train": "Failed"}, (("root.train.executor", log),))],
    )

    ended = job.run("--logs")

    assert ended.exit_code == 1
    assert "### repot: failed" in job.comment
    assert "train: cannot read https://x/y?X-Goog-Signature=*** (***)" in job.comment
    assert "````text\n" in job.comment
    assert "X-Goog-Signature=***" in ended.errors
    shown = ended.output + ended.errors + job.comment + job.summary_path.read_text()
    assert SECRET not in shown
    assert "abcdef0123" not in shown


@pytest.mark.parametrize("secret", ["se_cret*value~123456", "p$ss&word<123456>"])
def test_secret_with_markdown_characters_is_masked_in_the_comment(
    job: Job, monkeypatch: pytest.MonkeyPatch, secret: str
) -> None:
    monkeypatch.setenv("KF_PIPELINES_TOKEN", secret)
    job.api.answers = [("POST", "/runs", plain(f"who is {secret}?", status=400))]

    assert job.run().exit_code == 1

    assert "who is" in job.comment
    assert secret not in job.comment.replace("\\", "").replace("\u200b", "")


def test_password_in_the_host_url_is_masked_in_the_comment(job: Job) -> None:
    arguments = job.arguments()
    arguments[arguments.index("--host") + 1] = "http://user:hunter2secret@127.0.0.1:9"

    assert run_repot("ci", *arguments).exit_code == 1

    assert "hunter2secret" not in job.comment


def test_secrets_are_masked_in_a_traceback(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KF_PIPELINES_TOKEN", SECRET)
    job.api.answers = [("POST", "/runs", plain(f"who is {SECRET}?", status=400))]

    ended = job.run("--debug")

    assert ended.exit_code == 1
    assert "Traceback" in ended.errors
    assert "who is ***?" in ended.errors
    assert SECRET not in ended.errors + job.comment


@pytest.mark.parametrize("last", ["FAILED", "CANCELED"])
def test_terminated_run_is_reported(job: Job, last: str) -> None:
    script_runs(
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


def test_expired_token_fails_before_the_sample_check(job: Job, tmp_path: Path) -> None:
    job.api.token = "the right one"
    (tmp_path / "token").write_text("an expired one")
    started = time.monotonic()

    # Without --skip-sample: the server is contacted first.
    ended = run_repot(
        "ci",
        *[argument for argument in job.arguments() if argument != "--skip-sample"],
        "--token-file",
        tmp_path / "token",
    )

    assert ended.exit_code == 1
    assert time.monotonic() - started < 10
    assert "does not accept the credentials (401)" in job.comment
    assert "No run was started on the cluster." in job.comment
    assert "an expired one" not in job.comment + ended.errors


def test_token_that_expires_during_the_run_is_reported_with_the_run(job: Job) -> None:
    script_runs(job.api, [Stage("RUNNING", TRAINING)])
    advance = job.api.before

    def expire(number: int, method: str, path: str) -> None:
        advance(number, method, path)
        if sum("/runs/" in seen for _, seen in job.api.requests) == 2:
            job.api.token = "a newer one"

    job.api.before = expire

    ended = job.run()

    assert ended.exit_code == 1
    (run_id,) = job.api.store.runs
    assert f"repot submit --attach {run_id}" in ended.errors
    assert f"run `{run_id}`" in job.comment


def test_unreachable_server_is_reported(job: Job) -> None:
    arguments = job.arguments()
    arguments[arguments.index("--host") + 1] = "http://127.0.0.1:9"

    ended = run_repot("ci", *arguments)

    assert ended.exit_code == 1
    assert "nothing listens at http://127.0.0.1:9" in job.comment.replace("\u200b", "")
    assert ended.errors.count("Error:") == 1


def test_invalid_parameters_exit_with_2_and_are_in_the_comment(job: Job) -> None:
    ended = job.run("-p", "epoch=3", "--batch-size", "0")

    assert ended.exit_code == 2
    assert "Did you mean epochs?" in ended.errors
    assert "batch_size must lie" in job.comment.replace("\\", "")
    assert job.api.requests == []


@pytest.mark.parametrize("name", ["missing/comment.md", "."])
def test_unwritable_comment_file_exits_with_2_before_any_request(
    job: Job, tmp_path: Path, name: str
) -> None:
    ended = replace(job, comment_path=tmp_path / name).run()

    assert ended.exit_code == 2
    assert "--comment-file must name a writable file" in ended.errors
    assert job.api.requests == []


def test_unwritable_summary_is_reported_and_the_comment_is_written(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path))
    script_runs(job.api, [Stage("SUCCEEDED", FINISHED, verdict_log("reject"))])

    ended = job.run()

    assert ended.exit_code == EXIT_GATE_REJECTED
    assert f"The comment cannot be written to {tmp_path}" in ended.errors
    assert "not promoted" in job.comment


def test_stopped_job_leaves_its_run_running_and_exits_with_130(job: Job) -> None:
    script_runs(job.api, [Stage("RUNNING", TRAINING)])
    command = [
        sys.executable,
        "-c",
        "from repot_pipelines import cli; cli.main()",
        "ci",
        *job.arguments(),
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
    assert process.returncode == EXIT_INTERRUPTED
    assert f"repot submit --attach {run_id}" in errors
    assert "The job was stopped while it waited; the run continues." in job.comment
    assert job.api.store.runs[run_id]["state"] == "RUNNING"


def test_killed_job_does_not_leave_the_comment_of_an_earlier_job(job: Job) -> None:
    job.comment_path.write_text("promoted!")
    script_runs(job.api, [Stage("RUNNING", TRAINING)])
    command = [
        sys.executable,
        "-c",
        "from repot_pipelines import cli; cli.main()",
        "ci",
        *job.arguments(),
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while not job.api.store.runs and time.monotonic() < deadline:
            time.sleep(0.05)
        process.kill()

    assert "no result" in job.comment


def test_sample_check_passes_and_its_training_record_is_readable(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    kept = Scratch(path=scratch, lock=os.open(scratch, os.O_RDONLY))
    monkeypatch.setattr(f"{ci_job.__name__}.scratch_folder", lambda: contextlib.nullcontext(kept))
    script_runs(job.api, [Stage("SUCCEEDED", FINISHED, verdict_log("promote"))])

    ended = run_repot(
        "ci", *[argument for argument in job.arguments() if argument != "--skip-sample"]
    )

    assert ended.exit_code == 0, ended.errors
    assert "sample   precision@1 0." in ended.output
    (version,) = [path.parent.name for path in scratch.glob("storage/runs/*/training.json")]
    lineage = read_lineage(str(scratch / "storage"), version=version, champion_version=version)
    assert lineage.challenger is not None
    assert lineage.challenger == lineage.champion
    assert lineage.challenger.num_examples == {"train": 92, "validation": 40}
    os.close(kept.lock)


def test_failed_sample_check_ends_the_job_before_any_upload(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pictures").mkdir()
    monkeypatch.setattr(ci_job, "SAMPLE_FOLDER", tmp_path / "pictures")

    ended = run_repot(
        "ci", *[argument for argument in job.arguments() if argument != "--skip-sample"]
    )

    assert ended.exit_code == 1
    assert (
        "The check on the sample pictures failed, and nothing was sent to the cluster."
        in ended.errors
    )
    assert "The check on the sample pictures failed" in job.comment
    assert job.api.changes == []
