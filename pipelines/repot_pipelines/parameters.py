"""Read settings from command lines and files, and the parameters of a compiled pipeline."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from repot.errors import UsageError
from repot.settings import DEFAULTS, PARAMETERS, ParameterValues, read_values, to_arguments
from repot.user_files import read_user_file
from repot_pipelines.compiled import PipelineSpec, compiled_settings

MAX_PARAMETER_BYTES = 10_000
"""Limit for all parameters of a run together. Source: backend/src/common/util/consts.go of KFP."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameter:
    """One input of the compiled pipeline: a field of the form in the UI.

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


def convert_parameters(raw: ParameterValues) -> tuple[ParameterValues, list[str]]:
    """Convert settings to the types of their fields, see `read_values`.

    Args:
        raw: Values by name.

    Returns:
        The valid values by name, and one message per unknown name, wrong type and missing value.
    """
    values, problems = read_values(raw)
    problems += [
        f"{name} must be given: it has no default."
        for name in PARAMETERS
        if name not in DEFAULTS and name not in raw
    ]
    size_bytes = len(json.dumps(to_arguments(values)).encode())
    if size_bytes > MAX_PARAMETER_BYTES:
        problems.append(
            f"All parameters together must have at most {MAX_PARAMETER_BYTES} bytes; "
            f"they have {size_bytes}. Move long lists into files."
        )
    return values, problems


def with_defaults(values: ParameterValues, pipeline: PipelineSpec) -> ParameterValues:
    """Return what a run would use on a cluster without defaults of its own."""
    return {**DEFAULTS, **compiled_settings(pipeline), **values}
