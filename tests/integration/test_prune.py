"""`repot prune` on folders and buckets: what is kept, what goes, and what a kill leaves."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from repot import layout, storage
from repot.checkpoint_record import CheckpointRecord
from repot.data_checks import DataLimits
from repot.dataset_plan import BaseDataset, NewestDataset, read_base
from repot.errors import ModelError, StorageError
from repot.evaluator.catalog import list_models, list_runs, list_versions, show_run
from repot.evaluator.summary import summarise
from repot.evaluator.verdict import Score, Verdict
from repot.evaluator.versions import promote_by_hand, rollback
from repot.example_digests import Digests, join_digests, read_digests
from repot.feature_store import VectorStore
from repot.folder_checksums import list_files, write_checksums, write_last
from repot.json_record import checked_text, record_text, write_record
from repot.manifest import read_manifest
from repot.model_registry import check_version
from repot.planner.listing import PictureRoots
from repot.planner.plan import plan_dataset
from repot.prediction_store import PredictionStore
from repot.pruning.delete import Deleter
from repot.pruning.inventory import take_inventory
from repot.pruning.prune import PruneReport, prune
from repot.pruning.retention import Decision, Limits, decide
from repot.pruning.uses import Use, note_use, read_uses
from repot.settings import DatasetSettings
from repot.shard_builder.build import build_shards
from repot.shard_builder.complete import complete_dataset
from repot.storage_check import verify_folder
from repot_pipelines.cli import repot
from repot_pipelines.local.run import SAMPLE_FOLDER
from tests.integration.command_line import REPOT
from tests.integration.command_line import repot as run_command
from tests.integration.faulty_proxy import Response, run_proxy
from tests.training_records import make_training_record
from tests.unit.conftest import make_jpeg
from tests.unit.evaluator.samples import make_model_record, make_outcome

DAY = 86_400.0
LIMITS = Limits(age_seconds=30 * DAY, keep_versions=2)
TIME = "2026-09-01T02:00:00Z"
# Versions of the model, which are trainings: three came into production one after the other.
FIRST, SECOND, THIRD, REJECTED = "a" * 16, "b" * 16, "c" * 16, "d" * 16
RUNNING = "f" * 16
USED_CHECKPOINT, OTHER_CHECKPOINT = (f"{digit * 64}/mobilenet_v2-raw" for digit in "12")
LABELS = ("cat", "dog")
OUTCOMES = [make_outcome(0, "cat", "cat"), make_outcome(1, "dog", "cat")]


@pytest.fixture(scope="module")
def month(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a storage with what some runs left: two datasets, four versions, and rubbish."""
    folder = tmp_path_factory.mktemp("month")
    uri = str(folder / "storage")
    for number in range(24):
        path = folder / "pictures" / "ab"[number % 2] / f"{number:02}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(make_jpeg(number))
    old = make_dataset(uri, folder / "pictures")
    (folder / "pictures" / "a" / "00.jpg").unlink()
    new = make_dataset(uri, folder / "pictures")
    for checkpoint_id in (USED_CHECKPOINT, OTHER_CHECKPOINT):
        make_checkpoint(uri, checkpoint_id)
    for number, version in enumerate((FIRST, SECOND, THIRD, REJECTED)):
        make_training(
            uri,
            version,
            new if version in (SECOND, THIRD) else old,
            OTHER_CHECKPOINT if version == REJECTED else USED_CHECKPOINT,
        )
        make_version(uri, version, new if version in (SECOND, THIRD) else old)
        if version != REJECTED:
            promote_by_hand(uri, "m", version, reason="r", time=TIME)
        make_answers(uri, version, number)
    gone, stays = picture_digests(uri, old), picture_digests(uri, new)
    store = VectorStore(f"{uri}/features/net-32-whole-0123456789abcdef", num_columns=2)
    for digests in (np.setdiff1d(gone, stays), stays):
        store.add(digests.astype("S32"), np.zeros((len(digests), 2), np.float32))
    storage.write_text(f"{uri}/unpacked/0123456789abcdef.tar", "unpacked")
    storage.write_text(f"{uri}/listings/0123456789abcdef-0a.json", "{}")
    storage.write_text(f"{uri}/notifications/run 1/failed.json", "{}")
    # A training that failed; a dataset, a version and files that were never finished; and files
    # of other programs.
    storage.write_text(f"{uri}/runs/{'e' * 16}/state/latest.json", "{}")
    storage.write_text(f"{uri}/datasets/{'e' * 16}/work/train-00000-of-00001.json.gz", "")
    storage.write_text(f"{uri}/models/m/{'e' * 16}/labels.txt", "")
    storage.write_text(f"{uri}/datasets/{new}/.repot-0123.tmp", "half")
    storage.write_text(f"{uri}/runs/{THIRD}/state/head-00001.npz", "left by a kill")
    for name in ("datasets/mine/a.jpg", "runs/notes.txt", "pictures/a.jpg", "models/m/x/y"):
        storage.write_text(f"{uri}/{name}", "mine")
    note_use(uri, Use(dataset_id=old, training_id=FIRST))
    return uri


