"""Evaluation of a real model on real shards, whose scores are known beforehand."""

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
from repot.evaluator import scoring
from repot.evaluator.evaluate import evaluate, evaluate_folder, evaluate_run
from repot.evaluator.outcomes import read_outcomes
from tests.integration.evaluator.colours import NUM_VALIDATION, MakeRun, save_model

RIGHT = math.exp(8) / (math.exp(8) + 2)
WRONG = 1 / (math.exp(8) + 2)


def evaluate_in(run_uri: str, dataset: Path, output: Path, **options: Any) -> dict[str, Any]:
    return evaluate(f"{run_uri}/model", str(dataset), str(output), run_uri=run_uri, **options)


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

    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == metrics
    assert metrics["num_examples"] == NUM_VALIDATION
    assert metrics["precision_at_1"] == 11 / 12
    assert metrics["precision_at_1_interval"] == pytest.approx([0.6461, 0.9851], abs=1e-4)
    assert (metrics["recall_at_5"], metrics["recall_k"]) == (1.0, 3)
    assert metrics["loss"] == pytest.approx(
        -(11 * math.log(RIGHT) + math.log(WRONG)) / 12, rel=0.02
    )
    assert metrics["labels"] == ["blue", "green", "red"]
    assert metrics["confusion_matrix"] == {
        "blue": {"blue": 3},
        "green": {"green": 4},
        "red": {"red": 4, "blue": 1},
    }
    assert [row["recall"] for row in metrics["per_class"]] == [1.0, 1.0, 0.8]
    assert (metrics["subset"], metrics["training_id"]) == ("validation", "first")
    rows = read_outcomes(str(tmp_path / "out" / "predictions.csv"))
    assert len({row.filename for row in rows}) == len(rows) == NUM_VALIDATION
    assert [row.filename for row in rows if not row.correct] == ["red_4.jpg"]


def test_evaluate_writes_a_report_that_shows_the_mistake(
    make_run: MakeRun, dataset: Path, tmp_path: Path
) -> None:
    evaluate_in(make_run("first"), dataset, tmp_path / "out")

    data = json.loads((tmp_path / "out" / "report_data.json").read_text())
    html = (tmp_path / "out" / "report.html").read_text()
    (mistake,) = data["mistakes"]
    assert (mistake["filename"], mistake["label"], mistake["guess"]) == ("red_4.jpg", "red", "blue")
    assert mistake["picture"] in html
    assert [row["validation_precision_at_1"] for row in data["history"]] == [None, 0.7]
    (rejected,) = data["data"]["rejected"]
    assert (rejected["count"], rejected["files"]) == (1, ["train/red/torn.jpg"])
    assert "train/red/torn.jpg" in html


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

    assert (metrics["num_examples"], metrics["num_correct"]) == (12, 11)


@pytest.mark.parametrize(
    ("num_examples", "scored"), [(1, 1), (11, 11), (12, 12), (500, 12), (0, 12)]
)
def test_num_examples_takes_the_first_and_never_more_than_there_are(
    make_run: MakeRun, dataset: Path, tmp_path: Path, num_examples: int, scored: int
) -> None:
    run_uri = make_run("first")
    evaluate_in(run_uri, dataset, tmp_path / "all")
    metrics = evaluate_in(run_uri, dataset, tmp_path / "out", num_examples=num_examples)

    first = read_outcomes(str(tmp_path / "all" / "predictions.csv"))[:scored]
    assert metrics["num_examples"] == scored
    assert read_outcomes(str(tmp_path / "out" / "predictions.csv")) == first


