import hashlib
import json
import os
import shutil
from pathlib import Path

import markupsafe
import pytest

from repot import storage
from repot.data_checks import DataLimits
from repot.dataset_plan import Share
from repot.errors import DataError, UsageError
from repot.manifest import Manifest
from repot.planner.listing import PictureRoots
from repot.planner.plan import PlannedDataset, plan_dataset
from repot.settings import DatasetSettings
from repot.shard_builder import complete
from repot.shard_builder.build import build_shards
from repot.shard_builder.complete import build_item, complete_dataset
from tests.unit.conftest import MakePlan, WritePictures

NO_REJECTED = DataLimits(max_rejected_fraction=0)


def _versions(uri: str) -> dict[str, str]:
    return {
        storage.relative_name(info.uri, uri): info.version for info in storage.list_objects(uri)
    }


def test_manifest_accounts_for_every_file(make_plan: MakePlan, pictures: Path) -> None:
    (pictures / "a" / "000.jpg").write_bytes(b"")
    (pictures / "b" / "Thumbs.db").write_bytes(b"x")
    (pictures / "c" / "sub").mkdir()
    (pictures / "c" / "sub" / "1.jpg").write_bytes(b"x")
    planned = make_plan(train_shards=2)
    build_shards(planned.dataset_uri)
    manifest = complete_dataset(planned.dataset_uri, limits=DataLimits(max_rejected_fraction=0.1))
    assert manifest.num_found == 32
    assert (
        manifest.num_accepted
        == 29
        == manifest.num_examples("train") + manifest.num_examples("validation")
    )
    assert [(item.path, item.reason) for item in manifest.rejected] == [
        ("a/000.jpg", "empty"),
        ("b/Thumbs.db", "system_file"),
        ("c/sub/1.jpg", "nested_folder"),
    ]
    assert [shard.shard for shard in manifest.shards] == planned.plan.shard_names
    assert all(shard.rejected == () for shard in manifest.shards)
    assert manifest.settings == DatasetSettings(
        validation_fraction=0.2, train_shards=2, validation_shards=1, num_threads=1
    )
    assert storage.read_text(f"{planned.dataset_uri}/labels.txt") == "a\nb\nc\n"
    stored = storage.read_json(f"{planned.dataset_uri}/manifest.json")
    assert Manifest.from_json(stored) == manifest


def test_missing_shards_are_built(make_plan: MakePlan) -> None:
    planned = make_plan(train_shards=4)
    build_shards(planned.dataset_uri, planned.plan.shard_names[1:3])
    before = _versions(planned.dataset_uri)
    manifest = complete_dataset(planned.dataset_uri, limits=NO_REJECTED)
    assert manifest.num_accepted == 30
    assert before.items() < _versions(planned.dataset_uri).items()


def test_merging_again_changes_nothing(make_plan: MakePlan) -> None:
    planned = make_plan()
    first = complete_dataset(planned.dataset_uri, limits=NO_REJECTED)
    before = _versions(planned.dataset_uri)
    assert complete_dataset(planned.dataset_uri, limits=NO_REJECTED) == first
    assert _versions(planned.dataset_uri) == before
    assert make_plan().exists


def test_too_many_rejected_files_are_an_error_until_more_are_allowed(
    make_plan: MakePlan, pictures: Path
) -> None:
    for number in range(5):
        (pictures / "a" / f"{number:03}.jpg").write_bytes(b"")
    (pictures / "b" / "000.jpg").write_text("text")
    (pictures / "b" / ".DS_Store").write_text("text")
    planned = make_plan()
    build_shards(planned.dataset_uri)
    before = _versions(planned.dataset_uri)
    with pytest.raises(DataError) as caught:
        complete_dataset(planned.dataset_uri, limits=DataLimits(max_rejected_fraction=0.19))
    assert str(caught.value).splitlines() == [
        "At most 19.0% of the files may be rejected; 6 of 30 are:",
        "  5 x empty: the file is empty. Copy the files again, or remove them.",
        "  1 x not_an_image: the file is not a picture. Remove the files.",
        "The first 6 are:",
        *(f"  a/{number:03}.jpg (label a): empty" for number in range(5)),
        "  b/000.jpg (label b): not_an_image",
        (
            f"Correct or remove them in {pictures}, or use a larger --max-rejected-fraction "
            "(setting max_rejected_fraction)."
        ),
    ]
    assert _versions(planned.dataset_uri) == before
    manifest = complete_dataset(planned.dataset_uri, limits=DataLimits(max_rejected_fraction=0.2))
    assert manifest.num_accepted == 24
    assert before.items() < _versions(planned.dataset_uri).items()
    with pytest.raises(DataError, match="6 of 30 are"):
        complete_dataset(planned.dataset_uri, limits=DataLimits(max_rejected_fraction=0.19))


