"""Measure how fast training is: input, augmentation and steps, each next to its baseline.

    python benchmarks/training.py [--pictures 256] [--backbone efficientnet_lite0] [--only input]

The pictures are generated: JPEGs of 500 x 375 pixels and about 58 kB. Throughput is in pictures per
second, over all cores; CPU is user and system time of the process per picture, in milliseconds.
Other work on the machine changes the first, and hardly the second. With a GPU, the steps are also
measured in bfloat16 and with XLA.

The baseline of the input is what Keras offers: `keras.utils.image_dataset_from_directory`, and the
2016 tutorial's crop and colors by `tf.image` on each picture, as Keras' layers have no such crop.
"""

import argparse
import io
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
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
NUM_LABELS = 2
CALLS = (256, 16, 1)
"""Steps per call that are compared, the baseline last."""


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

    def augmented() -> Iterator[int]:
        for batch in batches(crop):
            augment_batch(batch)
            yield BATCH_SIZE

    def decode_only(_: Any, data: Any) -> Any:
        return tf.reduce_max(tf.io.decode_jpeg(data, channels=3)[0, 0])

    def tf_image(_: Any, data: Any) -> Any:
        return _distort(decode_jpeg(data), image_size)

    loader = keras.utils.image_dataset_from_directory(
        str(folder), image_size=(image_size, image_size), batch_size=None, seed=1, verbose=False
    ).repeat(num_epochs)

    def keras_map(pixels: Any, _: Any) -> Any:
        return _distort(pixels / 255.0, image_size)

    yield measure("decode alone", _sizes(batches(decode_only)))
    yield measure("repot, host", _sizes(batches(crop)))
    yield measure("repot, host and device on this CPU", augmented())
    yield measure("plain tf.data and tf.image", _sizes(batches(tf_image)))
    yield measure(
        "Keras' loader and tf.image",
        _sizes(_batched(loader.map(keras_map, num_parallel_calls=tf.data.AUTOTUNE))),
    )


def _distort(picture: Any, image_size: int) -> Any:
    """Apply the 2016 crop and colors to one float32 picture, by tf.image."""
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
    crop = tf.image.resize(tf.slice(picture, begin, size), (image_size, image_size))
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


def measure_steps(backbone: str, image_size: int, num_steps: int) -> Iterator[Measurement]:
    """Yield the speed of the training step of the whole network, without input."""
    import tensorflow as tf

    from repot.trainer.strategy import Computation

    has_gpu = bool(tf.config.list_physical_devices("GPU"))
    precisions = ("float32", "bfloat16", "float16") if has_gpu else ("float32", "bfloat16")
    for precision in precisions:
        for uses_xla in (False, True):
            computation = Computation(precision=precision, uses_xla=uses_xla)
            name = f"{precision}{', XLA' if uses_xla else ''}"
            steps = _take_steps(_network_runner(backbone, image_size, computation), 1, num_steps)
            yield measure(name, (BATCH_SIZE * number for number in steps))


def measure_calls(num_steps: int) -> Iterator[Measurement]:
    """Yield the steps per second of a head on stored features, by steps per call."""
    for steps_per_call in CALLS:
        steps = _take_steps(_head_runner(), steps_per_call, num_steps)
        yield measure(f"head, {steps_per_call} steps per call", steps)


def _take_steps(runner_and_batches: Any, steps_per_call: int, num_steps: int) -> Iterator[int]:
    runner, batches = runner_and_batches
    iterator = iter(runner.distribute(batches))
    for _ in range(2 + num_steps // steps_per_call):
        runner.train_steps(iterator, steps_per_call, stop=False)
        yield steps_per_call


def _network_runner(backbone: str, image_size: int, computation: Any) -> tuple[Any, Any]:
    import tensorflow as tf

    from repot.augmentation import NUM_DRAWS, TrainingPictures, augment
    from repot.classifier import build_classifier, training_logits

    classifier = build_classifier(
        backbone, num_classes=NUM_LABELS + 1, image_size=image_size, seed=0
    )
    logits = training_logits(classifier)
    rng = np.random.default_rng(0)
    inputs = TrainingPictures(
        rng.integers(0, 256, (BATCH_SIZE, image_size, image_size, 3), dtype=np.uint8),
        rng.random((BATCH_SIZE, NUM_DRAWS), np.float32),
    )
    augment_batch = tf.function(
        lambda pictures: augment(pictures, augmentation="inception", flip=True), jit_compile=True
    )
    return _runner(classifier, logits, inputs, computation, augment_batch)


def _head_runner() -> tuple[Any, Any]:
    import keras

    from repot.trainer.strategy import FLOAT32

    head = keras.Sequential([keras.Input([1280]), keras.layers.Dense(NUM_LABELS + 1)])
    inputs = np.random.default_rng(0).random((BATCH_SIZE, 1280), np.float32)

    def logits(features: Any, training: bool) -> Any:
        return head(features, training=training)

    return _runner(head, logits, inputs, FLOAT32, lambda features: features)


def _runner(
    model: Any, logits: Any, inputs: Any, computation: Any, augment: Any
) -> tuple[Any, Any]:
    import tensorflow as tf

    from repot.trainer.optimizer import make_optimizer
    from repot.trainer.step import StepRunner, smoothed_cross_entropy

    optimizer = make_optimizer(1e-4, num_steps=1000, steps_per_epoch=100)
    optimizer.build(model.trainable_variables)
    runner = StepRunner(
        lambda pictures, training: (logits(augment(pictures), training),),
        lambda outputs, labels: smoothed_cross_entropy(outputs[0], labels),
        [(optimizer, model.trainable_variables)],
        tf.distribute.get_strategy(),
        model=model,
        computation=computation,
    )
    labels = np.arange(BATCH_SIZE) % NUM_LABELS + 1
    batch = (inputs, labels, np.ones(BATCH_SIZE, np.float32))
    return runner, tf.data.Dataset.from_tensors(batch).cache().repeat()


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _print_table(title: str, unit: str, measurements: Iterator[Measurement]) -> None:
    """Print a row per measurement; ratios are to the last one, the baseline."""
    rows = list(measurements)
    print(f"\n{title}\n{'':38} {unit:>12} {'ratio':>6} {'CPU ms':>8} {'ratio':>6}")
    for row in rows:
        speed = row.per_second / rows[-1].per_second
        cpu = rows[-1].cpu_milliseconds / row.cpu_milliseconds
        print(
            f"{row.name:38} {row.per_second:12.1f} {speed:6.2f} {row.cpu_milliseconds:8.2f} "
            f"{cpu:6.2f}",
            flush=True,
        )


def main() -> int:
    """Print the tables; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pictures", type=int, default=256, help="pictures to generate")
    parser.add_argument("--epochs", type=int, default=6, help="passes over the pictures")
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--image-size", type=int, default=224, help="of the steps, in pixels")
    parser.add_argument("--steps", type=int, default=4, help="steps of the whole network")
    parser.add_argument("--only", choices=("input", "augmentation", "steps", "calls"))
    arguments = parser.parse_args()
    quiet_tensorflow.import_tensorflow()
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
    if arguments.only in (None, "calls"):
        _print_table("Steps of a head, batches in memory", "steps/s", measure_calls(512))
    if arguments.only in (None, "steps"):
        title = f"Steps of {arguments.backbone} at {arguments.image_size} px, without input"
        rows = measure_steps(arguments.backbone, arguments.image_size, arguments.steps)
        _print_table(title, "pictures/s", rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
