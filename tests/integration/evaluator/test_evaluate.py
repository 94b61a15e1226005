"""Evaluation of a real model with known scores on real shards."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from repot import layout, storage
from repot.errors import CorruptShardError, DataError, ModelError, UsageError
from repot.evaluation_record import EvaluationRecord
from repot.evaluator import scoring
from repot.evaluator.evaluate import evaluate, evaluate_folder, evaluate_run
from repot.evaluator.outcomes import read_outcomes
from repot.evaluator.report.data import ReportData
from repot.json_record import read_record, write_record
from repot.model_spec import ModelCalibration, ModelSpec
from tests.integration.evaluator.colours import (
    IMAGE_SIZE,
    NUM_VALIDATION,
    MakeRun,
    save_model,
)
from tests.integration.evaluator.conftest import build_dataset

RIGHT = math.exp(8) / (math.exp(8) + 2)
WRONG = 1 / (math.exp(8) + 2)


def evaluate_in(run_uri: str, dataset: Path, output: Path, **options: Any) -> EvaluationRecord:
    return evaluate(f"{run_uri}/model", str(dataset), str(output), run_uri=run_uri, **options)


def read_metrics(output: Path) -> EvaluationRecord:
    return EvaluationRecord.from_text((output / "metrics.json").read_text())


def read_data(output: Path) -> ReportData:
    return ReportData.from_text((output / "report_data.json").read_text())


def scalars(folder: Path) -> dict[str, float]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util import tensor_util

    events = EventAccumulator(str(folder)).Reload()
    return {
        tag: float(tensor_util.make_ndarray(events.Tensors(tag)[-1].tensor_proto))
        for tag in events.Tags()["tensors"]
    }


def test_evaluate_scores_every_example_once(
    make_run: MakeRun, dataset: Path, tmp_path: Path
) -> None:
    metrics = evaluate_in(make_run("first"), dataset, tmp_path / "out")

    assert read_metrics(tmp_path / "out") == metrics
    assert metrics.num_examples == NUM_VALIDATION
    assert metrics.precision_at_1 == 11 / 12
    assert metrics.precision_at_1_interval == pytest.approx((0.6461, 0.9851), abs=1e-4)
    assert (metrics.recall_at_5, metrics.recall_k) == (1.0, 3)
    assert metrics.loss == pytest.approx(-(11 * math.log(RIGHT) + math.log(WRONG)) / 12, rel=0.02)
    assert metrics.labels == ("blue", "green", "red")
    assert metrics.confusion_matrix == {
        "blue": {"blue": 3},
        "green": {"green": 4},
        "red": {"red": 4, "blue": 1},
    }
    assert [row.recall for row in metrics.per_class] == [1.0, 1.0, 0.8]
    assert (metrics.subset, metrics.training_id) == ("validation", "first")
    rows = read_outcomes(str(tmp_path / "out" / "predictions.csv"))
    assert len({row.filename for row in rows}) == len(rows) == NUM_VALIDATION
    assert [row.filename for row in rows if not row.correct] == ["red_4.jpg"]


def test_report_shows_the_mistake_and_the_rejected_file(
    make_run: MakeRun, dataset: Path, tmp_path: Path
) -> None:
    evaluate_in(make_run("first"), dataset, tmp_path / "out")

    data = read_data(tmp_path / "out")
    html = (tmp_path / "out" / "report.html").read_text()
    (mistake,) = data.mistakes
    outcome = mistake.outcome
    assert (outcome.filename, outcome.label, outcome.predicted) == ("red_4.jpg", "red", "blue")
    assert mistake.thumbnail in html
    assert [row.validation_precision_at_1 for row in data.history] == [None, 0.7]
    (rejected,) = data.dataset.rejected
    assert (rejected.num_files, rejected.files) == (1, ("train/red/torn.jpg",))
    assert "train/<wbr>red/<wbr>torn.<wbr>jpg" in html


@pytest.mark.parametrize("batch_size", [NUM_VALIDATION - 1, NUM_VALIDATION, NUM_VALIDATION + 1, 5])
def test_scores_do_not_depend_on_the_batch_size(
    make_run: MakeRun,
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    batch_size: int,
) -> None:
    monkeypatch.setattr(scoring, "BATCH_SIZE", batch_size)

    metrics = evaluate_in(make_run("first"), dataset, tmp_path / "out")

    assert (metrics.num_examples, metrics.num_correct) == (12, 11)


@pytest.mark.parametrize(
    ("num_examples", "scored"), [(1, 1), (11, 11), (12, 12), (500, 12), (0, 12)]
)
def test_num_examples_scores_the_first_examples(
    make_run: MakeRun, dataset: Path, tmp_path: Path, num_examples: int, scored: int
) -> None:
    run_uri = make_run("first")
    evaluate_in(run_uri, dataset, tmp_path / "all")
    metrics = evaluate_in(run_uri, dataset, tmp_path / "out", num_examples=num_examples)

    first = read_outcomes(str(tmp_path / "all" / "predictions.csv"))[:scored]
    assert metrics.num_examples == scored
    assert read_outcomes(str(tmp_path / "out" / "predictions.csv")) == first


def test_report_shows_the_most_confident_mistakes(
    make_run: MakeRun, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "MAX_MISTAKES", 2)
    run_uri = make_run("turned", colours=("green", "blue", "red"))

    metrics = evaluate_in(run_uri, dataset, tmp_path / "out")

    rows = [
        row for row in read_outcomes(str(tmp_path / "out" / "predictions.csv")) if not row.correct
    ]
    worst = sorted(rows, key=lambda row: -row.probability)[:2]
    mistakes = read_data(tmp_path / "out").mistakes
    assert metrics.num_correct == 0
    assert [mistake.outcome.filename for mistake in mistakes] == [row.filename for row in worst]


def test_tensorboard_scalars_have_the_tags_of_2016(
    make_run: MakeRun, dataset: Path, tmp_path: Path
) -> None:
    run_uri = make_run("first")
    evaluate_in(run_uri, dataset, tmp_path / "out")
    metrics = evaluate_in(run_uri, dataset, tmp_path / "out", num_examples=1)

    assert scalars(tmp_path / "out" / "events") == {
        "Precision @ 1": metrics.precision_at_1,
        "Recall @ 5": 1.0,
    }
    assert len(list((tmp_path / "out" / "events").iterdir())) == 1


def test_finished_evaluation_is_read_without_tensorflow(
    make_run: MakeRun, dataset: Path, tmp_path: Path
) -> None:
    run_uri = make_run("first")
    metrics = evaluate_in(run_uri, dataset, tmp_path / "out")
    program = (
        "import sys; from repot.evaluator.evaluate import evaluate;"
        "print(evaluate(*sys.argv[1:4], run_uri=sys.argv[4]).to_text());"
        "print({'tensorflow', 'keras', 'kfp'} & set(sys.modules))"
    )
    arguments = [f"{run_uri}/model", str(dataset), str(tmp_path / "out"), run_uri]

    lines = subprocess.run(
        [sys.executable, "-c", program, *arguments], check=True, capture_output=True, text=True
    ).stdout.splitlines()

    assert EvaluationRecord.from_text(lines[0]) == metrics
    assert lines[1] == "set()"


def test_interrupted_evaluation_is_repeated_with_the_same_bytes(
    make_run: MakeRun, dataset: Path, tmp_path: Path
) -> None:
    run_uri, output = make_run("first"), tmp_path / "out"
    evaluate_in(run_uri, dataset, output)
    names = ("metrics.json", "predictions.csv", "report_data.json", "report.html")
    expected = {name: (output / name).read_bytes() for name in names}
    (output / "metrics.json").unlink()
    (output / "predictions.csv").write_text("half a li")

    evaluate_in(run_uri, dataset, output)

    assert {name: (output / name).read_bytes() for name in names} == expected


def test_evaluation_of_another_model_replaces_the_one_in_the_folder(
    make_run: MakeRun, dataset: Path, tmp_path: Path
) -> None:
    evaluate_in(make_run("first"), dataset, tmp_path / "out")

    metrics = evaluate_in(
        make_run("turned", colours=("green", "blue", "red")), dataset, tmp_path / "out"
    )

    assert metrics.num_correct == 0
    assert read_metrics(tmp_path / "out") == metrics


def test_changed_promises_of_the_same_weights_are_evaluated_again(
    make_run: MakeRun, dataset: Path, tmp_path: Path
) -> None:
    run_uri = make_run("first")
    before = evaluate_in(run_uri, dataset, tmp_path / "out")
    calibration = ModelCalibration(
        method="a",
        num_examples=10,
        error_before=0.1,
        error_after=0.1,
        coverage=0.8,
        set_threshold=0.5,
        mean_set_size=1.0,
        unlike_rate=0.05,
    )
    spec = ModelSpec(backbone="", image_size=IMAGE_SIZE, calibration=calibration)
    write_record(f"{run_uri}/model/model_spec.json", spec)

    after = evaluate_in(run_uri, dataset, tmp_path / "out")

    assert before.promise is None
    assert after.promise is not None
    assert after.promise.promised == calibration


def test_metrics_with_other_fields_are_replaced(
    make_run: MakeRun, dataset: Path, tmp_path: Path
) -> None:
    run_uri, output = make_run("first"), tmp_path / "out"
    metrics = evaluate_in(run_uri, dataset, output)
    (output / "metrics.json").write_text(
        json.dumps({"evaluation_id": metrics.evaluation_id, "precision_at_1": 1.0})
    )

    assert evaluate_in(run_uri, dataset, output) == metrics
    assert read_metrics(output) == metrics


def test_train_subset_scores_the_training_pictures(
    make_run: MakeRun, dataset: Path, tmp_path: Path
) -> None:
    metrics = evaluate_in(make_run("first"), dataset, tmp_path / "out", subset="train")

    assert (metrics.subset, metrics.num_examples, metrics.precision_at_1) == (
        "train",
        6,
        1.0,
    )


def test_label_unknown_to_the_model_is_a_mistake_and_the_loss_is_none(
    make_run: MakeRun, dataset: Path, tmp_path: Path
) -> None:
    metrics = evaluate_in(
        make_run("other", labels=("crimson", "green", "blue")), dataset, tmp_path / "out"
    )

    assert metrics.num_correct == 7
    assert metrics.labels == ("blue", "green", "red", "crimson")
    assert metrics.confusion_matrix["red"] == {"crimson": 4, "blue": 1}
    assert metrics.loss is None
    assert (tmp_path / "out" / "report.html").exists()


def test_evaluate_on_object_storage(
    make_run: MakeRun, dataset: Path, gcs: str, tmp_path: Path
) -> None:
    local = evaluate_in(make_run("first"), dataset, tmp_path / "out")
    run_uri = f"{gcs}/runs/first"
    storage.copy_folder(make_run("second"), run_uri)
    storage.copy_folder(str(dataset), f"{gcs}/data")

    metrics = evaluate(f"{run_uri}/model", f"{gcs}/data", f"{run_uri}/evaluation", run_uri=run_uri)

    assert metrics.confusion_matrix == local.confusion_matrix
    assert read_record(f"{run_uri}/evaluation/metrics.json", EvaluationRecord) == metrics


def test_evaluate_folder_takes_a_training_folder_or_any_model(
    make_run: MakeRun, dataset: Path, tmp_path: Path
) -> None:
    run_uri = make_run("first")

    known = evaluate_folder(run_uri, str(dataset), str(tmp_path / "known"))
    bare = evaluate_folder(f"{run_uri}/model", str(dataset), str(tmp_path / "bare"), num_examples=3)

    assert (known.training_id, known.num_examples) == ("first", 12)
    assert (bare.training_id, bare.num_examples) == ("", 3)


def test_evaluate_run_publishes_the_version_and_returns_scores_and_report(
    make_run: MakeRun, storage_uri: str
) -> None:
    make_run("first")

    run = evaluate_run(
        storage_uri=storage_uri, dataset_id="colours", training_id="first", model_name="colours"
    )

    assert run.evaluation.num_correct == 11
    assert run.confusion_matrix(max_labels=100) == (
        ["blue", "green", "red"],
        [[3, 0, 0], [0, 4, 0], [1, 0, 4]],
    )
    assert run.confusion_matrix(max_labels=2) == (["blue", "red"], [[3, 0], [1, 4]])
    assert run.report_html.startswith("<!doctype html>")
    assert storage.exists(layout.model_uri(storage_uri, "colours", "first") + "/model.json")


def test_damaged_shard_raises_an_error_with_its_name(
    make_run: MakeRun, dataset: Path, tmp_path: Path
) -> None:
    damaged = Path(shutil.copytree(dataset, tmp_path / "damaged"))
    shard = damaged / "validation-00001-of-00003"
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)

    with pytest.raises(CorruptShardError, match="validation-00001-of-00003"):
        evaluate_in(make_run("first"), damaged, tmp_path / "out")
    assert not (tmp_path / "out" / "metrics.json").exists()


def test_invalid_requests_and_missing_files_raise_errors(
    make_run: MakeRun, dataset: Path, tmp_path: Path
) -> None:
    run_uri = make_run("first")
    with pytest.raises(
        UsageError, match=r"subset must be one of train, validation, test; got subset='dev'"
    ) as caught:
        evaluate_in(run_uri, dataset, tmp_path / "out", subset="dev", num_examples=-1)
    assert len(caught.value.problems) == 2
    with pytest.raises(DataError, match="must have at least one test example"):
        evaluate_in(run_uri, dataset, tmp_path / "out", subset="test")
    with pytest.raises(DataError, match="Build the shards first"):
        evaluate_in(run_uri, tmp_path / "nothing", tmp_path / "out")
    with pytest.raises(ModelError, match=r"nothing/model/model\.keras does not exist"):
        evaluate_in(str(tmp_path / "nothing"), dataset, tmp_path / "out")


def test_model_with_nan_outputs_raises_an_error(dataset: Path, tmp_path: Path) -> None:
    import keras
    import numpy as np

    save_model(tmp_path / "model", ["red", "green", "blue"], ["red", "green", "blue"])
    model = keras.models.load_model(tmp_path / "model" / "model.keras")
    model.get_layer("probabilities").set_weights(
        [np.full((3, 3), np.nan, np.float32), np.zeros(3, np.float32)]
    )
    model.save(tmp_path / "model" / "model.keras")

    with pytest.raises(
        ModelError,
        match=r"must predict finite probabilities; it does not for the picture \w+_\d\.jpg",
    ):
        evaluate(str(tmp_path / "model"), str(dataset), str(tmp_path / "out"))


def test_copies_of_training_pictures_are_not_scored(
    make_run: MakeRun, pictures: Path, tmp_path: Path
) -> None:
    dirty = tmp_path / "pictures"
    shutil.copytree(pictures, dirty)
    for i in range(2):
        shutil.copy(dirty / "train" / "red" / "0.jpg", dirty / "validation" / "blue" / f"{i}.jpg")
    build_dataset(dirty, tmp_path / "dataset", validation_shards=2)

    metrics = evaluate_in(make_run("first"), tmp_path / "dataset", tmp_path / "out")
    few = evaluate_in(make_run("second"), tmp_path / "dataset", tmp_path / "few", num_examples=7)

    # Without the two red pictures labelled blue, all scores are those of the clean dataset.
    assert (metrics.num_examples, metrics.num_correct) == (12, 11)
    assert metrics.excluded == few.excluded == {"copy_of_training": 2}
    assert few.num_examples == 7
    rows = (tmp_path / "out" / "predictions.csv").read_text().splitlines()
    assert len(rows) == 13
    report = (tmp_path / "out" / "report.html").read_text()
    assert "Not scored: 2 pictures (train has a copy of the picture)." in report


def test_split_of_copies_only_cannot_be_evaluated(
    make_run: MakeRun, pictures: Path, tmp_path: Path
) -> None:
    shutil.copytree(pictures / "train", tmp_path / "pictures" / "train")
    shutil.copytree(pictures / "train", tmp_path / "pictures" / "validation")
    build_dataset(tmp_path / "pictures", tmp_path / "dataset")

    with pytest.raises(
        DataError, match=r"none of which is scored \(6: train has a copy of the picture\)"
    ):
        evaluate_in(make_run("first"), tmp_path / "dataset", tmp_path / "out")
