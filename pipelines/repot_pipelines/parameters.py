"""The pipeline's parameters as a person gives them: names and types from the compiled YAML, all problems at once."""

import difflib
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from repot.errors import UsageError

MAX_PARAMETER_BYTES = 10_000
"""What a server takes for all parameters of a run together. Source: backend/src/common/util/consts.go of KFP."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameter:
    """One input of the compiled pipeline.

    Attributes:
        name: Its name.
        kind: KFP's type: STRING, NUMBER_INTEGER, NUMBER_DOUBLE, BOOLEAN, LIST or STRUCT.
        is_required: Whether a run cannot start without it.
        default: Its default; None where there is none.
    """

    name: str
    kind: str
    is_required: bool
    default: Any


def read_pipeline(path: Path) -> dict[str, Any]:
    """Return the pipeline spec of a compiled YAML; the second document, platform settings, is left out."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    with path.open(encoding="utf-8") as file:
        pipeline: dict[str, Any] = next(yaml.load_all(file, loader))
    return pipeline


def read_parameters(pipeline: dict[str, Any]) -> dict[str, Parameter]:
    """Return the parameters of a pipeline spec by name."""
    inputs = pipeline["root"].get("inputDefinitions", {}).get("parameters", {})
    return {
        name: Parameter(
            name=name,
            kind=facts["parameterType"],
            is_required=not facts.get("isOptional") and "defaultValue" not in facts,
            default=facts.get("defaultValue"),
        )
        for name, facts in inputs.items()
    }


def read_assignments(assignments: Iterable[str]) -> dict[str, str]:
    """Split texts of the form NAME=VALUE; of two with one name the later one holds.

    Raises:
        UsageError: Lists every text that has no name or no "=".
    """
    split = [assignment.partition("=") for assignment in assignments]
    problems = [
        f"A parameter must be given as NAME=VALUE; got -p {name + sign + value!r}."
        for name, sign, value in split
        if not (name.strip() and sign)
    ]
    if problems:
        raise UsageError(problems)
    return {name.strip(): value for name, _, value in split}


def read_parameter_file(path: Path) -> dict[str, Any]:
    """Read parameters from a YAML or JSON file that holds one object.

    Raises:
        UsageError: It cannot be read, or holds something else.
    """
    try:
        facts = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as err:
        raise UsageError(
            f"The parameter file {path} must be readable YAML or JSON; {err.strerror}."
        ) from err
    except (ValueError, yaml.YAMLError) as err:  # a ValueError: no text, or a date like 2026-13-45
        raise UsageError(f"The parameter file {path} must be readable YAML or JSON; {err}") from err
    if facts is None:
        return {}
    if not isinstance(facts, dict) or not all(isinstance(name, str) for name in facts):
        raise UsageError(
            f"The parameter file {path} must hold one object, NAME: VALUE; got {type(facts).__name__}."
        )
    return facts


def convert_parameters(
    given: Mapping[str, Any], known: Mapping[str, Parameter]
) -> tuple[dict[str, Any], list[str]]:
    """Return the given values in the types that the pipeline declares, and what is wrong with the others.

    Args:
        given: Values by name; texts are read as numbers, truth values or JSON where the pipeline wants those.
        known: What `read_parameters` returned.

    Returns:
        The values that are right, and a sentence for every unknown name (with the nearest known ones), every wrong
        type and every missing value.
    """
    problems = [_unknown(name, known) for name in given if name not in known]
    values: dict[str, Any] = {}
    for name in given:
        if name in known:
            try:
                values[name] = _CONVERSIONS[known[name].kind](given[name])
            except (ValueError, OverflowError):
                problems.append(
                    f"{name} must be {_WORDS[known[name].kind]}; got {name}={given[name]!r}."
                )
    problems += [
        f"{parameter.name} must be given: it has no default."
        for parameter in known.values()
        if parameter.is_required and parameter.name not in given
    ]
    size_bytes = len(json.dumps(values).encode())
    if size_bytes > MAX_PARAMETER_BYTES:
        problems.append(
            f"All parameters together must have at most {MAX_PARAMETER_BYTES} bytes; they have {size_bytes}."
        )
    return values, problems


def with_defaults(values: Mapping[str, Any], known: Mapping[str, Parameter]) -> dict[str, Any]:
    """Return the values that a run would see: the given ones, and the pipeline's defaults for the rest."""
    defaults = {
        name: parameter.default for name, parameter in known.items() if not parameter.is_required
    }
    return {**defaults, **values}


def _unknown(name: str, known: Mapping[str, Parameter]) -> str:
    near = difflib.get_close_matches(name.replace("-", "_").lower(), known, n=2, cutoff=0.6)
    advice = f"Did you mean {' or '.join(near)}?" if near else f"It has {', '.join(sorted(known))}."
    return f"The pipeline must have a parameter {name}; it has none of that name. {advice}"


def _text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(value)  # noqa: TRY004 - like every text that is not a number
    return str(value)


def _whole_number(value: Any) -> int:
    if (
        isinstance(value, bool)
        or not isinstance(value, str | int | float)
        or float(value) != int(float(value))
    ):
        raise ValueError(value)
    return int(float(value)) if isinstance(value, float) else int(value)


def _number(value: Any) -> float:
    if (
        isinstance(value, bool)
        or not isinstance(value, str | int | float)
        or not math.isfinite(float(value))
    ):
        raise ValueError(value)
    return float(value)


def _truth(value: Any) -> bool:
    truth = {"true": True, "false": False}.get(str(value).lower())
    if truth is None:
        raise ValueError(value)
    return truth


def _json(kind: type) -> Callable[[Any], Any]:
    def convert(value: Any) -> Any:
        facts = json.loads(value) if isinstance(value, str) else value
        if not isinstance(facts, kind):
            raise ValueError(value)  # noqa: TRY004 - like every text that is not JSON
        try:
            json.dumps(facts, allow_nan=False)
        except TypeError as err:  # YAML has dates
            raise ValueError(value) from err
        return facts

    return convert


_CONVERSIONS: dict[str, Callable[[Any], Any]] = {
    "STRING": _text,
    "NUMBER_INTEGER": _whole_number,
    "NUMBER_DOUBLE": _number,
    "BOOLEAN": _truth,
    "LIST": _json(list),
    "STRUCT": _json(dict),
}
_WORDS = {
    "STRING": "text (in a file: in quotes)",
    "NUMBER_INTEGER": "a whole number",
    "NUMBER_DOUBLE": "a number",
    "BOOLEAN": "true or false",
    "LIST": "a JSON list",
    "STRUCT": "a JSON object",
}
