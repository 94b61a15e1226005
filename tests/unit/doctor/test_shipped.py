from pathlib import Path

import pytest

from repot import checkpoints
from repot.errors import RepotError
from repot_pipelines.compiled import find_compiled
from repot_pipelines.doctor import shipped
from repot_pipelines.doctor.check import OK, PROBLEM


def test_compiled_pipeline_is_read_with_its_images_and_defaults() -> None:
    found = shipped.read_shipped()

    assert found.check.state == OK
    assert str(find_compiled()) in found.check.finding
    assert [title for title, _ in found.images] == ["cpu image", "trainer image"]
    assert all("/" in image and ":" in image for _, image in found.images)
    assert {
        "accelerator_type",
        "accelerator_count",
        "trainer_node_selector",
        "trainer_tolerations",
    } <= set(found.defaults)


@pytest.mark.parametrize("text", ["", "[", "just text", "root: {}", "pipelineInfo: {name: x}"])
def test_damaged_pipeline_is_a_problem(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "finetune.yaml"
    path.write_text(text)
    monkeypatch.setattr(shipped, "find_compiled", lambda: path)

    found = shipped.read_shipped()

    assert found.check.state == PROBLEM
    assert found.check.fix
    assert found.images == []


def test_missing_pipeline_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def find() -> Path:
        raise RepotError("There is none. Compile it.")

    monkeypatch.setattr(shipped, "find_compiled", find)

    assert shipped.read_shipped().check.fix == "Compile it."


def test_packaged_weights_are_the_right_bytes() -> None:
    assert shipped.check_weights().state == OK


def test_damaged_or_missing_weights_are_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "weights.pth"
    monkeypatch.setattr(checkpoints, "_installed_weights", lambda: str(path))
    missing = shipped.check_weights()
    path.write_bytes(b"not these")
    damaged = shipped.check_weights()

    assert (missing.state, damaged.state) == (PROBLEM, PROBLEM)
    assert "not installed" in missing.finding
    assert "SHA-256" in damaged.finding
