"""Measure what decoding pictures in a sandboxed process costs the shard builder.

    make decoder-sandbox
    .venv/bin/python benchmarks/decoder_sandbox.py [PICTURES [ROUNDS]]

It builds ten shards of the pictures of a folder, by default of 2,000 photo-like JPEGs. Each is
built in turn with the decoder in the process itself and with a sandboxed one, so that other work of
the machine affects both. It prints the processor time per picture, and the median of the ratios. A
dataset is planned into a temporary folder; nothing else is written.
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
from repot.picture_result import Edges, Picture, RejectedPicture
from repot.pictures import load_decoders, normalise_picture
from repot.planner.listing import PictureRoots
from repot.planner.plan import plan_dataset
from repot.settings import DatasetSettings
from repot.shard_builder.shard import Decode, build_shard

NUM_PICTURES = 2000
NUM_SHARDS = 10
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
                train_shards=NUM_SHARDS, validation_shards=1, validation_fraction=0.001
            ),
        )
        shards = planned.plan.shard_names[:NUM_SHARDS]

        def build(shard: str, decode: Decode, cpu_seconds: Callable[[], float]) -> float:
            """Return the processor time per picture in milliseconds."""
            started = cpu_seconds()
            build_shard(
                planned.dataset_uri,
                shard,
                scratch_path=Path(folder),
                decode=decode,
                on_pictures=lambda _: None,
            )
            return (cpu_seconds() - started) / planned.plan.num_pictures[shard] * 1e3

        load_decoders()
        layers = ", ".join(decoder.layers())
        print(f"layers: {layers}; start: {decoder.cpu_seconds():.3f} s")
        inside, sandboxed = [], []
        for shard in shards * num_rounds:
            inside.append(build(shard, decode_here, time.process_time))
            sandboxed.append(
                build(shard, decoder.decode, lambda: time.process_time() + decoder.cpu_seconds())
            )
        ratios = sorted(after / before for before, after in zip(inside, sandboxed, strict=True))
        quarter = len(ratios) // 4
        print(
            f"here: median {statistics.median(inside):.3f} ms, least {min(inside):.3f} ms; "
            f"sandboxed: {statistics.median(sandboxed):.3f} ms and {min(sandboxed):.3f} ms"
        )
        print(
            f"ratio of {len(ratios)} pairs: median {statistics.median(ratios):.3f}, quartiles "
            f"{ratios[quarter]:.3f} and {ratios[-quarter - 1]:.3f}"
        )


def decode_here(
    files: Sequence[tuple[str, bytes]], crops: Sequence[Edges | None]
) -> list[Picture | RejectedPicture]:
    """Decode without a sandbox."""
    results: list[Picture | RejectedPicture] = []
    for (_, data), crop in zip(files, crops, strict=True):
        try:
            results.append(normalise_picture(data, crop))
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