def make_dataset(uri: str, pictures: Path) -> str:
    planned = plan_dataset(
        PictureRoots(pictures_uri=str(pictures)),
        dataset_folder=lambda dataset_id: layout.dataset_uri(uri, dataset_id),
        listings_uri=layout.listings_uri(uri),
        settings=DatasetSettings(shard_layout="stable", train_shards=1, validation_shards=1),
        newest_uri=layout.newest_dataset_uri(uri, str(pictures)),
    )
    build_shards(planned.dataset_uri, num_processes=1)
    complete_dataset(planned.dataset_uri, limits=DataLimits())
    return planned.plan.dataset_id


def look(uri: str, now: float) -> tuple[list[Decision], Deleter]:
    """Return what is decided about a storage, and what deletes it later."""
    inventory = take_inventory(uri)
    decisions, uses = decide(inventory, LIMITS, now=now)
    deleter = Deleter(
        uri,
        cutoff=now - LIMITS.age_seconds,
        keep_versions=2,
        model_names=inventory.model_names,
        uses=uses,
    )
    return decisions, deleter


def make_checkpoint(uri: str, checkpoint_id: str) -> None:
    folder_uri = layout.checkpoint_uri(uri, checkpoint_id)
    storage.write_text(f"{folder_uri}/weights.h5", "weights")
    sha256, _, _ = checkpoint_id.partition("/")
    record = CheckpointRecord(
        source="w",
        sha256=sha256,
        backbone="mobilenet_v2",
        kind="keras",
        values="raw",
        available_values=("raw",),
        num_arrays=1,
        num_parameters=1,
        step=None,
    )
    write_last(folder_uri, "checkpoint.json", record_text(record), parts=["weights.h5"])


def make_training(uri: str, training_id: str, dataset_id: str, checkpoint_id: str) -> None:
    run_uri = layout.run_uri(uri, training_id)
    storage.write_text(f"{run_uri}/model/model.keras", f"model {training_id}")
    storage.write_text(f"{run_uri}/model/labels.txt", "cat\ndog\n")
    record = make_training_record(
        training_id=training_id, dataset_id=dataset_id, checkpoint_id=checkpoint_id
    )
    write_last(run_uri, "training.json", record_text(record), parts=layout.TRAINING_PARTS)
    evaluation_uri = f"{run_uri}/evaluation"
    evaluation = summarise(
        OUTCOMES,
        LABELS,
        evaluation_id="e",
        dataset_id=dataset_id,
        training_id=training_id,
        subset="validation",
        excluded={},
    )
    storage.write_text(f"{evaluation_uri}/report.html", "report")
    text = record_text(evaluation)
    write_last(evaluation_uri, "metrics.json", text, parts=layout.EVALUATION_PARTS)
    storage.write_text(f"{run_uri}/exports/onnx/model.onnx", "onnx")
    write_last(f"{run_uri}/exports/onnx", "export.json", "{}", parts=["model.onnx"])
    verdict = Verdict(
        decision="promote",
        reasons=("r",),
        model_name="m",
        version=training_id,
        champion_version="none",
        min_precision=0.0,
        challenger=Score(precision_at_1=0.5, interval=(0.25, 0.75), num_examples=2),
        decided_at=TIME,
    )
    gate_uri = layout.gate_uri(uri, training_id, "none")
    verdict_uri = f"{gate_uri}/{verdict.verdict_id}"
    storage.write_json(f"{verdict_uri}/verdict.json", verdict.to_json())
    storage.write_text(f"{verdict_uri}/report.html", "report")
    write_checksums(verdict_uri, parts=["verdict.json", "report.html"])
    for folder_uri in (gate_uri, f"{gate_uri}/test"):
        storage.write_text(f"{folder_uri}/predictions.csv", "answers of the champion")
        write_checksums(folder_uri, parts=["predictions.csv"])


