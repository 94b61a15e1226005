"""Measure the shard builder next to the work of the original program, on generated pictures.

    make shards-speed [ARGS="--counts 2000 20000 --rounds 3 --pairs 0 --folder FOLDER"]

The pictures are JPEGs of 500 x 375 pixels and about 58 KB with the detail of photographs, generated
from their numbers: each has six strips, which are chosen from those of 256 pictures, and copied
without encoding them again. The baseline does what 2016's build_image_data.py does, in two threads:
it lists and shuffles the files, decodes each with TensorFlow to learn its size, and writes a
tf.train.Example. `repot shards` gets the same folders and numbers of shards; it also computes each
file's checksum first, so that a changed file is noticed, decodes in a sandbox, compares all
pictures with each other and writes a data page.

Programs run in turn, as processes of their own. Processor time is that of all their processes, from
their start to their end; memory is the largest sum of what their processes have for themselves,
their share of what they have in common included (PSS), read twenty times per second.

- Whole programs: the best and the median of --rounds, for each of --counts; the time of one more
  picture is the difference between the smallest and the largest count.
- The stages of `repot shards`, each in processor time: its imports, and what it does in a process
  that has imported everything; of each, the time of one more picture.
- The build phase alone, from the start of the workers to the last receipt: with one and with two
  decoders on all cores, where the process that reads and writes has a core of its own beside one
  decoder; and on one core with one decoder, against two cores with two.
- --pairs: a whole build with and without the checks, in turn; processor time, its ratio, and the
  cost of the checks per picture: this many pairs with the fewest pictures, an eighth with others.
- Decoders, in this process: Pillow as repot uses it; simplejpeg if it is installed.
- Last, every goal next to its figure.

Python's bytecode is compiled before, as that of an installed package is.

--counts 2000 200000 needs 24 GB of disk and ten minutes; --only repot leaves out the original and
the other measurements. Results are in docs/performance.md.
"""

import argparse
import contextlib
import ctypes
import functools
import io
import json
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from data_checks import compare_checks, compile_code  # type: ignore[import-not-found]
from PIL import Image

from repot.data_checks import DataLimits
from repot.picture_decoder import DecoderHost, PictureDecoder
from repot.pictures import normalise_picture
from repot.planner.listing import PictureRoots
from repot.planner.plan import PlannedDataset, plan_dataset
from repot.progress import ProgressCounter
from repot.settings import DatasetSettings
from repot.shard_builder.build import build_shards
from repot.shard_builder.complete import complete_dataset
from repot.shard_builder.worker_pool import WorkerPool

WIDTH, HEIGHT, QUALITY, NUM_LABELS = 500, 375, 90, 5
# Rows of blocks of 16 x 16 pixels in a strip, and pictures whose strips are used.
STRIP_ROWS, NUM_SOURCES = 4, 256
COUNTS, NUM_ROUNDS, VALIDATION_SHARE = (2000, 20_000), 3, 0.2
TRAIN_SHARDS, VALIDATION_SHARDS, NUM_THREADS = 8, 2, 2
SAMPLE_SECONDS = 0.05

Bar = tuple[str, float, str, str, float]
"""What, its figure, unit, whether that is to be "at most" or "at least" the goal, and the goal."""

