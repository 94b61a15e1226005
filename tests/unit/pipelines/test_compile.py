"""`repot compile` with the images of a release."""

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from repot.errors import UsageError
from repot_pipelines.commands.compile import compile_command
from repot_pipelines.compiled import find_compiled

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
    parameters = shipped["root"]["inputDefinitions"]["parameters"]
    for name, image in IMAGES.items():
        assert parameters[name]["defaultValue"] != image
        parameters[name]["defaultValue"] = image
    assert (release["root"], platform) == (shipped["root"], shipped_platform)


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
    with pytest.raises(UsageError, match="cpu_image must be a container image reference"):
        CliRunner().invoke(
            compile_command,
            ["--cpu-image", image, "--output", str(tmp_path / "x.yaml")],
            catch_exceptions=False,
            standalone_mode=False,
        )
    assert list(tmp_path.iterdir()) == []