def make_version(uri: str, version: str, dataset_id: str) -> None:
    version_uri = layout.model_uri(uri, "m", version)
    storage.copy_folder(f"{layout.run_uri(uri, version)}/model", version_uri)
    record = make_model_record(
        "m",
        version,
        labels=LABELS,
        dataset_id=dataset_id,
        files=list_files(version_uri, skip=layout.ADDED_TO_VERSIONS),
    )
    storage.write_text(f"{version_uri}/model.json", checked_text(record.to_json()))


def make_answers(uri: str, version: str, number: int) -> None:
    """Store one answer of a version, for a picture of the newest dataset."""
    newest = json.loads(
        storage.read_text(storage.list_objects(f"{uri}/datasets/by-pictures")[0].uri)
    )
    dataset_id = newest["dataset_uri"].rpartition("/")[2]
    store = PredictionStore(
        layout.predictions_uri(uri), layout.model_uri(uri, "m", version), num_labels=len(LABELS)
    )
    store.add(picture_digests(uri, dataset_id)[:1], np.full((1, 3), number, np.float32))


def picture_digests(uri: str, dataset_id: str) -> Digests:
    dataset_uri = layout.dataset_uri(uri, dataset_id)
    manifest = read_manifest(dataset_uri)
    return join_digests(
        read_digests(dataset_uri, manifest, split, task="test").tobytes()
        for split in manifest.splits
    )


@pytest.fixture(params=["local", "gcs", "s3"])
def store(request: pytest.FixtureRequest, month: str, tmp_path: Path) -> str:
    """Return a copy of the storage."""
    if request.param == "local":
        return copy_month(month, tmp_path)
    return copy_to_bucket(month, f"{request.getfixturevalue(request.param)}/a folder")


def copy_to_bucket(month: str, uri: str) -> str:
    """Return a folder of a bucket with a copy of the storage."""
    storage.copy_folder(month, uri)
    storage.write_text(f"{uri}/datasets/{dataset_ids(month)[1]}/.repot-0123.tmp", "half")
    for info in storage.list_objects(f"{uri}/datasets/by-pictures"):
        newest = NewestDataset(dataset_uri=layout.dataset_uri(uri, dataset_ids(month)[1]))
        storage.write_text(info.uri, checked_text(newest.to_json()))
    return uri


def copy_month(month: str, tmp_path: Path) -> str:
    """Return a copy of the storage, of which everything is 60 days old."""
    uri = str(tmp_path / "storage")
    # With hard links, as they are.
    subprocess.run(["cp", "-a", month, uri], check=True)
    for pointer in Path(uri, "datasets", "by-pictures").iterdir():
        newest = NewestDataset(dataset_uri=layout.dataset_uri(uri, dataset_ids(month)[1]))
        pointer.write_text(checked_text(newest.to_json()))
    make_older(uri)
    return uri


def make_older(uri: str, days: float = 60.0) -> None:
    for stored in storage.scan_stored(uri):
        os.utime(stored.uri, (stored.written_at - days * DAY,) * 2)


def dataset_ids(month: str) -> tuple[str, str]:
    """Return the ids of the first dataset and of the one that was built on it."""
    complete = [
        info.uri.split("/")[-2]
        for info in storage.list_objects(f"{month}/datasets")
        if info.uri.endswith("/manifest.json")
    ]
    (new,) = (
        each
        for each in complete
        if (base := read_base(layout.dataset_uri(month, each))) and base.base_uri
    )
    (old,) = set(complete) - {new}
    return old, new


def newest_write(uri: str) -> float:
    return max(stored.written_at for stored in storage.scan_stored(uri))


def names(uri: str) -> set[str]:
    return {storage.relative_name(stored.uri, uri) for stored in storage.scan_stored(uri)}


def run_prune(uri: str, *, delete: bool = True) -> PruneReport:
    """Prune a storage two months after the last write to it."""
    return prune(uri, LIMITS, delete=delete, now=newest_write(uri) + 60 * DAY)


def check_consistent(uri: str) -> None:
    """Check that what looks complete is complete, and that nothing is missed."""
    assert verify_folder(uri).damaged == ()
    found = names(uri)
    for name in found:
        folder, _, file = name.rpartition("/")
        if name.startswith("datasets/") and file == "manifest.json":
            manifest = read_manifest(f"{uri}/{folder}")
            for shard in manifest.shards:
                assert {
                    f"{folder}/{shard.shard}",
                    f"{folder}/compositions/{shard.shard}.json",
                } & found
                assert f"{folder}/receipts/{shard.shard}.json" in found
            assert picture_digests(uri, manifest.dataset_id).size == manifest.num_accepted
        elif file == "training.json":
            assert {f"{folder}/model/model.keras", f"{folder}/model/labels.txt"} <= found
        elif file == "metrics.json":
            assert f"{folder}/report.html" in found
        elif file == "checkpoint.json":
            assert f"{folder}/weights.h5" in found
        elif file.endswith(".digests"):
            assert f"{name.removesuffix('.digests')}.vectors" in found
    for version in (each.split("/")[2] for each in found if each.endswith("/model.json")):
        check_version(
            layout.model_uri(uri, "m", version),
            make_record(f"{layout.model_uri(uri, 'm', version)}/model.json"),
        )
    # The champion and the version before it work.
    assert rollback(uri, "m", time=TIME).version == SECOND
    assert rollback(uri, "m", time=TIME).version == THIRD


