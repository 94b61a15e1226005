"""Features of Keras with weights converted by repot equal those of the original 2016 graph."""

import importlib.util
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from repot import zoo
from repot.auxiliary_head import LAYER, build_auxiliary_head
from repot.backbone_weights import load_weights
from repot.checkpoint_fetcher import fetch
from repot.checkpoint_record import CheckpointRecord
from repot.errors import CheckpointError

GOLDEN = Path(__file__).parent.parent / "golden" / "checkpoint"
EMA = "/ExponentialMovingAverage"
TOLERANCE = 1e-5
STEP = 157585

Arrays = dict[str, npt.NDArray[Any]]


def _stand_in() -> Any:
    spec = importlib.util.spec_from_file_location(
        "stand_in_weights", GOLDEN / "stand_in_weights.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def arrays_2016_03_01() -> Arrays:
    """Return all 388 variables, raw and averaged, and global_step."""
    shapes = json.loads((GOLDEN / "variables.json").read_text())
    names = [f"{name}{suffix}" for name in shapes for suffix in ("", EMA)]
    arrays = {
        name: _stand_in().value(name, tuple(shapes[name.removesuffix(EMA)])) for name in names
    }
    return arrays | {"global_step": np.asarray(STEP, np.float32)}


def arrays_2016_08_28() -> Arrays:
    """Return the averages of 2016-03-01 under the plain names of 2016_08_28."""
    averaged = {name: array for name, array in arrays_2016_03_01().items() if name.endswith(EMA)}
    slim = {row["old"]: row["slim"] for row in json.loads((GOLDEN / "name_map.json").read_text())}
    arrays = {}
    for name, array in averaged.items():
        scope, _, variable = (
            name.removesuffix(EMA).replace("/BatchNorm", ":BatchNorm").rpartition("/")
        )
        layer, _, batch_norm = scope.partition(":")
        arrays["/".join(part for part in (slim[layer], batch_norm, variable) if part)] = array
    return arrays | {"global_step": np.asarray(STEP, np.int64)}


def write_checkpoint(prefix: Path, arrays: Arrays, version: int) -> None:
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        placeholders = {
            name: tf.compat.v1.placeholder(array.dtype, array.shape)
            for name, array in arrays.items()
        }
        variables = {
            name: tf.compat.v1.Variable(placeholder, name=f"v{index}", use_resource=False)
            for index, (name, placeholder) in enumerate(placeholders.items())
        }
        session.run(
            [variable.initializer for variable in variables.values()],
            {placeholders[name]: array for name, array in arrays.items()},
        )
        saver = tf.compat.v1.train.Saver(variables, write_version=version)
        saver.save(session, str(prefix), write_meta_graph=False)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with v1/, v2/ and slim/, each with a checkpoint of the stand-in weights."""
    folder = tmp_path_factory.mktemp("checkpoints")
    arrays = arrays_2016_03_01()
    for name, version in (
        ("v1", tf.compat.v1.train.SaverDef.V1),
        ("v2", tf.compat.v1.train.SaverDef.V2),
    ):
        (folder / name).mkdir()
        write_checkpoint(folder / name / f"model.ckpt-{STEP}", arrays, version)
    (folder / "slim").mkdir()
    write_checkpoint(
        folder / "slim" / "inception_v3.ckpt", arrays_2016_08_28(), tf.compat.v1.train.SaverDef.V1
    )
    return folder


@pytest.fixture(scope="module")
def backbone() -> Iterator[Any]:
    yield zoo.build_backbone("inception_v3", image_size=299)
    tf.keras.backend.clear_session()


def features(backbone: Any, checkpoints_uri: Path, checkpoint_id: str) -> npt.NDArray[np.float32]:
    load_weights(backbone, checkpoints_uri / checkpoint_id / "weights.h5")
    return np.asarray(backbone(_stand_in().images(), training=False))


def expected(values: str) -> npt.NDArray[np.float32]:
    array: npt.NDArray[np.float32] = np.load(GOLDEN / "expected.npz")[f"pool_{values}"]
    return array


@pytest.mark.parametrize("values", ["ema", "raw"])
@pytest.mark.parametrize("source", ["v1/model.ckpt-157585", "v2/model.ckpt-157585", "v1"])
def test_features_equal_those_of_the_original_graph(
    checkpoints: Path, backbone: Any, tmp_path: Path, source: str, values: str
) -> None:
    checkpoint_id = fetch.fetch_checkpoint(
        str(checkpoints / source),
        backbone="inception_v3",
        values=values,
        checkpoints_uri=str(tmp_path),
    )

    np.testing.assert_allclose(
        features(backbone, tmp_path, checkpoint_id), expected(values), atol=TOLERANCE, rtol=0
    )


@pytest.mark.parametrize("values", ["ema", "raw"])
def test_auxiliary_logits_equal_those_of_the_original_graph(
    checkpoints: Path, backbone: Any, tmp_path: Path, values: str
) -> None:
    path = checkpoints / "v2" / f"model.ckpt-{STEP}"
    checkpoint_id = fetch.fetch_checkpoint(
        str(path), backbone="inception_v3", values=values, checkpoints_uri=str(tmp_path)
    )
    load_weights(backbone, tmp_path / checkpoint_id / "weights.h5")
    auxiliary = build_auxiliary_head(17, num_classes=1001, seed=0)
    convolutions = keras.Model(auxiliary.input, auxiliary.layers[-2].output)
    load_weights(convolutions, tmp_path / checkpoint_id / "weights.h5")
    suffix = EMA if values == "ema" else ""
    variables = (
        _stand_in().value(f"aux_logits/FC/{name}{suffix}", shape)
        for name, shape in (("weights", (768, 1001)), ("biases", (1001,)))
    )
    auxiliary.get_layer("auxiliary_logits").set_weights(list(variables))

    middle = keras.Model(backbone.input, backbone.get_layer(LAYER).output)
    logits = auxiliary(middle(_stand_in().images(), training=False), training=False)

    expected_logits = np.load(GOLDEN / "expected.npz")[f"aux_{values}"]
    np.testing.assert_allclose(np.asarray(logits), expected_logits, atol=TOLERANCE, rtol=0)


def test_published_archive_yields_averages_by_default(
    checkpoints: Path, backbone: Any, tmp_path: Path
) -> None:
    archive_path = tmp_path / "inception-v3-2016-03-01.tar.gz"
    stale = tmp_path / "checkpoint"
    stale.write_text(f'model_checkpoint_path: "/home/shlens/train/model.ckpt-{STEP}"\n')
    with tarfile.open(archive_path, "w:gz", compresslevel=1) as archive:
        for path in (stale, checkpoints / "v1" / f"model.ckpt-{STEP}"):
            archive.add(path, f"inception-v3/{path.name}")

    checkpoint_id = fetch.fetch_checkpoint(
        str(archive_path), backbone="inception_v3", values="auto", checkpoints_uri=str(tmp_path)
    )

    record = CheckpointRecord.from_text((tmp_path / checkpoint_id / "checkpoint.json").read_text())
    assert checkpoint_id.endswith("/inception_v3-ema")
    assert record.step == STEP
    assert record.num_parameters == 21_802_784
    assert record.available_values == ("ema", "raw")
    np.testing.assert_allclose(
        features(backbone, tmp_path, checkpoint_id), expected("ema"), atol=TOLERANCE, rtol=0
    )


def test_plain_names_of_2016_08_28_hold_averages(
    checkpoints: Path, backbone: Any, tmp_path: Path
) -> None:
    checkpoint_id = fetch.fetch_checkpoint(
        str(checkpoints / "slim" / "inception_v3.ckpt"),
        backbone="inception_v3",
        values="raw",
        checkpoints_uri=str(tmp_path),
    )

    np.testing.assert_allclose(
        features(backbone, tmp_path, checkpoint_id), expected("ema"), atol=TOLERANCE, rtol=0
    )


def test_checkpoint_is_rejected_for_another_backbone(checkpoints: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="must be used with backbone=inception_v3"):
        fetch.fetch_checkpoint(
            str(checkpoints / "v2" / f"model.ckpt-{STEP}"),
            backbone="mobilenet_v2",
            values="auto",
            checkpoints_uri=str(tmp_path),
        )