def test_at_most_ten_rejected_files_are_named(make_plan: MakePlan, pictures: Path) -> None:
    for path in sorted(pictures.glob("[ab]/*"))[:-3]:
        path.write_bytes(b"")
    planned = make_plan()
    with pytest.raises(DataError, match="19 of 30 are") as caught:
        complete_dataset(planned.dataset_uri, limits=DataLimits(max_rejected_fraction=0.5))
    assert str(caught.value).count("): empty") == 10


def test_label_without_a_usable_training_picture_is_named(
    make_plan: MakePlan, pictures: Path
) -> None:
    for path in (pictures / "b").iterdir():
        path.write_text("text")
    planned = make_plan()
    with pytest.raises(DataError, match=r"rejected for 'b'\. Rejected: b/000\.jpg") as caught:
        complete_dataset(planned.dataset_uri, limits=DataLimits(max_rejected_fraction=1))
    assert "and 7 more" in str(caught.value)
    assert not storage.exists(f"{planned.dataset_uri}/manifest.json")


@pytest.mark.parametrize("split", ["validation", "test"])
def test_split_without_a_usable_picture_is_an_error(
    make_plan: MakePlan, write_pictures: WritePictures, tmp_path: Path, split: str
) -> None:
    folder = tmp_path / "split"
    for name in ("train", "validation", "test"):
        write_pictures(folder / name, {"a": 2, "b": 2})
    for path in (folder / split).glob("*/*"):
        path.write_text("text")
    planned = make_plan(folder)
    with pytest.raises(DataError, match=f"{split} split must have a usable picture"):
        complete_dataset(planned.dataset_uri, limits=DataLimits(max_rejected_fraction=1))


def test_dataset_without_a_plan_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="must be planned before"):
        complete_dataset(str(tmp_path), limits=NO_REJECTED)


def test_invalid_manifest_is_an_error(tmp_path: Path) -> None:
    storage.write_json(f"{tmp_path}/manifest.json", {"name": "a web app"})
    with pytest.raises(DataError, match=r"manifest\.json must be a valid Manifest"):
        complete_dataset(str(tmp_path), limits=NO_REJECTED)


def test_completion_tells_what_the_dataset_contains(
    make_plan: MakePlan, pictures: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="repot.progress")
    (pictures / "b" / "000.jpg").write_text("text")
    (pictures / "pears").mkdir()
    planned = make_plan()
    caplog.clear()
    manifest = complete_dataset(planned.dataset_uri, limits=DataLimits(max_rejected_fraction=1))
    notices = [each.getMessage() for each in caplog.records if each.name == "repot.progress"]
    num_examples = [manifest.num_examples(split) for split in ("train", "validation")]
    assert notices == [
        "build shards: 29 pictures of 3 labels, per label 8 to 12, median 9; "
        "{} for training, {} for validation".format(*num_examples),
        "build shards: left out 1: the file is not a picture ('b/000.jpg')",
        (
            "build shards: unusual, very small: 29 "
            "('b/005.jpg', 'b/006.jpg', 'b/002.jpg' and 26 more)"
        ),
        (
            "build shards: warning: fewer than 10 pictures of 2 of 3 labels: 'b' (9), 'c' (8). "
            "Add pictures, or expect low and uncertain scores"
        ),
        f"build shards: all findings, with pictures: {planned.dataset_uri}/data.html",
    ]
    assert manifest.empty_label_folders == ("pears",)