def make_record(uri: str) -> Any:
    from repot.model_registry import ModelRecord

    return ModelRecord.from_text(storage.read_text(uri))


def test_only_what_is_needed_is_left(store: str, month: str) -> None:
    old, new = dataset_ids(month)
    before = names(store)

    listed = run_prune(store, delete=False)

    assert names(store) == before
    report = run_prune(store)
    left = names(store)
    removed = {each.name for each in report.units if each.is_deleted}
    assert {each.name for each in listed.units if not each.is_kept} == removed
    assert {name for name in removed if not name.startswith(("features", "predictions"))} == {
        f"models/m/{FIRST}",
        f"models/m/{REJECTED}",
        f"models/m/{'e' * 16}",
        f"runs/{FIRST}",
        f"runs/{REJECTED}",
        f"runs/{'e' * 16}/state",
        f"runs/{THIRD}/state",
        f"datasets/{old}",
        f"datasets/{'e' * 16}",
        f"datasets/{new}/.repot-0123.tmp",
        f"checkpoints/{OTHER_CHECKPOINT}",
        "unpacked/0123456789abcdef.tar",
        "listings/0123456789abcdef-0a.json",
        "notifications/run 1/failed.json",
        *(name for name in before if name.startswith("uses/")),
    }
    # Features of the picture that only the first dataset has, and the answers of two models.
    assert sum(name.startswith("features/") for name in removed) == 1
    assert sum(name.startswith("predictions/") for name in removed) == 2
    # What other programs stored, and the record of each training.
    assert {"datasets/mine/a.jpg", "runs/notes.txt", "pictures/a.jpg", "models/m/x/y"} <= left
    assert {name for name in left if name.startswith(f"runs/{FIRST}/")} == {
        f"runs/{FIRST}/removed.json",
        *(
            name
            for name in before
            if name.startswith(f"runs/{FIRST}/gate/")
            and name.count("/") == 5
            and "/test/" not in name
        ),
    }
    assert any(name.startswith("listings/") for name in left)
    assert any(name.startswith("datasets/by-pictures/") for name in left)
    assert report.num_deleted_files == len(before - left)
    if storage.is_local(store):
        assert not Path(store, "runs", "e" * 16).exists()
    again = run_prune(store)
    assert (again.num_deleted_files, names(store)) == (0, left)
    check_consistent(store)


def test_removed_trainings_keep_their_scores_and_verdicts(month: str, tmp_path: Path) -> None:
    uri = copy_month(month, tmp_path)
    before = {each.run: each for each in list_runs(uri)[0]}
    run_prune(uri)
    after = {each.run: each for each in list_runs(uri)[0]}
    # The failed one is gone, and nobody misses it.
    assert after.keys() == before.keys() - {"e" * 16}
    for run, summary in after.items():
        state = "removed" if run in (FIRST, REJECTED) else "evaluated"
        assert summary.state == state
        assert (summary.precision_at_1, summary.dataset_id) == (0.5, before[run].dataset_id)
        assert summary.verdict == before[run].verdict != ""
    assert show_run(uri, FIRST).summary == after[FIRST]
    shown = CliRunner().invoke(repot, ["runs", "show", FIRST, "--storage-uri", uri]).stdout
    assert f"{FIRST} (removed)" in shown
    assert "precision@1  0.500 [" in shown
    (model,) = list_models(uri)
    assert (model.champion, model.num_versions) == (THIRD, 2)


