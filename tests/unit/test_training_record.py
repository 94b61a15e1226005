from pathlib import Path

import pytest

from repot.errors import DataError, NotFoundError
from repot.json_record import read_record, write_record
from repot.training_record import TrainingRecord, read_history, write_history
from tests.training_records import make_epoch_record, make_training_record

COLUMNS = (
    "phase,epoch,learning_rate,train_loss,train_precision_at_1,"
    "validation_loss,validation_precision_at_1,seconds"
)


def test_training_record_is_read_as_written(tmp_path: Path) -> None:
    record = make_training_record()
    write_record(f"{tmp_path}/training.json", record)

    assert read_record(f"{tmp_path}/training.json", TrainingRecord) == record


def test_history_csv_has_one_row_per_epoch_and_empty_fields_for_none(tmp_path: Path) -> None:
    second = make_epoch_record(epoch=2, validation_loss=None, validation_precision_at_1=None)

    write_history(str(tmp_path), [make_epoch_record(), second])

    header, *rows = (tmp_path / "history.csv").read_text().splitlines()
    assert header == COLUMNS
    assert rows == ["head,1,0.001,0.5,0.75,0.625,0.5,2.0", "head,2,0.001,0.5,0.75,,,2.0"]


def test_history_is_read_as_written(tmp_path: Path) -> None:
    history = (
        make_epoch_record(train_loss=0.1 + 0.2),
        make_epoch_record(phase="fine_tune", validation_loss=None, validation_precision_at_1=None),
    )
    write_history(str(tmp_path), history)

    assert read_history(str(tmp_path)) == history


def test_missing_history_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        read_history(str(tmp_path))


@pytest.mark.parametrize(
    "text",
    [
        "phase,epoch\nhead,1\n",
        f"{COLUMNS},extra\nhead,1,0,0,0,0,0,0,0\n",
        f"{COLUMNS}\nhead,one,0,0,0,0,0,0\n",
        f"{COLUMNS}\nhead,1,,0,0,0,0,0\n",
        f"{COLUMNS}\nhead,1,0,0,0,0,0\n",
        f"{COLUMNS}\nhead,1,0,0,0,0,0,0,0\n",
    ],
)
def test_invalid_history_names_the_file_and_the_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "history.csv").write_text(text)

    with pytest.raises(DataError, match=r"line 2 of .*history\.csv must have the columns"):
        read_history(str(tmp_path))
