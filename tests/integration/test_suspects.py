"""Wrong labels from end to end: planted, found by a training, corrected with suspects.csv."""

import csv
import shutil
from pathlib import Path

import pytest

import repot_pipelines
from repot.data_checks import DataLimits
from repot.evaluator.evaluate import evaluate
from repot.evaluator.report.data import ReportData
from repot.evaluator.report.page import render_report
from repot.json_record import read_record
from repot.label_suspects import SUSPECTS_COLUMNS
from repot.planner.listing import PictureRoots
from repot.planner.plan import PlannedDataset, plan_dataset
from repot.settings import DatasetSettings, InputSettings, TrainingSettings
from repot.shard_builder.build import build_shards
from repot.shard_builder.complete import complete_dataset
from repot.trainer.request import TrainingRequest
from repot.trainer.train import train

SAMPLE = Path(repot_pipelines.__file__).parent / "sample" / "pictures"


def plan(pictures: Path, folder: Path, corrections: Path | str = "") -> PlannedDataset:
    return plan_dataset(
        PictureRoots(pictures_uri=str(pictures)),
        dataset_folder=lambda dataset_id: str(folder / dataset_id),
        listings_uri=None,
        settings=DatasetSettings(),
        inputs=InputSettings(corrections_file_uri=str(corrections)),
    )


def write_table(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, SUSPECTS_COLUMNS, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def planted(tmp_path: Path) -> dict[str, str]:
    """Copy the sample, every eighteenth picture into a wrong folder; return their right labels."""
    paths = sorted(path for path in SAMPLE.rglob("*.*"))
    labels = sorted({path.parent.name for path in paths})
    right = {}
    for i, path in enumerate(paths):
        target = tmp_path / "pictures" / path.relative_to(SAMPLE)
        if i % 18 == 0:
            label = labels[(labels.index(path.parent.name) + 1 + i // 18 % 3) % len(labels)]
            target = target.parents[1] / label / path.name
            right[str(target.relative_to(tmp_path / "pictures"))] = path.parent.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return right


def test_planted_wrong_labels_are_found_and_can_be_corrected(
    planted: dict[str, str], lite0_weights_uri: str, tmp_path: Path
) -> None:
    # A correction of before, which the new file must not lose.
    before = {"path": "train/fruit/none.jpg", "new_label": "remove"}
    pictures = tmp_path / "pictures"
    dataset = plan(pictures, tmp_path, write_table(tmp_path / "before.csv", [before]))
    build_shards(dataset.dataset_uri, num_processes=1)
    complete_dataset(dataset.dataset_uri, limits=DataLimits())
    request = TrainingRequest(
        dataset_uri=dataset.dataset_uri,
        weights_uri=lite0_weights_uri,
        run_uri=str(tmp_path / "run"),
        training_id="t",
        checkpoint_id="c",
        settings=TrainingSettings(backbone="efficientnet_lite0", recipe="head", epochs=20),
    )
    train(request)
    output = tmp_path / "evaluation"

    evaluate(
        str(tmp_path / "run" / "model"),
        dataset.dataset_uri,
        str(output),
        run_uri=str(tmp_path / "run"),
    )

    with (output / "suspects.csv").open(encoding="utf-8", newline="") as file:
        kept, *found = csv.DictReader(file)
    assert {name: kept[name] for name in before} == before
    hits = [row for row in found if row["path"] in planted]
    # Few and hard pictures; benchmarks/suspects.py measures recall and precision.
    assert len(hits) >= 0.5 * len(planted)
    assert len(hits) >= 0.5 * len(found)
    assert [row["given_label"] for row in hits] == [Path(row["path"]).parent.name for row in hits]
    likely = [row["likely_label"] == planted[row["path"]] for row in hits]
    assert sum(likely) >= len(hits) - 1
    data = read_record(str(output / "report_data.json"), ReportData)
    assert data.suspects is not None
    assert data.suspects.num_suspects == len(found)
    assert [each.path for each in data.suspects.pictures] == [row["path"] for row in found]
    assert data.suspects.num_judged == data.suspects.num_examples == 132
    assert "Suspected wrong labels" in render_report(data)

    # A person who knows the right labels fills in the column, and adds what was not found.
    rows = [{**kept}, *({"path": path, "new_label": right} for path, right in planted.items())]
    corrected = plan(pictures, tmp_path, write_table(tmp_path / "corrected.csv", rows))
    assert corrected.plan.dataset_id == plan(SAMPLE, tmp_path).plan.dataset_id
    assert corrected.plan.dataset_id != dataset.plan.dataset_id
