"""Measure what a change of 1 % of the pictures costs in the `stable` shard layout.

    make change
    .venv/bin/python -m benchmarks.change [PICTURES] [--labels N] [--verify]

It makes PICTURES small JPEGs in folders of labels, builds their dataset, and then adds, removes and
relabels 1 % of them, scattered at random over all labels, each time building the next dataset on
the one before. The baseline is the first build, which has no earlier dataset. --verify also builds
the last dataset from scratch, and compares every byte of its shards, receipts and manifest.

Columns: pictures whose files builders read; those that are read for the data page, at most as many
as it has room for; bytes of shards and packs that were written, as a share of the dataset's shards
(hard links are not written); the same for all files of the dataset; processor time of planning, of
the shards, and of the checks of all pictures.
"""

import argparse
import io
import itertools
import os
import random
import resource
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from repot import storage
from repot.composition import find_composition, write_composed
from repot.data_checks import DataLimits
from repot.manifest import read_manifest
from repot.picture_decoder import PictureDecoder
from repot.planner.listing import PictureRoots
from repot.planner.plan import PlannedDataset, plan_dataset
from repot.settings import DatasetSettings
from repot.shard_builder import shard as shard_module
from repot.shard_builder.complete import complete_dataset
from repot.work_list import SourcePicture

NUM_PICTURES = 20_000
SIDE = 96
CHANGED = 0.01

# As `plan` below, in a process that imports only what Plan does.
UNCHANGED = """
import sys
from repot.planner.listing import PictureRoots
from repot.planner.plan import plan_dataset
from repot.settings import DatasetSettings

folder, storage_path = sys.argv[1:]
planned = plan_dataset(
    PictureRoots(pictures_uri=folder),
    dataset_folder=lambda dataset_id: f"{storage_path}/datasets/{dataset_id}",
    listings_uri=f"{storage_path}/listings",
    settings=DatasetSettings(shard_layout="stable"),
    newest_uri=f"{storage_path}/newest.json",
)
raise SystemExit(not planned.exists)
"""

_read: Counter[str] = Counter()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("pictures", nargs="?", type=int, default=NUM_PICTURES)
    parser.add_argument("--labels", type=int, default=100)
    parser.add_argument("--verify", action="store_true")
    arguments = parser.parse_args()
    _count_reads()
    with tempfile.TemporaryDirectory(prefix="repot-change-") as temporary:
        work = Path(temporary)
        pictures = Pictures(work / "pictures", arguments.pictures, arguments.labels)
        size_bytes = sum(path.stat().st_size for path in pictures.files)
        print(
            f"{arguments.pictures:,} pictures of {arguments.labels} labels, "
            f"{size_bytes / arguments.pictures / 1000:.1f} kB each; 1 % is {pictures.num_changed:,}"
        )
        print("| | read | shown | shard bytes | all bytes | plan | shards | checks | sum, CPU |")
        print("|---|---|---|---|---|---|---|---|---|")
        changes: dict[str, Callable[[], None]] = {
            "first build": lambda: None,
            "1 % added": pictures.add,
            "1 % removed": pictures.remove,
            "1 % relabelled": pictures.relabel,
        }
        for name, change in changes.items():
            change()
            planned = measure(name, pictures, work / "storage")
        seconds = unchanged(pictures.folder, work)
        print(
            f"| unchanged, goal 2 s | 0 | 0 | 0 | 0 | {seconds:.2f} s | 0 | 0 | {seconds:.2f} s |"
        )
        if arguments.verify:
            alone = measure("from scratch", pictures, work / "alone")
            compare(planned.dataset_uri, alone.dataset_uri)
            print("every byte of shards, receipts and manifest is equal to a build from scratch")


def unchanged(folder: Path, work: Path) -> float:
    """Return the processor time of a process that plans the same dataset again."""
    started = cpu_seconds()
    subprocess.run([sys.executable, "-c", UNCHANGED, folder, work / "storage"], check=True)
    return cpu_seconds() - started


class Pictures:
    """Pictures in a folder, and what happens to them."""

    def __init__(self, folder: Path, number: int, num_labels: int) -> None:
        self.folder = folder
        self.num_changed = round(number * CHANGED)
        self._random = random.Random(5)
        self._labels = [f"label {i:04}" for i in range(num_labels)]
        for label in self._labels:
            (folder / label).mkdir(parents=True)
        self.files: list[Path] = []
        self._next = 0
        self._add(number)

    def add(self) -> None:
        """Add 1 %."""
        self._add(self.num_changed)

    def remove(self) -> None:
        """Remove 1 %."""
        for path in self._random.sample(self.files, self.num_changed):
            path.unlink()
            self.files.remove(path)

    def relabel(self) -> None:
        """Move 1 % to other labels."""
        for i in self._random.sample(range(len(self.files)), self.num_changed):
            path = self.files[i]
            label = self._random.choice([x for x in self._labels if x != path.parent.name])
            self.files[i] = path.rename(self.folder / label / path.name)

    def _add(self, number: int) -> None:
        rng = np.random.default_rng(self._next)
        for _ in range(number):
            # Coarse noise: each picture differs from all others, and has a usual size.
            pixels = rng.integers(0, 256, (12, 12, 3), np.uint8)
            buffer = io.BytesIO()
            Image.fromarray(pixels).resize((SIDE, SIDE)).save(buffer, "JPEG", quality=90)
            label = self._random.choice(self._labels)
            path = self.folder / label / f"{self._next:07}.jpg"
            path.write_bytes(buffer.getvalue())
            self.files.append(path)
            self._next += 1


