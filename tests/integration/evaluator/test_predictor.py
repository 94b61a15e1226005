"""`repot predict` with a real model: model locations, output formats, and damaged pictures."""

import csv
import dataclasses
import io
import json
import math
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from repot import layout, storage
from repot.errors import ModelError, UsageError
from repot.evaluator.evaluate import evaluate_run
from repot.evaluator.outcomes import read_outcomes
from repot.evaluator.versions import promote
from repot.json_record import write_record
from repot.model_registry import ChampionChange
from repot.model_spec import Fingerprint, FixedAnswer, ModelSpec, View
from repot.predictions import predict_files
from repot.predictor import find_model, load_model, read_labels
from repot.preprocessing import decode_jpeg, view_picture
from repot_pipelines.commands.predict import predict_command
from tests.integration.evaluator.colours import (
    COLOURS,
    IMAGE_SIZE,
    MakeRun,
    save_model,
    save_picture,
)

EXPECTED_PROBABILITY = math.exp(8) / (math.exp(8) + 2)


@pytest.fixture
def model(tmp_path: Path) -> str:
    """Return a model folder."""
    save_model(tmp_path / "model", tuple(COLOURS), tuple(COLOURS))
    return str(tmp_path / "model")


def predict(
    model: str,
    *pictures: Path | str,
    output_format: str = "jsonl",
    top: int = 1,
    output_path: Path | None = None,
) -> tuple[int, list[str]]:
    lines: list[str] = []
    counts = predict_files(
        model,
        [str(picture) for picture in pictures],
        output_format=output_format,
        top=top,
        write=lines.append,
        output_path=output_path,
    )
    return counts.exit_code, lines


def test_find_model_accepts_every_location_of_a_model(
    make_run: MakeRun, storage_uri: str, tmp_path: Path
) -> None:
    run_uri = make_run("first")
    evaluate_run(storage_uri=storage_uri, dataset_id="colours", training_id="first", model_name="m")
    change = ChampionChange(version="first", action="promote", time="2026-11-27T14:05:00Z")
    promote(storage_uri, "m", change, expected_champion="none")
    version_uri = layout.model_uri(storage_uri, "m", "first")
    storage.copy_folder(version_uri, str(tmp_path / "output" / "model"))

    for location in (
        f"{storage_uri}/models/m/champion.json",
        f"{storage_uri}/models/m",
        version_uri,
    ):
        assert find_model(location) == version_uri
    for location in (run_uri, f"{run_uri}/model", f"{run_uri}/model/model.keras"):
        assert find_model(location) == f"{run_uri}/model"
    assert find_model(str(tmp_path / "output")) == str(tmp_path / "output" / "model")


def test_missing_model_is_an_error_with_the_locations_checked(tmp_path: Path) -> None:
    with pytest.raises(
        ModelError,
        match=rf"got {tmp_path}, but there is no {tmp_path}/model\.keras and {tmp_path}/model/",
    ):
        find_model(str(tmp_path))


def test_picture_given_as_model_is_an_error_with_the_order_of_arguments(tmp_path: Path) -> None:
    save_picture(tmp_path / "green.png", "green")

    with pytest.raises(
        ModelError,
        match=r"green\.png is another file\. Pass the model before the pictures: `repot predict",
    ):
        find_model(str(tmp_path / "green.png"))


def test_folder_in_a_list_is_a_problem_with_advice(model: str, tmp_path: Path) -> None:
    code, lines = predict(model, f"{tmp_path}/")

    assert code == 1
    assert json.loads(lines[0])["problem"] == (
        f"{tmp_path}/ is a folder. Name it as an argument, not in a list."
    )


def test_invalid_champion_json_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "champion.json").write_text('{"version": "x"}')

    with pytest.raises(
        ModelError, match=r"champion\.json must be a JSON object of model_name, version"
    ):
        find_model(str(tmp_path / "champion.json"))


def test_invalid_keras_file_is_an_error(model: str) -> None:
    Path(model, "model.keras").write_bytes(b"no model")

    with pytest.raises(ModelError, match=r"model\.keras must be a Keras model"):
        load_model(model)


