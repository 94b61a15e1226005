"""Every task of the compiled pipeline, run with its exact container command on the sample."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from repot import layout, storage
from repot.container_images import TRAINER_IMAGE
from repot.progress import find_failure, format_failure
from repot.settings import TaskSettings, to_arguments
from repot_pipelines.compiled import find_compiled
from repot_pipelines.local.run import SAMPLE_FOLDER
from tests.integration.compiled_tasks import CompiledPipeline, Json, TaskResult
from tests.web_server import WebServer, running_web_server

SETTINGS = {
    "accelerator_count": 0,
    "backbone": "efficientnet_lite0",
    "builder_pods": 2,
    "epochs": 3,
    "image_size": 64,
    "recipe": "head",
    "train_shards": 2,
}
EXPECTED_ORDER = [
    "plan",
    "build-shards",
    "build-shards-2",
    "train",
    "evaluate",
]


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory, lite0_weights_uri: str) -> Json:
    return {
        **to_arguments(SETTINGS),
        "pictures_uri": str(SAMPLE_FOLDER),
        "storage_uri": str(tmp_path_factory.mktemp("storage")),
        "checkpoint": lite0_weights_uri,
    }


@pytest.fixture(scope="module")
def first(
    arguments: Json, web: WebServer, tmp_path_factory: pytest.TempPathFactory
) -> list[TaskResult]:
    """Return the results of a run on an empty storage."""
    del web
    return run(arguments, tmp_path_factory.mktemp("first"))


@pytest.fixture(scope="module")
def second(
    arguments: Json, first: list[TaskResult], tmp_path_factory: pytest.TempPathFactory
) -> list[TaskResult]:
    """Return the results of running the same arguments again, without TensorFlow."""
    del first
    packages = tmp_path_factory.mktemp("packages")
    for name in ("tensorflow", "keras"):
        (packages / f"{name}.py").write_text("raise SystemExit('must not be imported')\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(packages))
        return run(arguments, tmp_path_factory.mktemp("second"))


@pytest.fixture(scope="module")
def web() -> Iterator[WebServer]:
    """Run the server that the tasks send notifications to."""
    with running_web_server() as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPOT_NOTIFY_URL", server.serve("/hook", b"ok"))
        patch.setenv("REPOT_NOTIFY_EVENTS", "failed,promoted,unchanged")
        yield server


def run(arguments: Json, folder: Path) -> list[TaskResult]:
    tasks = list(CompiledPipeline(find_compiled(), folder).run(arguments))
    assert tasks[-1].exit_code == 0, tasks[-1].log
    return tasks


def only(tasks: list[TaskResult], name: str) -> TaskResult:
    (task,) = [task for task in tasks if task.executor == f"exec-{name}"]
    return task


def target_uri(task: TaskResult, artifact: str) -> str:
    """Return the URI an artifact points to; its file and its metadata must agree."""
    uri = str(task.artifacts[artifact].metadata["uri"])
    assert task.artifacts[artifact].path.read_text() == f"{uri}\n"
    return uri


def test_every_executor_runs_in_the_order_of_the_graph(
    first: list[TaskResult], tmp_path: Path
) -> None:
    names = [task.executor.removeprefix("exec-") for task in first]

    # The other evaluation is for a run whose training is finished already.
    assert {*names, "evaluate-2"} == {
        name.removeprefix("exec-") for name in CompiledPipeline(find_compiled(), tmp_path).executors
    }
    assert sorted(names) == sorted([*EXPECTED_ORDER, "fetch-checkpoint"])
    order = [names.index(name) for name in ("plan", "fetch-checkpoint", "train", "evaluate")]
    assert order == sorted(order)
    assert max(names.index("build-shards"), names.index("build-shards-2")) < names.index("train")


def test_plan_outputs_one_share_per_builder_and_the_pod_of_the_trainer(
    first: list[TaskResult], arguments: Json
) -> None:
    plan = only(first, "plan").parameters
    storage_uri = arguments["storage_uri"]
    shares = [f"{plan['dataset_id']}:{index}/2:0.05,1.0,0,-1:{storage_uri}" for index in range(2)]

    assert [plan["first_item"], *plan["Output"]] == shares
    assert only(first, "build-shards").inputs["item"] == shares[0]
    assert only(first, "build-shards-2").inputs["item"] == shares[1]
    assert (plan["steps"], plan["finished_training_id"]) == ("all", "none")
    assert plan["trainer_job"] == "null"
    pod = {
        name.removeprefix("trainer_pod_"): value
        for name, value in plan.items()
        if name.startswith("trainer_pod_")
    }
    assert pod == {
        "image": TRAINER_IMAGE,
        "cpu": "4",
        "memory": "16Gi",
        "accelerator_type": "nvidia.com/gpu",
        "accelerator_count": "0",
        "node_selector": {},
        "tolerations": [],
    }


def test_plan_outputs_the_checkpoint_version_as_part_of_the_cache_key(
    first: list[TaskResult], second: list[TaskResult], arguments: Json
) -> None:
    version = only(first, "plan").parameters["checkpoint_version"]

    weights = storage.stat(f"{arguments['checkpoint']}/weights.h5")
    assert weights is not None
    assert version == weights.version
    assert only(second, "plan").parameters["checkpoint_version"] == version
    assert only(first, "fetch-checkpoint").inputs["checkpoint_version"] == version


def test_artifacts_point_to_dataset_weights_and_training(
    first: list[TaskResult], arguments: Json
) -> None:
    storage_uri = arguments["storage_uri"]
    dataset_id = only(first, "plan").parameters["dataset_id"]
    checkpoint_id = only(first, "fetch-checkpoint").parameters["checkpoint_id"]
    training_id = only(first, "train").parameters["training_id"]

    dataset = only(first, "plan").artifacts["dataset"].metadata
    dataset_uri = layout.dataset_uri(storage_uri, dataset_id)
    assert target_uri(only(first, "plan"), "dataset") == dataset_uri
    assert (dataset["num_labels"], dataset["train_pictures"], dataset["rejected"]) == (4, 92, 0)
    assert storage.exists(f"{dataset_uri}/manifest.json")
    weights_uri = target_uri(only(first, "fetch-checkpoint"), "weights")
    assert weights_uri == layout.checkpoint_uri(storage_uri, checkpoint_id)
    assert storage.exists(f"{weights_uri}/weights.h5")
    assert target_uri(only(first, "train"), "model") == layout.run_uri(storage_uri, training_id)
    training = storage.read_json(f"{layout.run_uri(storage_uri, training_id)}/training.json")
    assert training["weights"].endswith("licence not known")
    assert (training["dataset_id"], training["checkpoint_id"]) == (dataset_id, checkpoint_id)


def test_evaluation_outputs_metrics_confusion_matrix_and_report(
    first: list[TaskResult], arguments: Json
) -> None:
    artifacts = only(first, "evaluate").artifacts
    version = only(first, "train").parameters["training_id"]
    metrics = storage.read_json(
        f"{layout.model_uri(arguments['storage_uri'], 'classifier', version)}/metrics.json"
    )

    shown = artifacts["metrics"].metadata
    for name in ("precision_at_1", "num_examples"):
        assert shown[name] == metrics[name]
    assert [shown["precision_at_1_low"], shown["precision_at_1_high"]] == metrics[
        "precision_at_1_interval"
    ]
    # Of four labels, the true one is always among the first four.
    assert (shown["recall_at_4"], "recall_at_5" in shown) == (1.0, False)
    recalls = [each["recall"] for each in metrics["per_class"]]
    assert shown["macro_recall"] == pytest.approx(sum(recalls) / 4)
    assert (shown["verdict"], shown["champion_version"]) == ("promote", "none")
    matrix = artifacts["confusion_matrix"].metadata["confusionMatrix"]
    assert [each["displayName"] for each in matrix["annotationSpecs"]] == metrics["labels"]
    assert sum(sum(row["row"]) for row in matrix["rows"]) == metrics["num_examples"] == 40


def test_gate_promotes_the_first_version(first: list[TaskResult], arguments: Json) -> None:
    gate, version = only(first, "evaluate"), only(first, "train").parameters["training_id"]

    assert gate.parameters == {"Output": "promote"}
    champion = storage.read_json(layout.champion_uri(arguments["storage_uri"], "classifier"))
    verdict_name = champion["promotion"]["verdict"]
    verdict = storage.read_json(f"{arguments['storage_uri']}/{verdict_name}")
    assert (verdict["decision"], verdict["version"]) == ("promote", version)
    assert "Promoted" in gate.artifacts["report"].path.read_text()
    model_uri = layout.model_uri(arguments["storage_uri"], "classifier", version)
    assert target_uri(gate, "model_version") == model_uri
    assert storage.exists(f"{model_uri}/model.json")
    assert (champion["version"], champion["previous"]) == (version, "")
    assert champion["promotion"] == champion["history"][0]
    # The harness names a run like its folder.
    assert champion["promotion"]["run_id"].startswith("first")


def test_gate_logs_its_verdict_as_a_result_line(first: list[TaskResult]) -> None:
    lines = [
        re.search(r"result: (\{.*\})$", line) for line in only(first, "evaluate").log.splitlines()
    ]

    (result,) = [json.loads(line[1]) for line in lines if line]
    assert result["verdict"]["decision"] == "promote"
    assert storage.exists(result["report_uri"])


def test_equal_runs_in_two_storages_publish_equal_bytes(
    first: list[TaskResult], arguments: Json, tmp_path: Path
) -> None:
    del first
    other = {**arguments, "storage_uri": str(tmp_path / "storage")}
    run(other, tmp_path / "third")

    published, again = published_files(arguments), published_files(other)

    assert {name for name, data in published.items() if again[name] != data} == set()
    assert set(published) == set(again)
    assert {"metrics.json", "model.keras", "model_card.md", "saved_model.pb"} <= {
        Path(name).name for name in published
    }


def published_files(arguments: Json) -> dict[str, bytes]:
    """Return dataset, checkpoint and model files by name, except champion.json, which has times."""
    folder = Path(arguments["storage_uri"])
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for kind in ("datasets", "checkpoints", "models")
        for path in (folder / kind).rglob("*")
        if path.is_file() and path.name != "champion.json"
    }


def test_second_run_only_plans_and_judges(
    first: list[TaskResult], second: list[TaskResult]
) -> None:
    version = only(first, "train").parameters["training_id"]

    # KFP's cache plays no part here: every task that is not skipped runs.
    assert [task.executor for task in second] == ["exec-plan", "exec-evaluate-2"]
    plan, gate = second
    assert plan.parameters["Output"] == []
    assert (plan.parameters["steps"], plan.parameters["finished_training_id"]) == ("gate", version)
    assert gate.parameters == {"Output": "unchanged"}
    shown = gate.artifacts["metrics"].metadata
    assert (shown["verdict"], shown["champion_version"]) == ("unchanged", version)
    assert shown["champion_precision_at_1"] == shown["precision_at_1"]


def test_stored_checkpoint_is_fetched_with_little_memory(
    first: list[TaskResult], second: list[TaskResult]
) -> None:
    memory = [only(tasks, "plan").parameters["fetcher_memory"] for tasks in (first, second)]

    assert memory == [TaskSettings().fetcher_memory, TaskSettings().task_memory]


def test_other_settings_train_again_on_the_existing_dataset(
    first: list[TaskResult], arguments: Json, tmp_path: Path
) -> None:
    other = run({**arguments, "epochs": 1, "model_name": "other"}, tmp_path / "other")

    plan, dataset_id = only(other, "plan").parameters, only(first, "plan").parameters["dataset_id"]
    assert (plan["steps"], plan["Output"]) == ("all", [])
    assert plan["first_item"].startswith(f"{dataset_id}:0/1:")
    assert "nothing to build" in only(other, "build-shards").log
    assert "is already stored" in only(other, "fetch-checkpoint").log
    assert "head epoch" in only(other, "train").log
    assert only(other, "evaluate").parameters == {"Output": "promote"}


def test_end_of_a_run_is_notified(
    first: list[TaskResult], second: list[TaskResult], web: WebServer
) -> None:
    del second
    gate = only(first, "evaluate")
    sent = [json.loads(body) for body in web.posts]

    promoted, unchanged = (
        next(each for each in sent if each["event"] == event) for event in ("promoted", "unchanged")
    )
    assert promoted["title"] == "repot: classifier promoted"
    assert promoted["reason"].startswith("Promoted: ")
    assert promoted["report_uri"] in gate.log
    assert storage.exists(promoted["report_uri"])
    assert storage.exists(f"{promoted['version_uri']}/model.json")
    assert unchanged["version"] == promoted["version"]


def test_wrong_parameters_fail_in_plan_and_are_all_listed(
    arguments: Json, web: WebServer, tmp_path: Path
) -> None:
    wrong = {**arguments, "epochs": -1, "model_name": "../classifier"}

    (plan,) = CompiledPipeline(find_compiled(), tmp_path).run(wrong)

    assert (plan.executor, plan.exit_code) == ("exec-plan", 2)
    reason = find_failure(plan.log)
    assert "epochs must lie in" in reason
    assert "model_name must be" in reason
    assert plan.log.endswith(format_failure("plan", reason))
    assert "Traceback" not in plan.log
    sent = json.loads(web.posts[-1])
    assert (sent["event"], sent["task"]) == ("failed", "plan")
    assert "epochs must lie in" in sent["reason"]
    assert "model_name must be" in sent["reason"]
