"""report_data.json: dataset summary, history, thumbnails."""

import base64
import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from repot.data_checks import CheckedPicture, DataChecks, Outlier
from repot.errors import DataError, ModelError
from repot.evaluator.outcomes import ScoredPicture
from repot.evaluator.report.data import (
    MAX_FILES_NAMED,
    ReportData,
    build_report_data,
    read_training,
    thumbnail,
)
from repot.evaluator.report.page import render_report
from repot.manifest import Manifest, Receipt, Rejection, Split
from repot.settings import DatasetSettings
from repot.training_record import AugmentedPictures
from tests.unit.evaluator.samples import make_outcome, make_report_data, make_training

HISTORY = (
    "phase,epoch,learning_rate,train_loss,train_precision_at_1,validation_loss,"
    "validation_precision_at_1,seconds\n"
    "head,1,0.003,1.5,0.5,,,0.1\n"
    "fine_tune,1,0.0,1.0,0.75,0.9,0.7,0.2\n"
)


CHECKS = DataChecks(
    num_copies=3,
    num_exact_copies=1,
    copies=(),
    num_conflicts=0,
    conflicts=(),
    num_outliers={"blank": 1},
    outliers=(
        Outlier(
            picture=CheckedPicture(path="cat/white.png", label="cat", split="train"),
            kind="blank",
            measured=0.0,
            threshold=2.0,
        ),
    ),
    formats={},
    sides=(),
)


def make_jpeg(size: tuple[int, int], mode: str = "RGB", colour: Any = "red") -> bytes:
    encoded = io.BytesIO()
    Image.new(mode, size, colour).save(encoded, "JPEG")
    return encoded.getvalue()


def make_receipt(split: Split, num_records: int) -> Receipt:
    return Receipt(
        shard=f"{split}-00000-of-00001",
        split=split,
        num_records=num_records,
        size_bytes=1,
        crc32c="0" * 8,
        class_counts={"cat": num_records},
    )


def make_manifest(num_rejected: int) -> Manifest:
    return Manifest(
        dataset_id="d1d1",
        pictures_uri="/pictures",
        labels=("cat", "dog"),
        settings=DatasetSettings(),
        shards=(make_receipt("train", 5), make_receipt("validation", 2)),
        num_found=7 + num_rejected + 1,
        num_accepted=7,
        rejected=(
            Rejection(path="x.txt", label="cat", split="", reason="not_an_image"),
            *(
                Rejection(path=f"{i}.jpg", label="cat", split="train", reason="empty")
                for i in range(num_rejected)
            ),
        ),
    )


def build(tmp_path: Path, num_rejected: int = 2) -> ReportData:
    outcome = make_outcome(0, "cat", "dog")
    return build_report_data(
        make_report_data([outcome], ["cat", "dog"]).evaluation,
        manifest=make_manifest(num_rejected),
        checks=CHECKS,
        mistakes=[ScoredPicture(outcome=outcome, jpeg=make_jpeg((20, 10)))],
        by_pair={},
        training=None,
        run_uri=str(tmp_path),
    )


def test_report_data_round_trips_through_json() -> None:
    outcomes = [make_outcome(0, "cat", "cat"), make_outcome(1, "cat", "dog")]

    for has_training in (True, False):
        data = make_report_data(outcomes, ["cat", "dog"], has_training=has_training)
        assert ReportData.from_text(data.to_text()) == data


def test_report_states_what_the_checks_found(tmp_path: Path) -> None:
    data = build(tmp_path)

    assert data.dataset.findings == (
        (
            "fewer than 10 pictures of 2 of 2 labels: 'cat' (7), 'dog' (0). Add pictures, or "
            "expect low and uncertain scores"
        ),
        "copies of other pictures: 3, of which 1 with the same content",
        "unusual, one colour all over: 1 ('cat/white.png')",
    )
    assert "copies of other pictures: 3, of which 1" in render_report(data)


def test_history_is_read_with_none_for_empty_fields(tmp_path: Path) -> None:
    (tmp_path / "history.csv").write_text(HISTORY)

    first, second = build(tmp_path).history

    assert (first.phase, first.epoch, first.train_loss) == ("head", 1, 1.5)
    assert (first.validation_loss, first.validation_precision_at_1) == (None, None)
    assert (second.phase, second.validation_precision_at_1) == ("fine_tune", 0.7)


def test_invalid_history_raises_an_error_with_the_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "history.csv").write_text(HISTORY.replace("1.5", "high"))

    with pytest.raises(DataError, match=r"line 2 of .*history\.csv must have .*'high'"):
        build(tmp_path)


def test_augmented_pictures_are_read_from_the_training(tmp_path: Path) -> None:
    augmented = AugmentedPictures(augmentation="light", has_flips=True, examples=())
    (tmp_path / "augmented_pictures.json").write_text(augmented.to_text())

    data = build(tmp_path)

    assert data.augmented == augmented
    assert ReportData.from_text(data.to_text()) == data


def test_missing_history_and_training_are_empty(tmp_path: Path) -> None:
    assert build(tmp_path).history == ()
    assert build(tmp_path).augmented is None
    assert read_training(str(tmp_path)) is None
    assert read_training("") is None


def test_read_training_returns_the_record(tmp_path: Path) -> None:
    (tmp_path / "training.json").write_text(make_training().to_text())

    assert read_training(str(tmp_path)) == make_training()


def test_invalid_training_json_raises_an_error_with_the_file(tmp_path: Path) -> None:
    (tmp_path / "training.json").write_text('{"training_id": "t"}')

    with pytest.raises(ModelError, match=r"training\.json must be a valid TrainingRecord"):
        read_training(str(tmp_path))


@pytest.mark.parametrize("num_rejected", [2, MAX_FILES_NAMED, MAX_FILES_NAMED + 1])
def test_dataset_summary_counts_splits_and_rejected_files(
    tmp_path: Path, num_rejected: int
) -> None:
    dataset = build(tmp_path, num_rejected).dataset

    assert dataset.splits["train"].num_examples == 5
    assert dataset.splits["validation"].class_counts == {"cat": 2, "dog": 0}
    empty, other = dataset.rejected
    assert (empty.reason, empty.explanation) == ("empty", "the file is empty")
    assert empty.num_files == num_rejected
    assert empty.files[:2] == ("0.jpg", "1.jpg")
    assert len(empty.files) == min(num_rejected, MAX_FILES_NAMED)
    assert (other.num_files, other.files) == (1, ("x.txt",))


def test_mistakes_carry_a_thumbnail(tmp_path: Path) -> None:
    (mistake,) = build(tmp_path).mistakes

    assert mistake.outcome.predicted == "dog"
    assert mistake.thumbnail == thumbnail(make_jpeg((20, 10)))


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((1600, 800), (160, 80)),
        ((161, 100), (160, 99)),
        ((160, 160), (160, 160)),
        ((20, 10), (20, 10)),
    ],
)
def test_thumbnail_keeps_the_aspect_ratio_and_does_not_enlarge(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    uri = thumbnail(make_jpeg(size))

    kind, _, data = uri.partition(",")
    assert kind == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
        assert (picture.format, picture.size) == ("JPEG", expected)
        red, green, blue = picture.getpixel((0, 0))  # type: ignore[misc]
        assert red > 240
        assert max(green, blue) < 15


def test_thumbnail_of_a_grey_picture_is_rgb() -> None:
    data = base64.b64decode(thumbnail(make_jpeg((300, 300), "L", 128)).partition(",")[2])

    with Image.open(io.BytesIO(data)) as picture:
        assert picture.mode == "RGB"
