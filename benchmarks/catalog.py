"""Measure `repot runs list`, `repot models list` and `repot prune` on a bucket of nightly runs.

The bucket has what a run with changed pictures leaves each night: a dataset, a training with its
evaluation, a verdict and a version. The store is that of `benchmarks.object_storage`: a server in a
process of its own that takes 50 ms per request and lists 1000 objects per page. The first lines are
the baseline: the same records, read one after the other.

    .venv/bin/python -m benchmarks.catalog [--nights 400]
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

from benchmarks.object_storage import LATENCY_SECONDS, control, running_store

from repot.evaluator import catalog
from repot.evaluator.verdict import Score, Verdict
from repot.json_record import checked_text, record_text
from repot.manifest import Manifest
from repot.model_registry import Champion, ChampionChange
from repot.pruning.prune import prune
from repot.pruning.retention import Limits
from repot.settings import DatasetSettings, TrainingSettings
from repot.training_record import EpochRecord, TrainingRecord

STORAGE_URI = "gs://bucket/repot"
SHARDS, OTHER_FILES = 32, 20
NOW = 1_800_000_000.0  # after everything was stored


def night(number: int) -> dict[str, str]:
    """Return the files of one night, by name under the storage URI."""
    run, dataset_id = f"{number:016x}", f"{number + (1 << 40):016x}"
    manifest = Manifest(
        dataset_id=dataset_id,
        pictures_uri="gs://bucket/pictures",
        labels=("a", "b"),
        settings=DatasetSettings(),
        shards=(),
        num_found=0,
        num_accepted=0,
    )
    epoch = EpochRecord(
        phase="head",
        epoch=1,
        learning_rate=0.003,
        train_loss=1.0,
        train_precision_at_1=0.75,
        validation_loss=0.9,
        validation_precision_at_1=0.7,
        seconds=0.1,
    )
    training = TrainingRecord(
        training_id=run,
        dataset_id=dataset_id,
        checkpoint_id=f"{'0' * 64}/inception_v3-ema",
        settings=TrainingSettings(),
        image_size=299,
        labels=("a", "b"),
        num_examples={"train": 100, "validation": 20},
        num_parameters=1,
        epochs=1,
        seconds=1.0,
        train_examples_per_second=1.0,
        last_epoch=epoch,
        versions={},
    )
    verdict = Verdict(
        decision="undecided",
        reasons=("r",),
        model_name="m",
        version=run,
        champion_version="none",
        min_precision=0.0,
        challenger=Score(precision_at_1=0.5, interval=(0.25, 0.75), num_examples=20),
        decided_at=f"2026-01-01T{number // 60 % 24:02}:{number % 60:02}:00Z",
    )
    record = {
        "name": "m",
        "version": run,
        "training_id": run,
        "dataset_id": dataset_id,
        "labels": ["a", "b"],
        "backbone": "inception_v3",
        "image_size": 299,
        "metrics": {
            "precision_at_1": 0.5,
            "precision_at_1_interval": [0.25, 0.75],
            "recall_at_5": 1.0,
            "recall_k": 2,
            "loss": None,
            "num_examples": 20,
            "subset": "validation",
        },
    }
    return {
        f"datasets/{dataset_id}/manifest.json": record_text(manifest),
        **{f"datasets/{dataset_id}/train-{n:05}-of-{SHARDS:05}": "" for n in range(SHARDS)},
        f"runs/{run}/training.json": record_text(training),
        f"runs/{run}/gate/none/{verdict.verdict_id}/verdict.json": record_text(verdict),
        **{f"runs/{run}/model/{n}": "" for n in range(OTHER_FILES)},
        f"models/m/{run}/model.json": checked_text(record),
        **{f"models/m/{run}/saved_model/{n}": "" for n in range(OTHER_FILES // 2)},
    }


def measure(name: str, call: Callable[[], object]) -> None:
    """Print how many requests and seconds a call takes."""
    control(num_requests=0)
    started = time.perf_counter()
    call()
    seconds = time.perf_counter() - started
    print(f"| {name} | {control()['num_requests']:,} | {seconds:.1f} s |", flush=True)


def main() -> None:
    """Fill the store and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--nights", type=int, default=400)
    nights = parser.parse_args().nights
    champion = Champion(
        model_name="m",
        version=f"{0:016x}",
        dataset_id=f"{1 << 40:016x}",
        precision_at_1=0.5,
        history=(ChampionChange(version=f"{0:016x}", action="promote", time="2026-01-01"),),
    )
    with tempfile.TemporaryDirectory() as folder, running_store(Path(folder)):
        num_files = 0
        for number in range(nights):
            files = night(number)
            control(put={f"repot/{name}": text for name, text in files.items()})
            num_files += len(files)
        control(put={"repot/models/m/champion.json": json.dumps(champion.to_json())})
        control(latency_seconds=LATENCY_SECONDS)
        print(
            f"{nights} nights, {num_files:,} objects, {LATENCY_SECONDS * 1000:.0f} ms per request"
        )
        print("| | requests | time |\n|---|---|---|")
        with mock.patch.object(catalog, "_NUM_READERS", 1):
            measure("runs, one after the other", lambda: catalog.list_runs(STORAGE_URI))
            measure("versions, the same", lambda: catalog.list_versions(STORAGE_URI, "m"))
        measure("`runs list --limit 0`", lambda: catalog.list_runs(STORAGE_URI))
        measure("`runs list`", lambda: catalog.list_runs(STORAGE_URI, limit=50))
        measure("`models list`", lambda: catalog.list_models(STORAGE_URI))
        measure(
            "`models list --model-name m --limit 0`",
            lambda: catalog.list_versions(STORAGE_URI, "m"),
        )
        measure(
            "`models list --model-name m`",
            lambda: catalog.list_versions(STORAGE_URI, "m", limit=50),
        )
        measure("`models show`", lambda: catalog.show_version(STORAGE_URI, "m", ""))
        limits = Limits(age_seconds=30 * 86_400.0, keep_versions=3)
        measure("`prune`", lambda: prune(STORAGE_URI, limits, delete=False, now=NOW))
        measure("`prune --delete`", lambda: prune(STORAGE_URI, limits, delete=True, now=NOW))


if __name__ == "__main__":
    main()
