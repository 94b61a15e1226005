"""Measure how fast training is: input, augmentation and steps, each next to its baseline.

    python benchmarks/training.py [--pictures 256] [--backbone efficientnet_lite0] [--only input]

The pictures are generated: JPEGs of 500 x 375 pixels and about 58 kB. Throughput is in pictures per
second, over all cores; CPU is user and system time of the process per picture, in milliseconds.
Other work on the machine changes the first, and hardly the second.

The baseline of the input is what Keras offers: `keras.utils.image_dataset_from_directory`, and the
2016 tutorial's crop and colors by `tf.image` on each picture, as Keras' layers have no such crop.
It resizes bilinearly, which costs least. In 2016, one of four resizing methods was drawn for each
picture, as repot does; the baseline "4 resizers" does so too.

Each way to compute a step runs in a process of its own, which is killed after --seconds: XLA can
compile for longer than anybody waits, and nothing else stops it.
"""

import argparse
import io
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from repot import quiet_tensorflow

WIDTH, HEIGHT = 500, 375
QUALITY = 88
BATCH_SIZE = 32
IMAGE_SIZES = (224, 299)
RESIZERS = ("bilinear", "nearest", "bicubic", "area")
NUM_LABELS = 2
NUM_FEATURES = 1280
HEAD_ROWS = 20_000
CALLS = (256, 16, 1)
"""Steps per call that are compared, the baseline last."""

STEPS = tuple(
    (precision, uses_xla)
    for precision in ("float16", "bfloat16", "float32")
    for uses_xla in (True, False)
)
"""Ways to compute a step, the baseline last."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """The speed of one way to do something.

    Attributes:
        name: What was measured.
        per_second: Items per second.
        cpu_milliseconds: CPU time per item.
    """

    name: str
    per_second: float
    cpu_milliseconds: float


def write_pictures(folder: Path, num_pictures: int) -> int:
    """Write pictures of two labels with the detail of photographs; return their mean size."""
    rng = np.random.default_rng(0)
    sizes = []
    for index in range(num_pictures):
        coarse = rng.integers(0, 256, (HEIGHT // 25, WIDTH // 25, 3), dtype=np.uint8)
        smooth = Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
        noisy = np.asarray(smooth) + rng.normal(0, 9, (HEIGHT, WIDTH, 3))
        label_folder = folder / f"label{index % NUM_LABELS}"
        label_folder.mkdir(parents=True, exist_ok=True)
        encoded = io.BytesIO()
        picture = Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
        picture.save(encoded, "JPEG", quality=QUALITY)
        (label_folder / f"{index:05d}.jpg").write_bytes(encoded.getvalue())
        sizes.append(len(encoded.getvalue()))
    return round(float(np.mean(sizes)))


def measure(name: str, items: Iterable[int], *, skip: int = 2) -> Measurement:
    """Consume an iterable whose elements say how many items were done, and time it.

    Args:
        name: What is measured.
        items: Yields a number of items after each piece of work.
        skip: Pieces at the start that are not timed: they compile or fill buffers.
    """
    iterator = iter(items)
    for _ in range(skip):
        next(iterator)
    started, cpu_started = time.perf_counter(), _cpu_seconds()
    num_items = sum(iterator)
    seconds, cpu_seconds = time.perf_counter() - started, _cpu_seconds() - cpu_started
    return Measurement(
        name=name,
        per_second=num_items / seconds,
        cpu_milliseconds=1000 * cpu_seconds / num_items,
    )


def measure_input(folder: Path, image_size: int, num_epochs: int) -> Iterator[Measurement]:
    """Yield the speed of repot's input, of its parts, and of the baselines."""
    import keras
    import tensorflow as tf

    from repot.augmentation import augment, crop_for_training
    from repot.preprocessing import decode_jpeg
    from repot.trainer.batches import input_options

    files = [path.read_bytes() for path in sorted(folder.glob("*/*.jpg"))]
    encoded = tf.data.Dataset.from_tensor_slices(files).cache().repeat(num_epochs)

    def batches(function: Callable[[Any, Any], Any]) -> Any:
        numbered = encoded.enumerate()
        return _batched(numbered.map(function, num_parallel_calls=tf.data.AUTOTUNE))

    def crop(index: Any, data: Any) -> Any:
        seed = tf.stack([tf.constant(1, tf.int64), index])
        return crop_for_training(data, image_size, seed, augmentation="inception")

    augment_batch = tf.function(
        lambda pictures: augment(pictures, augmentation="inception", flip=True), jit_compile=True
    )

    def cropped() -> Any:
        return batches(crop).with_options(input_options())

    def augmented() -> Iterator[int]:
        for batch in cropped():
            augment_batch(batch)
            yield BATCH_SIZE

    def decode_only(_: Any, data: Any) -> Any:
        return tf.reduce_max(tf.io.decode_jpeg(data, channels=3)[0, 0])

    def tf_image(_: Any, data: Any) -> Any:
        return _distort(decode_jpeg(data), image_size)

    loader = keras.utils.image_dataset_from_directory(
        str(folder), image_size=(image_size, image_size), batch_size=None, seed=1, verbose=False
    ).repeat(num_epochs)

    def keras_batches(methods: Sequence[str]) -> Iterator[int]:
        def distort(pixels: Any, _: Any) -> Any:
            return _distort(pixels / 255.0, image_size, methods)

        return _sizes(_batched(loader.map(distort, num_parallel_calls=tf.data.AUTOTUNE)))

    yield measure("decode alone", _sizes(batches(decode_only)))
    yield measure("repot, host", _sizes(cropped()))
    yield measure("repot, host and device on this CPU", augmented())
    yield measure("plain tf.data and tf.image", _sizes(batches(tf_image)))
    yield measure("Keras' loader and tf.image, 4 resizers", keras_batches(RESIZERS))
    yield measure("Keras' loader and tf.image", keras_batches(("bilinear",)))