def test_only_the_surest_mistakes_are_shown(
    make_run: MakeRun, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "MAX_MISTAKES", 2)
    run_uri = make_run("turned", colours=("green", "blue", "red"))

    metrics = evaluate_in(run_uri, dataset, tmp_path / "out")

    rows = [
        row for row in read_outcomes(str(tmp_path / "out" / "predictions.csv")) if not row.correct
    ]
    worst = sorted(rows, key=lambda row: -row.probability)[:2]
    data = json.loads((tmp_path / "out" / "report_data.json").read_text())
    assert metrics["num_correct"] == 0
    assert [mistake["filename"] for mistake in data["mistakes"]] == [row.filename for row in worst]


def test_evaluate_writes_the_scalars_of_2016(
    make_run: MakeRun, dataset: Path, tmp_path: Path
) -> None:
    run_uri = make_run("first")
    evaluate_in(run_uri, dataset, tmp_path / "out")
    metrics = evaluate_in(run_uri, dataset, tmp_path / "out", num_examples=1)

    assert scalars(tmp_path / "out" / "events") == {
        "Precision @ 1": metrics["precision_at_1"],
        "Recall @ 5": 1.0,
    }
    assert len(list((tmp_path / "out" / "events").iterdir())) == 1


def test_finished_evaluation_is_looked_up_without_tensorflow(
    make_run: MakeRun, dataset: Path, tmp_path: Path
) -> None:
    run_uri = make_run("first")
    metrics = evaluate_in(run_uri, dataset, tmp_path / "out")
    program = (
        "import sys, json; from repot.evaluator.evaluate import evaluate;"
        "print(json.dumps(evaluate(*sys.argv[1:4], run_uri=sys.argv[4])));"
        "print({'tensorflow', 'keras', 'kfp'} & set(sys.modules))"
    )
    arguments = [f"{run_uri}/model", str(dataset), str(tmp_path / "out"), run_uri]

    lines = subprocess.run(
        [sys.executable, "-c", program, *arguments], check=True, capture_output=True, text=True
    ).stdout.splitlines()

    assert json.loads(lines[0]) == metrics
    assert lines[1] == "set()"


def test_evaluation_that_died_before_its_metrics_is_done_again_with_the_same_bytes(
    make_run: MakeRun, dataset: Path, tmp_path: Path
) -> None:
    run_uri, output = make_run("first"), tmp_path / "out"
    evaluate_in(run_uri, dataset, output)
    names = ("metrics.json", "predictions.csv", "report_data.json", "report.html")
    whole = {name: (output / name).read_bytes() for name in names}
    (output / "metrics.json").unlink()
    (output / "predictions.csv").write_text("half a li")

    evaluate_in(run_uri, dataset, output)

    assert {name: (output / name).read_bytes() for name in names} == whole


def test_other_model_in_the_same_folder_replaces_the_evaluation(
    make_run: MakeRun, dataset: Path, tmp_path: Path
) -> None:
    evaluate_in(make_run("first"), dataset, tmp_path / "out")

    metrics = evaluate_in(
        make_run("turned", colours=("green", "blue", "red")), dataset, tmp_path / "out"
    )

    assert metrics["num_correct"] == 0
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == metrics


def test_train_subset_is_scored_on_the_training_pictures(
    make_run: MakeRun, dataset: Path, tmp_path: Path
) -> None:
    metrics = evaluate_in(make_run("first"), dataset, tmp_path / "out", subset="train")

    assert (metrics["subset"], metrics["num_examples"], metrics["precision_at_1"]) == (
        "train",
        6,
        1.0,
    )


def test_label_that_the_model_does_not_have_is_wrong_and_has_no_loss(
    make_run: MakeRun, dataset: Path, tmp_path: Path
) -> None:
    metrics = evaluate_in(
        make_run("other", labels=("crimson", "green", "blue")), dataset, tmp_path / "out"
    )

    assert metrics["num_correct"] == 7
    assert metrics["labels"] == ["blue", "green", "red", "crimson"]
    assert metrics["confusion_matrix"]["red"] == {"crimson": 4, "blue": 1}
    assert metrics["loss"] is None
    assert (tmp_path / "out" / "report.html").exists()


