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


def test_compiling_with_images_requires_another_output() -> None:
    before = find_compiled().read_bytes()

    with pytest.raises(UsageError, match="--output must be given with an image"):
        CliRunner().invoke(
            compile_command, ARGUMENTS, catch_exceptions=False, standalone_mode=False
        )

    assert find_compiled().read_bytes() == before
