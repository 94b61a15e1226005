"""Plan with settings from all sources, run with its exact container command on the sample."""

import json
from pathlib import Path

import pytest

from repot.settings import CLUSTER_VARIABLES
from repot_pipelines.compiled import compile_pipeline, find_compiled
from repot_pipelines.local.run import SAMPLE_FOLDER
from tests.integration.compiled_tasks import CompiledPipeline, Json, TaskResult

TOLERATIONS = [{"key": "reserved", "operator": "Exists"}]
ARGUMENTS: Json = {"pictures_uri": str(SAMPLE_FOLDER), "backbone": "efficientnet_lite0"}


def run_plan(arguments: Json, folder: Path, *, path: Path | None = None) -> TaskResult:
    return next(CompiledPipeline(path or find_compiled(), folder).run(arguments))


def test_prepared_cluster_needs_no_storage_in_the_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As Kubernetes sets them from the ConfigMap.
    storage_uri = str(tmp_path / "storage")
    for key, text in {
        "STORAGE_URI": storage_uri,
        "BUILDER_PODS": "2",
        "BUILDER_CPU": "3",
        "TRAINER_IMAGE": "registry.example/trainer:2",
        "TASK_TOLERATIONS": json.dumps(TOLERATIONS),
        "JOB_QUEUE": "",
    }.items():
        monkeypatch.setenv(CLUSTER_VARIABLES[key], text)
    compile_pipeline(tmp_path / "own.yaml", settings={"builder_memory": "3Gi", "seed": 7})
    settings = {"builder_cpu": "1", "train_shards": 2}

    plan = run_plan(
        {**ARGUMENTS, "settings": settings}, tmp_path / "plan", path=tmp_path / "own.yaml"
    )

    assert plan.exit_code == 0, plan.log
    outputs = plan.parameters
    assert outputs["used_storage_uri"] == storage_uri
    items = [outputs["first_item"], *outputs["Output"]]
    assert len(items) == 2
    assert all(item.endswith(f":{storage_uri}") for item in items)
    assert (outputs["builder_cpu"], outputs["builder_memory"]) == ("1", "3Gi")
    assert outputs["task_tolerations"] == TOLERATIONS
    assert outputs["trainer_pod_image"] == "registry.example/trainer:2"
    assert json.loads(outputs["training_settings"])["seed"] == 7
    table = plan.artifacts["used_settings"].path.read_text(encoding="utf-8")
    for row in (
        '| builder_cpu | `"1"` | the field settings |',
        '| builder_memory | `"3Gi"` | the compiled pipeline |',
        "| builder_pods | `2` | the ConfigMap repot-settings |",
        '| backbone | `"efficientnet_lite0"` | the form |',
        "| epochs | `0` | default |",
    ):
        assert row in table.splitlines()
    assert "from the ConfigMap repot-settings: builder_pods=2, storage_uri=" in plan.log


def test_plan_reports_what_is_wrong_in_every_source_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CLUSTER_VARIABLES["TRAINER_CPU"], "much")
    monkeypatch.setenv(CLUSTER_VARIABLES["TRAINER_TOLERATIONS"], "{")
    settings = {"image_sise": 64, "epochs": 3, "seed": "3", "cpu_image": "a"}

    plan = run_plan({**ARGUMENTS, "batch_size": 0, "settings": settings}, tmp_path)

    assert plan.exit_code == 2
    for problem in (
        "image_sise must be the name of a setting; there is none of that name. Did you mean image",
        "epochs is a field of the form",
        'seed in settings must be a whole number; got "3".',
        "cpu_image is part of the compiled pipeline",
        "TRAINER_TOLERATIONS in the ConfigMap repot-settings: trainer_tolerations must be a JSON",
        "trainer_cpu must be a number of CPUs",
        "The value is from the ConfigMap repot-settings.",
        "batch_size must lie in 1..65536",
        "storage_uri must be given: this run does not set it, and the cluster has no default.",
    ):
        assert problem in " ".join(plan.log.split()), problem