def item(planned: PlannedDataset, index: int, num_shares: int, fraction: float = 0) -> str:
    return Share(
        dataset_id=planned.plan.dataset_id,
        share_index=index,
        num_shares=num_shares,
        limits=DataLimits(max_rejected_fraction=fraction),
        storage_uri=planned.dataset_uri.partition("/datasets/")[0],
    ).to_item()


def files(uri: str) -> dict[str, bytes]:
    return {
        storage.relative_name(info.uri, uri): storage.read_bytes(info.uri)
        for info in storage.list_objects(uri)
    }


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_builder_that_finishes_last_completes_the_dataset(
    make_plan: MakePlan, tmp_path: Path, order: tuple[int, ...]
) -> None:
    one = make_plan(storage_uri=f"{tmp_path}/one", train_shards=4)
    build_shards(one.dataset_uri)
    complete_dataset(one.dataset_uri, limits=NO_REJECTED)
    planned = make_plan(storage_uri=f"{tmp_path}/three", train_shards=4)

    manifests = [build_item(item(planned, index, 3)) for index in order]

    assert [manifest is None for manifest in manifests] == [True, True, False]
    assert files(planned.dataset_uri) == files(one.dataset_uri)


def test_builders_that_finish_at_the_same_moment_write_the_same_manifest(
    make_plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = make_plan(storage_uri=f"{tmp_path}/storage", train_shards=3)
    others = []

    def build_others_first(*arguments: object) -> bool:
        # All receipts exist before any builder looks for those of the others.
        monkeypatch.undo()
        others.append(build_item(item(planned, 1, 2)))
        storage.delete(f"{planned.dataset_uri}/manifest.json")
        return True

    monkeypatch.setattr(complete, "has_all_receipts", build_others_first)
    manifest = build_item(item(planned, 0, 2))

    assert others == [manifest]
    assert manifest == complete_dataset(planned.dataset_uri, limits=NO_REJECTED)


def test_builder_killed_before_it_completes_the_dataset_does_so_when_it_is_retried(
    make_plan: MakePlan, tmp_path: Path
) -> None:
    planned = make_plan(storage_uri=f"{tmp_path}/storage", train_shards=3)
    build_shards(planned.dataset_uri)
    before = _versions(planned.dataset_uri)

    manifest = build_item(item(planned, 1, 2))

    assert manifest is not None
    assert before.items() < _versions(planned.dataset_uri).items()


def test_builder_reports_too_many_rejected_pictures_with_the_limit_of_its_item(
    make_plan: MakePlan, pictures: Path, tmp_path: Path
) -> None:
    (pictures / "a" / "000.jpg").write_bytes(b"")
    planned = make_plan(storage_uri=f"{tmp_path}/storage")
    strict, lenient = item(planned, 0, 1, 0.0), item(planned, 0, 1, 0.5)

    for _ in range(2):
        with pytest.raises(DataError, match="1 of 30 are"):
            build_item(strict)
    assert build_item(lenient) is not None
    # The dataset exists now; the limit still counts.
    with pytest.raises(DataError, match="1 of 30 are"):
        build_item(strict)


def test_items_build_their_shares_from_bucket_to_bucket(
    make_plan: MakePlan, pictures: Path, gcs: str
) -> None:
    local = make_plan(train_shards=3)
    build_shards(local.dataset_uri)
    storage.upload_folder(pictures, f"{gcs}/pictures")
    remote = make_plan(
        roots=PictureRoots(pictures_uri=f"{gcs}/pictures"), storage_uri=f"{gcs}/out", train_shards=3
    )
    for index in range(2):
        manifest = build_item(item(remote, index, 2))
    assert manifest is not None
    assert {name: files(remote.dataset_uri)[name] for name in local.plan.shard_names} == {
        name: files(local.dataset_uri)[name] for name in local.plan.shard_names
    }


def test_item_of_an_existing_dataset_changes_nothing(make_plan: MakePlan, tmp_path: Path) -> None:
    planned = make_plan(storage_uri=f"{tmp_path}/storage")
    manifest = build_item(item(planned, 0, 1))
    before = _versions(planned.dataset_uri)

    assert build_item(item(planned, 0, 1)) == manifest
    assert _versions(planned.dataset_uri) == before


def test_item_without_a_plan_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="must be planned before"):
        build_item(f"{'0' * 16}:0/1:0.5,1.0,0,-1:{tmp_path}")


