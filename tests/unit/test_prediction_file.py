"""A file of predictions is continued after every interruption, and never mixes two runs."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import pytest

from repot.errors import StorageError, UsageError
from repot.prediction_file import PredictionRun, open_prediction_file
from repot.predictions import FORMATS, LabelProbability, Prediction

LABELS = (LabelProbability('cat, or\n"dog"', 0.75), LabelProbability("=1", 0.25))
NAMES = ("a.jpg", "a.jpg", 'b "c",\n d.jpg', "\udcff.jpg", "\u00e9.jpg", "bad.jpg", "e.jpg")


def make_run(**changes: object) -> PredictionRun:
    values = {"model": "/m", "model_digest": "d", "output_format": "csv", "top": 2}
    return PredictionRun.from_json(values | changes)


def write(
    path: Path, run: PredictionRun, names: Sequence[str] = NAMES, *, limit: int | None = None
) -> int:
    """Write predictions as `repot predict` does; return the number of problems in the file."""
    remaining = iter(names)
    with open_prediction_file(path, run, remaining) as file:
        num_problems = file.num_problems
        predictions = [
            Prediction(picture=name, problem="the file\nis empty")
            if name == "bad.jpg"
            else Prediction(picture=name, labels=LABELS[: run.top])
            for name in remaining
        ]
        lines = FORMATS[run.output_format](predictions, names)
        if file.has_header:
            next(lines)
        for line in itertools.islice(lines, limit):
            file.write(line)
    return num_problems + sum(bool(each.problem) for each in predictions)


@pytest.mark.parametrize(("output_format", "top"), [("csv", 2), ("jsonl", 1)])
def test_file_cut_anywhere_is_completed(output_format: str, top: int, tmp_path: Path) -> None:
    path, run = tmp_path / "out", make_run(output_format=output_format, top=top)
    write(path, run)
    whole = path.read_bytes()

    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])

        assert write(path, run) == 1
        assert path.read_bytes() == whole, f"cut at {size}"


def test_complete_lines_are_not_predicted_again(tmp_path: Path) -> None:
    write(tmp_path / "out", make_run(), limit=6)  # a header, two pictures, half of the third
    remaining = iter(NAMES)

    with open_prediction_file(tmp_path / "out", make_run(), remaining):
        assert list(remaining) == list(NAMES[2:])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_digest": "e"}, "has model_digest='d', this run model_digest='e'"),
        ({"top": 3}, "has top=2, this run top=3"),
        ({"output_format": "jsonl"}, "has output_format='csv', this run output_format='jsonl'"),
    ],
)
def test_other_run_is_refused(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    write(tmp_path / "out", make_run())
    before = (tmp_path / "out").read_bytes()

    with pytest.raises(UsageError, match=message):
        write(tmp_path / "out", make_run(**changes))

    assert (tmp_path / "out").read_bytes() == before


def test_model_may_be_moved(tmp_path: Path) -> None:
    write(tmp_path / "out", make_run(), limit=3)
    write(tmp_path / "out", make_run(model="/elsewhere"))
    assert (tmp_path / "out").read_bytes().count(b"bad.jpg") == 1


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("a.jpg", "b.jpg"), "picture 2 of .*out is 'a.jpg', but the list has 'b.jpg'"),
        (("a.jpg",), "picture 2 of .*out is 'a.jpg', but the list ends before"),
    ],
)
def test_other_list_is_refused(names: Sequence[str], message: str, tmp_path: Path) -> None:
    write(tmp_path / "out", make_run())
    before = (tmp_path / "out").read_bytes()

    with pytest.raises(UsageError, match=message):
        write(tmp_path / "out", make_run(), names)

    assert (tmp_path / "out").read_bytes() == before


def test_foreign_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("my thesis")

    with pytest.raises(UsageError, match=r"exists, and out\.run\.json beside it does not"):
        write(tmp_path / "out", make_run())

    assert (tmp_path / "out").read_text() == "my thesis"


def test_second_process_is_refused(tmp_path: Path) -> None:
    with (
        open_prediction_file(tmp_path / "out", make_run(), iter(())),
        pytest.raises(UsageError, match="another one is writing"),
    ):
        write(tmp_path / "out", make_run())


def test_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"--output must be a file that can be written; .*none"):
        write(tmp_path / "none" / "out", make_run())
