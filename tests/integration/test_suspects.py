"""Wrong labels from end to end: planted, found by a training, corrected with suspects.csv."""

import csv
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


def plan(folder: Path, corrections: Path) -> PlannedDataset:
    return plan_dataset(
        PictureRoots(pictures_uri=str(SAMPLE)),
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
def planted() -> dict[str, tuple[str, str]]:
    """Return the right and the wrong label of every eighteenth picture, by path."""
    paths = sorted(str(path.relative_to(SAMPLE)) for path in SAMPLE.rglob("*.*"))
    labels = sorted({Path(path).parent.name for path in paths})
    wrong = {}
    for i, path in enumerate(paths[::18]):
        label = Path(path).parent.name
        wrong[path] = (label, labels[(labels.index(label) + 1 + i % 3) % len(labels)])
    return wrong


def test_planted_wrong_labels_are_found_and_can_be_corrected(
    planted: dict[str, tuple[str, str]], lite0_weights_uri: str, tmp_path: Path
) -> None:
    rows = [{"path": path, "new_label": wrong} for path, (_, wrong) in planted.items()]
    dataset = plan(tmp_path, write_table(tmp_path / "wrong.csv", rows))
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
        found = list(csv.DictReader(file))
    hits = [row for row in found if row["path"] in planted]
    # Few and hard pictures; benchmarks/suspects.py measures recall and precision.
    assert len(hits) >= 0.5 * len(planted)
    assert len(hits) >= 0.5 * len(found)
    assert {row["given_label"] for row in hits} <= {wrong for _, wrong in planted.values()}
    likely = [row["likely_label"] == planted[row["path"]][0] for row in hits]
    assert sum(likely) >= len(hits) - 1
    data = read_record(str(output / "report_data.json"), ReportData)
    assert data.suspects is not None
    assert data.suspects.num_suspects == len(found)
    assert [each.path for each in data.suspects.pictures] == [row["path"] for row in found]
    assert data.suspects.num_judged == data.suspects.num_examples == 132
    assert "Suspected wrong labels" in render_report(data)

    # A person who knows the right labels fills in the column.
    for row in hits:
        row["new_label"] = planted[row["path"]][0]
    missed = [path for path in planted if path not in {row["path"] for row in hits}]
    hits += [{"path": path, "new_label": planted[path][1]} for path in missed]
    corrected = plan(tmp_path, write_table(tmp_path / "corrected.csv", hits))
    only_missed = [{"path": path, "new_label": planted[path][1]} for path in missed]
    expected = plan(tmp_path, write_table(tmp_path / "missed.csv", only_missed))
    assert corrected.plan.dataset_id == expected.plan.dataset_id != dataset.plan.dataset_id