def _distort(picture: Any, image_size: int, methods: Sequence[str] = ("bilinear",)) -> Any:
    """Apply the 2016 crop and colors to one float32 picture, by tf.image.

    Args:
        picture: float32 [height, width, 3] in [0, 1].
        image_size: Height and width of the result.
        methods: Resizing methods, one of which is drawn for each picture.
    """
    import tensorflow as tf

    begin, size, _ = tf.image.sample_distorted_bounding_box(
        tf.shape(picture),
        tf.zeros([1, 0, 4]),
        min_object_covered=0.1,
        aspect_ratio_range=(0.75, 1.33),
        area_range=(0.05, 1.0),
        max_attempts=100,
        use_image_if_no_bounding_boxes=True,
    )
    window = tf.slice(picture, begin, size)
    resizers = [
        lambda method=method: tf.image.resize(window, (image_size, image_size), method)
        for method in methods
    ]
    drawn = tf.random.uniform([], 0, len(methods), tf.int32)
    crop = tf.switch_case(drawn, resizers) if len(resizers) > 1 else resizers[0]()
    crop = tf.image.random_flip_left_right(crop)
    crop = tf.image.random_brightness(crop, 32 / 255)
    crop = tf.image.random_saturation(crop, 0.5, 1.5)
    crop = tf.image.random_hue(crop, 0.2)
    crop = tf.image.random_contrast(crop, 0.5, 1.5)
    return tf.ensure_shape(tf.clip_by_value(crop, 0.0, 1.0), (image_size, image_size, 3))


def _batched(examples: Any) -> Any:
    import tensorflow as tf

    return examples.batch(BATCH_SIZE, drop_remainder=True).prefetch(tf.data.AUTOTUNE)


def _sizes(batches: Any) -> Iterator[int]:
    for _ in batches:
        yield BATCH_SIZE


def measure_augmentations(image_size: int, num_calls: int) -> Iterator[Measurement]:
    """Yield the speed of the device's part of each augmentation, with and without XLA."""
    import tensorflow as tf

    from repot.augmentation import NUM_DRAWS, TrainingPictures, augment
    from repot.recipes import AUGMENTATIONS

    rng = np.random.default_rng(0)
    shape = (BATCH_SIZE, image_size, image_size, 3)
    batch = TrainingPictures(
        tf.constant(rng.integers(0, 256, shape, dtype=np.uint8)),
        tf.constant(rng.random((BATCH_SIZE, NUM_DRAWS), np.float32)),
    )
    for name in AUGMENTATIONS:
        for uses_xla in (False, True):
            function = tf.function(
                lambda pictures, name=name: augment(pictures, augmentation=name, flip=True),
                jit_compile=uses_xla,
            )
            calls = (len(function(batch).numpy()) for _ in range(num_calls + 1))
            suffix = ", XLA" if uses_xla else ""
            yield measure(f"{name}{suffix}", calls, skip=1)


