"""`repot compile` with the images of a release."""

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from repot.container_images import CPU_IMAGE
from repot.errors import UsageError
from repot_pipelines.commands.compile import compile_command
from repot_pipelines.compiled import (
    compiled_settings,
    find_compiled,
    pipeline_for,
    read_pipeline,
)

IMAGES = {
    "cpu_image": f"registry.example/repot-cpu@sha256:{'1' * 64}",
    "trainer_image": f"registry.example/repot-trainer@sha256:{'2' * 64}",
}
ARGUMENTS = ["--cpu-image", IMAGES["cpu_image"], "--trainer-image", IMAGES["trainer_image"]]


def test_release_yaml_differs_only_in_its_images(tmp_path: Path) -> None:
    path = tmp_path / "release" / "finetune.yaml"

    CliRunner().invoke(
        compile_command,
        [*ARGUMENTS, "--output", str(path)],
        catch_exceptions=False,
        standalone_mode=False,
    )

    release, platform = yaml.safe_load_all(path.read_text("utf-8"))
    shipped, shipped_platform = yaml.safe_load_all(find_compiled().read_text("utf-8"))
    for name, executor in shipped["deploymentSpec"]["executors"].items():
        if name != "exec-train":
            executor["container"]["image"] = IMAGES["cpu_image"]
    plan = shipped["root"]["dag"]["tasks"]["plan"]["inputs"]["parameters"]
    plan["compiled_settings"]["runtimeValue"]["constant"] = json.dumps(IMAGES)
    assert (release, platform) == (shipped, shipped_platform)
    assert compiled_settings(release) == IMAGES


def test_pipeline_of_a_tainted_cluster_places_the_pod_of_plan(tmp_path: Path) -> None:
    toleration = {"key": "pool", "operator": "Exists", "effect": "NoExecute"}
    settings = {
        "task_node_selector": {"pool": "cpu"},
        "task_tolerations": [{**toleration, "tolerationSeconds": 300}],
        "task_memory": "1Gi",
        "s3_secret_name": "our-keys",
        "settings_config_map": "team-a",
        "epochs": 4,
    }
    assignments = [
        f"{name}={value if isinstance(value, str) else json.dumps(value)}"
        for name, value in settings.items()
    ]

    CliRunner().invoke(
        compile_command,
        [
            *(part for each in assignments for part in ("-p", each)),
            "--output",
            f"{tmp_path}/x.yaml",
        ],
        catch_exceptions=False,
        standalone_mode=False,
    )

    pipeline, platform = yaml.safe_load_all((tmp_path / "x.yaml").read_text("utf-8"))
    pods = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert "'pool': 'cpu'" in str(pods["exec-plan"]["nodeSelector"])
    assert pods["exec-plan"]["tolerations"] == [{**toleration, "tolerationSeconds": "300"}]
    resources = pipeline["deploymentSpec"]["executors"]["exec-plan"]["container"]["resources"]
    assert resources["resourceMemoryLimit"] == "1Gi"
    for pod in pods.values():
        names = [each["configMapName"] for each in pod["configMapAsEnv"]]
        assert (set(names), pod["secretAsEnv"][0]["secretName"]) == ({"team-a"}, "our-keys")
    assert pipeline["root"]["inputDefinitions"]["parameters"]["epochs"]["defaultValue"] == 4
    assert compiled_settings(pipeline) == settings


def test_run_with_another_image_gets_a_pipeline_of_its_own(tmp_path: Path) -> None:
    path = pipeline_for({"cpu_image": "registry.example/own:1", "epochs": 3})

    assert path != find_compiled()
    assert compiled_settings(read_pipeline(path)) == {"cpu_image": "registry.example/own:1"}
    assert pipeline_for({"cpu_image": CPU_IMAGE, "trainer_cpu": "2"}) == find_compiled()


def test_wrong_settings_are_reported_together(tmp_path: Path) -> None:
    arguments = ["-p", "task_tolerations={}", "-p", "task_mem=1Gi", "-p", "task_cpu=much"]

    with pytest.raises(UsageError) as caught:
        CliRunner().invoke(
            compile_command,
            [*arguments, "--output", str(tmp_path / "x.yaml")],
            catch_exceptions=False,
            standalone_mode=False,
        )

    assert [problem.split(" must ")[0] for problem in caught.value.problems] == [
        "task_tolerations",
        "task_mem",
        "task_cpu",
    ]


def test_output_is_written_to_the_working_folder_and_not_to_the_checkout(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = find_compiled().stat().st_mtime_ns
    monkeypatch.chdir(tmp_path)

    done = CliRunner().invoke(compile_command, [], catch_exceptions=False, standalone_mode=False)

    assert done.output == "finetune.yaml\n"
    assert (tmp_path / "finetune.yaml").read_bytes() == find_compiled().read_bytes()
    assert find_compiled().stat().st_mtime_ns == before


@pytest.mark.parametrize("name", ["file.txt", "file", "file.json", "file.yaml.gz", ".yaml"])
def test_output_must_be_a_yaml_file(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--output must end with \.yaml or \.yml; got --output"):
        CliRunner().invoke(
            compile_command,
            ["--output", str(tmp_path / name)],
            catch_exceptions=False,
            standalone_mode=False,
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("image", ["", "Repot CPU", "https://registry.example/repot", "a\udcff"])
def test_image_must_be_a_reference(image: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cpu_image must be "):
        CliRunner().invoke(
            compile_command,
            ["--cpu-image", image, "--output", str(tmp_path / "x.yaml")],
            catch_exceptions=False,
            standalone_mode=False,
        )
    assert list(tmp_path.iterdir()) == []
