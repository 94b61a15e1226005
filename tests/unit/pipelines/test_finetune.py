"""The pipeline: its graph, defaults and pod requests, and that the committed YAML is current."""

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import json_format
from kfp import components
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec

from repot.cluster_names import CONFIG_MAP_VARIABLES, INTEGRATION_VARIABLES, TASK_LABELS
from repot.container_images import USER_ID
from repot.recipes import RECIPES
from repot.settings import CLUSTER_VARIABLES, FORM_FIELDS, MODES, choices
from repot.zoo import BACKBONES
from repot_pipelines.compiled import compile_pipeline, find_compiled
from repot_pipelines.presets import PRESETS
from tests.pod_security import restricted_violations


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("compiled") / "finetune.yaml"
    compile_pipeline(path)
    return path


@pytest.fixture(scope="module")
def documents(compiled: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(compiled.read_text()))


def test_committed_yaml_is_current(compiled: Path) -> None:
    def content(path: Path) -> str:
        return re.sub(r"^sdkVersion: .*$", "", path.read_text(), flags=re.MULTILINE)

    assert content(find_compiled()) == content(compiled), "run `make compile` and commit the result"


def test_defaults_agree_with_the_cluster_preset() -> None:
    from repot_pipelines.finetune import finetune

    signature = inspect.signature(finetune.pipeline_func)
    defaults = {name: each.default for name, each in signature.parameters.items()}
    preset = PRESETS["cluster"]
    assert {name: defaults[name] for name in preset if name in defaults} == {
        name: preset[name] for name in FORM_FIELDS if name in preset
    }


def test_drop_downs_list_the_choices_of_the_settings(documents: list[dict[str, Any]]) -> None:
    parameters = documents[0]["root"]["inputDefinitions"]["parameters"]
    lists = {name: each["literals"] for name, each in parameters.items() if "literals" in each}
    assert lists == {
        "backbone": list(BACKBONES),
        "nested": [False, True],
        "recipe": list(RECIPES),
        "trainer_mode": list(MODES),
    }
    assert {name for name in FORM_FIELDS if choices(name)} == set(lists)
    for name, listed in lists.items():
        assert parameters[name]["defaultValue"] in listed


def test_kfp_reads_the_drop_downs(compiled: Path, documents: list[dict[str, Any]]) -> None:
    # As strict as the server: protojson.Unmarshal rejects unknown fields too.
    spec = json_format.ParseDict(documents[0], PipelineSpec())
    literals = spec.root.input_definitions.parameters["recipe"].literals
    assert [value.string_value for value in literals] == list(RECIPES)

    loaded = components.load_component_from_file(str(compiled))
    assert json_format.MessageToDict(loaded.pipeline_spec) == json_format.MessageToDict(spec)
    assert set(loaded.component_spec.inputs) == {*FORM_FIELDS, "settings"}


def test_only_pictures_are_required(documents: list[dict[str, Any]]) -> None:
    parameters = documents[0]["root"]["inputDefinitions"]["parameters"]
    required = {name for name, each in parameters.items() if not each.get("isOptional")}
    assert required == {"pictures_uri"}
    assert all(each["description"] for each in parameters.values())


def test_no_text_parameter_has_an_empty_default(documents: list[dict[str, Any]]) -> None:
    parameters = documents[0]["root"]["inputDefinitions"]["parameters"]
    assert [
        name for name, each in parameters.items() if each.get("defaultValue", "text") in ("", None)
    ] == []


