"""champion.json and model.json."""

from pathlib import Path

import pytest

from repot import storage
from repot.errors import ModelError
from repot.json_record import RecordError
from repot.model_registry import Champion, ModelRecord, read_champion
from tests.unit.evaluator.samples import make_model_record

CHAMPION = Champion(model_name="m", version="v", dataset_id="d", precision_at_1=0.5, previous="u")
RECORD = make_model_record("m", "v")


def test_read_champion_returns_the_written_champion_and_its_object_version(tmp_path: Path) -> None:
    uri = str(tmp_path / "champion.json")
    written = storage.swap_bytes(uri, CHAMPION.to_bytes(), expected_version=None)

    assert read_champion(uri) == (CHAMPION, written.version)


def test_read_champion_without_a_file_returns_none(tmp_path: Path) -> None:
    assert read_champion(str(tmp_path / "champion.json")) == (None, None)


def test_read_champion_defaults_the_fields_of_later_versions(tmp_path: Path) -> None:
    (tmp_path / "champion.json").write_text(
        '{"model_name": "m", "version": "v", "dataset_id": "d", "precision_at_1": 1}'
    )

    champion = read_champion(str(tmp_path / "champion.json")).champion

    assert champion is not None
    assert (champion.precision_at_1, champion.previous, champion.rolled_back) == (1.0, "", ())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[1]",
        "null",
        '{"version": "v"}',
        '{"version": "v", "extra": 1}',
        '{"model_name": "m", "version": "v", "dataset_id": "d", "precision_at_1": "high"}',
        "\xff",
    ],
)
def test_invalid_champion_json_raises_an_error_with_file_and_fields(
    tmp_path: Path, text: str
) -> None:
    (tmp_path / "champion.json").write_bytes(text.encode("latin-1"))

    with pytest.raises(
        ModelError, match=r"champion\.json must be a JSON object of model_name, version"
    ):
        read_champion(str(tmp_path / "champion.json"))


def test_model_record_round_trips_through_json() -> None:
    assert ModelRecord.from_text(RECORD.to_text()) == RECORD


def test_model_record_rejects_unknown_keys() -> None:
    with pytest.raises(RecordError, match="extra"):
        ModelRecord.from_json({**RECORD.to_json(), "extra": 1})