def test_invalid_item_is_an_error() -> None:
    with pytest.raises(UsageError, match="work item"):
        build_item("nonsense")


def test_copies_of_training_pictures_are_not_scored(
    make_plan: MakePlan,
    write_pictures: WritePictures,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", logger="repot.progress")
    folder = tmp_path / "split"
    write_pictures(folder, {"train/a": 6, "train/b": 6, "validation/a": 4, "validation/b": 4})
    write_pictures(folder, {"test/b": 3})
    shutil.copy(folder / "train" / "a" / "002.jpg", folder / "validation" / "a" / "renamed.jpg")
    shutil.copy(folder / "train" / "a" / "003.jpg", folder / "test" / "b" / "relabelled.jpg")
    (folder / "validation" / "a" / "001.jpg").write_text("damaged")

    manifest = complete_dataset(
        make_plan(folder, validation_shards=3).dataset_uri,
        limits=DataLimits(max_rejected_fraction=0.1),
    )

    assert [(item.split, item.path, item.reason) for item in manifest.excluded] == [
        ("test", "test/b/relabelled.jpg", "copy_of_training"),
        ("validation", "validation/a/renamed.jpg", "copy_of_training"),
    ]
    jpeg = (folder / "train" / "a" / "002.jpg").read_bytes()
    assert manifest.excluded[1].digest == hashlib.sha256(jpeg).hexdigest()[:32]
    # They are records like the others.
    assert [manifest.num_examples(split) for split in manifest.splits] == [12, 8, 4]
    notices = [each.getMessage() for each in caplog.records]
    for warning in (
        (
            "copies of training pictures, not scored: 1 of 8 validation pictures, "
            "'validation/a/renamed.jpg'. Keep each picture in one split"
        ),
        (
            "copies of training pictures, not scored: 1 of 4 test pictures, "
            "'test/b/relabelled.jpg'. Keep each picture in one split"
        ),
        (
            "the same picture under several labels, once: 'train/a/003.jpg' (a, train) and "
            "'test/b/relabelled.jpg' (b, test). Keep each under one label"
        ),
    ):
        assert f"build shards: warning: {warning}" in notices


def test_odd_labels_and_names_of_files_are_in_every_file_of_the_dataset(
    pictures: Path, tmp_path: Path
) -> None:
    labels = ["a/b", 'quote " and , comma', "=SUM(A1)", "\U0001f431", "o'clock"]
    rows = []
    for number, path in enumerate(sorted(pictures.glob("*/*"))):
        name = os.fsencode(f"{number} ") + b"\xff.jpg"  # no UTF-8
        os.rename(path, os.path.join(os.fsencode(tmp_path), name))  # noqa: PTH104, PTH118
        rows.append({"path": os.fsdecode(name), "label": labels[number % len(labels)]})
    manifest_path = tmp_path / "m.jsonl"
    manifest_path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    planned = plan_dataset(
        PictureRoots(pictures_uri=str(manifest_path)),
        dataset_folder=lambda _: f"{tmp_path}/data",
        listings_uri=None,
        settings=DatasetSettings(),
    )
    manifest = complete_dataset(planned.dataset_uri, limits=NO_REJECTED)
    assert manifest.num_accepted == len(rows)
    assert (tmp_path / "data" / "labels.txt").read_text().splitlines() == sorted(labels)
    page = (tmp_path / "data" / "data.html").read_text()
    assert r"29 \udcff.jpg" in page
    assert all(str(markupsafe.escape(label))[:4] in page for label in labels)


def test_split_by_content_leaves_no_copy_of_a_training_picture(
    make_plan: MakePlan, pictures: Path
) -> None:
    for path in list(pictures.glob("*/*")):
        shutil.copy(path, path.with_name(f"copy of {path.name}"))
    manifest = complete_dataset(make_plan().dataset_uri, limits=NO_REJECTED)
    assert manifest.num_accepted == 60
    assert manifest.excluded == ()