def test_labels_that_do_not_match_the_model_are_an_error(model: str) -> None:
    Path(model, "labels.txt").write_text("red\n")

    with pytest.raises(ModelError, match=r"got 3 outputs for 1 labels"):
        load_model(model)


def test_probabilities_are_in_the_order_of_the_labels(model: str, tmp_path: Path) -> None:
    save_picture(tmp_path / "green.jpg", "green")

    scores = load_model(model).predict([(tmp_path / "green.jpg").read_bytes()])

    assert scores.probabilities.shape == (1, 3)
    assert scores.probabilities.sum() == pytest.approx(1)
    assert scores.probabilities[0, 1] == pytest.approx(EXPECTED_PROBABILITY, abs=1e-3)
    assert load_model(model).predict([]).probabilities.shape == (0, 3)


def test_model_of_an_earlier_version_calls_no_picture_unlike(model: str, tmp_path: Path) -> None:
    save_picture(tmp_path / "green.jpg", "green")
    picture = (tmp_path / "green.jpg").read_bytes()

    assert load_model(model).spec.calibration is None
    assert load_model(model).predict([picture] * 3).unlike.tolist() == [0, 0, 0]


def test_prepared_batch_has_the_pixels_that_evaluation_sees(model: str, tmp_path: Path) -> None:
    choices: tuple[tuple[View, ...], ...] = (("central",), ("whole", "central", "padded"))
    for views in choices:
        spec = ModelSpec(backbone="", image_size=IMAGE_SIZE, views=views)
        loaded = dataclasses.replace(load_model(model), spec=spec)
        pixels = np.random.default_rng(0).integers(0, 256, (2, 45, 61, 3), np.uint8)
        for i, each in enumerate(pixels):
            Image.fromarray(each).save(tmp_path / f"{i}.jpg")
        jpegs = [(tmp_path / f"{i}.jpg").read_bytes() for i in range(2)]

        batch = loaded.batch_preparer()(jpegs)

        assert len(batch) == len(views)
        for view, name in zip(batch, views, strict=True):
            expected = [view_picture(decode_jpeg(jpeg), IMAGE_SIZE, name) for jpeg in jpegs]
            np.testing.assert_array_equal(view.numpy(), np.stack(expected))


@pytest.mark.parametrize("num_pictures", [31, 32, 33])
def test_predictions_keep_the_order_across_batches(
    model: str, tmp_path: Path, num_pictures: int
) -> None:
    names = [list(COLOURS)[i % 3] for i in range(num_pictures)]
    for i, name in enumerate(names):
        save_picture(tmp_path / f"{i}.png", name)

    code, lines = predict(model, *(tmp_path / f"{i}.png" for i in range(num_pictures)))

    assert code == 0
    assert [json.loads(line)["names"][0]["label"] for line in lines] == names


def test_invalid_uri_does_not_stop_the_other_predictions(model: str, tmp_path: Path) -> None:
    save_picture(tmp_path / "green.png", "green")

    code, lines = predict(model, "ftp://host/a.jpg", tmp_path / "green.png")

    odd, good = (json.loads(line) for line in lines)
    assert code == 1
    assert "ftp://host/a.jpg" in odd["problem"]
    assert good["names"][0]["label"] == "green"


def test_predictions_equal_those_of_the_evaluation(
    make_run: MakeRun, storage_uri: str, pictures: Path, tmp_path: Path
) -> None:
    run_uri = make_run("first")
    evaluate_run(storage_uri=storage_uri, dataset_id="colours", training_id="first", model_name="m")
    rows = read_outcomes(f"{run_uri}/evaluation/predictions.csv")
    paths = [pictures / "validation" / row.label / row.filename for row in rows]

    _, lines = predict(run_uri, *paths)

    predictions = [json.loads(line)["names"][0] for line in lines]
    assert [label["label"] for label in predictions] == [row.predicted for row in rows]
    np.testing.assert_allclose(
        [label["probability"] for label in predictions],
        [row.probability for row in rows],
        rtol=1e-6,
    )