def measure_steps(arguments: list[str], seconds: float) -> Iterator[Measurement | str]:
    """Yield the speed of the training step of the whole network, without input, or why not.

    Args:
        arguments: Options of this program for the processes that measure.
        seconds: After this time, a process is killed.
    """
    for precision, uses_xla in STEPS:
        name = f"{precision}{', XLA' if uses_xla else ''}"
        command = [sys.executable, __file__, *arguments, "--step", precision]
        try:
            found = subprocess.run(
                [*command, "--xla"] if uses_xla else command,
                stdout=subprocess.PIPE,
                timeout=seconds,
                check=True,
            )
        except subprocess.TimeoutExpired:
            yield f"{name:38} not finished after {seconds:.0f} s"
        else:
            per_second, milliseconds = map(float, found.stdout.split())
            yield Measurement(name=name, per_second=per_second, cpu_milliseconds=milliseconds)


def measure_step(
    backbone: str, image_size: int, num_steps: int, *, precision: str, uses_xla: bool
) -> Measurement:
    """Return the speed of one way to compute a step."""
    import tensorflow as tf

    from repot.augmentation import NUM_DRAWS, TrainingPictures
    from repot.trainer.strategy import Computation

    rng = np.random.default_rng(0)
    pictures = TrainingPictures(
        rng.integers(0, 256, (BATCH_SIZE, image_size, image_size, 3), dtype=np.uint8),
        rng.random((BATCH_SIZE, NUM_DRAWS), np.float32),
    )
    labels = np.arange(BATCH_SIZE) % NUM_LABELS + 1
    batch = (pictures, labels, np.ones(BATCH_SIZE, np.float32))
    computation = Computation(precision=precision, uses_xla=uses_xla)
    runner = _network_runner(backbone, image_size, computation)
    iterator = iter(runner.distribute(tf.data.Dataset.from_tensors(batch).cache().repeat()))

    def steps() -> Iterator[int]:
        for _ in range(1 + num_steps):
            runner.train_steps(iterator, 1, stop=False)
            yield BATCH_SIZE

    return measure("", steps(), skip=1)


def measure_head(num_rows: int, num_epochs: int) -> Iterator[Measurement]:
    """Yield the steps per second of a head on stored features, by where batches come from.

    Each is an epoch after the other over all rows in a new order, with what a training does besides
    the steps: make the order, and start to read. One of the baselines is what earlier versions did.
    """
    from repot.trainer.batches import FeatureTable

    rng = np.random.default_rng(0)
    table = FeatureTable(
        features=rng.random((num_rows, NUM_FEATURES), np.float32),
        labels=rng.integers(1, NUM_LABELS + 1, num_rows),
    )
    for from_table in (True, False):
        for steps_per_call in CALLS:
            source = "table" if from_table else "tf.data"
            steps = _take_head_steps(table, steps_per_call, num_epochs, from_table=from_table)
            yield measure(f"{source}, {steps_per_call} steps per call", steps, skip=1)


