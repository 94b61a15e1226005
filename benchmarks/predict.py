"""Compare the speed of `repot predict` with the bare forward pass of its network.

    make predict-speed
    .venv/bin/python benchmarks/predict.py [--pictures N] [--rounds N] [--backbone NAME]

The pictures are JPEGs of 500 x 375 pixels. The forward pass runs on batches of 32 that are in
memory, decoded and prepared. Predicting reads, verifies, decodes and prepares the files, too; the
ratio of both is at most 1. CPU seconds are of all processes; on a machine that does other work,
compare those. The last lines are the peak memory after the first and after all rounds.
"""

import argparse
import io
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from repot import quiet_tensorflow
from repot.json_record import write_record
from repot.model_spec import ModelSpec
from repot.predictions import PredictionWorkers, predict_pictures
from repot.predictor import BATCH_SIZE, load_model
from repot.zoo import find_backbone

NUM_PICTURES = 512
NUM_ROUNDS = 3
NUM_LABELS = 5
TARGET = 0.8


def main() -> None:
    """Print a table of rates and the ratio."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pictures", type=int, default=NUM_PICTURES)
    parser.add_argument("--rounds", type=int, default=NUM_ROUNDS)
    parser.add_argument("--backbone", default="efficientnet_lite0")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="repot-benchmark-") as name:
        folder = Path(name)
        pictures = write_pictures(folder / "pictures", arguments.pictures)
        save_model(folder / "model", arguments.backbone)
        model = load_model(str(folder / "model"))
        jpegs = [Path(picture).read_bytes() for picture in pictures[:BATCH_SIZE]]
        views = model.batch_preparer()(jpegs)
        model.call(views)
        print("what     pictures/s   CPU ms per picture")
        ratios, cpu_ratios = [], []
        for _ in range(arguments.rounds):
            forward = _measure("forward", len(pictures), lambda: _forward(model, views, pictures))
            predict = _measure("predict", len(pictures), lambda: _predict(model, pictures))
            ratios.append(predict[0] / forward[0])
            cpu_ratios.append(forward[1] / predict[1])
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            print(
                f"ratio    {ratios[-1]:10.2f} {cpu_ratios[-1]:20.2f}   peak {peak} MiB", flush=True
            )
    ratio = statistics.median(ratios)
    print(f"median   {ratio:10.2f} {statistics.median(cpu_ratios):20.2f}   at least {TARGET}")
    sys.exit(0 if ratio >= TARGET else 1)


def write_pictures(folder: Path, count: int) -> list[str]:
    """Write JPEGs of 500 x 375 pixels and about 80 KB, as in the flowers of the 2016 tutorial."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    names = []
    for number in range(count):
        coarse = generator.integers(0, 256, (48, 64, 3), np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC))
        pixels = (smooth + generator.integers(-12, 13, smooth.shape)).clip(0, 255)
        buffer = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(buffer, "JPEG", quality=90)
        path = folder / f"{number:05}.jpg"
        path.write_bytes(buffer.getvalue())
        names.append(str(path))
    return names


def save_model(folder: Path, backbone: str) -> None:
    """Save a published model with random weights."""
    quiet_tensorflow.import_tensorflow()
    from repot.classifier import build_classifier, published_model

    size = find_backbone(backbone).image_size
    classifier = build_classifier(backbone, num_classes=NUM_LABELS + 1, image_size=size, seed=1)
    folder.mkdir()
    published_model(classifier).save(folder / "model.keras")
    write_record(str(folder / "model_spec.json"), ModelSpec(backbone=backbone, image_size=size))
    (folder / "labels.txt").write_text("".join(f"label {i}\n" for i in range(NUM_LABELS)))


def _forward(model: Any, views: tuple[Any, ...], pictures: list[str]) -> None:
    for _ in range(0, len(pictures), BATCH_SIZE):
        model.call(views)[0].numpy()


def _predict(model: Any, pictures: list[str]) -> None:
    with PredictionWorkers() as workers:
        for prediction in predict_pictures(model, workers, pictures, top=1):
            if prediction.problem:
                raise SystemExit(f"{prediction.picture}: {prediction.problem}")


def _measure(what: str, count: int, work: Callable[[], None]) -> tuple[float, float]:
    """Print and return pictures per second, and CPU milliseconds per picture."""
    started, cpu_started = time.monotonic(), _cpu_seconds()
    work()
    seconds, cpu = time.monotonic() - started, _cpu_seconds() - cpu_started
    print(f"{what:8} {count / seconds:10.1f} {cpu / count * 1e3:20.2f}", flush=True)
    return count / seconds, cpu / count * 1e3


def _cpu_seconds() -> float:
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


if __name__ == "__main__":
    main()