def all_tasks(pipeline: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return every task of the pipeline by its name, loops and conditions included."""
    graphs = [pipeline["root"]["dag"]]
    graphs += [each["dag"] for each in pipeline["components"].values() if "dag" in each]
    return {name: task for graph in graphs for name, task in graph["tasks"].items()}


def test_every_displayed_name_is_short_and_distinct(documents: list[dict[str, Any]]) -> None:
    titles = [task["taskInfo"]["name"] for task in all_tasks(documents[0]).values()]

    # The graph of the UI cuts names at about 22 characters.
    assert [title for title in titles if len(title) > 20] == []
    assert len({title.lower() for title in titles}) == len(titles)


def test_no_two_artifacts_have_the_same_name(documents: list[dict[str, Any]]) -> None:
    names = [
        name
        for key, component in documents[0]["components"].items()
        for name in component.get("outputDefinitions", {}).get("artifacts", {})
        # The first runs instead of the other evaluation; the second has the other builders.
        if key not in ("comp-evaluate-2", "comp-build-shards-2")
    ]

    assert len(set(names)) == len(names) > 0


def test_only_builders_are_cached_whose_items_say_whether_the_dataset_exists(
    documents: list[dict[str, Any]],
) -> None:
    tasks = all_tasks(documents[0])
    cached = {
        name for name, task in tasks.items() if task.get("cachingOptions", {}).get("enableCache")
    }
    uncached = {name for name, task in tasks.items() if task.get("cachingOptions") == {}}
    assert cached == {"build-shards", "build-shards-2"}
    assert uncached == {"plan", "fetch-checkpoint", "train", "evaluate", "evaluate-2"}


def test_tasks_run_only_for_the_steps_that_plan_chose(documents: list[dict[str, Any]]) -> None:
    tasks = documents[0]["root"]["dag"]["tasks"]
    steps = {
        key: task["triggerPolicy"]["condition"]
        for key, task in tasks.items()
        if key != "plan" and "triggerPolicy" in task
    }

    # The items of the loop are none if there is nothing to build.
    assert set(tasks) - set(steps) == {"plan", "for-loop-1"}
    assert {key for key, condition in steps.items() if "'gate'" in condition} == {"evaluate-2"}
    for key, condition in steps.items():
        # KFP's server takes the value from an input of the task; KFP's local runner takes the name
        # for the output of a task.
        assert re.fullmatch(r"inputs\.parameter_values\['plan--steps'\] == '(all|gate)'", condition)
        assert tasks[key]["inputs"]["parameters"]["plan--steps"]["taskOutputParameter"] == {
            "producerTask": "plan",
            "outputParameterKey": "steps",
        }
        component = documents[0]["components"][tasks[key]["componentRef"]["name"]]
        assert "plan--steps" in component["inputDefinitions"]["parameters"]
        assert "plan" in tasks[key]["dependentTasks"]


def test_trainer_waits_for_all_builders_and_the_checkpoint(
    documents: list[dict[str, Any]],
) -> None:
    tasks = documents[0]["root"]["dag"]["tasks"]

    assert {"build-shards", "for-loop-1", "fetch-checkpoint"} <= set(
        tasks["train"]["dependentTasks"]
    )
    assert set(tasks["evaluate-2"]["dependentTasks"]) == {"plan"}


def test_fetch_checkpoint_gets_the_version_that_plan_found(
    documents: list[dict[str, Any]],
) -> None:
    inputs = documents[0]["root"]["dag"]["tasks"]["fetch-checkpoint"]["inputs"]["parameters"]
    assert inputs["checkpoint_version"]["taskOutputParameter"] == {
        "producerTask": "plan",
        "outputParameterKey": "checkpoint_version",
    }


def test_trainer_gets_selector_and_tolerations_at_run_time(
    documents: list[dict[str, Any]],
) -> None:
    platform = documents[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-train"]
    assert {"nodeSelector", "tolerations", "emptyDirMounts"} <= set(platform)


def test_plan_decides_what_the_trainer_pod_requests(
    documents: list[dict[str, Any]],
) -> None:
    platform = documents[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-train"]
    container = documents[0]["deploymentSpec"]["executors"]["exec-train"]["container"]
    resources = container["resources"]
    requested = [container["image"], *resources["accelerator"].values()]
    requested += [
        resources[name]
        for name in ("resourceCpuRequest", "resourceMemoryRequest", "resourceMemoryLimit")
    ]
    requested += [platform["nodeSelector"], *platform["tolerations"]]
    assert all("trainer_pod_" in str(each) for each in requested)
    outputs = documents[0]["components"]["comp-plan"]["outputDefinitions"]["parameters"]
    types = {
        name: each["parameterType"]
        for name, each in outputs.items()
        if name.startswith("trainer_pod_")
    }
    assert set(types.values()) == {"STRING", "STRUCT", "LIST"}
    assert types["trainer_pod_accelerator_count"] == "STRING"


def test_components_install_nothing_at_start(documents: list[dict[str, Any]]) -> None:
    for name, executor in documents[0]["deploymentSpec"]["executors"].items():
        assert "pip install" not in " ".join(executor["container"]["command"]), name


def test_loop_declares_every_parameter_that_it_uses(
    documents: list[dict[str, Any]],
) -> None:
    loop = documents[0]["components"]["comp-for-loop-1"]
    platform = documents[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"][
        "exec-build-shards-2"
    ]
    used = set(re.findall(r"pipelinechannel--[\w-]+", f"{loop['dag']['tasks']} {platform}"))
    prefix = "pipelinechannel--plan-"
    assert {f"{prefix}builder_cpu", f"{prefix}task_tolerations"} <= used
    assert used <= set(loop["inputDefinitions"]["parameters"])


def test_every_task_gets_optional_storage_credentials(
    documents: list[dict[str, Any]],
) -> None:
    platform = documents[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert set(platform) == set(documents[0]["deploymentSpec"]["executors"])
    for name, executor in platform.items():
        assert {each["optional"] for each in executor["secretAsEnv"]} == {True}, name
        assert all(each["optional"] for each in executor["configMapAsEnv"]), name
        *_, storage = executor["configMapAsEnv"]
        keys = {each["configMapKey"] for each in storage["keyToEnv"]}
        assert keys == {*CONFIG_MAP_VARIABLES, *INTEGRATION_VARIABLES}, name


def test_plan_gets_the_administrators_defaults(documents: list[dict[str, Any]]) -> None:
    platform = documents[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    defaults, _ = platform["exec-plan"]["configMapAsEnv"]
    assert {each["configMapKey"]: each["envVar"] for each in defaults["keyToEnv"]} == (
        CLUSTER_VARIABLES
    )
    others = [len(pod["configMapAsEnv"]) for name, pod in platform.items() if name != "exec-plan"]
    assert set(others) == {1}


def test_plan_decides_size_and_place_of_every_other_pod(documents: list[dict[str, Any]]) -> None:
    platform = documents[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for name, executor in documents[0]["deploymentSpec"]["executors"].items():
        if name == "exec-plan":
            continue
        resources, pod = executor["container"]["resources"], platform[name]
        texts = [resources["resourceCpuRequest"], resources["resourceMemoryLimit"]]
        texts += [pod["nodeSelector"], *pod["tolerations"]]
        sources = re.findall(
            r"plan-(\w+)|outputParameterKey': '(\w+)', 'producerTask': 'plan'", str(texts)
        )
        found = [first or second for first, second in sources]
        assert len(found) == 4, name
        assert [text.split("_", 1)[1].removeprefix("pod_") for text in found] == [
            "cpu",
            "memory",
            "node_selector",
            "tolerations",
        ]


def test_only_the_evaluator_gets_the_credentials_of_mlflow(
    documents: list[dict[str, Any]],
) -> None:
    platform = documents[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    variables = {
        name: {key["envVar"] for secret in executor["secretAsEnv"] for key in secret["keyToEnv"]}
        for name, executor in platform.items()
    }

    for name, names in variables.items():
        assert "REPOT_NOTIFY_URL" in names
        assert ("MLFLOW_TRACKING_TOKEN" in names) == name.startswith("exec-evaluate")
        fields = {each["name"]: each["fieldPath"] for each in platform[name]["fieldPathAsEnv"]}
        assert fields == {"REPOT_RUN_ID": "metadata.labels['pipeline/runid']"}


def test_tasks_know_the_names_of_objects_that_are_not_the_usual_ones(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    compile_pipeline(path, settings={"s3_secret_name": "team-s3"})

    executors = next(yaml.safe_load_all(path.read_text()))["deploymentSpec"]["executors"]
    for executor in executors.values():
        assert executor["container"]["env"] == [{"name": "REPOT_S3_SECRET", "value": "team-s3"}]
    (usual, *_) = yaml.safe_load_all(find_compiled().read_text())
    assert all(
        "env" not in each["container"] for each in usual["deploymentSpec"]["executors"].values()
    )


def test_every_task_meets_the_pod_security_standard_restricted(
    documents: list[dict[str, Any]],
) -> None:
    platform = documents[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert set(platform) == set(documents[0]["deploymentSpec"]["executors"])
    for name, executor in platform.items():
        # What KFP adds itself: argocompiler/security_context.go of KFP 2.17.
        context = {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        # JSON has 64-bit integers as text.
        ours = {
            field: value if isinstance(value, bool) else int(value)
            for field, value in executor["securityContext"].items()
        }
        volumes = [
            {"name": mount["volumeName"], "emptyDir": {}}
            for mount in executor.get("emptyDirMounts", [])
        ]
        container = {"name": name, "securityContext": {**context, **ours}}
        assert restricted_violations({"containers": [container], "volumes": volumes}) == []
        assert ours == {"runAsNonRoot": True, "runAsUser": USER_ID, "runAsGroup": USER_ID}
        other_volumes = {
            "pvcMount",
            "secretAsVolume",
            "configMapAsVolume",
            "genericEphemeralVolume",
        }
        assert not other_volumes & set(executor)


def test_every_pod_has_the_labels_of_the_network_policies(
    documents: list[dict[str, Any]],
) -> None:
    platform = documents[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for name, executor in platform.items():
        assert executor["podMetadata"]["labels"] == TASK_LABELS, name