@pytest.mark.parametrize(
    ("kind", "step"),
    [
        ("local", 7),
        pytest.param("local", 1, marks=pytest.mark.slow),
        pytest.param("gcs", 9, marks=pytest.mark.slow),
    ],
)
def test_kill_at_any_deletion_leaves_nothing_that_only_looks_complete(
    kind: str, step: int, month: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    bucket = "" if kind == "local" else request.getfixturevalue(kind)

    def copy(number: int) -> str:
        if bucket:
            return copy_to_bucket(month, f"{bucket}/{number}")
        shutil.rmtree(tmp_path / "storage", ignore_errors=True)
        return copy_month(month, tmp_path)

    uri = copy(0)
    run_prune(uri)
    expected = names(uri)
    kills = 0
    while prune_and_die(uri := copy(kills + 1), step * kills):
        kills += 1
        if bucket:
            wait_for_requests_under_way(uri)
        check_consistent(uri)
        # The next one, for which nothing is new, deletes the rest.
        prune(uri, LIMITS, delete=True, now=newest_write(f"{uri}/models") + 60 * DAY)
        assert names(uri) == expected
    assert kills > 56 // step


def wait_for_requests_under_way(uri: str) -> None:
    """Wait until a server has done what a killed program asked for."""
    before: set[str] = set()
    while before != (before := names(uri)):
        time.sleep(0.5)


def prune_and_die(uri: str, num_deletions: int) -> bool:
    """Prune in another process that is killed after some deletions; return whether it was."""
    now = newest_write(uri) + 60 * DAY
    process = os.fork()
    if not process:
        done = 0
        delete = storage.delete

        def count(uri: str) -> None:
            nonlocal done
            done += 1
            if done > num_deletions:
                os.kill(os.getpid(), signal.SIGKILL)
            delete(uri)

        storage.delete = count
        try:
            prune(uri, LIMITS, delete=True, now=now)
        finally:
            os._exit(0)
    _, status = os.waitpid(process, 0)
    return os.WIFSIGNALED(status)


def test_what_a_run_uses_or_writes_is_kept(month: str, tmp_path: Path) -> None:
    uri = copy_month(month, tmp_path)
    old, _ = dataset_ids(month)
    # A run has just found the first dataset, and waits for its trainer.
    note_use(uri, Use(dataset_id=old, checkpoint_id=OTHER_CHECKPOINT, training_id=REJECTED))
    report = prune(uri, LIMITS, delete=True)
    kept = {each.name for each in report.units if each.is_kept}
    assert {f"datasets/{old}", f"checkpoints/{OTHER_CHECKPOINT}", f"runs/{REJECTED}"} <= kept
    assert f"models/m/{FIRST}" not in kept
    check_consistent(uri)


def test_version_that_runs_judge_again_every_night_is_kept(month: str, tmp_path: Path) -> None:
    uri = copy_month(month, tmp_path)
    (report_uri,) = (
        info.uri
        for info in storage.list_objects(f"{uri}/runs/{REJECTED}/gate")
        if info.uri.endswith("/report.html")
    )
    storage.write_text(report_uri, storage.read_text(report_uri))

    report = prune(uri, LIMITS, delete=True)

    kept = {each.name for each in report.units if each.is_kept}
    removed = {each.name for each in report.units if each.is_deleted}
    made_from = (f"datasets/{dataset_ids(month)[0]}", f"checkpoints/{OTHER_CHECKPOINT}")
    assert {f"models/m/{REJECTED}", f"runs/{REJECTED}", *made_from} <= kept
    assert {f"models/m/{FIRST}", f"runs/{FIRST}"} <= removed


def test_what_a_long_training_noted_at_its_start_is_kept(month: str, tmp_path: Path) -> None:
    uri = copy_month(month, tmp_path)
    old, _ = dataset_ids(month)
    note_use(uri, Use(dataset_id=old, checkpoint_id=OTHER_CHECKPOINT, training_id=RUNNING))
    for path in Path(uri, "uses").iterdir():
        os.utime(path, (0, 0))
    storage.write_text(f"{uri}/runs/{RUNNING}/state/latest.json", "{}")

    report = prune(uri, LIMITS, delete=True)

    kept = {each.name: each.reason for each in report.units if each.is_kept}
    assert kept[f"runs/{RUNNING}/state"] == "may be in progress"
    assert {f"datasets/{old}", f"checkpoints/{OTHER_CHECKPOINT}"} <= kept.keys()
    assert len(read_uses(uri)) == 1


def test_training_of_an_earlier_repot_in_progress_keeps_every_dataset(
    month: str, tmp_path: Path
) -> None:
    uri = copy_month(month, tmp_path)
    storage.write_text(f"{uri}/runs/{RUNNING}/state/latest.json", "{}")

    report = prune(uri, LIMITS, delete=False)

    removed = {each.kind for each in report.units if not each.is_kept}
    assert removed >= {"version", "training"}
    assert not removed & {"dataset", "checkpoint"}


def test_dataset_in_progress_keeps_what_it_is_built_on(month: str, tmp_path: Path) -> None:
    uri = copy_month(month, tmp_path)
    old, _ = dataset_ids(month)
    base = BaseDataset(base_uri=layout.dataset_uri(uri, old), newest_uri="")
    write_record(f"{uri}/datasets/{RUNNING}/base.json", base)

    report = prune(uri, LIMITS, delete=True)

    kept = {each.name for each in report.units if each.is_kept}
    assert {f"datasets/{old}", f"datasets/{RUNNING}", "unpacked/0123456789abcdef.tar"} <= kept


@pytest.mark.parametrize("change", ["write", "use", "promote"])
def test_what_came_into_use_after_the_listing_is_not_deleted(
    month: str, tmp_path: Path, change: str
) -> None:
    uri = copy_month(month, tmp_path)
    old, _ = dataset_ids(month)
    now = newest_write(uri) + 60 * DAY
    decisions, deleter = look(uri, now)
    spared = {
        "write": {f"datasets/{old}"},
        "use": {
            *(f"datasets/{old}", f"checkpoints/{OTHER_CHECKPOINT}"),
            *(f"runs/{REJECTED}", f"models/m/{REJECTED}"),
        },
        "promote": {f"datasets/{old}", f"models/m/{REJECTED}", f"runs/{REJECTED}"},
    }[change]
    if change == "write":
        storage.write_text(f"{uri}/datasets/{old}/classes/train.bin", "computed just now")
    elif change == "use":
        note_use(uri, Use(dataset_id=old, checkpoint_id=OTHER_CHECKPOINT, training_id=REJECTED))
    else:
        promote_by_hand(uri, "m", REJECTED, reason="camera", time=TIME)

    done = list(deleter.delete(each.unit for each in decisions if not each.is_kept))

    assert {each.unit.name for each in done if each.is_skipped} == spared
    assert {name for name in spared if any(left.startswith(name) for left in names(uri))} == spared


def test_dataset_that_a_run_builds_again_meanwhile_is_left_to_it(
    month: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = copy_month(month, tmp_path)
    dataset_uri = layout.dataset_uri(uri, dataset_ids(month)[0])
    plan = storage.read_text(f"{dataset_uri}/plan.json")
    delete = storage.delete

    def delete_and_plan(each: str) -> None:
        delete(each)
        if each.startswith(f"{dataset_uri}/checks"):
            storage.write_text(f"{dataset_uri}/plan.json", plan)
            storage.write_text(f"{dataset_uri}/work/new", "")

    monkeypatch.setattr(storage, "delete", delete_and_plan)
    monkeypatch.setattr("repot.pruning.delete.NUM_AT_ONCE", 1)
    report = run_prune(uri)

    (unit,) = (each for each in report.units if each.name == f"datasets/{dataset_ids(month)[0]}")
    left = {name for name in names(uri) if name.startswith(unit.name)}
    assert not unit.is_deleted
    assert {f"{unit.name}/{name}" for name in ("plan.json", "labels.txt", "work/new")} <= left
    # Nothing of it counts as finished.
    assert not any("receipts/" in name or name.endswith("manifest.json") for name in left)
    check_consistent(uri)


def test_files_with_several_names_are_counted_once(month: str, tmp_path: Path) -> None:
    uri = copy_month(month, tmp_path)
    _, new = dataset_ids(month)
    shared = [
        stored
        for stored in storage.scan_stored(layout.dataset_uri(uri, new))
        if stored.num_names > 1
    ]
    assert shared

    report = run_prune(uri, delete=False)

    sizes = {each.name: each.size_bytes for each in report.units if not each.is_kept}
    assert report.removable_bytes == sum(sizes.values()) - sum(each.size_bytes for each in shared)


def test_unfinished_training_that_is_resumed_meanwhile_keeps_its_state(
    month: str, tmp_path: Path
) -> None:
    uri = copy_month(month, tmp_path)
    failed, now = "e" * 16, newest_write(uri) + 60 * DAY
    decisions, deleter = look(uri, now)
    note_use(uri, Use(dataset_id=dataset_ids(month)[1], training_id=failed))
    # A run notes again what an earlier one noted two months ago.
    note_use(uri, Use(dataset_id=dataset_ids(month)[0], training_id=FIRST))

    done = list(deleter.delete(each.unit for each in decisions if not each.is_kept))

    skipped = {each.unit.name for each in done if each.is_skipped}
    assert skipped >= {f"runs/{failed}/state", f"models/m/{failed}"}
    assert {name.partition("/")[0] for name in skipped} == {"runs", "models", "datasets", "uses"}
    assert len(read_uses(uri)) == 2
    assert storage.exists(f"{uri}/runs/{failed}/state/latest.json")
    # What a kill left of a finished training goes, though its version is in production.
    assert not storage.exists(f"{uri}/runs/{THIRD}/state/head-00001.npz")


def test_training_that_is_made_again_is_listed_as_unfinished(month: str, tmp_path: Path) -> None:
    uri = copy_month(month, tmp_path)
    run_prune(uri)
    assert show_run(uri, FIRST).summary.state == "removed"
    storage.write_text(f"{uri}/runs/{FIRST}/state/latest.json", "{}")
    assert show_run(uri, FIRST).summary.state == "unfinished"


def test_uploads_that_may_not_be_listed_are_left(
    month: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_uri: str) -> list[storage.UnfinishedUpload]:
        raise StorageError("access is denied.")

    monkeypatch.setattr(storage, "list_unfinished_uploads", refuse)
    assert run_prune(copy_month(month, tmp_path), delete=False).removable_bytes > 0
    assert "Unfinished uploads are left: access is denied." in caplog.text


def test_damaged_champion_stops_everything(month: str, tmp_path: Path) -> None:
    uri = copy_month(month, tmp_path)
    storage.write_text(f"{uri}/models/m/champion.json", "{}")
    before = names(uri)
    with pytest.raises(ModelError, match=r"champion\.json must be"):
        prune(uri, LIMITS, delete=True)
    assert names(uri) == before


def test_unfinished_upload_is_aborted(s3: str) -> None:
    from repot.storage.s3.client import bucket_and_key, client

    storage.write_text(f"{s3}/store/uses/x", "")
    uri = f"{s3}/store/datasets/{FIRST}/train-00000-of-00001"
    for each in (uri, f"{s3}/store/pictures/other"):
        created = client().create_multipart_upload(**bucket_and_key(each))
        client().upload_part(
            **bucket_and_key(each), UploadId=created["UploadId"], PartNumber=1, Body=b"part"
        )
    (upload,) = storage.list_unfinished_uploads(f"{s3}/store/datasets")
    storage.delete(f"{s3}/store/uses/x")

    prune(f"{s3}/store", LIMITS, delete=True, now=upload.started_at + DAY)
    assert len(storage.list_unfinished_uploads(f"{s3}/store")) == 2
    report = prune(f"{s3}/store", LIMITS, delete=True, now=upload.started_at + 31 * DAY)

    assert [each.kind for each in report.units if each.is_deleted] == ["unfinished upload"]
    (other,) = storage.list_unfinished_uploads(f"{s3}/store")
    assert other.uri.endswith("/pictures/other")


def test_refused_deletion_is_reported_and_leaves_a_usable_storage(
    gcs: str, month: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"{gcs}/store"
    storage.copy_folder(month, uri)
    with run_proxy(os.environ["STORAGE_EMULATOR_HOST"]) as proxy:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", proxy.url)

        def refuse(_forward: Callable[[], Response]) -> Response:
            return 403, [("Content-Type", "application/json")], b"{}"

        def forward(send: Callable[[], Response]) -> Response:
            return send()

        proxy.faults = {"DELETE": [*[forward] * 20, *[refuse] * 1000]}
        message = r"files were, and what is left is usable\. .* cannot be deleted: access is denied"
        with pytest.raises(StorageError, match=message):
            run_prune(uri)
        proxy.faults = {}
        check_consistent(uri)


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(repot, ["prune", *arguments], catch_exceptions=False)


def test_command_prints_a_table_or_json_and_deletes_only_when_told(
    month: str, tmp_path: Path
) -> None:
    uri = copy_month(month, tmp_path)
    before = names(uri)
    done = invoke("--storage-uri", uri, "--keep-versions", "2")
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["number", "what", "size", "why"]
    assert [line.split()[:3] for line in lines if "never finished" in line] == [
        ["delete", "1", "dataset"],
        ["delete", "1", "version"],
    ]
    assert lines[-1].endswith("can be deleted. Nothing was; --delete does it.")
    assert names(uri) == before

    done = invoke("--storage-uri", uri, "--keep-versions", "2", "--delete", "--json")
    report = PruneReport.from_text(done.stdout)
    assert done.exit_code == 0
    assert not report.is_dry_run
    assert report.num_deleted_files == len(before - names(uri))
    done = invoke("--storage-uri", uri, "--keep-versions", "2")
    assert done.stdout.splitlines()[-1].startswith("Nothing can be deleted;")


@pytest.mark.parametrize("age", ["23h", "0d", "3651d", "30", "1w", "-1d", "1.5d"])
def test_age_that_is_too_short_or_wrong_is_refused(age: str, tmp_path: Path) -> None:
    done = invoke("--storage-uri", str(tmp_path), "--older-than", age, "--delete")
    assert done.exit_code == 2
    assert f"got '{age}'" in done.stderr


@pytest.mark.parametrize("age", ["24h", "1d", "3650d"])
def test_shortest_and_longest_age_are_accepted(age: str, month: str) -> None:
    assert invoke("--storage-uri", month, "--older-than", age).exit_code == 0


def test_storage_without_anything_is_a_usage_error(tmp_path: Path) -> None:
    from repot.errors import UsageError

    for delete in (False, True):
        with pytest.raises(UsageError, match=r"has nothing\. Check --storage-uri"):
            prune(str(tmp_path / "elsewhere"), LIMITS, delete=delete)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_pruned_run_is_made_again_under_the_same_ids_while_more_is_pruned(tmp_path: Path) -> None:
    uri = str(tmp_path / "storage")
    for name, number in (("few", 2), ("more", 3), ("all", 100)):
        copy_sample(tmp_path / name, number)
    trainings = [train_on(tmp_path, name) for name in ("few", "more", "all")]
    first, undecided, champion = trainings
    listed = {each.version: each.state for each in list_versions(uri, "drawings")[0]}
    assert listed == {first: "", undecided: "", champion: "champion"}
    before = {name: digest(uri, name) for name in names(uri)}
    make_older(uri)

    options = ("--storage-uri", uri, "--keep-versions", "2")
    assert run_command("prune", *options, "--delete", cwd=tmp_path).returncode == 0

    left = names(uri)
    lost = before.keys() - left
    assert {name.split("/")[1] for name in lost if name.startswith("runs/")} == {undecided}
    assert len({name.split("/")[1] for name in lost if name.startswith("datasets/")}) == 1
    assert any(name.startswith(f"models/drawings/{undecided}/") for name in lost)
    assert run_command("verify", uri, cwd=tmp_path).returncode == 0
    for version in (first, champion):
        picture = str(next((SAMPLE_FOLDER / "validation" / "fruit").iterdir()))
        done = run_command("predict", f"{uri}/models/drawings/{version}", picture, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    for expected in (first, champion):
        rollback_options = ("--storage-uri", uri, "--model-name", "drawings")
        done = run_command("rollback", *rollback_options, cwd=tmp_path)
        assert f"champion is {expected} again" in done.stdout
    make_older(uri, 40)

    with subprocess.Popen(
        [*REPOT, *train_command(tmp_path, "more")],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as running:
        num_prunes = 0
        while running.poll() is None:
            num_prunes += 1
            prune(uri, Limits(age_seconds=DAY, keep_versions=1), delete=True)
            time.sleep(0.5)
        assert running.stdout is not None
        assert running.returncode == 0, running.stdout.read()
    assert num_prunes > 5
    made_again = {name for name in lost & names(uri) if name.startswith(("datasets/", "runs/"))}
    # What prune took from the version before the champion is not what this run makes.
    assert {name for name in lost if name.startswith(f"runs/{undecided}/model/")} <= made_again
    for name in made_again:
        if name.startswith("datasets/") or "/model/" in name:
            assert digest(uri, name) == before[name], name
    assert verify_folder(uri).damaged == ()


def copy_sample(folder: Path, number: int) -> None:
    """Copy the sample's pictures; of each label, only `number` for training."""
    for split in ("train", "validation"):
        for label in (SAMPLE_FOLDER / split).iterdir():
            (folder / split / label.name).mkdir(parents=True)
            pictures = sorted(label.iterdir())
            for path in pictures[:number] if split == "train" else pictures:
                shutil.copy(path, folder / split / label.name)


def train_command(tmp_path: Path, name: str) -> list[str]:
    folders = (str(tmp_path / name), "--storage-uri", str(tmp_path / "storage"))
    options = ("--model-name", "drawings", "--comparisons-per-year", "12")
    return ["run", *folders, "--output", str(tmp_path / "output"), *options]


def train_on(tmp_path: Path, name: str) -> str:
    """Run the pipeline on a folder of pictures; return the training."""
    runs = tmp_path / "storage" / "runs"
    before = set(runs.iterdir()) if runs.exists() else set()
    done = run_command(*train_command(tmp_path, name), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (training,) = set(runs.iterdir()) - before
    return training.name


def digest(uri: str, name: str) -> str:
    return hashlib.sha256(Path(uri, name).read_bytes()).hexdigest()
