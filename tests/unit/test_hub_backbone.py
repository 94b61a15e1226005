"""Presets of KerasHub are read without KerasHub; tests/integration/test_hub_backbones.py builds."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from repot.checkpoint_files import find_files
from repot.errors import CheckpointError, UsageError
from repot.hub_backbone import import_keras_hub, is_preset, read_preset
from repot.zoo import build_backbone

CONFIG = {"image_shape": [48, 48, 3], "num_layers": 2, "dropout_rate": 0.5, "dtype": {"a": 1}}


def write_preset(folder: Path, *, scale: Any = 1 / 127.5, offset: Any = -1) -> None:
    folder.mkdir(exist_ok=True)
    config = {"class_name": "ViTBackbone", "module": "x", "config": CONFIG}
    (folder / "config.json").write_text(json.dumps(config))
    converter = {"class_name": "ImageConverter", "config": {"scale": scale, "offset": offset}}
    (folder / "image_converter.json").write_text(json.dumps(converter))
    (folder / "model.weights.h5").write_bytes(b"")


def test_message_without_keras_hub_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "keras_hub", None)

    with pytest.raises(UsageError, match=r"backbone vit needs KerasHub.*make venv EXTRAS=hub"):
        import_keras_hub("vit")


def test_architecture_is_read_without_dropout_and_types(tmp_path: Path) -> None:
    write_preset(tmp_path)

    found = read_preset(tmp_path, class_name="ViTBackbone", backbone="vit")

    assert json.loads(found.config) == {"num_layers": 2, "dropout_rate": 0.0}
    assert found.image_size == 48


@pytest.mark.parametrize(
    ("scale", "offset", "expected"),
    [
        (1 / 255, 0, ([1.0] * 3, [0.0] * 3)),
        (1 / 127.5, -1, ([2.0] * 3, [-1.0] * 3)),
        (None, None, ([255.0] * 3, [0.0] * 3)),
        ([1 / 255, 2 / 255, 4 / 255], [1, 2, 3], ([1.0, 2.0, 4.0], [1.0, 2.0, 3.0])),
    ],
)
def test_scaling_is_that_of_the_presets_image_converter(
    scale: Any, offset: Any, expected: tuple[list[float], list[float]], tmp_path: Path
) -> None:
    write_preset(tmp_path, scale=scale, offset=offset)

    found = read_preset(tmp_path, class_name="ViTBackbone", backbone="vit")

    assert list(found.scale) == pytest.approx(expected[0])
    assert list(found.offset) == pytest.approx(expected[1])


@pytest.mark.parametrize("scale", ["x", [1, 2], [1, "x", 3], {}, True])
def test_scale_that_is_no_number_per_channel_is_an_error(scale: Any, tmp_path: Path) -> None:
    write_preset(tmp_path, scale=scale)

    with pytest.raises(CheckpointError, match="scale and an offset of one or three numbers"):
        read_preset(tmp_path, class_name="ViTBackbone", backbone="vit")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"config": {}}', '{"class_name": 1}'])
def test_config_that_describes_no_class_is_an_error(text: str, tmp_path: Path) -> None:
    write_preset(tmp_path)
    (tmp_path / "config.json").write_text(text)

    with pytest.raises(CheckpointError, match=r"must have a valid config\.json"):
        read_preset(tmp_path, class_name="ViTBackbone", backbone="vit")


def test_files_of_a_preset_are_its_checkpoint(tmp_path: Path) -> None:
    write_preset(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")

    names = [Path(uri).name for uri in find_files(str(tmp_path)).uris]

    assert names == ["config.json", "image_converter.json", "model.weights.h5"]
    assert is_preset(names)
    assert not is_preset(names[:2])


def test_network_of_keras_hub_needs_weights() -> None:
    with pytest.raises(UsageError, match="dinov2 must be built from the weights of a checkpoint"):
        build_backbone("dinov2", image_size=224)
