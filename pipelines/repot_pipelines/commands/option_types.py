"""Types of options: what a text on the command line must be, and what it becomes."""

import re
from collections.abc import Callable
from typing import Any

import click

from repot.errors import unknown_name
from repot.kubernetes_rules import is_object_name
from repot_pipelines.cluster_rules import MAX_RUN_NAME, MAX_SCHEDULE_NAME, server_name_problem

_DURATION = re.compile(r"(?:(?P<h>\d+)h)?(?:(?P<m>\d+)m)?(?:(?P<s>\d+)s?)?", re.ASCII)
_UNIT_SECONDS = {"h": 3600, "m": 60, "s": 1}
_MAX_DURATION_SECONDS = 30 * 24 * 3600


class NameChoice(click.Choice):  # type: ignore[type-arg]
    """A choice whose error message suggests the nearest name."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value if it is one of the choices."""
        if value not in self.choices:
            name = param.opts[0] if param else "value"
            self.fail(unknown_name(name, value, map(str, self.choices)), param, ctx)
        return value


class Checked(click.ParamType):  # type: ignore[type-arg]
    """Text that a rule must accept; an empty text is the default of an option without a value.

    It may also be given: a CI job passes a variable that may be empty.

    Args:
        problem: Returns why a text is invalid, or None.
    """

    name = "text"

    def __init__(self, problem: Callable[[str], str | None]) -> None:
        self._problem = problem

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value if the rule accepts it."""
        is_absent = value == "" and param is not None and param.default == ""
        problem = None if is_absent else self._problem(value)
        if problem:
            self.fail(problem, param, ctx)
        return value


class Duration(click.ParamType):  # type: ignore[type-arg]
    """A number of seconds, also with units: 90, 90s, 15m, 2h or 1h30m."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the seconds."""
        if isinstance(value, float):
            return value
        match = _DURATION.fullmatch(value) if value else None
        numbers = match.groupdict(default="0") if match else {}
        seconds = sum(int(number) * _UNIT_SECONDS[unit] for unit, number in numbers.items())
        if not numbers or seconds > _MAX_DURATION_SECONDS:
            self.fail(
                "it must be a number of seconds, or a time such as 90s, 15m, 2h or 1h30m, of at "
                f"most {_MAX_DURATION_SECONDS // 3600}h; got {value!r}.",
                param,
                ctx,
            )
        return float(seconds)


def server_name(max_bytes: int) -> Checked:
    """Return the type of a name on a Kubeflow Pipelines server."""
    return Checked(lambda name: server_name_problem(name, max_bytes))


def _service_account_problem(name: str) -> str | None:
    if is_object_name(name):
        return None
    return (
        "it must be the name of a Kubernetes service account: at most 253 lower-case letters, "
        f"digits, '-' and '.'; got {name!r}."
    )


def _namespace_problem(name: str) -> str | None:
    # https://kubernetes.io/docs/concepts/overview/working-with-objects/names/#dns-label-names
    if is_object_name(name, max_length=63) and "." not in name:
        return None
    return (
        "it must be the name of a Kubernetes namespace: at most 63 lower-case letters, digits and "
        f"'-'; got {name!r}."
    )


RUN_NAME = server_name(MAX_RUN_NAME)
SCHEDULE_NAME = server_name(MAX_SCHEDULE_NAME)
SERVICE_ACCOUNT = Checked(_service_account_problem)
NAMESPACE = Checked(_namespace_problem)
