"""`repot submit` against a fake KFP API over HTTP, through the real kfp.Client."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from repot import layout, storage
from repot.evaluator.verdict import Score, Verdict
from repot.json_record import write_record
from repot.model_registry import Champion, ChampionChange
from repot.progress import format_failure
from repot_pipelines.compiled import find_compiled
from repot_pipelines.kfp_server.registry import default_version_name
from repot_pipelines.local.run import SAMPLE_FOLDER
from repot_pipelines.watch import follow, run_result
from tests.integration.compiled_tasks import CompiledPipeline
from tests.integration.kfp_api.answers import json_answer, plain, upload_error
from tests.integration.kfp_api.command_line import CommandResult, run_repot
from tests.integration.kfp_api.scripted_runs import (
    FINISHED,
    TRAINING,
    UNCHANGED,
    Stage,
    gate_log,
    script_runs,
)
from tests.integration.kfp_api.server import KfpApi

LOCATIONS = ("gs://pictures/flowers", "--storage-uri", "gs://repot/here")
WAIT = ("--wait", "--poll-seconds", "0.05")
ALL_CALLS = ["pipelines", "pipelines/upload_version", "experiments", "runs"]


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch, gcs_endpoint: str) -> Iterator[KfpApi]:
    for name in [name for name in os.environ if name.startswith("KF_")]:
        monkeypatch.delenv(name)
    # No test may contact the user's cluster.
    monkeypatch.setenv("KUBECONFIG", os.devnull)
    # No test may contact the real service; the bucket of LOCATIONS does not exist here.
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs_endpoint)
    with KfpApi() as server:
        yield server


def submit(api: KfpApi, *arguments: str | Path) -> CommandResult:
    return run_repot("submit", *LOCATIONS, "--host", api.address, *arguments)


def take_writes(api: KfpApi) -> list[str]:
    """Return the paths of all requests that are not GET, and forget them."""
    paths = [path.removeprefix("/apis/v2beta1/") for _, path in api.changes]
    api.requests.clear()
    return paths


def only_run(api: KfpApi) -> dict[str, Any]:
    (run,) = api.store.runs.values()
    return run


@pytest.mark.parametrize(
    "command",
    [
        ("submit",),
        ("submit", "--dry-run"),
        ("schedule", "apply", "nightly", "--cron", "0 2 * * *"),
        ("ci", "--skip-sample"),
    ],
)
def test_account_that_may_not_create_jobs_is_rejected_before_any_change(
    api: KfpApi, command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ("-p", "trainer_mode=job", "--service-account", "repot-runner")

    result = run_repot(*command, *LOCATIONS, "--host", api.address, *options)

    assert result.exit_code == 2
    assert "must run as a service account that may create Jobs" in result.errors
    assert api.changes == []


def test_first_submit_creates_everything_and_second_only_a_run(api: KfpApi) -> None:
    first = submit(api)
    assert first.exit_code == 0, first.errors
    assert take_writes(api) == ALL_CALLS
    assert f"version  {default_version_name(find_compiled())} (uploaded)" in first.output
    assert f"/#/runs/details/{only_run(api)['run_id']}" in first.output

    second = submit(api)

    assert second.exit_code == 0
    assert take_writes(api) == ["runs"]
    assert "(already there)" in second.output
    assert (
        len({json.dumps(run["pipeline_version_reference"]) for run in api.store.runs.values()}) == 1
    )


def test_plan_of_a_submitted_run_corrects_labels(api: KfpApi, gcs: str, tmp_path: Path) -> None:
    for path in sorted(SAMPLE_FOLDER.rglob("fruit/*.*")) + sorted(
        SAMPLE_FOLDER.rglob("mammals/*.*")
    ):
        name = path.relative_to(SAMPLE_FOLDER).as_posix()
        storage.write_bytes(f"{gcs}/pictures/{name}", path.read_bytes())
    corrected = min(path.name for path in (SAMPLE_FOLDER / "train" / "fruit").iterdir())
    table = f"path,new_label\ntrain/fruit/{corrected},mammals\n"
    storage.write_text(f"{gcs}/suspects.csv", table)
    locations = (f"{gcs}/pictures", "--storage-uri", f"{gcs}/repot")

    result = run_repot(
        "submit", *locations, "--host", api.address, "--corrections", f"{gcs}/suspects.csv"
    )

    assert result.exit_code == 0, result.errors
    parameters = only_run(api)["runtime_config"]["parameters"]
    assert parameters["settings"] == {"corrections_file_uri": f"{gcs}/suspects.csv"}
    plan = next(CompiledPipeline(find_compiled(), tmp_path).run(parameters))
    assert plan.exit_code == 0, plan.log
    assert "corrections: pictures with another label: 1, removed: 0" in plan.log


def test_run_gets_exactly_the_parameters_and_options_that_were_set(
    api: KfpApi, tmp_path: Path
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("epochs: 1\nseed: 1\ntrainer_node_selector: {gpu: l4}\n")

    parameters = "--epochs 2 -p seed=3 -p learning_rate=0.1 --labels-file gs://labels/l.txt"
    options = (
        "--service-account robot --pipeline-root gs://root/x --experiment flowers --run-name one"
    )
    result = submit(api, "--params", file, *parameters.split(), *options.split())

    assert result.exit_code == 0, result.errors
    assert "warning: learning_rate should be 0 with recipe=auto" in result.errors
    run = only_run(api)
    assert run["runtime_config"] == {
        "parameters": {
            "pictures_uri": "gs://pictures/flowers",
            "storage_uri": "gs://repot/here",
            "epochs": 2,
            "learning_rate": 0.1,
            "settings": {
                "labels_file_uri": "gs://labels/l.txt",
                "seed": 3,
                "trainer_node_selector": {"gpu": "l4"},
            },
        },
        "pipeline_root": "gs://root/x",
    }
    assert (run["service_account"], run["display_name"]) == ("robot", "one")
    assert api.store.experiments[run["experiment_id"]]["display_name"] == "flowers"


def test_preset_laptop_sends_its_own_values_only(api: KfpApi) -> None:
    assert submit(api, "--preset", "laptop").exit_code == 0

    # What equals the default is left to the cluster's administrator.
    assert only_run(api)["runtime_config"]["parameters"] == {
        "pictures_uri": "gs://pictures/flowers",
        "storage_uri": "gs://repot/here",
        "backbone": "efficientnet_lite0",
        "settings": {"builder_pods": 1},
    }


def test_run_with_its_own_image_uploads_its_own_pipeline(api: KfpApi) -> None:
    result = submit(api, "-p", "cpu_image=registry.example/own:1")

    assert result.exit_code == 0, result.errors
    (uploaded,) = api.store.versions.values()
    assert "registry.example/own:1" in json.dumps(uploaded)
    assert default_version_name(find_compiled()) not in result.output
    assert "settings" not in only_run(api)["runtime_config"]["parameters"]


def test_all_wrong_parameters_are_reported_before_any_request(api: KfpApi) -> None:
    wrong = "-p epoch=3 -p builder_pods=x --batch-size 0 -p accelerator_type=nvidia-l4"

    result = run_repot("submit", "/tmp/pictures", "--host", api.address, *wrong.split())

    assert result.exit_code == 2
    assert "Did you mean epochs?" in result.errors
    for problem in (
        "builder_pods must be a whole number",
        "batch_size must lie",
        "pictures_uri must be in",
        "accelerator_type must be",
    ):
        assert problem in result.errors
    assert api.requests == []


def test_dry_run_prints_run_and_estimate_without_any_request(api: KfpApi) -> None:
    node_selector = 'trainer_node_selector={"gpu": "nvidia-l4"}'

    result = submit(api, "--dry-run", "--num-pictures", "3670", "-p", node_selector)

    assert result.exit_code == 0
    assert api.requests == []
    for text in (
        default_version_name(find_compiled()),
        "GPU hours",
        "USD",
        "3,670 pictures, from --num-pictures.",
        "One GPU model: nvidia-l4",
    ):
        assert text in result.output


def test_dry_run_reads_another_price_table(api: KfpApi, tmp_path: Path) -> None:
    prices = tmp_path / "ours.yaml"
    prices.write_text(
        "{currency: EUR, source: our contract, cpu_hour: 0, memory_gib_hour: 0, "
        "accelerators: {ours: {hour: 1, pictures_per_second: [100, 100]}}}"
    )

    assert "our contract (EUR)" in submit(api, "--dry-run", "--prices", prices).output
    assert submit(api, "--dry-run", "--prices", tmp_path / "none.yaml").exit_code == 2


def test_names_with_special_characters_are_found_on_later_pages(api: KfpApi) -> None:
    for number in range(130):
        api.store.create_experiment({"display_name": f"other {number}"})
        api.store.create_pipeline({"name": f"other-{number}"})

    for _ in range(2):
        assert (
            submit(api, "--experiment", "a+b 100% é", "--pipeline-name", "flowers+1").exit_code == 0
        )

    assert len(api.store.experiments) == 131
    assert len(api.store.pipelines) == 131


@pytest.mark.parametrize(
    ("options", "is_valid"),
    [
        (("--pipeline-name", "flowers-1.prod", "--version-name", "v1"), True),
        ((), True),
        (("--pipeline-name", "Flowers 1", "--version-name", "v_1"), False),
    ],
)
def test_server_that_keeps_pipelines_in_kubernetes_needs_names_of_objects(
    api: KfpApi, options: tuple[str, ...], is_valid: bool
) -> None:
    api.store.pipeline_store = "kubernetes"

    result = submit(api, *options)

    assert result.exit_code == (0 if is_valid else 2), result.errors
    assert bool(take_writes(api)) == is_valid
    for option, value in zip(options[::2], options[1::2], strict=True):
        problem = f"keeps pipelines as objects of Kubernetes; got {option}={value!r}"
        assert (problem in result.errors) == (not is_valid)


def test_version_name_of_another_yaml_is_rejected(api: KfpApi) -> None:
    assert submit(api, "--version-name", "v1").exit_code == 0
    (version,) = api.store.versions.values()
    version["description"] = "another one"
    take_writes(api)

    result = submit(api, "--version-name", "v1")

    assert result.exit_code == 1
    assert "v1 exists and was made from another YAML" in result.errors
    assert take_writes(api) == []


def test_failed_upload_leaves_no_empty_pipeline(api: KfpApi) -> None:
    api.answers = [
        (
            "POST",
            "upload_version",
            upload_error("Failed to create a pipeline version", status=400),
        )
    ]

    result = submit(api)

    assert result.exit_code == 1
    assert "Cannot upload the pipeline version" in result.errors
    assert api.store.pipelines == api.store.runs == api.store.experiments == {}


def test_objects_that_another_client_creates_first_are_used(api: KfpApi) -> None:
    def create_first(_: int, method: str, path: str) -> None:
        if method == "POST" and path.endswith("/pipelines"):
            api.store.create_pipeline({"name": "repot-finetune"})
        if method == "POST" and path.endswith("/experiments"):
            api.store.create_experiment({"display_name": "repot"})

    api.before = create_first

    assert submit(api).exit_code == 0
    assert len(api.store.pipelines) == len(api.store.experiments) == 1


def test_no_cache_run_carries_its_pipeline_without_caching(api: KfpApi) -> None:
    assert submit(api, "--no-cache").exit_code == 0

    run = only_run(api)
    assert '"enableCache": true' not in json.dumps(run["pipeline_spec"])
    assert "platform_spec" in run["pipeline_spec"]
    assert api.store.versions == {}


def test_wait_prints_task_changes_and_the_verdict(api: KfpApi) -> None:
    script_runs(
        api,
        [
            Stage("RUNNING", {"plan": "Running"}),
            Stage("RUNNING", TRAINING),
            Stage("SUCCEEDED", FINISHED, gate_log("promote")),
        ],
    )

    result = submit(api, *WAIT)

    assert result.exit_code == 0, result.errors
    for line in (
        "Plan: running",
        "Build shards: done in 1 min 30 s",
        "Build other shards: done 2/2 in 1 min 30 s",
        "Train: running",
        "Evaluate and gate: done in 1 min 30 s",
        "Promote: 0.91 on 40 pictures",
        "  Because.",
        "report  gs://repot/here/runs/1/gate/none/report.html",
    ):
        assert line in result.output.splitlines()


@pytest.mark.parametrize(("verdict", "exit_code"), [("reject", 3), ("unchanged", 0)])
@pytest.mark.parametrize("is_ui", [False, True])
def test_exit_code_with_wait_is_the_verdict(
    api: KfpApi, verdict: str, exit_code: int, is_ui: bool
) -> None:
    api.is_ui = is_ui
    script_runs(api, [Stage("RUNNING", TRAINING), Stage("SUCCEEDED", FINISHED, gate_log(verdict))])

    result = submit(api, *WAIT)

    assert result.exit_code == exit_code, result.errors
    assert f"{verdict.capitalize()}: 0.91 on 40 pictures" in result.output


def test_run_without_training_shows_what_was_skipped(api: KfpApi) -> None:
    log = gate_log("unchanged", task="evaluate-2")
    script_runs(api, [Stage("SUCCEEDED", UNCHANGED, log)])

    result = submit(api, *WAIT)

    assert result.exit_code == 0, result.errors
    lines = result.output.splitlines()
    for title in ("Build shards", "Build other shards", "Fetch checkpoint", "Train"):
        assert f"{title}: skipped" in lines
    assert "Gate, nothing new: done in 1 min 30 s" in lines
    assert "Unchanged: 0.91 on 40 pictures" in lines


def test_unreadable_verdict_exits_with_3(api: KfpApi) -> None:
    api.has_logs = False
    script_runs(api, [Stage("SUCCEEDED", FINISHED, gate_log("unchanged"))])

    result = submit(api, *WAIT)

    assert result.exit_code == 3
    assert "The verdict is unknown" in result.output


def test_promotion_is_read_from_the_storage_without_logs(api: KfpApi, gcs: str) -> None:
    api.has_logs = False
    assert submit(api, "--storage-uri", gcs).exit_code == 0
    (run_id,) = api.store.runs
    write_promotion(gcs, run_id=run_id)
    script_runs(api, [Stage("SUCCEEDED", FINISHED)])

    result = run_repot("submit", "--attach", run_id, "--host", api.address)

    assert result.exit_code == 0, result.errors
    lines = result.output.splitlines()
    assert "Promoted: 0.900 [0.770, 0.960] on 40 pictures" in lines
    assert "  It is good." in lines
    assert f"report  {gcs}/runs/v1/gate/none/1/report.html" in lines


def test_storage_of_the_cluster_is_not_looked_for_on_this_machine(
    api: KfpApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    api.has_logs = False
    assert submit(api, "--storage-uri", "default").exit_code == 0
    (run_id,) = api.store.runs
    write_promotion("default", run_id=run_id)
    script_runs(api, [Stage("SUCCEEDED", FINISHED)])

    result = run_repot("submit", "--attach", run_id, "--host", api.address)

    assert result.exit_code == 3
    assert "The verdict is unknown" in result.output


def test_promotion_by_another_run_is_not_taken_for_this_one(api: KfpApi, gcs: str) -> None:
    api.has_logs = False
    write_promotion(gcs, run_id="another")
    script_runs(api, [Stage("SUCCEEDED", FINISHED)])

    assert submit(api, *WAIT, "--storage-uri", gcs).exit_code == 3


def write_promotion(storage_uri: str, *, run_id: str) -> None:
    """Write the champion.json of a model that a run has promoted, and the verdict on it."""
    name = "runs/v1/gate/none/1/verdict.json"
    verdict = Verdict(
        decision="promote",
        reasons=("It is good.",),
        model_name="classifier",
        version="v1",
        champion_version="none",
        min_precision=0.0,
        challenger=Score(precision_at_1=0.9, interval=(0.77, 0.96), num_examples=40),
        decided_at="2026-11-27T14:05:00Z",
    )
    change = ChampionChange(
        version="v1", action="promote", time=verdict.decided_at, run_id=run_id, verdict=name
    )
    champion = Champion(
        model_name="classifier",
        version="v1",
        dataset_id="d1",
        precision_at_1=0.9,
        promotion=change,
        history=(change,),
    )
    write_record(f"{storage_uri}/{name}", verdict)
    storage.write_bytes(layout.champion_uri(storage_uri, "classifier"), champion.to_bytes())


def test_failed_task_is_reported_with_its_log_tail(api: KfpApi) -> None:
    log = (
        "I0301 launcher\n"
        "train: 3 of 10 pictures are damaged. Replace them.\n"
        "F0301 failed to execute: exit status 1\n"
    )
    script_runs(
        api,
        [
            Stage("RUNNING", TRAINING),
            Stage("FAILED", {**TRAINING, "train": "Failed"}, (("root.train.executor", log),)),
        ],
    )

    result = submit(api, *WAIT)

    assert result.exit_code == 1
    assert "Train: failed" in result.output
    assert result.errors.splitlines()[-2:] == [
        "  Train:",
        "    train: 3 of 10 pictures are damaged. Replace them.",
    ]


def test_reason_that_a_failed_task_reported_is_shown_alone_and_unwrapped(api: KfpApi) -> None:
    reason = "train: " + "3 of 10 pictures are damaged. Replace them. " * 4
    log = f"epoch 1\n{format_failure('train', reason)}E0301 launcher\nError: exit status 1\n"
    script_runs(
        api,
        [Stage("FAILED", {**TRAINING, "train": "Failed"}, (("root.train.executor", log),))],
    )

    result = submit(api, *WAIT)

    assert result.exit_code == 1
    assert result.errors.splitlines()[-2:] == ["  Train:", f"    {reason.strip()}"]


@pytest.mark.parametrize(
    ("message", "log", "shown"),
    [
        (
            "main: Error (exit code 1): train: 3 pictures are damaged.\nReplace them.",
            "",
            ["train: 3 pictures are damaged.", "Replace them."],
        ),
        ("main: Error (exit code 1)", "epoch 1\nNo such thing\n", ["epoch 1", "No such thing"]),
        ("pod deleted", "epoch 1\n", ["epoch 1", "pod deleted"]),
        (
            "main: OOMKilled (exit code 137)",
            "epoch 1\n",
            ["epoch 1", run_result._KILLED_ADVICE],
        ),
    ],
)
def test_what_argo_says_about_a_failed_pod_is_reported_where_the_log_has_no_reason(
    api: KfpApi, message: str, log: str, shown: list[str]
) -> None:
    logs = (("root.train.executor", log),) if log else ()
    failed = {**TRAINING, "train": "Failed"}
    script_runs(api, [Stage("FAILED", failed, logs, messages={"train": message})])

    result = submit(api, *WAIT)

    assert result.exit_code == 1
    title = result.errors.splitlines().index("  Train:")
    assert result.errors.splitlines()[title + 1 :] == [f"    {line}" for line in shown]


def test_failed_driver_is_reported_with_its_log_tail(api: KfpApi) -> None:
    logs = (("root.plan-driver", "quantities must match the regular expression\n"),)
    script_runs(api, [Stage("FAILED", {"plan": "DriverFailed"}, logs)])

    result = submit(api, *WAIT)

    assert result.exit_code == 1
    assert "quantities must match the regular expression" in result.errors


def test_failed_driver_of_the_whole_pipeline_is_reported_without_a_task(api: KfpApi) -> None:
    logs = (("root-driver", "F1124 00:06:53.1 22 main.go:127] KFP driver: no metadata store\n"),)
    script_runs(api, [Stage("FAILED", {"root": "DriverFailed"}, logs)])

    result = submit(api, *WAIT)

    assert result.exit_code == 1
    assert "root-driver" in result.errors
    assert "KFP driver: no metadata store" in result.errors


def test_failure_without_logs_refers_to_the_ui(api: KfpApi) -> None:
    api.has_logs = False
    script_runs(api, [Stage("FAILED", {"plan": "Failed"})])

    result = submit(api, *WAIT)

    assert result.exit_code == 1
    assert "its log is not available here, see the UI" in result.errors


@pytest.mark.parametrize("last", ["FAILED", "CANCELED"])
def test_terminated_run_is_not_reported_as_failed(api: KfpApi, last: str) -> None:
    script_runs(
        api,
        [
            Stage("RUNNING", TRAINING),
            Stage("CANCELING", TRAINING),
            Stage(last, {**TRAINING, "train": "Failed"}),
        ],
    )

    result = submit(api, *WAIT)

    assert result.exit_code == 1
    assert "was terminated before its end" in result.errors


def test_run_that_is_deleted_while_followed_is_reported(api: KfpApi) -> None:
    script_runs(api, [Stage("RUNNING", TRAINING)])
    advance = api.before

    def delete_later(number: int, method: str, path: str) -> None:
        advance(number, method, path)
        if sum("/runs/" in seen for _, seen in api.requests) == 3:
            api.store.runs.clear()

    api.before = delete_later

    result = submit(api, *WAIT)

    assert result.exit_code == 1
    assert "was deleted while it was followed" in result.errors


def test_following_continues_after_a_server_restart(api: KfpApi) -> None:
    api.answers = [
        ("GET", "/runs/.", plain("upstream connect error", status=503)) for _ in range(2)
    ]
    stages = [Stage("RUNNING", TRAINING), Stage("SUCCEEDED", FINISHED, gate_log("promote"))]
    assert submit(api).exit_code == 0
    (run_id,) = api.store.runs
    script_runs(api, [stages[0], *stages])
    api.answers, later = [], api.answers

    def fail_later(number: int, method: str, path: str) -> None:
        advance(number, method, path)
        if sum("/runs/" in seen for _, seen in api.requests) == 2:
            api.answers = list(later)

    advance, api.before = api.before, fail_later
    api.requests.clear()

    result = run_repot(
        "submit", "--host", api.address, "--attach", run_id, "--poll-seconds", "0.05"
    )

    assert result.exit_code == 0, result.errors
    assert (
        result.output.count(
            "responded with 503. The server reports: upstream connect error. Trying again."
        )
        == 2
    )


def test_server_that_restarts_right_after_the_start_of_a_run_is_waited_for(api: KfpApi) -> None:
    script_runs(api, [Stage("SUCCEEDED", FINISHED, gate_log("promote"))])
    busy = plain("upstream connect error", status=503)
    api.answers = [("GET", "/runs/[^/]+$", busy), ("GET", "/versions/[^/]+$", busy)]

    result = submit(api, *WAIT)

    assert result.exit_code == 0, result.errors
    assert result.output.count("responded with 503") == 2
    assert api.answers == []


def test_run_of_a_pipeline_that_may_not_be_read_is_followed(api: KfpApi) -> None:
    script_runs(api, [Stage("SUCCEEDED", FINISHED, gate_log("promote"))])
    api.answers = [("GET", "/versions/[^/]+$", plain("forbidden", status=403))]

    result = submit(api, *WAIT)

    assert result.exit_code == 0, result.errors
    assert "Train: done" in result.output


def test_lost_answer_to_the_start_of_a_run_says_that_it_may_have_started(api: KfpApi) -> None:
    api.answers = [("POST", "/runs$", plain("upstream request timeout", status=504))]

    result = submit(api)

    assert result.exit_code == 1
    assert "It may have started the run all the same: look for it in the UI" in result.errors


def test_following_stops_when_the_server_stays_unreachable(
    api: KfpApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "UNREACHABLE_TIMEOUT_SECONDS", 0.2)
    script_runs(api, [Stage("RUNNING", TRAINING)])
    advance = api.before

    def go_away(number: int, method: str, path: str) -> None:
        advance(number, method, path)
        if sum("/runs/" in seen for _, seen in api.requests) > 1:
            api.answers = [("GET", "/runs/.", plain("bad gateway", status=502))] * 1000

    api.before = go_away

    result = submit(api, *WAIT)

    assert result.exit_code == 1
    assert "follow it again with `repot submit --attach" in result.errors


def test_log_lines_are_shown_once_and_only_when_complete(api: KfpApi) -> None:
    grown = (("root.train.executor", "epoch 1\nepo"),)
    whole = (("root.train.executor", "epoch 1\nepoch 2\n"),)
    stages = [
        Stage("RUNNING", TRAINING, grown),
        Stage("RUNNING", TRAINING, grown),
        Stage("SUCCEEDED", FINISHED, whole),
    ]
    script_runs(api, stages)

    result = submit(api, *WAIT, "--logs")

    assert [line for line in result.output.splitlines() if line.startswith("train: ")] == [
        "train: epoch 1",
        "train: epoch 2",
    ]


@pytest.mark.parametrize(
    ("option", "shown"),
    [
        ("--logs", ["train: started", "train: epoch 1"]),
        (
            "--all-logs",
            [
                "train: I1124 00:06:48.8 22 main.go:67] ExecutorOutput: {",
                'train:   "a": 1',
                "train: }",
                "train: [KFP Executor 2026-11-24 00:06:50,600 INFO]: train: started",
                "train: epoch 1",
            ],
        ),
    ],
)
def test_lines_of_kubeflow_are_shown_only_with_all_logs(
    api: KfpApi, option: str, shown: list[str]
) -> None:
    log = (
        'I1124 00:06:48.8 22 main.go:67] ExecutorOutput: {\n  "a": 1\n}\n'
        "[KFP Executor 2026-11-24 00:06:50,600 INFO]: train: started\n"
        "epoch 1\n"
    )
    script_runs(
        api, [Stage("SUCCEEDED", FINISHED, (("root.train.executor", log), *gate_log("promote")))]
    )

    result = submit(api, *WAIT, option)

    lines = [line for line in result.output.splitlines() if line.startswith("train: ")]
    assert lines == shown


@pytest.mark.parametrize("option", ["--logs", "--all-logs"])
def test_logs_of_a_run_that_is_not_followed_are_a_usage_error(api: KfpApi, option: str) -> None:
    result = submit(api, option)

    assert (result.exit_code, api.requests) == (2, [])
    assert "--logs and --all-logs must be given with --wait or --attach" in result.errors
    assert submit(api, option, "--dry-run").exit_code == 0


def test_attach_follows_an_existing_run_and_starts_none(api: KfpApi) -> None:
    assert submit(api).exit_code == 0
    (run_id,) = api.store.runs
    script_runs(api, [Stage("SUCCEEDED", FINISHED, gate_log("reject"))])
    take_writes(api)

    result = run_repot("submit", "--host", api.address, "--attach", run_id)

    assert result.exit_code == 3
    assert take_writes(api) == []
    missing = run_repot("submit", "--host", api.address, "--attach", "no-such-run")
    assert missing.exit_code == 1
    assert "Run no-such-run not found" in missing.errors
    assert "Check the id, which the UI shows on the run's page" in missing.errors
    assert run_repot("submit", *LOCATIONS, "--host", api.address, "--attach", run_id).exit_code == 2
    # An unset shell variable.
    assert run_repot("submit", *LOCATIONS, "--host", api.address, "--attach", "").exit_code == 2
    assert set(api.store.runs) == {run_id}


def test_ctrl_c_while_waiting_does_not_stop_the_run(api: KfpApi) -> None:
    script_runs(api, [Stage("RUNNING", TRAINING)])
    program = (
        "from tests.integration.kfp_api import command_line\n"
        "from repot_pipelines import cli\n"
        "cli.main()"
    )
    command = [sys.executable, "-c", program, "submit", *LOCATIONS, "--host", api.address, *WAIT]
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=root
    ) as process:
        deadline = time.monotonic() + 60
        while (
            sum("/runs/" in path for _, path in list(api.requests)) < 2
            and time.monotonic() < deadline
        ):
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)

    (run_id,) = api.store.runs
    assert process.returncode == 130
    assert (
        errors.strip()
        == f"The run continues. Follow it again with `repot submit --attach {run_id}`."
    )
    assert only_run(api)["state"] == "RUNNING"
    assert all("terminate" not in path for path in take_writes(api))


def test_help_does_not_import_kfp_or_tensorflow() -> None:
    program = (
        "import sys\n"
        "from tests.integration.kfp_api import command_line\n"
        "from repot_pipelines import cli\n"
        "sys.argv = ['repot', 'submit', '--help']\n"
        "slow = ('kfp', 'kfp_server_api', 'tensorflow')\n"
        "try: cli.main()\n"
        "finally: print([name for name in slow if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )

    assert result.stdout.splitlines()[-1] == "[]"


def test_answer_that_the_client_cannot_parse_is_an_error(api: KfpApi) -> None:
    api.answers = [
        ("GET", "/pipelines", json_answer({"pipelines": [{"created_at": "yesterday?"}]}))
    ]

    result = submit(api)

    assert result.exit_code == 1
    assert "the KFP client cannot parse the response from" in result.errors
