"""A dataset that is built on an earlier one equals the one that is built without it."""

import io
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from repot import storage
from repot.composition import find_composition, local_crc32c_hex, write_composed
from repot.data_checks import DataLimits
from repot.dataset import open_examples
from repot.errors import CorruptShardError
from repot.manifest import SPLITS, Manifest
from repot.picture_decoder import PictureDecoder
from repot.picture_result import Edges, Picture, RejectedPicture
from repot.planner.listing import PictureRoots
from repot.planner.plan import plan_dataset
from repot.settings import DatasetSettings
from repot.shard_builder import reuse
from repot.shard_builder.appearances import read_appearances
from repot.shard_builder.complete import complete_dataset
from repot.shard_builder.shard import build_shard
from tests.unit.conftest import make_jpeg

NUM_PICTURES = 40
SETTINGS = DatasetSettings(shard_layout="stable", train_shards=4, validation_shards=2)


@dataclass(frozen=True, kw_only=True)
class Built:
    """A complete dataset, the pictures that were decoded, and the bytes that were uploaded."""

    uri: str
    manifest: Manifest
    num_decoded: int
    num_written: int

    @property
    def shards(self) -> dict[str, bytes]:
        return {shard.shard: self.read(shard.shard) for shard in self.manifest.shards}

    def read(self, shard: str) -> bytes:
        composition = find_composition(self.uri, shard)
        if composition is None:
            return storage.read_bytes(f"{self.uri}/{shard}")
        buffer = io.BytesIO()
        write_composed(self.uri, composition, buffer)
        return buffer.getvalue()

    @property
    def composed(self) -> list[str]:
        return [
            shard.shard for shard in self.manifest.shards if find_composition(self.uri, shard.shard)
        ]


