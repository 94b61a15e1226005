"""Read parameters from texts and files, in the types that the pipeline declares."""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from repot.errors import UsageError, nearest_names
from repot.settings import ParameterValues
from repot.user_files import read_user_file
from repot_pipelines.compiled import PipelineSpec

MAX_PARAMETER_BYTES = 10_000
"""Limit for all parameters of a run together. Source: backend/src/common/util/consts.go of KFP."""

_MAX_SHOWN = 300
"""Characters of a wrong value that its message repeats."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameter:
    """One input of the compiled pipeline.

    Attributes:
        name: Its name.
        kind: KFP's type: STRING, NUMBER_INTEGER, NUMBER_DOUBLE, BOOLEAN, LIST or STRUCT.
        is_required: Whether a run cannot start without it.
        default: Its default; None if it has none.
    """

    name: str
    kind: str
    is_required: bool
    default: Any


def read_parameters(pipeline: PipelineSpec) -> dict[str, Parameter]:
    """Return the parameters of a pipeline spec by name."""
    inputs = pipeline["root"].get("inputDefinitions", {}).get("parameters", {})
    return {
        name: Parameter(
            name=name,
            kind=definition["parameterType"],
            is_required=not definition.get("isOptional") and "defaultValue" not in definition,
            default=definition.get("defaultValue"),
        )
        for name, definition in inputs.items()
    }


def read_assignments(assignments: Iterable[str]) -> dict[str, str]:
    """Split texts of the form NAME=VALUE; the last one of a name wins.

    Raises:
        UsageError: Lists every text without a name or without "=".
    """
    parts = [assignment.partition("=") for assignment in assignments]
    problems = [
        f"A parameter must be given as NAME=VALUE; got -p {name + sign + value!r}."
        for name, sign, value in parts
        if not (name.strip() and sign)
    ]
    if problems:
        raise UsageError(problems)
    return {name.strip(): value for name, _, value in parts}


def read_parameter_file(path: Path) -> ParameterValues:
    """Read parameters from a YAML or JSON file that holds one object.

    Raises:
        UsageError: The file is not readable, or holds something else.
    """
    try:
        content = yaml.load(read_user_file(path).decode(), _PlainLoader)  # noqa: S506 - a SafeLoader
    except RecursionError as err:
        raise UsageError(
            f"The parameter file {path} must be readable YAML or JSON; it is nested too deeply."
        ) from err
    except OSError as err:
        raise UsageError(
            f"The parameter file {path} must be readable YAML or JSON; {err.strerror}."
        ) from err
    except (ValueError, yaml.YAMLError) as err:
        # ValueError: not text, or an impossible date such as 2026-13-45.
        raise UsageError(f"The parameter file {path} must be readable YAML or JSON; {err}") from err
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise UsageError(
            f"The parameter file {path} must hold one object, NAME: VALUE; "
            f"got {type(content).__name__}."
        )
    return content


class _PlainLoader(yaml.SafeLoader):
    """Rejects aliases: a few lines of them can stand for more values than fit into memory."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(
                None, None, "aliases such as *name are not supported", event.start_mark
            )
        return super().compose_node(parent, index)


def convert_parameters(
    raw: ParameterValues, known: Mapping[str, Parameter]
) -> tuple[ParameterValues, list[str]]:
    """Convert parameters to the types that the pipeline declares.

    Args:
        raw: Values by name. Texts are parsed as numbers, booleans or JSON where the pipeline
            declares those.
        known: The pipeline's parameters, see `read_parameters`.

    Returns:
        The valid values by name, and one message per unknown name (with the nearest known ones),
        wrong type and missing value.
    """
    problems = [_unknown(name, known) for name in raw if name not in known]
    values: dict[str, Any] = {}
    for name in raw:
        if name in known:
            kind = known[name].kind
            try:
                values[name] = _CONVERSIONS[kind](raw[name])
            except (ValueError, OverflowError, RecursionError):
                value = f"{raw[name]!r:.{_MAX_SHOWN}}"
                problems.append(f"{name} must be {_KIND_NAMES[kind]}; got {name}={value}.")
    problems += [
        f"{parameter.name} must be given: it has no default."
        for parameter in known.values()
        if parameter.is_required and parameter.name not in raw
    ]
    size_bytes = len(json.dumps(values).encode())
    if size_bytes > MAX_PARAMETER_BYTES:
        problems.append(
            f"All parameters together must have at most {MAX_PARAMETER_BYTES} bytes; "
            f"they have {size_bytes}. Move long lists into files."
        )
    return values, problems


def with_defaults(values: ParameterValues, known: Mapping[str, Parameter]) -> ParameterValues:
    """Return what a run would see: the given values, and the pipeline's defaults for the rest."""
    defaults = {
        name: parameter.default for name, parameter in known.items() if not parameter.is_required
    }
    return {**defaults, **values}


def _unknown(name: str, known: Mapping[str, Parameter]) -> str:
    near = nearest_names(name.replace("-", "_"), known, limit=2)
    advice = f"Did you mean {' or '.join(near)}?" if near else f"It has {', '.join(sorted(known))}."
    return f"The pipeline must have a parameter {name}; it has none of that name. {advice}"


def _text(value: Any) -> str:
    # The text is printed, and kept by a server; no parameter has several lines.
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).isprintable():
        raise ValueError(value)
    return str(value)


def _integer(value: Any) -> int:
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


def _boolean(value: Any) -> bool:
    truth = {"true": True, "false": False}.get(str(value).lower())
    if truth is None:
        raise ValueError(value)
    return truth


def _json(kind: type) -> Callable[[Any], Any]:
    def convert(value: Any) -> Any:
        parsed = json.loads(value) if isinstance(value, str) else value
        if not isinstance(parsed, kind):
            raise ValueError(value)  # noqa: TRY004 - handled like text that is not JSON
        try:
            json.dumps(parsed, allow_nan=False)
        except TypeError as err:  # YAML has dates, JSON does not
            raise ValueError(value) from err
        return parsed

    return convert


_CONVERSIONS: dict[str, Callable[[Any], Any]] = {
    "STRING": _text,
    "NUMBER_INTEGER": _integer,
    "NUMBER_DOUBLE": _number,
    "BOOLEAN": _boolean,
    "LIST": _json(list),
    "STRUCT": _json(dict),
}
_KIND_NAMES = {
    "STRING": "text on one line without control characters (in a file: in quotes)",
    "NUMBER_INTEGER": "a whole number",
    "NUMBER_DOUBLE": "a number",
    "BOOLEAN": "true or false",
    "LIST": "a JSON list",
    "STRUCT": "a JSON object",
}
