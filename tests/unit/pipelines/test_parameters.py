import datetime
import json
from pathlib import Path
from typing import Any

import pytest

from repot.errors import UsageError
from repot.user_files import MAX_BYTES
from repot_pipelines.compiled import compile_pipeline, find_compiled, read_pipeline
from repot_pipelines.parameters import (
    MAX_PARAMETER_BYTES,
    convert_parameters,
    read_assignments,
    read_parameter_file,
    read_parameters,
    with_defaults,
)

REQUIRED = {"pictures_uri": "x"}


def test_read_parameters_of_the_compiled_pipeline() -> None:
    known = read_parameters(read_pipeline(find_compiled()))

    assert {name for name, parameter in known.items() if parameter.is_required} == {"pictures_uri"}
    assert known["settings"].kind == "STRUCT"
    assert known["epochs"].kind == "NUMBER_INTEGER"


@pytest.mark.parametrize(
    ("name", "raw", "value"),
    [
        ("model_name", "a=b", "a=b"),
        ("model_name", "", ""),
        ("model_name", 1, "1"),
        ("epochs", "3", 3),
        ("epochs", 3.0, 3),
        ("learning_rate", "1e-3", 0.001),
        ("learning_rate", 2, 2.0),
        ("nested", "true", True),
        ("nested", False, False),
        ("trainer_tolerations", '[{"key": "gpu"}]', [{"key": "gpu"}]),
        ("trainer_node_selector", '{"a": "b"}', {"a": "b"}),
        ("trainer_node_selector", {"a": "b"}, {"a": "b"}),
        ("trainer_node_selector", {1: "b"}, {"1": "b"}),
    ],
)
def test_convert_accepts_texts_and_typed_values(name: str, raw: Any, value: Any) -> None:
    values, problems = convert_parameters({**REQUIRED, name: raw})

    assert problems == []
    assert values[name] == value
    assert type(values[name]) is type(value)


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("model_name", True),
        ("model_name", 1.5),
        ("epochs", "3.5"),
        ("epochs", 3.5),
        ("epochs", True),
        ("epochs", "three"),
        ("learning_rate", "nan"),
        ("learning_rate", "inf"),
        ("nested", "yes"),
        ("nested", 1),
        ("trainer_tolerations", "{}"),
        ("trainer_tolerations", "[1"),
        ("trainer_node_selector", "a=b"),
        ("epochs", "inf"),
        ("epochs", float("inf")),
        ("epochs", float("nan")),
        ("trainer_node_selector", {"pool": datetime.date(2026, 8, 1)}),
        ("trainer_node_selector", {"pool": float("nan")}),
    ],
)
def test_convert_rejects_another_type(name: str, raw: Any) -> None:
    _, problems = convert_parameters({**REQUIRED, name: raw})

    assert len(problems) == 1
    assert problems[0].startswith(f"{name} must be ")
    assert repr(raw) in problems[0]


def test_convert_reports_all_problems_and_suggests_names() -> None:
    _, problems = convert_parameters({"epohcs": 1, "learning_rate": "x", "zzzzzz": 1})

    assert len(problems) == 4
    assert "Did you mean epochs" in problems[0]
    assert "There are accelerator_count, " in problems[2]
    assert problems[3] == "pictures_uri must be given: it has no default."


def test_settings_of_the_form_may_be_given_as_one_object_too() -> None:
    values, problems = convert_parameters({**REQUIRED, "settings": '{"seed": 3, "epochs": 2}'})

    assert (values["seed"], values["epochs"], problems) == (3, 2, [])


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"seed": 3}, "seed must be given once; it is a value of its own and a key of settings."),
        ({"sede": 3}, "sede must be the name of a setting"),
        ({3: "x"}, "3 must be the name of a setting"),  # as YAML reads a key that is a number
        ("[1]", "settings must be a JSON object; got settings='[1]'."),
    ],
)
def test_wrong_object_of_settings_is_a_problem(settings: object, problem: str) -> None:
    _, problems = convert_parameters({**REQUIRED, "seed": 1, "settings": settings})

    assert len(problems) == 1
    assert problems[0].startswith(problem)


@pytest.mark.parametrize(("extra", "num_problems"), [(0, 0), (1, 1)])
def test_convert_rejects_more_bytes_than_the_server_accepts(extra: int, num_problems: int) -> None:
    empty_bytes = len(json.dumps({"pictures_uri": ""}))

    _, problems = convert_parameters(
        {"pictures_uri": "x" * (MAX_PARAMETER_BYTES - empty_bytes + extra)}
    )

    assert len(problems) == num_problems


def test_with_defaults_fills_the_rest(tmp_path: Path) -> None:
    pipeline = read_pipeline(find_compiled())
    compile_pipeline(tmp_path / "own.yaml", settings={"seed": 7, "epochs": 5})
    own = read_pipeline(tmp_path / "own.yaml")

    assert with_defaults({}, pipeline)["batch_size"] == 32
    assert with_defaults({"batch_size": 8}, pipeline)["batch_size"] == 8
    assert (with_defaults({}, own)["seed"], with_defaults({}, own)["epochs"]) == (7, 5)
    assert with_defaults({"seed": 1}, own)["seed"] == 1


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
    _, problems = convert_parameters({**REQUIRED, "task_tolerations": "[" * 100_000})

    assert problems[0].startswith("task_tolerations must be a JSON list; got task_tolerations='[[")
    assert len(problems[0]) < 400


def test_read_parameter_file_accepts_empty_and_rejects_missing(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").touch()

    assert read_parameter_file(tmp_path / "empty.yaml") == {}
    with pytest.raises(UsageError, match=r"missing\.yaml"):
        read_parameter_file(tmp_path / "missing.yaml")
