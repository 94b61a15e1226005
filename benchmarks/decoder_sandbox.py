"""Measure what decoding pictures in a sandboxed process costs the shard builder.

    python benchmarks/decoder_sandbox.py [PICTURES [ROUNDS]]

It builds one shard of all pictures of a folder, by default of 2,000 photo-like JPEGs, in turn with
a sandboxed decoder and with the same decoder in the process itself, and prints the processor time
per picture. A dataset is planned into a temporary folder; nothing else is written.
"""

import io
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from repot.picture_decoder import PictureDecoder
from repot.picture_result import Picture, RejectedPicture
from repot.pictures import load_decoders, normalise_picture
from repot.planner.listing import PictureRoots
from repot.planner.plan import plan_dataset
from repot.settings import DatasetSettings
from repot.shard_builder.shard import Decode, build_shard

NUM_PICTURES = 2000
NUM_ROUNDS = 5


def main() -> None:
    """Print the processor time per picture with and without the sandbox."""
    num_rounds = int(sys.argv[2]) if len(sys.argv) > 2 else NUM_ROUNDS
    with tempfile.TemporaryDirectory() as folder, PictureDecoder() as decoder:
        pictures = Path(sys.argv[1]) if len(sys.argv) > 1 else write_pictures(Path(folder))
        planned = plan_dataset(
            PictureRoots(pictures_uri=str(pictures)),
            dataset_folder=lambda _: f"{folder}/dataset",
            listings_uri=None,
            settings=DatasetSettings(
                train_shards=1, validation_shards=1, validation_fraction=0.001
            ),
        )
        shard = planned.plan.shard_names[0]
        num_pictures = planned.plan.num_pictures[shard]

        def build(decode: Decode, cpu_seconds: Callable[[], float]) -> float:
            """Return the processor time per picture in milliseconds."""
            started = cpu_seconds()
            build_shard(
                planned.dataset_uri,
                shard,
                scratch_path=Path(folder),
                decode=decode,
                on_pictures=lambda _: None,
            )
            return (cpu_seconds() - started) / num_pictures * 1e3

        load_decoders()
        layers = ", ".join(decoder.layers())
        print(f"{num_pictures} pictures; layers: {layers}; start: {decoder.cpu_seconds():.3f} s")
        inside, sandboxed = [], []
        for _ in range(num_rounds):
            inside.append(build(decode_here, time.process_time))
            sandboxed.append(
                build(decoder.decode, lambda: time.process_time() + decoder.cpu_seconds())
            )
            print(f"in the process {inside[-1]:.3f} ms, sandboxed {sandboxed[-1]:.3f} ms")
        before, after = min(inside), min(sandboxed)
        print(
            f"least: {before:.3f} ms and {after:.3f} ms per picture, {after / before - 1:+.1%}; "
            f"median: {statistics.median(inside):.3f} ms and {statistics.median(sandboxed):.3f} ms"
        )


def decode_here(files: Sequence[tuple[str, bytes]]) -> list[Picture | RejectedPicture]:
    """Decode without a sandbox."""
    results: list[Picture | RejectedPicture] = []
    for _, data in files:
        try:
            results.append(normalise_picture(data))
        except RejectedPicture as rejection:
            results.append(rejection)
    return results


def write_pictures(folder: Path) -> Path:
    """Write JPEGs of 500 x 375 pixels and about 80 KB, as in the flowers of the 2016 tutorial."""
    generator = np.random.default_rng(0)
    for number in range(NUM_PICTURES):
        coarse = generator.integers(0, 256, (48, 64, 3), np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC))
        pixels = (smooth + generator.integers(-12, 13, smooth.shape)).clip(0, 255)
        buffer = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(buffer, "JPEG", quality=90)
        path = folder / "pictures" / f"label {number % 5}" / f"{number:04}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(buffer.getvalue())
    return folder / "pictures"


if __name__ == "__main__":
    main()
