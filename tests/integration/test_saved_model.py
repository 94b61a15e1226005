"""The exported model classifies picture files without Keras and repot, like the classifier."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repot.classifier import build_classifier, export_saved_model, probabilities
from repot.preprocessing import central_crop, decode_picture

DATA = Path(__file__).parent.parent / "golden"
PICTURES = [
    DATA / "build_image_data/data/train/daisy/img_00.jpg",
    DATA / "build_image_data/data/train/daisy/picture.png",
    DATA / "build_image_data/data/validation/sunflowers/progressive.jpeg",
    DATA / "build_image_data_dirty/data/train/b/anim.gif",
    DATA / "build_image_data_dirty/data/train/b/bitmap.bmp",
]
LABELS = ["daisy", "dandelion", "ein Gänseblümchen"]
SIZE = 64
SERVE = """
import json, sys
sys.modules.update(keras=None, repot=None)  # importing either raises ImportError
import tensorflow as tf
from pathlib import Path
model = tf.saved_model.load(sys.argv[1])
image_bytes = tf.constant([Path(path).read_bytes() for path in sys.argv[2:]])
outputs = model.signatures["serving_default"](image_bytes)
print(json.dumps({
    "names": sorted(outputs),
    "class_names": [[n.decode() for n in row] for row in outputs["class_names"].numpy()],
    "probabilities": outputs["probabilities"].numpy().tolist(),
}))
"""


@pytest.fixture(scope="module")
def classifier(lite0_weights_uri: str) -> Any:
    path = Path(lite0_weights_uri, "weights.h5")
    built = build_classifier(
        "efficientnet_lite0", num_classes=len(LABELS) + 1, image_size=SIZE, weights_path=path
    )
    kernel = built.get_layer("logits").kernel
    kernel.assign(np.random.default_rng(1).normal(size=kernel.shape, scale=0.1))
    return built


@pytest.fixture(scope="module")
def outputs(classifier: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return the outputs of the exported model in another process, and their names."""
    folder = tmp_path_factory.mktemp("saved_model")
    export_saved_model(classifier, LABELS, folder)
    command = [sys.executable, "-c", SERVE, str(folder), *map(str, PICTURES)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=folder)
    return json.loads(done.stdout)


def test_exported_model_returns_labels_and_probabilities(outputs: Any) -> None:
    assert outputs["names"] == ["class_names", "probabilities"]
    assert outputs["class_names"] == [LABELS] * len(PICTURES)
    np.testing.assert_allclose(np.sum(outputs["probabilities"], axis=1), 1, rtol=1e-5)


def test_probabilities_of_the_exported_model_equal_those_of_the_classifier(
    outputs: Any, classifier: Any
) -> None:
    pictures = np.stack(
        [central_crop(decode_picture(path.read_bytes()), SIZE) for path in PICTURES]
    )
    expected = np.asarray(probabilities(classifier(pictures, training=False)))

    assert np.ptp(expected, axis=0).max() > 0.1
    np.testing.assert_allclose(outputs["probabilities"], expected, atol=1e-5)