# What build_image_data.py does, by the description of its behaviour, not by its code.
ORIGINAL = """
import os, random, sys, threading
import numpy as np
import tensorflow as tf
tf.compat.v1.disable_eager_execution()
root, output, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
session = tf.compat.v1.Session()
encoded = tf.compat.v1.placeholder(tf.string)
pixels = tf.io.decode_jpeg(encoded, channels=3)

def feature(*values):
    if isinstance(values[0], bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

def convert(path, label, text):
    with tf.io.gfile.GFile(path, "rb") as file:
        data = file.read()
    picture = session.run(pixels, {encoded: data})
    assert picture.ndim == 3 and picture.shape[2] == 3
    return tf.train.Example(features=tf.train.Features(feature={
        "image/height": feature(picture.shape[0]),
        "image/width": feature(picture.shape[1]),
        "image/colorspace": feature(b"RGB"),
        "image/channels": feature(3),
        "image/class/label": feature(label),
        "image/class/text": feature(text.encode()),
        "image/format": feature(b"JPEG"),
        "image/filename": feature(os.path.basename(path).encode()),
        "image/encoded": feature(data),
    }))

def convert_part(split, shards, number, part):
    per_thread = shards // threads
    borders = np.linspace(0, len(part), per_thread + 1).astype(int)
    for shard in range(per_thread):
        name = f"{split}-{number * per_thread + shard:05d}-of-{shards:05d}"
        with tf.io.TFRecordWriter(os.path.join(output, name)) as writer:
            for path, label, text in part[borders[shard]:borders[shard + 1]]:
                writer.write(convert(path, label, text).SerializeToString())

for split, shards in (("validation", int(sys.argv[5])), ("train", int(sys.argv[4]))):
    files = []
    for label, text in enumerate(sorted(os.listdir(os.path.join(root, split))), start=1):
        paths = tf.io.gfile.glob(os.path.join(root, split, text, "*"))
        files += [(path, label, text) for path in paths]
    random.seed(12345)
    random.shuffle(files)
    borders = np.linspace(0, len(files), threads + 1).astype(int)
    workers = [
        threading.Thread(target=convert_part, args=(
            split, shards, number, files[borders[number]:borders[number + 1]]))
        for number in range(threads)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What a program took: seconds, processor seconds of all processes, and bytes."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int


def main() -> None:
    """Print every table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS)
    parser.add_argument("--rounds", type=int, default=NUM_ROUNDS)
    parser.add_argument("--pairs", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="keep the pictures here")
    parser.add_argument("--only", choices=["repot"])
    parser.add_argument("--build", nargs=3, metavar=("PICTURES", "NUM_DECODERS", "NUM_CORES"))
    parser.add_argument("--stages", type=Path, metavar="PICTURES")
    arguments = parser.parse_args()
    if arguments.build:
        root, num_decoders, num_cores = arguments.build
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(num_cores)])
        print(json.dumps(build(Path(root), int(num_decoders))))
        return
    # Processes whose parent has ended become children of this one, so that their time counts.
    ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER
    if arguments.stages:
        print(json.dumps(stages(arguments.stages)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        counts = sorted(arguments.counts)
        roots = {count: write_pictures(folder / f"pictures-{count}", count) for count in counts}
        compile_code()
        if arguments.only:
            bars = compare_programs(roots, arguments.rounds, {"repot": repot_command})
        else:
            compare_decoders(roots[counts[0]])
            programs = {"original": original_command, "repot": repot_command}
            bars = compare_programs(roots, arguments.rounds, programs)
            measure_stages(roots, arguments.rounds)
            bars += measure_scaling(roots, arguments.rounds)
        for count, root in roots.items() if arguments.pairs else ():
            print(f"\nChecks, {count:,} pictures:")
            pairs = arguments.pairs if count == counts[0] else max(1, arguments.pairs // 8)
            cost = 100 * compare_checks(root, pairs)
            bars.append((f"{count:,} pictures, checks, of the rest", cost, "%", "at most", 15))
    print("\nGoals:")
    for name, value, unit, direction, goal in bars:
        is_met = value <= goal if direction == "at most" else value >= goal
        verdict = "" if is_met else "  NOT MET"
        print(f"  {name:52} {value:7.2f} {unit:3} {direction} {goal:g}{verdict}")


def write_pictures(root: Path, count: int) -> Path:
    """Write pictures as train/<label>/ and validation/<label>/, unless they exist."""
    if root.exists():
        return root
    partial_root = root.with_name(f"{root.name}.part")
    shutil.rmtree(partial_root, ignore_errors=True)
    for split in ("train", "validation"):
        for label in range(NUM_LABELS):
            (partial_root / split / f"label {label}").mkdir(parents=True)
    chunk = 250
    with ProcessPoolExecutor() as pool:
        sizes = pool.map(
            partial(write_some, partial_root, count),
            range(0, count, chunk),
            [min(chunk, count - first) for first in range(0, count, chunk)],
        )
        total = sum(sizes)
    partial_root.rename(root)
    print(
        f"{count:,} pictures of {WIDTH} x {HEIGHT} pixels, {total / count / 1e3:.1f} KB on average"
    )
    return root


def write_some(root: Path, count: int, first: int, number: int) -> int:
    """Write some of the pictures, and return their size in bytes."""
    generator = np.random.default_rng([2016, first])
    header, sources = make_strips()
    size_bytes = 0
    for index in range(first, first + number):
        chosen = generator.integers(0, NUM_SOURCES, len(sources[0])).tolist()
        data = bytearray(header)
        for place, source in enumerate(chosen):
            # Between two strips is a restart marker, numbered modulo 8.
            data += bytes([0xFF, 0xD0 + (place - 1) % 8]) if place else b""
            data += sources[source][place]
        split = "validation" if index < count * VALIDATION_SHARE else "train"
        path = root / split / f"label {index % NUM_LABELS}" / f"{index:07}.jpg"
        path.write_bytes(data)
        size_bytes += len(data)
    return size_bytes


@functools.cache
def make_strips() -> tuple[bytes, list[list[bytes]]]:
    """Return the header of a JPEG, and the encoded strips of many, which have the same header.

    A decoder begins anew at each restart marker, so that strips of several JPEGs make another one.
    The last strip contains the end of the file.
    """
    generator = np.random.default_rng(2016)
    # Noise is costly to draw: each picture gets a part of the same noise.
    noise = generator.normal(0, 1, (2 * HEIGHT, 2 * WIDTH, 3)).astype(np.float32)
    sources = []
    for _ in range(NUM_SOURCES):
        coarse = generator.integers(0, 256, (HEIGHT // 25, WIDTH // 25, 3), np.uint8)
        smooth = Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
        top, left = generator.integers(0, HEIGHT), generator.integers(0, WIDTH)
        detail = noise[top : top + HEIGHT, left : left + WIDTH] * generator.uniform(4.5, 9.5)
        pixels = np.clip(np.asarray(smooth) + detail, 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(
            buffer, "JPEG", quality=QUALITY, restart_marker_rows=STRIP_ROWS
        )
        jpeg = buffer.getvalue()
        # The header ends with the segment SOS, which states its own length.
        start = jpeg.index(b"\xff\xda") + 2
        start += int.from_bytes(jpeg[start : start + 2], "big")
        header = jpeg[:start]
        sources.append(re.split(rb"\xff[\xd0-\xd7]", jpeg[start:]))
    return header, sources


def compare_decoders(root: Path) -> None:
    """Print the processor time of decoding a picture to its end, by several decoders."""
    files = [path.read_bytes() for path in sorted(root.glob("train/*/*.jpg"))[:400]]

    def draft(mode: str | None, data: bytes) -> None:
        with Image.open(io.BytesIO(data)) as image:
            if mode:
                image.draft(mode, (44, 44))
            image.load()

    decoders: dict[str, Callable[[bytes], object]] = {
        "Pillow, all pixels, RGB": partial(draft, None),
        "Pillow, 1/8, YCbCr": partial(draft, "YCbCr"),
        "Pillow, 1/8, grey": partial(draft, "L"),
        "repot, with structure, miniature": normalise_picture,
    }
    try:
        from simplejpeg import decode_jpeg
    except ImportError:
        print("simplejpeg is not installed: pip install simplejpeg, to compare it")
    else:
        for space in ("RGB", "GRAY"):
            decoders[f"simplejpeg, 1/8, {space}"] = partial(
                decode_jpeg,
                colorspace=space,
                fastdct=True,
                fastupsample=True,
                min_height=44,
                min_width=44,
                strict=True,
            )
    best = dict.fromkeys(decoders, float("inf"))
    for _ in range(5):
        for name, decode in decoders.items():
            started = time.process_time()
            for data in files:
                decode(data)
            best[name] = min(best[name], (time.process_time() - started) / len(files))
    print("\nDecoding in this process, processor time per picture, best of 5:")
    for name, seconds in best.items():
        print(f"  {name:34} {seconds * 1e3:.3f} ms")


def compare_programs(
    roots: dict[int, Path],
    num_rounds: int,
    programs: Mapping[str, Callable[[Path, str], list[str]]],
) -> list[Bar]:
    """Print what whole programs take; return the figures that have a goal."""
    medians: dict[str, dict[int, Cost]] = {name: {} for name in programs}
    print(f"\nWhole programs, median of {num_rounds} (best); {os.cpu_count()} cores:")
    print("  program   pictures  seconds         CPU seconds     CPU per picture  memory")
    for count, root in roots.items():
        # The large folders take long, and vary less.
        num_here = num_rounds if count == min(roots) else 1
        costs: dict[str, list[Cost]] = {name: [] for name in programs}
        for _ in range(num_here):
            for name, command in programs.items():
                with tempfile.TemporaryDirectory(dir=root.parent) as output:
                    costs[name].append(run(command(root, output)))
        for name, found in costs.items():
            medians[name][count] = middle = Cost(
                seconds=statistics.median(cost.seconds for cost in found),
                cpu_seconds=statistics.median(cost.cpu_seconds for cost in found),
                peak_bytes=max(cost.peak_bytes for cost in found),
            )
            print(
                f"  {name:9} {count:8,}  {middle.seconds:6.2f} "
                f"({min(cost.seconds for cost in found):6.2f})  {middle.cpu_seconds:6.2f} "
                f"({min(cost.cpu_seconds for cost in found):6.2f})  "
                f"{middle.cpu_seconds / count * 1e3:12.2f} ms  {middle.peak_bytes / 1e6:5.0f} MB",
                flush=True,
            )
    least, most = min(roots), max(roots)
    for name, by_count in medians.items():
        if most > least:
            more = (by_count[most].cpu_seconds - by_count[least].cpu_seconds) / (most - least)
            print(f"  {name:9} one more picture: {more * 1e3:.2f} ms of processor time")
    return [
        *(
            (
                f"{count:,} pictures, times as fast as the original",
                cost.seconds / medians["repot"][count].seconds,
                "x",
                "at least",
                4.0,
            )
            for count, cost in medians.get("original", {}).items()
        ),
        *(
            (
                f"{count:,} pictures, CPU per picture",
                cost.cpu_seconds / count * 1e3,
                "ms",
                "at most",
                0.8,
            )
            for count, cost in medians["repot"].items()
        ),
        *(
            (f"{count:,} pictures, memory", cost.peak_bytes / 1e6, "MB", "at most", 200)
            for count, cost in medians["repot"].items()
        ),
    ]


def measure_scaling(roots: dict[int, Path], num_rounds: int) -> list[Bar]:
    """Print how long the build phase takes with one and with two decoders, or cores."""
    print(f"\nThe build phase, seconds, best of {num_rounds}:")
    all_cores = len(os.sched_getaffinity(0))
    bars: list[Bar] = []
    for count, root in roots.items():
        if count > max(COUNTS):
            continue
        num_here = num_rounds if count == min(roots) else 1
        # Decoders and cores.
        best = dict.fromkeys([(1, 1), (1, all_cores), (2, all_cores), (2, 2)], float("inf"))
        for _ in range(num_here):
            for (decoders, cores), least in best.items():
                numbers = str(decoders), str(cores)
                command = [sys.executable, __file__, "--build", str(root), *numbers]
                seconds = json.loads(subprocess.check_output(command).splitlines()[-1])
                best[decoders, cores] = min(least, seconds)
        for name, one, two in (
            ("two decoders against one", (1, all_cores), (2, all_cores)),
            ("two cores against one", (1, 1), (2, 2)),
        ):
            ratio = best[one] / best[two]
            print(
                f"  {count:8,} pictures, {name}: {best[one]:.2f} and {best[two]:.2f} s, "
                f"{ratio:.2f} times as fast",
                flush=True,
            )
            bars.append((f"{count:,} pictures, build, {name}", ratio, "x", "at least", 1.8))
    return bars


def measure_stages(roots: dict[int, Path], num_rounds: int) -> None:
    """Print the processor time of each stage of `repot shards`, for each number of pictures."""
    imports = "import repot_pipelines.cli, repot.planner.plan, repot.shard_builder.complete"
    command = [sys.executable, "-c", f"{imports}, repot.shard_builder.shard"]
    importing = min(run(command).cpu_seconds for _ in range(5))
    best: dict[int, dict[str, float]] = {}
    for count, root in roots.items():
        found = [
            json.loads(subprocess.check_output([sys.executable, __file__, "--stages", str(root)]))
            for _ in range(num_rounds if count == min(roots) else 1)
        ]
        best[count] = {name: min(each[name] for each in found) for name in found[0]}
    least, most = min(roots), max(roots)
    print(f"\nStages, processor time, best of {num_rounds}:")
    print(f"  {'imports':38} {importing:7.3f} s")
    for name in best[least]:
        costs = "".join(f" {best[count][name]:7.3f} s" for count in best)
        more = (best[most][name] - best[least][name]) / max(1, most - least)
        print(f"  {name:38}{costs}   one more picture {more * 1e3:.3f} ms", flush=True)


def stages(root: Path) -> dict[str, float]:
    """Return the processor time of each stage."""
    used: dict[str, float] = {}
    with contextlib.closing(DecoderHost()) as host:
        decoders = [PictureDecoder(host=host) for _ in range(2)]
        for decoder in decoders:
            decoder.layers()
    used["decoders: start"] = _children_seconds()
    with tempfile.TemporaryDirectory(dir=root.parent) as output:
        started = time.process_time()
        dataset_uri = plan(root, output).dataset_uri
        used["list, checksums, plan"] = time.process_time() - started
        with WorkerPool(dataset_uri, num_decoders=2) as pool:
            started = time.process_time()
            build_shards(dataset_uri, pool=pool)
            used["read, compare checksums, hash, write"] = time.process_time() - started
            started = time.process_time()
            complete_dataset(dataset_uri, limits=DataLimits(), pool=pool)
            used["compare pictures, data page, manifest"] = time.process_time() - started
    used["decoders: decode"] = _children_seconds() - 2 * used["decoders: start"]
    return used


def plan(root: Path, output: str) -> PlannedDataset:
    """Plan a dataset in a folder."""
    return plan_dataset(
        PictureRoots(train_uri=str(root / "train"), validation_uri=str(root / "validation")),
        dataset_folder=lambda _: output,
        listings_uri=None,
        settings=DatasetSettings(train_shards=TRAIN_SHARDS, validation_shards=VALIDATION_SHARDS),
    )


def build(root: Path, num_decoders: int) -> float:
    """Plan a dataset, and return how long building its shards takes."""
    with tempfile.TemporaryDirectory(dir=root.parent) as output:
        planned = plan(root, output)
        started = time.monotonic()
        with WorkerPool(planned.dataset_uri, num_decoders=num_decoders) as pool:
            pool.build(planned.plan.shard_names, ProgressCounter("build", 0, unit="pictures"))
            return time.monotonic() - started


def original_command(root: Path, output: str) -> list[str]:
    """Return the command of the baseline."""
    numbers = map(str, (NUM_THREADS, TRAIN_SHARDS, VALIDATION_SHARDS))
    return [sys.executable, "-c", ORIGINAL, str(root), output, *numbers]


def repot_command(root: Path, output: str) -> list[str]:
    """Return the command of repot."""
    return [
        *(str(Path(sys.executable).with_name("repot")), "shards"),
        *("--train-directory", str(root / "train")),
        *("--validation-directory", str(root / "validation")),
        *("--output-directory", f"{output}/dataset"),
        *("--train-shards", str(TRAIN_SHARDS), "--validation-shards", str(VALIDATION_SHARDS)),
    ]


def run(command: Sequence[str]) -> Cost:
    """Run a program and return what it took."""
    before, started = _children_seconds(), time.monotonic()
    with subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""},
    ) as process:
        memory = _Memory(process.pid)
        _, errors = process.communicate()
        seconds = time.monotonic() - started
        memory.stop()
    if process.returncode:
        sys.exit(f"{command[:3]} failed:\n{errors.decode()}")
    return Cost(
        seconds=seconds,
        cpu_seconds=_children_seconds() - before,
        peak_bytes=memory.peak_bytes,
    )


def _children_seconds() -> float:
    """Return the processor time of all processes that this one started and that have ended."""
    try:
        while True:
            os.wait()
    except ChildProcessError:
        pass
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class _Memory:
    """Watches the memory of all processes of a session."""

    def __init__(self, session: int) -> None:
        self.peak_bytes = 0
        self._session, self._stopped = session, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stopped.wait(SAMPLE_SECONDS):
            sizes = [
                _pss_bytes(path)
                for path in Path("/proc").iterdir()
                if path.name.isdigit() and _session(path) == self._session
            ]
            self.peak_bytes = max(self.peak_bytes, sum(sizes))


def _session(process: Path) -> int:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[3])
    except OSError:
        return 0


def _pss_bytes(process: Path) -> int:
    try:
        lines = (process / "smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


if __name__ == "__main__":
    main()
