"""Train a second real backbone, MobileNetV2 trained on Open Images, beside EfficientNet-Lite0.

    npm pack @mediapipe/objectron@0.4.1675468480 && tar xzf mediapipe-objectron-*.tgz  # Apache-2.0
    make mobilenet ARGS="package [PICTURES]"
    .venv/bin/python benchmarks/mobilenet_open_images.py package [PICTURES]

The package holds an object detector for TensorFlow Lite, whose feature extractor is a whole
MobileNetV2 with BatchNorm folded into its convolutions. It becomes a Keras weights file, which is
also written to --output, so that it can be used as `--backbone mobilenet_v2 --checkpoint FILE`.

The converted network is compared with the detector on one random picture first. Then `repot run`
trains both backbones with recipes head and auto, on PICTURES or on the sample.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

ASSETS_NAME = "objectron_solution_packed_assets.data"
IDENTIFIER = b"TFL3"
"""Bytes 4 to 8 of a model of TensorFlow Lite."""
EXTRACTOR = "FeatureExtractor/MobilenetV2/"
FEATURES_NAME = f"{EXTRACTOR}Conv_1/Relu6"
OPERATION = re.compile("/(Conv2D|BatchNorm/FusedBatchNormV3)$")
DETECTOR_SIZE = 300
BATCH_NORM_EPSILON = 1e-3
RECIPES = ("head", "auto")


def main() -> None:
    """Print the error of the conversion, and precision@1 by backbone and recipe."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("package", type=Path, help="the unpacked package")
    parser.add_argument("pictures", nargs="?", help="a folder of label folders; default: sample")
    parser.add_argument("--output", type=Path, default=Path("mobilenet_v2_open_images.weights.h5"))
    arguments = parser.parse_args()
    assets = (arguments.package / ASSETS_NAME).read_bytes()
    detector = assets[assets.index(IDENTIFIER) - 4 :]
    error = convert(detector, arguments.output)
    print(f"largest difference of features to the detector: {error:.1e} of their largest value")
    pictures = [arguments.pictures] if arguments.pictures else ["--sample"]
    checkpoints = {"efficientnet_lite0": "default", "mobilenet_v2": str(arguments.output)}
    print("backbone             recipe  precision@1  seconds")
    for backbone, checkpoint in checkpoints.items():
        for recipe in RECIPES:
            started = time.monotonic()
            precision = run(pictures, backbone=backbone, checkpoint=checkpoint, recipe=recipe)
            seconds = time.monotonic() - started
            print(f"{backbone:20} {recipe:6} {precision:12.3f} {seconds:8.0f}", flush=True)


def convert(detector: bytes, path: Path) -> float:
    """Write the detector's MobileNetV2 as a Keras weights file.

    Returns:
        The largest difference of its last feature map to the detector's on a random picture,
        relative to the largest feature. Both compute in float32 with weights of 16 bits.
    """
    import keras

    tensors, features, picture = run_detector(detector)
    shape = (DETECTOR_SIZE, DETECTOR_SIZE, 3)
    network = keras.applications.MobileNetV2(include_top=False, weights=None, input_shape=shape)
    for layer in network.layers:
        if layer.weights:
            layer.set_weights(arrays_of(layer.name, tensors))
    network.save_weights(path)
    difference = np.abs(network(picture).numpy() - features).max()
    return float(difference / features.max())


def run_detector(detector: bytes) -> tuple[dict[str, Any], Any, Any]:
    """Return the extractor's constants by name, its features for a random picture, and that."""
    import tensorflow as tf

    interpreter = tf.lite.Interpreter(
        model_content=detector, experimental_preserve_all_tensors=True, num_threads=1
    )
    interpreter.allocate_tensors()
    picture = np.random.default_rng(0).uniform(-1, 1, (1, DETECTOR_SIZE, DETECTOR_SIZE, 3))
    picture = picture.astype(np.float32)
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], picture)
    interpreter.invoke()
    tensors: dict[str, Any] = {}
    features = None
    for tensor in interpreter.get_tensor_details():
        # Folded tensors have the names of all that was folded into them.
        name = tensor["name"].split(";")[0]
        if name == FEATURES_NAME:
            features = interpreter.get_tensor(tensor["index"])
        elif name.startswith(EXTRACTOR) and tensor["dtype"] is np.float16:
            values = interpreter.get_tensor(tensor["index"]).astype(np.float32)
            layer = OPERATION.sub("", name.removeprefix(EXTRACTOR))
            tensors[f"{layer}/{'bias' if values.ndim == 1 else 'kernel'}"] = values
    return tensors, features, picture


def arrays_of(layer_name: str, tensors: Mapping[str, Any]) -> list[Any]:
    """Return the arrays of a layer of Keras' MobileNetV2."""
    name = re.sub(r"^block_", "expanded_conv_", layer_name)
    name, num_batch_norms = re.subn("^bn_|_bn$|_BN$", "", name)
    name = re.sub("^Conv1$", "Conv", name)
    name = re.sub(r"_(expand|depthwise|project)$", r"/\1", name)
    if num_batch_norms:
        bias = tensors[f"{name}/bias"]
        ones = np.ones_like(bias)
        return [ones, bias, np.zeros_like(bias), ones - BATCH_NORM_EPSILON]
    kernel = tensors[f"{name}/kernel"]
    # [out, height, width, in], and [1, height, width, in] for a depthwise convolution.
    return [kernel.transpose(1, 2, 3, 0)]


def run(pictures: list[str], *, backbone: str, checkpoint: str, recipe: str) -> float:
    """Return precision@1 on the validation pictures after `repot run`."""
    repot = Path(sys.executable).parent / "repot"
    options = [f"--backbone={backbone}", f"--checkpoint={checkpoint}", f"--recipe={recipe}"]
    with tempfile.TemporaryDirectory(prefix="repot-mobilenet-") as folder:
        folders = [f"--storage-uri={folder}/storage", f"--output={folder}/output"]
        command = [str(repot), "run", *pictures, *options, *folders]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        metrics = json.loads(Path(folder, "output", "metrics.json").read_text())
        return float(metrics["precision_at_1"])


if __name__ == "__main__":
    main()
