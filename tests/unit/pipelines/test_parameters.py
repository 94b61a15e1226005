import datetime
import json
from pathlib import Path
from typing import Any

import pytest

from repot.errors import UsageError
from repot.user_files import MAX_BYTES
from repot_pipelines.compiled import find_compiled, read_pipeline
from repot_pipelines.parameters import (
    MAX_PARAMETER_BYTES,
    Parameter,
    convert_parameters,
    read_assignments,
    read_parameter_file,
    read_parameters,
    with_defaults,
)

KINDS = {
    "text": "STRING",
    "count": "NUMBER_INTEGER",
    "rate": "NUMBER_DOUBLE",
    "flag": "BOOLEAN",
    "rows": "LIST",
    "labels": "STRUCT",
}
KNOWN = {
    name: Parameter(name=name, kind=kind, is_required=name == "text", default=None)
    for name, kind in KINDS.items()
}


def test_read_parameters_of_the_compiled_pipeline() -> None:
    known = read_parameters(read_pipeline(find_compiled()))

    assert {name for name, parameter in known.items() if parameter.is_required} == {
        "pictures_uri",
        "storage_uri",
    }
    assert known["accelerator_count"].kind == "STRING"
    assert known["builder_pods"].kind == "NUMBER_INTEGER"


@pytest.mark.parametrize(
    ("name", "raw", "value"),
    [
        ("text", "a=b", "a=b"),
        ("text", "", ""),
        ("text", 1, "1"),
        ("count", "3", 3),
        ("count", 3.0, 3),
        ("rate", "1e-3", 0.001),
        ("rate", 2, 2.0),
        ("flag", "true", True),
        ("flag", False, False),
        ("rows", '[{"key": "gpu"}]', [{"key": "gpu"}]),
        ("labels", '{"a": "b"}', {"a": "b"}),
        ("labels", {"a": "b"}, {"a": "b"}),
    ],
)
def test_convert_accepts_texts_and_typed_values(name: str, raw: Any, value: Any) -> None:
    values, problems = convert_parameters({"text": "x", name: raw}, KNOWN)

    assert problems == []
    assert values[name] == value
    assert type(values[name]) is type(value)


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("text", True),
        ("text", 1.5),
        ("count", "3.5"),
        ("count", 3.5),
        ("count", True),
        ("count", "three"),
        ("rate", "nan"),
        ("rate", "inf"),
        ("flag", "yes"),
        ("flag", 1),
        ("rows", "{}"),
        ("rows", "[1"),
        ("labels", "a=b"),
        ("count", "inf"),
        ("count", float("inf")),
        ("count", float("nan")),
        ("labels", {"pool": datetime.date(2026, 8, 1)}),
        ("labels", {"pool": float("nan")}),
    ],
)
def test_convert_rejects_another_type(name: str, raw: Any) -> None:
    _, problems = convert_parameters({"text": "x", name: raw}, KNOWN)

    assert len(problems) == 1
    assert problems[0].startswith(f"{name} must be ")
    assert repr(raw) in problems[0]


def test_convert_reports_all_problems_and_suggests_names() -> None:
    _, problems = convert_parameters({"cuont": 1, "rate": "x", "zzzzzz": 1}, KNOWN)

    assert len(problems) == 4
    assert "Did you mean count?" in problems[0]
    assert "It has count, flag, labels, rate, rows, text." in problems[1]
    assert problems[3] == "text must be given: it has no default."


@pytest.mark.parametrize(("extra", "num_problems"), [(0, 0), (1, 1)])
def test_convert_rejects_more_bytes_than_the_server_accepts(extra: int, num_problems: int) -> None:
    empty_bytes = len(json.dumps({"text": ""}))

    _, problems = convert_parameters(
        {"text": "x" * (MAX_PARAMETER_BYTES - empty_bytes + extra)}, KNOWN
    )

    assert len(problems) == num_problems


def test_with_defaults_fills_the_rest() -> None:
    known = {
        **KNOWN,
        "count": Parameter(name="count", kind="NUMBER_INTEGER", is_required=False, default=7),
    }

    assert with_defaults({"text": "x"}, known)["count"] == 7
    assert with_defaults({"text": "x", "count": 8}, known)["count"] == 8


def test_read_assignments_splits_at_the_first_equals_sign() -> None:
    assert read_assignments(["a=1", "b=x=y", "a=2", "c="]) == {"a": "2", "b": "x=y", "c": ""}


def test_read_assignments_reports_every_invalid_one() -> None:
    with pytest.raises(UsageError) as caught:
        read_assignments(["a=1", "b", "=c"])

    assert len(caught.value.problems) == 2


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("run.yaml", "epochs: 3\nlabels: {a: b}\n"),
        ("run.json", '{"epochs": 3, "labels": {"a": "b"}}'),
    ],
)
def test_read_parameter_file_reads_yaml_and_json(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)

    assert read_parameter_file(tmp_path / name) == {"epochs": 3, "labels": {"a": "b"}}


@pytest.mark.parametrize(
    "text",
    [
        "- a\n",
        "a: [",
        "3",
        "1: 2",
        "rebuild: 2026-13-45",
        pytest.param("a: &a [1]\nb: [*a, *a]\n", id="aliases"),
        pytest.param("a: " + "[" * 5000, id="nested too deeply"),
        pytest.param("a: 1\n" + "#" * MAX_BYTES, id="too long"),
    ],
)
def test_read_parameter_file_rejects_anything_but_an_object(tmp_path: Path, text: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)

    with pytest.raises(UsageError, match=r"run\.yaml"):
        read_parameter_file(path)


def test_endless_parameter_file_is_rejected() -> None:
    with pytest.raises(UsageError, match=r"/dev/zero must .* at most 1,048,576 bytes; it has more"):
        read_parameter_file(Path("/dev/zero"))


def test_deeply_nested_value_is_rejected_in_a_short_message() -> None:
    _, problems = convert_parameters({"text": "x", "rows": "[" * 100_000}, KNOWN)

    assert problems[0].startswith("rows must be a JSON list; got rows='[[")
    assert len(problems[0]) < 400


def test_read_parameter_file_accepts_empty_and_rejects_missing(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").touch()

    assert read_parameter_file(tmp_path / "empty.yaml") == {}
    with pytest.raises(UsageError, match=r"missing\.yaml"):
        read_parameter_file(tmp_path / "missing.yaml")