def test_damaged_picture_is_reported_and_the_others_are_predicted(
    model: str, tmp_path: Path
) -> None:
    save_picture(tmp_path / "good.jpg", "red")
    (tmp_path / "bad.jpg").write_bytes((tmp_path / "good.jpg").read_bytes()[:150])
    good, bad, missing = tmp_path / "good.jpg", tmp_path / "bad.jpg", tmp_path / "missing.jpg"

    code, lines = predict(model, bad, good, missing, good)

    answers = [json.loads(line) for line in lines]
    assert code == 1
    assert [answer["picture"] for answer in answers] == [
        str(bad),
        str(good),
        str(missing),
        str(good),
    ]
    assert "the file ends before the picture is complete" in answers[0]["problem"]
    assert answers[1]["names"][0]["label"] == answers[3]["names"][0]["label"] == "red"
    assert str(missing) in answers[2]["problem"]


def test_csv_has_one_line_per_label(model: str, tmp_path: Path) -> None:
    save_picture(tmp_path / "a, b.jpg", "blue")

    code, lines = predict(model, tmp_path / "a, b.jpg", tmp_path, output_format="csv", top=3)

    rows = list(csv.DictReader(io.StringIO("\n".join(lines))))
    assert code == 1
    assert [(row["picture"], row["rank"], row["label"]) for row in rows] == [
        (str(tmp_path / "a, b.jpg"), "1", "blue"),
        (str(tmp_path / "a, b.jpg"), "2", rows[1]["label"]),
        (str(tmp_path / "a, b.jpg"), "3", rows[2]["label"]),
        (str(tmp_path), "", ""),
    ]
    assert {row["label"] for row in rows[:3]} == set(COLOURS)
    assert rows[3]["problem"]


def test_output_file_is_followed_by_its_progress_and_a_summary(model: str, tmp_path: Path) -> None:
    save_picture(tmp_path / "red.png", "red")
    output = tmp_path / "out.csv"
    names = [str(tmp_path / name) for name in ("red.png", "missing.jpg")]

    done = CliRunner().invoke(
        predict_command, [model, *names, "--output", str(output)], standalone_mode=False
    )

    assert done.return_value == 1
    assert done.stdout == f"{output}: 2 pictures; 1 cannot be used, see `problem`\n"
    assert done.stderr.splitlines()[-1] == "predict: 2/2 pictures"
    assert "summary" not in output.read_text()
    assert len(output.read_text().splitlines()) == 3