def test_evaluate_on_object_storage(
    make_run: MakeRun, dataset: Path, gcs: str, tmp_path: Path
) -> None:
    local = evaluate_in(make_run("first"), dataset, tmp_path / "out")
    run_uri = f"{gcs}/runs/first"
    storage.copy_folder(make_run("second"), run_uri)
    storage.copy_folder(str(dataset), f"{gcs}/data")

    metrics = evaluate(f"{run_uri}/model", f"{gcs}/data", f"{run_uri}/evaluation", run_uri=run_uri)

    assert metrics["confusion_matrix"] == local["confusion_matrix"]
    assert storage.read_json(f"{run_uri}/evaluation/metrics.json") == metrics


def test_evaluate_folder_takes_a_training_folder_or_any_model(
    make_run: MakeRun, dataset: Path, tmp_path: Path
) -> None:
    run_uri = make_run("first")

    known = evaluate_folder(run_uri, str(dataset), str(tmp_path / "known"))
    bare = evaluate_folder(f"{run_uri}/model", str(dataset), str(tmp_path / "bare"), num_examples=3)

    assert (known["training_id"], known["num_examples"]) == ("first", 12)
    assert (bare["training_id"], bare["num_examples"]) == ("", 3)


def test_evaluate_run_publishes_and_gives_the_component_what_it_logs(
    make_run: MakeRun, storage_uri: str
) -> None:
    make_run("first")

    scores = evaluate_run(
        storage_uri=storage_uri, dataset_id="colours", training_id="first", model_name="colours"
    )

    assert scores.metrics["num_correct"] == 11
    assert scores.confusion_matrix(max_labels=100) == (
        ["blue", "green", "red"],
        [[3, 0, 0], [0, 4, 0], [1, 0, 4]],
    )
    assert scores.confusion_matrix(max_labels=2) == (["blue", "red"], [[3, 0], [1, 4]])
    assert scores.report_html.startswith("<!doctype html>")
    assert storage.exists(layout.model_uri(storage_uri, "colours", "first") + "/model.json")


def test_damaged_shard_is_named(make_run: MakeRun, dataset: Path, tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(dataset, tmp_path / "damaged"))
    shard = damaged / "validation-00001-of-00003"
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)

    with pytest.raises(CorruptShardError, match="validation-00001-of-00003"):
        evaluate_in(make_run("first"), damaged, tmp_path / "out")
    assert not (tmp_path / "out" / "metrics.json").exists()


def test_what_cannot_be_evaluated_is_said(make_run: MakeRun, dataset: Path, tmp_path: Path) -> None:
    run_uri = make_run("first")
    with pytest.raises(
        UsageError, match=r"subset must be one of train, validation; got subset='test'"
    ) as caught:
        evaluate_in(run_uri, dataset, tmp_path / "out", subset="test", num_examples=-1)
    assert len(caught.value.problems) == 2
    with pytest.raises(DataError, match="Build the shards first"):
        evaluate_in(run_uri, tmp_path / "nothing", tmp_path / "out")
    with pytest.raises(ModelError, match=r"no .*nothing/model/model\.keras"):
        evaluate_in(str(tmp_path / "nothing"), dataset, tmp_path / "out")


def test_model_that_does_not_answer_with_numbers_is_said(dataset: Path, tmp_path: Path) -> None:
    import keras
    import numpy as np

    save_model(tmp_path / "model", ["red", "green", "blue"], ["red", "green", "blue"])
    model = keras.models.load_model(tmp_path / "model" / "model.keras")
    model.get_layer("logits").set_weights(
        [np.full((3, 4), np.nan, np.float32), np.zeros(4, np.float32)]
    )
    model.save(tmp_path / "model" / "model.keras")

    with pytest.raises(
        ModelError, match=r"must answer with numbers; for the picture \w+_\d\.jpg it does not"
    ):
        evaluate(str(tmp_path / "model"), str(dataset), str(tmp_path / "out"))
