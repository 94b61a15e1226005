import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from repot import storage
from repot.errors import DataError, ModelError, NotFoundError
from repot.json_record import JsonRecord, RecordError, read_record, write_record
from repot.settings import DatasetSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part(JsonRecord):
    name: str
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class _Whole(JsonRecord):
    parts: tuple[_Part, ...]
    settings: DatasetSettings
    counts: dict[str, int]


WHOLE = _Whole(
    parts=(_Part(name="é"), _Part(name="\udce9", weight=0.5)),
    settings=DatasetSettings(),
    counts={"a": 1},
)


def test_record_survives_json() -> None:
    assert _Whole.from_text(WHOLE.to_text()) == WHOLE
    assert _Whole.from_json(json.loads(json.dumps(WHOLE.to_json()))) == WHOLE


def test_equal_records_have_equal_text() -> None:
    text = json.dumps(dict(reversed(WHOLE.to_json().items())))
    assert _Whole.from_text(text).to_text() == WHOLE.to_text()


def test_whole_number_is_accepted_as_float() -> None:
    part = _Part.from_json({"name": "a", "weight": 1})
    assert part == _Part(name="a")
    assert isinstance(part.weight, float)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param({}, id="missing keys"),
        pytest.param({"name": "a", "colour": "blue"}, id="unknown key"),
        pytest.param({"name": 1}, id="wrong type"),
        pytest.param({"name": "a", "weight": True}, id="bool for float"),
        pytest.param([], id="list"),
        pytest.param(None, id="null"),
    ],
)
def test_invalid_value_is_an_error(value: object) -> None:
    with pytest.raises(RecordError, match="_Part"):
        _Part.from_json(value)


@pytest.mark.parametrize(
    "change",
    [
        {"parts": [{"name": 1}]},
        {"parts": {"name": "a"}},
        {"parts": 1},
        {"parts": ""},
        {"counts": [1]},
    ],
)
def test_invalid_nested_value_is_an_error(change: dict[str, object]) -> None:
    with pytest.raises(RecordError, match="_Whole"):
        _Whole.from_json({**json.loads(WHOLE.to_text()), **change})


def test_text_that_is_not_json_is_an_error() -> None:
    with pytest.raises(RecordError, match="_Part must be JSON"):
        _Part.from_text("{")


def test_stored_record_can_be_read_back(tmp_path: Path) -> None:
    write_record(f"{tmp_path}/whole.json", WHOLE)
    assert read_record(f"{tmp_path}/whole.json", _Whole) == WHOLE


def test_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        read_record(f"{tmp_path}/part.json", _Part)


@pytest.mark.parametrize("change", [{"colour": "blue"}, {"settings": {"num_threads": 0}}])
def test_invalid_file_is_an_error_with_advice(tmp_path: Path, change: dict[str, object]) -> None:
    uri = f"{tmp_path}/whole.json"
    storage.write_json(uri, {**WHOLE.to_json(), **change})
    with pytest.raises(DataError, match=rf"{uri} must be a valid _Whole; .* Delete it and run"):
        read_record(uri, _Whole)
    with pytest.raises(ModelError, match=r"Restore it\.$"):
        read_record(uri, _Whole, error=ModelError, advice="Restore it.")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Labels(JsonRecord):
    labels: tuple[str, ...]


@pytest.mark.parametrize("value", ["cat", {"cat": 1}])
def test_array_must_not_be_a_text_or_an_object(value: object) -> None:
    with pytest.raises(RecordError, match="_Labels"):
        _Labels.from_json({"labels": value})