def test_table_columns_are_aligned(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("red", "green"):
        save_picture(tmp_path / f"{name}.jpg", name)

    code, lines = predict(model, "red.jpg", "green.jpg", output_format="table")

    assert code == 0
    assert lines == ["red.jpg    0.999 red", "green.jpg  0.999 green"]


def test_top_larger_than_the_number_of_labels_returns_all_labels(
    model: str, tmp_path: Path
) -> None:
    transparent = Image.new("RGBA", (40, 40), (0, 0, 255, 255))
    transparent.save(tmp_path / "blue.png")

    code, lines = predict(model, tmp_path / "blue.png", top=9)

    assert code == 0
    labels = [name["label"] for name in json.loads(lines[0])["names"]]
    assert labels[0] == "blue"
    assert sorted(labels) == ["blue", "green", "red"]


@pytest.mark.parametrize("label", ["\x1b[31mred", "re\x07d", "re\x9bd"])
def test_labels_with_control_characters_are_rejected(tmp_path: Path, label: str) -> None:
    (tmp_path / "labels.txt").write_text(f"blue\n{label}\n", encoding="utf-8")

    with pytest.raises(ModelError, match=r"line 2 of .*labels\.txt is") as raised:
        read_labels(str(tmp_path))

    assert str(raised.value).isprintable()


def test_model_without_a_spec_takes_the_central_crop(model: str) -> None:
    assert load_model(model).spec.views == ("central",)


def test_spec_of_another_model_is_an_error_with_both_sides(model: str) -> None:
    spec = ModelSpec(backbone="", image_size=IMAGE_SIZE, views=("whole", "padded"))
    write_record(f"{model}/model_spec.json", spec)

    with pytest.raises(ModelError, match=r"one input per view.*got 2 views"):
        load_model(model)


FIRST = FixedAnswer(outputs=(0, 1), probabilities=(1 / 3, 1 / 3))
# Waves have the same mean in every channel, so these models know no label that is more probable.
SECOND = dataclasses.replace(FIRST, outputs=(2,), probabilities=(1 / 3 + 0.009,))


def set_fingerprint(model: str, *answers: FixedAnswer) -> None:
    fingerprint = Fingerprint(versions={"keras": "1.0"}, answers=answers)
    spec = ModelSpec(backbone="", image_size=IMAGE_SIZE, fingerprint=fingerprint)
    write_record(f"{model}/model_spec.json", spec)


@pytest.mark.parametrize(
    ("answers", "problem"),
    [
        ((FIRST, SECOND), ""),
        (
            (FIRST, dataclasses.replace(SECOND, probabilities=(0.3231,))),
            "the probability of label 3 was 0.3231 and is 0.33",
        ),
        ((FIRST, dataclasses.replace(SECOND, unlike=0.009)), ""),
        ((FIRST, dataclasses.replace(SECOND, unlike=0.011)), "`unlike` was 0.0110 and is 0.0000"),
        ((FIRST, dataclasses.replace(SECOND, unlike=100.0)), "`unlike` was 100.0000"),
        ((FIRST,), "must have the answers of its 3 labels for 2 pictures"),
        ((FIRST, dataclasses.replace(SECOND, outputs=(3,))), "must have the answers of its 3"),
        ((FIRST, dataclasses.replace(SECOND, outputs=(-1,))), "must have the answers of its 3"),
        ((FIRST, dataclasses.replace(SECOND, outputs=())), "must have the answers of its 3"),
    ],
)
def test_model_that_answers_otherwise_than_its_fingerprint_is_refused(
    model: str, answers: tuple[FixedAnswer, ...], problem: str
) -> None:
    set_fingerprint(model, *answers)
    if not problem:
        load_model(model)
        return

    with pytest.raises(ModelError, match=re.escape(problem)):
        load_model(model)


def test_damaged_spec_is_an_error_that_names_the_file(model: str) -> None:
    Path(model, "model_spec.json").write_text('{"views": ["upside_down"]}')

    with pytest.raises(ModelError, match=r"model_spec\.json must be a valid ModelSpec"):
        load_model(model)


KILLED = """
import sys
from pathlib import Path
from repot.predictions import predict_files
model, output, *pictures = sys.argv[1:]
predict_files(model, pictures * 2000, output_format="csv", top=2, write=print,
              output_path=Path(output))
"""


def test_killed_prediction_goes_on_where_it_was(model: str, tmp_path: Path) -> None:
    for name in COLOURS:
        save_picture(tmp_path / f"{name}.png", name)
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    pictures = [tmp_path / name for name in ("red.png", "bad.jpg", "green.png", "blue.png")]
    output = tmp_path / "predictions.csv"
    command = [sys.executable, "-c", KILLED, model, str(output), *map(str, pictures)]
    with subprocess.Popen(command) as process:
        deadline = time.monotonic() + 120
        while not (output.exists() and output.stat().st_size > 10_000):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
    num_bytes = output.stat().st_size

    every = pictures * 2000
    code, lines = predict(model, *every, output_format="csv", top=2, output_path=output)

    assert (code, lines) == (1, [])
    assert output.stat().st_size > num_bytes
    _, expected = predict(model, *pictures, output_format="csv", top=2)
    assert output.read_text().splitlines() == [expected[0], *expected[1:] * 2000]
    # Complete: neither model nor pictures are needed again, only the answer.
    assert predict(model, *every, output_format="csv", top=2, output_path=output)[0] == 1
    options = ["--output", str(output), "--top", "2"]
    done = CliRunner().invoke(
        predict_command, [model, *map(str, every), *options], standalone_mode=False
    )
    assert (done.return_value, done.stdout) == (
        1,
        (
            f"{output}: 8,000 pictures; 2,000 cannot be used, see `problem`; 8,000 were in the "
            "file already\n"
        ),
    )
    with pytest.raises(UsageError, match=r"has top=2, this run top=3\. Name another file"):
        predict(model, *every, output_format="csv", top=3, output_path=output)
    Path(model, "labels.txt").write_text("red\ngreen\nviolet\n")
    with pytest.raises(UsageError, match=r"has model_digest='.*, this run model_digest='"):
        predict(model, *every, output_format="csv", top=2, output_path=output)