Build = Callable[..., Built]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of pictures with two labels, one file of which is none."""
    for i in range(NUM_PICTURES):
        add(tmp_path / "pictures", "ab"[i % 2], i)
    add(tmp_path / "pictures", "a", 1000).write_bytes(b"no picture")
    return tmp_path / "pictures"


def add(folder: Path, label: str, number: int) -> Path:
    path = folder / label / f"{number:04}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(make_jpeg(number))
    return path


@pytest.fixture
def build(tmp_path: Path, decoder: PictureDecoder, monkeypatch: pytest.MonkeyPatch) -> Build:
    """Return a function that builds a dataset in a storage, on the newest one in it."""
    decoded = written = 0
    upload = storage.upload

    def count_upload(path: Path, uri: str) -> storage.ObjectInfo:
        nonlocal written
        written += path.stat().st_size
        return upload(path, uri)

    def decode(
        files: Sequence[tuple[str, bytes]], crops: Sequence[Edges | None]
    ) -> Sequence[Picture | RejectedPicture]:
        nonlocal decoded
        decoded += len(files)
        return decoder.decode(files, crops)

    monkeypatch.setattr(storage, "upload", count_upload)

    def run(folder: Path, storage_uri: str, settings: DatasetSettings = SETTINGS) -> Built:
        nonlocal decoded, written
        decoded = written = 0
        planned = plan_dataset(
            PictureRoots(pictures_uri=str(folder)),
            dataset_folder=lambda dataset_id: f"{storage_uri}/datasets/{dataset_id}",
            listings_uri=None,
            settings=settings,
            newest_uri=f"{storage_uri}/newest.json",
        )
        assert not planned.exists
        for shard in planned.plan.shard_names:
            counts: list[int] = []
            build_shard(
                planned.dataset_uri,
                shard,
                scratch_path=tmp_path,
                decode=decode,
                on_pictures=counts.append,
            )
            assert sum(counts) == planned.plan.num_pictures[shard]
        manifest = complete_dataset(planned.dataset_uri, limits=DataLimits())
        return Built(
            uri=planned.dataset_uri, manifest=manifest, num_decoded=decoded, num_written=written
        )

    return run


def assert_equal(one: Built, other: Built) -> None:
    """Check that everything is equal but where the records are."""
    assert one.manifest == other.manifest
    assert one.shards == other.shards
    for shard in one.manifest.shards:
        name = f"receipts/{shard.shard}.json"
        assert storage.read_bytes(f"{one.uri}/{name}") == storage.read_bytes(f"{other.uri}/{name}")
        rows = [read_appearances(each.uri, shard.shard, shard.num_records) for each in (one, other)]
        assert rows[0] is not None
        assert rows[1] is not None
        np.testing.assert_array_equal(rows[0], rows[1])
        composition = find_composition(one.uri, shard.shard)
        if composition:
            assert local_crc32c_hex(one.uri, composition) == shard.crc32c
    same = {"manifest.json", "checks.json", "labels.txt", "data.html"}
    for folder in ("digests", "classes"):
        same |= {f"{folder}/{split}.bin" for split in one.manifest.splits}
    for name in same:
        texts = [
            storage.read_bytes(f"{each.uri}/{name}").replace(each.uri.encode(), b"")
            for each in (one, other)
        ]
        assert texts[0] == texts[1], name
    with (
        open_examples(one.uri, one.manifest) as a,
        open_examples(other.uri, other.manifest) as b,
    ):
        for split in SPLITS:
            records = [list(each[split].read_records().as_numpy_iterator()) for each in (a, b)]
            assert records[0] == records[1]


def nothing(folder: Path) -> int:
    (folder / "readme.txt").write_text("is left out")
    (folder / "a" / "more.txt").write_text("is rejected, so that the dataset is another one")
    return 1


def add_two(folder: Path) -> int:
    add(folder, "a", 2000)
    add(folder, "b", 2001)
    return 2


def remove(folder: Path) -> int:
    (folder / "a" / "0002.jpg").unlink()
    (folder / "b" / "0007.jpg").unlink()
    return 0


def relabel(folder: Path) -> int:
    (folder / "a" / "0004.jpg").rename(folder / "b" / "0004.jpg")
    return 0


def rename(folder: Path) -> int:
    (folder / "a" / "0006.jpg").rename(folder / "a" / "new name.jpg")
    return 0


def insert_label(folder: Path) -> int:
    # All labels after it get another number.
    for number in range(3000, 3010):
        add(folder, "aa", number)
    return 10


def copy(folder: Path) -> int:
    shutil.copy(folder / "a" / "0004.jpg", folder / "a" / "0004 copy.jpg")
    return 0


def all_of_it(folder: Path) -> int:
    return sum(change(folder) for change in (add_two, remove, relabel, rename))


CHANGES = [nothing, add_two, remove, relabel, rename, insert_label, copy, all_of_it]


@pytest.mark.parametrize("change", CHANGES)
def test_dataset_on_an_earlier_one_equals_one_without_it(
    change: Callable[[Path], int], folder: Path, build: Build, tmp_path: Path
) -> None:
    first = build(folder, str(tmp_path / "storage"))
    assert (first.num_decoded, first.composed) == (NUM_PICTURES + 1, [])
    num_new = change(folder)
    alone = build(folder, str(tmp_path / "alone"))
    on_first = build(folder, str(tmp_path / "storage"))
    assert on_first.num_decoded == num_new
    assert_equal(on_first, alone)
    size_bytes = sum(shard.size_bytes for shard in on_first.manifest.shards)
    if change is not insert_label:
        assert on_first.num_written < 0.35 * size_bytes  # 4 of 40 pictures, some in small shards
    # It does not need the earlier dataset.
    shutil.rmtree(first.uri)
    assert_equal(on_first, alone)


def test_unchanged_shards_are_links(folder: Path, build: Build, tmp_path: Path) -> None:
    first = build(folder, str(tmp_path / "storage"))
    add(folder, "a", 2000)
    second = build(folder, str(tmp_path / "storage"))
    linked = [
        shard.shard
        for shard in second.manifest.shards
        if (Path(second.uri) / shard.shard).exists()
        and (Path(second.uri) / shard.shard).samefile(Path(first.uri) / shard.shard)
    ]
    assert len(linked) >= len(second.manifest.shards) - 3
    assert len(second.composed) <= 3


def test_many_changes_one_after_the_other(
    folder: Path, build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reuse, "MAX_PACKS", (2, 4))
    monkeypatch.setattr(reuse, "MIN_LIVE", (0.5, 0.7))
    most_packs = 0
    for generation in range(8):
        for number in range(3):
            add(folder, "ab"[generation % 2], 5000 + 10 * generation + number)
        for path in sorted((folder / "b").iterdir())[:2]:
            path.unlink()
        built = build(folder, str(tmp_path / "storage"))
        assert built.num_decoded <= (NUM_PICTURES + 2 if generation == 0 else 3)
        packs = [
            len(composition.packs)
            for shard in built.composed
            if (composition := find_composition(built.uri, shard))
        ]
        most_packs = max(most_packs, *packs, 0)
    assert 2 <= most_packs <= 5
    assert_equal(built, build(folder, str(tmp_path / "alone")))


def test_pictures_that_doubled_are_in_twice_as_many_shards(
    folder: Path, build: Build, tmp_path: Path
) -> None:
    build(folder, str(tmp_path / "storage"))
    twice = DatasetSettings(shard_layout="stable", train_shards=8, validation_shards=4)
    second = build(folder, str(tmp_path / "storage"), twice)
    assert second.num_decoded == 0
    # A shard of five pictures may need less than a third of an earlier one of ten.
    assert second.num_written < 0.3 * sum(shard.size_bytes for shard in second.manifest.shards)
    assert_equal(second, build(folder, str(tmp_path / "alone"), twice))


def test_part_of_a_picture_is_taken_over(build: Build, folder: Path, tmp_path: Path) -> None:
    rows = [
        f"{path.parent.name}/{path.name},{path.parent.name},0,0,{edge},1"
        for path in sorted(folder.glob("*/*.jpg"))
        if path.stem != "1000"
        for edge in (0.5, 0.75)
    ]
    manifest = folder / "boxes.csv"
    manifest.write_text("path,label,xmin,ymin,xmax,ymax\n" + "\n".join(rows[:-2]))
    settings = DatasetSettings(
        shard_layout="stable", train_shards=4, validation_shards=2, crop_to_boxes=True
    )
    build(manifest, str(tmp_path / "storage"), settings)
    manifest.write_text("path,label,xmin,ymin,xmax,ymax\n" + "\n".join(rows))
    second = build(manifest, str(tmp_path / "storage"), settings)
    assert second.num_decoded == 2
    assert_equal(second, build(manifest, str(tmp_path / "alone"), settings))


def test_dataset_in_a_bucket(folder: Path, build: Build, gcs: str, tmp_path: Path) -> None:
    first = build(folder, f"{gcs}/storage")
    add_two(folder)
    second = build(folder, f"{gcs}/storage")
    assert second.num_decoded == 2
    assert second.composed
    storage.delete_folder(first.uri)
    alone = build(folder, str(tmp_path / "alone"))
    assert second.shards == alone.shards
    with (
        open_examples(second.uri, second.manifest) as a,
        open_examples(alone.uri, alone.manifest) as b,
    ):
        for split in ("train", "validation"):
            records = [list(each[split].read_records().as_numpy_iterator()) for each in (a, b)]
            assert records[0] == records[1]


@pytest.mark.parametrize("name", ["manifest.json", "receipts", "work", "checks", "{shard}"])
def test_what_is_missing_of_the_earlier_dataset_is_built(
    name: str, folder: Path, build: Build, tmp_path: Path
) -> None:
    first = build(folder, str(tmp_path / "storage"))
    path = Path(first.uri, name.format(shard=first.manifest.shards[0].shard))
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    add_two(folder)
    second = build(folder, str(tmp_path / "storage"))
    assert_equal(second, build(folder, str(tmp_path / "alone")))


def test_damaged_record_of_the_earlier_dataset_is_not_rewritten(
    folder: Path, build: Build, tmp_path: Path
) -> None:
    first = build(folder, str(tmp_path / "storage"))
    for shard in first.manifest.shards:
        path = Path(first.uri, shard.shard)
        data = bytearray(path.read_bytes())
        data[40::400] = bytes(byte ^ 1 for byte in data[40::400])
        path.write_bytes(data)
    for path in (folder / "a").iterdir():
        path.rename(folder / "a" / f"renamed {path.name}")
        (folder / "b" / path.name).unlink(missing_ok=True)
    for path in (folder / "b").iterdir():
        path.rename(folder / "b" / f"renamed {path.name}")
    second = build(folder, str(tmp_path / "storage"))
    assert_equal(second, build(folder, str(tmp_path / "alone")))


def test_damaged_pack_is_noticed_when_it_is_read(
    folder: Path, build: Build, tmp_path: Path
) -> None:
    build(folder, str(tmp_path / "storage"))
    add_two(folder)
    second = build(folder, str(tmp_path / "storage"))
    (shard, *_) = [name for name in second.composed if name.startswith("train")]
    composition = find_composition(second.uri, shard)
    assert composition
    path = Path(second.uri, composition.packs[0].name)
    data = bytearray(path.read_bytes())
    offset = int(composition.read_places()["offset"][composition.read_places()["pack"] == 0][0])
    data[offset + 50] ^= 1
    path.write_bytes(data)
    with (
        pytest.raises(CorruptShardError, match=rf"compositions/{shard}\.json, .*base\.json"),
        open_examples(second.uri, second.manifest) as examples,
    ):
        list(examples["train"].read_records().as_numpy_iterator())


def test_layouts_have_the_same_examples_in_another_order(
    folder: Path, build: Build, tmp_path: Path
) -> None:
    stable = build(folder, str(tmp_path / "stable"))
    tutorial = build(folder, str(tmp_path / "tutorial"), DatasetSettings(train_shards=4))
    assert stable.manifest.dataset_id != tutorial.manifest.dataset_id
    found = []
    for each in (stable, tutorial):
        with open_examples(each.uri, each.manifest) as examples:
            found.append(list(examples["train"].read_records().as_numpy_iterator()))
    assert found[0] != found[1]
    assert sorted(found[0]) == sorted(found[1])
