"""The server's checks of pipelines, run parameters and cron expressions."""

import re
from typing import Any

import yaml

from tests.integration.kfp_api.answers import ApiError

_KINDS: dict[str, tuple[type, ...]] = {
    "STRING": (str,),
    "NUMBER_INTEGER": (int, float),
    "NUMBER_DOUBLE": (int, float),
    "BOOLEAN": (bool,),
    "LIST": (list,),
    "STRUCT": (dict,),
}
_LIMITS = ((0, 59), (0, 59), (0, 23), (1, 31), (1, 12), (0, 6))
_NAMES = {
    4: {name: number for number, name in enumerate(["jan", "feb", "mar", "apr", "may", "jun"], 1)}
    | {name: number for number, name in enumerate(["jul", "aug", "sep", "oct", "nov", "dec"], 7)},
    5: {
        name: number
        for number, name in enumerate(["sun", "mon", "tue", "wed", "thu", "fri", "sat"])
    },
}


def read_pipeline(text: str) -> dict[str, Any]:
    """Return a version's `pipeline_spec`; spec and platform if the YAML has two documents."""
    documents = list(yaml.load_all(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
    if not documents or "root" not in (documents[0] or {}) or "pipelineInfo" not in documents[0]:
        raise ApiError("invalid", "unknown template format")
    if len(documents) == 1:
        return dict(documents[0])
    return {"pipeline_spec": documents[0], "platform_spec": documents[1]}


def inner_spec(spec: dict[str, Any]) -> dict[str, Any]:
    """Return the pipeline spec from either form of `pipeline_spec`."""
    return dict(spec.get("pipeline_spec", spec))


def check_parameters(spec: dict[str, Any], values: dict[str, Any]) -> None:
    """Reject missing, mistyped and unknown parameters."""
    inputs = inner_spec(spec)["root"].get("inputDefinitions", {}).get("parameters", {})
    for name, definition in inputs.items():
        if name not in values:
            if not definition.get("isOptional") and "defaultValue" not in definition:
                raise ApiError(
                    "invalid",
                    f"parameter {name} is not optional, yet has neither default value "
                    "nor user provided value",
                )
        elif not isinstance(values[name], _KINDS[definition["parameterType"]]) or (
            isinstance(values[name], bool) and definition["parameterType"] != "BOOLEAN"
        ):
            raise ApiError(
                "invalid", f"input parameter {name} requires type {definition['parameterType']}"
            )
    extra = sorted(set(values) - set(inputs))
    if extra:
        raise ApiError(
            "invalid", f"parameter(s) provided are not required by pipeline: {', '.join(extra)}"
        )


def check_cron(expression: str) -> None:
    """Reject what robfig/cron v1.2 cannot read: second minute hour day month [weekday]."""
    if re.fullmatch(r"@(yearly|annually|monthly|weekly|daily|midnight|hourly)", expression):
        return
    fields = expression.split()
    if len(fields) not in (5, 6):
        raise _cron_error(f"Expected 5 to 6 fields, found {len(fields)}: {expression}")
    for position, field in enumerate(fields):
        for part in field.lower().split(","):
            _check_part(part, position)


def _check_part(part: str, position: int) -> None:
    span, _, step = part.partition("/")
    if (step and not step.isdecimal()) or (span not in ("*", "?") and len(span.split("-")) > 2):
        raise _cron_error(f"Failed to parse {part}")
    if span in ("*", "?"):
        return
    low, high = _LIMITS[position]
    numbers = [_NAMES.get(position, {}).get(text, text) for text in span.split("-")]
    if not all(str(number).isdecimal() and low <= int(number) <= high for number in numbers):
        raise _cron_error(f"{part} is not in {low}..{high}")
    if int(numbers[0]) > int(numbers[-1]):
        raise _cron_error(f"Beginning of range beyond end of range: {part}")


def _cron_error(reason: str) -> ApiError:
    return ApiError(
        "invalid",
        "Schedule cron is not a supported format(https://godoc.org/github.com/robfig/cron). "
        f"Error: {reason}",
    )