def plan(folder: Path, storage_path: Path) -> PlannedDataset:
    """Plan the dataset of a folder, on the newest one of a storage."""
    return plan_dataset(
        PictureRoots(pictures_uri=str(folder)),
        dataset_folder=lambda dataset_id: f"{storage_path}/datasets/{dataset_id}",
        listings_uri=f"{storage_path}/listings",
        settings=DatasetSettings(shard_layout="stable"),
        newest_uri=f"{storage_path}/newest.json",
    )


def measure(name: str, pictures: Pictures, storage_path: Path) -> PlannedDataset:
    """Build the next dataset, and print its row."""
    _read.clear()
    times = [cpu_seconds()]
    planned = plan(pictures.folder, storage_path)
    times.append(cpu_seconds())
    with (
        tempfile.TemporaryDirectory() as scratch,
        PictureDecoder() as decoder,
    ):
        for shard in planned.plan.shard_names:
            shard_module.build_shard(
                planned.dataset_uri,
                shard,
                scratch_path=Path(scratch),
                decode=decoder.decode,
                on_pictures=lambda _: None,
            )
    times.append(cpu_seconds())
    num_built = _read["pictures"]
    manifest = complete_dataset(planned.dataset_uri, limits=DataLimits())
    times.append(cpu_seconds())
    shard_bytes = sum(shard.size_bytes for shard in manifest.shards)
    written = dict(written_files(planned.dataset_uri))
    of_shards = sum(
        size
        for path, size in written.items()
        if path.startswith(("train-", "validation-", "packs/")) and not path.endswith(".npy")
    )
    seconds = [f"{end - start:.1f} s" for start, end in itertools.pairwise(times)]
    print(
        f"| {name} | {num_built:,} ({num_built / len(pictures.files):.2%}) | "
        f"{_read['pictures'] - num_built:,} | "
        f"{of_shards / shard_bytes:.2%} | {sum(written.values()) / all_bytes(planned):.2%} | "
        f"{' | '.join(seconds)} | {times[-1] - times[0]:.1f} s |",
        flush=True,
    )
    return planned


def written_files(dataset_uri: str) -> Iterator[tuple[str, int]]:
    """Yield name and size of the files that no other dataset has too."""
    for folder, _, names in os.walk(dataset_uri):
        for name in names:
            path = Path(folder, name)
            status = path.stat()
            if status.st_nlink == 1:
                yield str(path.relative_to(dataset_uri)), status.st_size


def all_bytes(planned: PlannedDataset) -> int:
    """Return the size of a dataset, hard links included."""
    return sum(
        Path(folder, name).stat().st_size
        for folder, _, names in os.walk(planned.dataset_uri)
        for name in names
    )


def compare(one_uri: str, other_uri: str) -> None:
    """Check that two datasets are equal."""
    manifest = read_manifest(one_uri)
    names = [f"receipts/{shard.shard}.json" for shard in manifest.shards]
    for name in ("manifest.json", "labels.txt", "digests/train.bin", *names):
        if storage.read_bytes(f"{one_uri}/{name}") != storage.read_bytes(f"{other_uri}/{name}"):
            raise SystemExit(f"{name} differs")
    for shard in manifest.shards:
        if read_shard(one_uri, shard.shard) != read_shard(other_uri, shard.shard):
            raise SystemExit(f"{shard.shard} differs")


def read_shard(dataset_uri: str, shard: str) -> bytes:
    """Return the bytes of a shard."""
    composition = find_composition(dataset_uri, shard)
    if composition is None:
        return storage.read_bytes(f"{dataset_uri}/{shard}")
    buffer = io.BytesIO()
    write_composed(dataset_uri, composition, buffer)
    return buffer.getvalue()


def cpu_seconds() -> float:
    """Return the processor time of this process and of the ended ones that it started."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _count_reads() -> None:
    """Count the pictures that are read, by builders and for the data page."""
    read_picture = shard_module.read_picture

    def count(picture: SourcePicture) -> bytes:
        _read["pictures"] += 1
        return read_picture(picture)

    shard_module.read_picture = count


if __name__ == "__main__":
    main()
