"""How a setting is declared: `setting()` for a field, a Rule for its values, and the base class."""

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from repot.errors import UsageError, unknown_name
from repot.json_record import JsonRecord, RecordError

NONE = "none"
CLUSTER_DEFAULT = "default"
"""Value of a form field whose value the cluster's administrator decides."""

ParameterValues = Mapping[str, Any]
"""Settings by name, in the types of their fields."""

Place = Literal["form", "settings", "pipeline"]
"""Where a run sets a value: in a field of the form in the UI, in the form's JSON field `settings`,
or in the compiled pipeline, because the pod of Plan needs it before Plan can read anything."""


def empty_if_none(text: str) -> str:
    """Return a text parameter, "" where it is NONE or blank."""
    return "" if text.strip() in ("", NONE) else text


def must(name: str, rule: str, value: object) -> str:
    """Return the message "<name> must <rule>; got <name>=<value>."."""
    return f"{name} must {rule}; got {name}={value!r}."


@dataclass(frozen=True, slots=True)
class Rule:
    """What the value of one setting must satisfy on its own.

    Attributes:
        text: Completes the sentence "<name> must ...".
        accepts: Whether a value satisfies the rule.
        choices: Every valid value, where they can be listed; an error then suggests the nearest.
    """

    text: str
    accepts: Callable[[Any], bool]
    choices: tuple[str, ...] = ()

    def problem(self, name: str, value: object) -> str | None:
        """Return the error message for a value, or None if it is valid."""
        if self.accepts(value):
            return None
        if self.choices:
            return unknown_name(name, value, self.choices)
        return must(name, self.text, value)


def between(low: float, high: float, note: str = "") -> Rule:
    """Return the rule that a number lies in [low, high]."""
    note = f" ({note})" if note else ""
    return Rule(f"lie in {low}..{high}{note}", lambda value: bool(low <= value <= high))


def one_of(choices: Iterable[str]) -> Rule:
    """Return the rule that a text is one of `choices`."""
    names = tuple(choices)
    return Rule(f"be one of {', '.join(names)}", lambda value: value in names, names)


def matching(pattern: re.Pattern[str], text: str) -> Rule:
    """Return the rule that the whole value matches a pattern, described by `text`."""
    return Rule(text, lambda value: pattern.fullmatch(value) is not None)


def setting(
    default: Any,
    help_text: str,
    *,
    rule: Rule | None = None,
    change_when: str = "",
    option: str = "",
    cluster_only: bool = False,
    place: Place = "settings",
    cluster_default: bool = False,
    in_plan_pod: bool = False,
) -> Any:
    """Declare a field of a settings class.

    Args:
        default: The default; None for a required setting, "" for a text that may be NONE.
        help_text: One or two sentences for `--help`, the docs and the compiled pipeline.
        rule: What the value must satisfy on its own; rules across fields go into `_problems`.
        change_when: For the docs: when a user should change the default.
        option: Command-line option, "" for the name with hyphens.
        cluster_only: Whether only runs on a cluster use the setting; it then has no option of its
            own, and `-p NAME=VALUE` sets it.
        place: Where a run sets the value, see `Place`.
        cluster_default: Whether the ConfigMap of the cluster's administrator may have a default.
        in_plan_pod: Whether the pod of Plan uses the value that the compiled pipeline has.
    """
    metadata = {
        "help": help_text,
        "rule": rule,
        "change_when": change_when,
        "option": option,
        "cluster_only": cluster_only,
        "place": place,
        "cluster_default": cluster_default,
        "in_plan_pod": in_plan_pod or place == "pipeline",
    }
    if default is None:
        return dataclasses.field(metadata=metadata)
    if isinstance(default, dict | list):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


class Settings(JsonRecord):
    """Base of the settings classes: checks all fields at once and reads them by name."""

    __slots__ = ()
    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    def __post_init__(self) -> None:
        """Check every rule.

        Raises:
            UsageError: Lists everything that is wrong.
        """
        problems = list(self._problems())
        if problems:
            raise UsageError(problems)

    def _problems(self) -> Iterator[str]:
        """Yield the message of every broken rule; subclasses add the rules across fields."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type is float:
                # KFP's server writes 0.0 as 0, and ids are made from the JSON of these settings.
                value = float(value)
                object.__setattr__(self, field.name, value)
            rule: Rule | None = field.metadata["rule"]
            problem = rule.problem(field.name, value) if rule else None
            if problem:
                yield problem

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Build from a JSON object.

        Raises:
            UsageError: A key is unknown, a type is wrong, or a value breaks a rule.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(set(value) - set(known)) if isinstance(value, dict) else []
        if unknown:
            raise UsageError(
                f"{cls.__name__} must not have {', '.join(unknown)}; it has {', '.join(known)}."
            )
        try:
            return super().from_json(value)
        except RecordError as err:
            raise UsageError(f"{err}.") from err

    @classmethod
    def from_parameters(cls, parameters: ParameterValues) -> Self:
        """Build from pipeline parameters, taking the fields of this class and ignoring the others.

        Raises:
            UsageError: As `from_json`.
        """
        values = {
            field.name: _from_parameter(field, parameters[field.name])
            for field in dataclasses.fields(cls)
            if field.name in parameters
        }
        return cls.from_json(values)


def _from_parameter(field: dataclasses.Field[Any], value: Any) -> Any:
    """Return a setting from a pipeline parameter: NONE becomes "", a whole float becomes an int."""
    if field.type is str and field.default == "" and isinstance(value, str):
        return empty_if_none(value)
    return _with_whole_numbers(value) if field.type is not float else value


def _with_whole_numbers(value: Any) -> Any:
    """Return a value with ints for whole floats: numbers in KFP's JSON and YAML are all floats."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_with_whole_numbers(item) for item in value]
    if isinstance(value, dict):
        return {key: _with_whole_numbers(item) for key, item in value.items()}
    return value


def parameter_default(field: dataclasses.Field[Any]) -> Any:
    """Return a setting's default as a pipeline parameter; None for a required one."""
    if field.default == "":
        return NONE
    if field.default is not dataclasses.MISSING:
        return field.default
    return field.default_factory() if callable(field.default_factory) else None


def option_name(field: dataclasses.Field[Any]) -> str:
    """Return the command-line option of a setting, e.g. --batch-size; "" if cluster-only."""
    if field.metadata["cluster_only"]:
        return ""
    return field.metadata["option"] or f"--{field.name.replace('_', '-')}"