def _take_head_steps(
    table: Any, steps_per_call: int, num_epochs: int, *, from_table: bool
) -> Iterator[int]:
    """Train for some epochs; yield the number of steps of each."""
    from repot.trainer.batches import feature_batches

    runner = _head_runner()
    num_steps = -(-len(table.labels) // BATCH_SIZE)
    for epoch in range(1 + num_epochs):
        batches = feature_batches(table, BATCH_SIZE, seed=epoch)
        iterator = iter(runner.distribute(batches if from_table else batches.dataset()))
        for first in range(0, num_steps, steps_per_call):
            runner.train_steps(iterator, min(steps_per_call, num_steps - first), stop=False)
        yield num_steps


def _network_runner(backbone: str, image_size: int, computation: Any) -> Any:
    import tensorflow as tf

    from repot.augmentation import augment
    from repot.classifier import build_classifier, training_logits

    classifier = build_classifier(
        backbone, num_classes=NUM_LABELS + 1, image_size=image_size, seed=0
    )
    augment_batch = tf.function(
        lambda pictures: augment(pictures, augmentation="inception", flip=True), jit_compile=True
    )
    return _runner(classifier, training_logits(classifier), computation, augment_batch)


def _head_runner() -> Any:
    """Return the runner of the head that recipe head trains: dropout and a dense layer."""
    import keras

    from repot.classifier import DROPOUT
    from repot.trainer.strategy import FLOAT32

    dropout = keras.layers.Dropout(DROPOUT, seed=0)
    head = keras.Sequential(
        [keras.Input([NUM_FEATURES]), dropout, keras.layers.Dense(NUM_LABELS + 1)]
    )

    def logits(features: Any, training: bool) -> Any:
        return head(features, training=training)

    return _runner(head, logits, FLOAT32, lambda features: features)


def _runner(model: Any, logits: Any, computation: Any, augment: Any) -> Any:
    import keras
    import tensorflow as tf

    from repot.trainer.optimizer import make_optimizer
    from repot.trainer.step import StepRunner, smoothed_cross_entropy

    optimizer = make_optimizer(1e-4, num_steps=1000, steps_per_epoch=100)
    if computation.precision == "float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    optimizer.build(model.trainable_variables)
    return StepRunner(
        lambda pictures, training: (logits(augment(pictures), training),),
        lambda outputs, labels: smoothed_cross_entropy(outputs[0], labels),
        [(optimizer, model.trainable_variables)],
        tf.distribute.get_strategy(),
        model=model,
        computation=computation,
    )


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _print_table(title: str, unit: str, measurements: Iterable[Measurement | str]) -> None:
    """Print a row per measurement, or a line instead; ratios are to the last one, the baseline."""
    rows = list(measurements)
    print(f"\n{title}\n{'':38} {unit:>12} {'ratio':>6} {'CPU ms':>8} {'ratio':>6}")
    for row in rows:
        if isinstance(row, Measurement) and isinstance(rows[-1], Measurement):
            speed = row.per_second / rows[-1].per_second
            cpu = rows[-1].cpu_milliseconds / row.cpu_milliseconds
            numbers = f"{row.cpu_milliseconds:8.2f} {cpu:6.2f}"
            print(f"{row.name:38} {row.per_second:12.1f} {speed:6.2f} {numbers}", flush=True)
        else:
            print(row, flush=True)


def main() -> int:
    """Print the tables; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pictures", type=int, default=256, help="pictures to generate")
    parser.add_argument("--epochs", type=int, default=6, help="passes over the pictures")
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--image-size", type=int, default=224, help="of the steps, in pixels")
    parser.add_argument("--steps", type=int, default=4, help="steps of the whole network")
    parser.add_argument("--seconds", type=float, default=120, help="most seconds per kind of step")
    parser.add_argument("--only", choices=("input", "augmentation", "head", "steps"))
    parser.add_argument(
        "--step", choices=sorted({precision for precision, _ in STEPS}), help="internal"
    )
    parser.add_argument("--xla", action="store_true", help="internal")
    arguments = parser.parse_args()
    quiet_tensorflow.import_tensorflow()
    if arguments.step:
        found = measure_step(
            arguments.backbone,
            arguments.image_size,
            arguments.steps,
            precision=arguments.step,
            uses_xla=arguments.xla,
        )
        print(found.per_second, found.cpu_milliseconds)
        return 0
    import tensorflow as tf

    gpus = [
        tf.config.experimental.get_device_details(gpu).get("device_name", "GPU")
        for gpu in tf.config.list_physical_devices("GPU")
    ]
    print(f"{os.cpu_count()} cores, {', '.join(gpus) or 'no GPU'}, TensorFlow {tf.__version__}")
    if arguments.only in (None, "input"):
        with tempfile.TemporaryDirectory(prefix="repot-training-") as scratch:
            size = write_pictures(Path(scratch), arguments.pictures)
            for image_size in IMAGE_SIZES:
                title = f"Input of {image_size} px from JPEGs of {WIDTH} x {HEIGHT}, {size} bytes"
                rows = measure_input(Path(scratch), image_size, arguments.epochs)
                _print_table(title, "pictures/s", rows)
    if arguments.only in (None, "augmentation"):
        rows = measure_augmentations(arguments.image_size, 5)
        _print_table("Augmentation of a batch, device's part", "pictures/s", rows)
    if arguments.only in (None, "head"):
        title = f"Head on {HEAD_ROWS} x {NUM_FEATURES} features, batches of {BATCH_SIZE}"
        _print_table(title, "steps/s", measure_head(HEAD_ROWS, 2))
    if arguments.only in (None, "steps"):
        title = f"Steps of {arguments.backbone} at {arguments.image_size} px, without input"
        options = ("backbone", "image_size", "steps")
        own = [
            text
            for name in options
            for text in (f"--{name.replace('_', '-')}", str(getattr(arguments, name)))
        ]
        _print_table(title, "pictures/s", measure_steps(own, arguments.seconds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
