"""Compare repot's shards with those of the original program, record by record."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from repot import picture_result, records
from repot.data_checks import DataLimits
from repot.errors import UsageError
from repot.manifest import Manifest
from repot.planner.listing import PictureRoots
from repot.planner.plan import plan_dataset
from repot.settings import DatasetSettings
from repot.shard_builder.build import build_shards
from repot.shard_builder.complete import complete_dataset

GOLDEN = Path(__file__).parents[1] / "golden"
CLEAN, DIRTY = GOLDEN / "build_image_data", GOLDEN / "build_image_data_dirty"

# Pictures that repot encodes on purpose, where the original stored or encoded them differently.
NORMALISED = {
    "exif_rot6.jpg": "rotated upright",
    "cmyk.jpg": "CMYK",
    "gray.jpg": "gray",
    "gray.png": "PNG, another encoder",
    "palette.png": "PNG, another encoder",
    "picture.png": "PNG, another encoder",
    "with_alpha.png": "PNG, transparency on white",
}


def _build(
    roots: PictureRoots, folder: Path, labels_file: Path, settings: DatasetSettings
) -> Manifest:
    planned = plan_dataset(
        roots,
        dataset_folder=lambda _: str(folder),
        listings_uri=None,
        settings=settings,
        labels_file_uri=str(labels_file),
    )
    build_shards(planned.dataset_uri, num_processes=2)
    return complete_dataset(planned.dataset_uri, limits=DataLimits(max_rejected_fraction=1))


def _read(folder: Path, shard: str) -> list[dict[str, Any]]:
    """Return the records of a shard in the form of records.json."""
    rows = []
    for record in records.read_records(folder / shard):
        features = records.decode_example(record)
        single: dict[str, Any] = {name: value for name, (value,) in features.items()}
        encoded = single["image/encoded"]
        rows.append(
            {
                "filename": single["image/filename"].decode(),
                "label": single["image/class/label"],
                "text": single["image/class/text"].decode(),
                "height": single["image/height"],
                "width": single["image/width"],
                "channels": single["image/channels"],
                "colorspace": single["image/colorspace"].decode(),
                "format": single["image/format"].decode(),
                "encoded_len": len(encoded),
                "encoded_sha256": hashlib.sha256(encoded).hexdigest(),
                "magic": encoded[:4].hex(),
                "keys": sorted(features),
            }
        )
    return rows


@pytest.fixture(scope="module")
def clean(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Manifest, dict[str, list[dict[str, Any]]]]:
    """Return manifest and records of the pictures and flags that the original was run with."""
    folder = tmp_path_factory.mktemp("clean")
    roots = PictureRoots(
        train_uri=str(CLEAN / "data/train"), validation_uri=str(CLEAN / "data/validation")
    )
    settings = DatasetSettings(train_shards=4, validation_shards=2, num_threads=2)
    manifest = _build(roots, folder, CLEAN / "labels.txt", settings)
    return manifest, {shard.shard: _read(folder, shard.shard) for shard in manifest.shards}


def test_records_are_in_the_same_shards_and_order_as_in_the_original(
    clean: tuple[Manifest, dict[str, list[dict[str, Any]]]],
) -> None:
    original = json.loads((CLEAN / "records.json").read_text())
    _, ours = clean
    assert {
        shard: [(record["text"], record["filename"]) for record in ours[shard]] for shard in ours
    } == {
        shard: [(record["text"], record["filename"]) for record in original[shard]]
        for shard in original
    }


def test_record_fields_equal_the_original_except_for_normalised_pictures(
    clean: tuple[Manifest, dict[str, list[dict[str, Any]]]],
) -> None:
    original = json.loads((CLEAN / "records.json").read_text())
    _, ours = clean
    reencoded = set()
    for shard, expected_records in original.items():
        for record, expected in zip(ours[shard], expected_records, strict=True):
            del expected["same_bytes_as_source"]
            if record["encoded_sha256"] != expected["encoded_sha256"]:
                reencoded.add(record["filename"])
                expected |= {
                    name: record[name] for name in ("encoded_len", "encoded_sha256", "magic")
                }
            if record["filename"] == "exif_rot6.jpg":
                expected |= {"height": expected["width"], "width": expected["height"]}
            assert record == expected
            assert record["magic"].startswith("ffd8ff")
    assert reencoded == set(NORMALISED)


def test_all_clean_pictures_are_accepted(
    clean: tuple[Manifest, dict[str, list[dict[str, Any]]]],
) -> None:
    manifest, _ = clean
    assert (manifest.num_found, manifest.num_accepted, manifest.rejected) == (53, 53, ())
    assert (manifest.num_examples("train"), manifest.num_examples("validation")) == (37, 16)
    assert manifest.labels == ("daisy", "dandelion", "roses", "sunflowers")


def test_every_dirty_file_is_accounted_for(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("a\nb\n")
    roots = PictureRoots(pictures_uri=str(DIRTY / "data" / "train"))
    manifest = _build(roots, tmp_path / "data", tmp_path / "labels.txt", DatasetSettings())
    assert {rejection.path: rejection.reason for rejection in manifest.rejected} == {
        "a/Thumbs.db": "system_file",
        "a/empty.jpg": "empty",
        "b/nested/inner.jpg": "nested_folder",
        "b/trunc.jpg": "truncated",
        "not_in_labels/x.jpg": "label_not_listed",
    }
    assert {rejection.reason for rejection in manifest.rejected} <= set(picture_result.REASONS)
    accepted = [
        record for shard in manifest.shards for record in _read(tmp_path / "data", shard.shard)
    ]
    assert sorted((record["text"], record["filename"]) for record in accepted) == [
        *(
            ("a", name)
            for name in (".hidden.jpg", "UPPER.PNG", "i0.jpg", "i1.jpg", "i2.jpg", "i3.jpg")
        ),
        *(("a", name) for name in ("really_jpeg.png", "really_png.jpg")),
        *(
            ("b", name)
            for name in ("anim.gif", "bitmap.bmp", "i0.jpg", "i1.jpg", "i2.jpg", "i3.jpg", "w.webp")
        ),
    ]
    assert all(record["magic"].startswith("ffd8ff") for record in accepted)
    assert manifest.num_found == len(accepted) + len(manifest.rejected) == 20


def test_invalid_lines_of_the_dirty_labels_file_are_reported(tmp_path: Path) -> None:
    roots = PictureRoots(pictures_uri=str(DIRTY / "data" / "train"))
    with pytest.raises(UsageError) as caught:
        _build(roots, tmp_path / "data", DIRTY / "labels.txt", DatasetSettings())
    assert len(caught.value.problems) == 2
    assert "line 2" in caught.value.problems[0]
    assert "line 4" in caught.value.problems[1]
    assert "'missing_class'" in caught.value.problems[1]
    assert not (tmp_path / "data").exists()
