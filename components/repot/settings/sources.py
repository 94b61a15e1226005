"""Where the value of a setting comes from, and how all sources become one set of values.

    default of the field < compiled pipeline < ConfigMap of the cluster < `settings`, form

The form of the UI shows only the fields with place "form". Every other setting is a key of its
JSON field `settings`. An administrator's defaults are keys of a ConfigMap, named like the setting
in capitals; Plan's pod gets each as an environment variable. `repot compile` writes defaults into
the pipeline itself, among them those of Plan's own pod.
"""

import dataclasses
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from repot.cluster_names import CONFIG_MAP_KEYS
from repot.errors import UsageError, nearest_names
from repot.settings.fields import (
    CLUSTER_DEFAULT,
    NONE,
    ParameterValues,
    Settings,
    parameter_default,
)
from repot.settings.pods import JobSettings, TaskSettings
from repot.settings.run import DatasetSettings, GateSettings, InputSettings, RunSettings
from repot.settings.training import CheckpointSettings, TrainingSettings

ALL_SETTINGS: tuple[type[Settings], ...] = (
    RunSettings,
    InputSettings,
    DatasetSettings,
    CheckpointSettings,
    TrainingSettings,
    GateSettings,
    TaskSettings,
    JobSettings,
)
PARAMETERS = {field.name: field for each in ALL_SETTINGS for field in dataclasses.fields(each)}
"""The field of every setting, by name."""

SETTINGS_FIELD = "settings"
"""Name of the form's JSON field that takes every setting without a field of its own."""

DEFAULTS: ParameterValues = {
    name: parameter_default(field)
    for name, field in PARAMETERS.items()
    if parameter_default(field) is not None
}
"""The default of every setting that has one."""

FORM_FIELDS = tuple(
    sorted(name for name, field in PARAMETERS.items() if field.metadata["place"] == "form")
)
PIPELINE_SETTINGS = tuple(
    sorted(name for name, field in PARAMETERS.items() if field.metadata["in_plan_pod"])
)
"""The settings of Plan's own pod, which are part of the compiled pipeline."""
CLUSTER_KEYS = {
    name.upper(): name for name, field in PARAMETERS.items() if field.metadata["cluster_default"]
}
"""The setting of each key of the ConfigMap that is an administrator's default."""

CLUSTER_VARIABLES = {key: f"REPOT_CLUSTER_{key}" for key in CLUSTER_KEYS}
"""Environment variable of Plan's pod by key of the ConfigMap."""

Values = dict[str, Any]
"""Values of settings by name, of the types of their fields."""

_FROM_FORM, _FROM_SETTINGS = "the form", "the field settings"

_MAX_SHOWN = 300
"""Characters of a wrong value that its message repeats."""

_KINDS: dict[Any, str] = {
    str: "text on one line without control characters (in a file: in quotes)",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a JSON list",
    dict: "a JSON object",
}


def value_type(name: str) -> type:
    """Return the Python type of a setting: str, int, float, bool, list or dict."""
    declared: Any = PARAMETERS[name].type
    found: type = getattr(declared, "__origin__", declared)
    return found


def choices(name: str) -> tuple[str | bool, ...]:
    """Return every valid value of a setting, if they can be listed; otherwise nothing."""
    if value_type(name) is bool:
        return (False, True)
    rule = PARAMETERS[name].metadata["rule"]
    return tuple(rule.choices) if rule else ()


def read_values(raw: ParameterValues) -> tuple[Values, list[str]]:
    """Convert settings from texts and files to the types of their fields.

    Args:
        raw: Values by name. Texts are parsed as numbers, booleans or JSON where the fields have
            those types. The key `settings` may hold a JSON object of further settings.

    Returns:
        The valid values by name, and one message per unknown name (with the nearest known ones),
        wrong type, and name that is given twice.
    """
    raw, problems = _unpack(raw)
    values: Values = {}
    for name, value in raw.items():
        if name not in PARAMETERS:
            problems.append(_unknown(name))
            continue
        try:
            values[name] = _CONVERSIONS[value_type(name)](value)
        except (ValueError, OverflowError, RecursionError):
            problems.append(_wrong_type(name, value))
    return values, problems


def to_arguments(values: ParameterValues) -> Values:
    """Return the arguments of the pipeline for settings: form fields, the rest in `settings`.

    Settings that are only part of the compiled pipeline are left out.
    """
    rest = {
        name: value
        for name, value in values.items()
        if name not in FORM_FIELDS and PARAMETERS[name].metadata["place"] != "pipeline"
    }
    arguments = {name: values[name] for name in FORM_FIELDS if name in values}
    return {**arguments, SETTINGS_FIELD: rest} if rest else arguments


@dataclass(frozen=True, kw_only=True, slots=True)
class ResolvedSettings:
    """The values of all settings of a run.

    Attributes:
        values: Every value by name.
        origins: Where each value that is no default comes from, by name.
        problems: One message per wrong key or type; those values are the defaults.
    """

    values: ParameterValues
    origins: Mapping[str, str]
    problems: tuple[str, ...]

    def with_origins(self, problems: Iterable[str]) -> Iterator[str]:
        """Yield messages, with the source of the value if it is not in the form of the run."""
        for problem in problems:
            name = problem.partition(" ")[0].partition("[")[0]
            origin = self.origins.get(name, _FROM_FORM)
            is_visible = origin in (_FROM_FORM, _FROM_SETTINGS)
            yield problem if is_visible else f"{problem} The value is from {origin}."

    def chosen_lines(self) -> Iterator[str]:
        """Yield one line per source with the values that it provides, defaults left out."""
        for origin in dict.fromkeys(self.origins.values()):
            names = sorted(name for name in self.origins if self.origins[name] == origin)
            chosen = ", ".join(f"{name}={self.values[name]!r}" for name in names)
            yield f"from {origin}: {chosen}"

    def table(self) -> str:
        """Return Markdown: first what someone chose, then the defaults that apply."""
        names = sorted(self.values, key=lambda name: (name not in self.origins, name))
        rows = ["| setting | value | from |", "|---|---|---|"]
        for name in names:
            text = json.dumps(self.values[name], ensure_ascii=False).replace("|", "\\|")
            rows.append(f"| {name} | `{text}` | {self.origins.get(name, 'default')} |")
        return "\n".join(rows) + "\n"


def resolve_settings(
    form: ParameterValues,
    settings: ParameterValues,
    *,
    compiled: ParameterValues,
    environment: Mapping[str, str],
) -> ResolvedSettings:
    """Merge all sources of settings in the pod of Plan.

    Args:
        form: The fields of the form, by name.
        settings: The form's JSON field `settings`.
        compiled: Settings that `repot compile` wrote into the pipeline.
        environment: The pod's environment variables, see `CLUSTER_VARIABLES`.
    """
    config_map = str(compiled.get("settings_config_map", DEFAULTS["settings_config_map"]))
    cluster = {
        key: environment[variable]
        for key, variable in CLUSTER_VARIABLES.items()
        if environment.get(variable, "").strip()
    }
    from_cluster, problems = read_cluster_defaults(cluster, config_map)
    from_settings, wrong = _read_json(settings)
    chosen = {name: value for name, value in form.items() if not _is_cluster_default(name, value)}
    sources = (
        (compiled, "the compiled pipeline"),
        (from_cluster, f"the ConfigMap {config_map}"),
        (from_settings, _FROM_SETTINGS),
        (chosen, _FROM_FORM),
    )
    values, origins = dict(DEFAULTS), dict[str, str]()
    for source, origin in sources:
        values.update(source)
        origins.update(
            (name, origin)
            for name in source
            if origin != _FROM_FORM or source[name] != DEFAULTS.get(name)
        )
    return ResolvedSettings(values=values, origins=origins, problems=(*problems, *wrong))


def run_storage_uri(form_value: str, environment: Mapping[str, str]) -> str:
    """Return the storage URI of a run: that of the form, or the cluster's default.

    Args:
        form_value: The form's field.
        environment: The environment variables of Plan's pod.
    """
    if not _is_cluster_default("storage_uri", form_value):
        return form_value
    return environment.get(CLUSTER_VARIABLES["STORAGE_URI"], "").strip()


def read_cluster_defaults(data: Mapping[str, str], config_map: str) -> tuple[Values, list[str]]:
    """Read an administrator's defaults from the data of their ConfigMap.

    Args:
        data: The ConfigMap's data. Blank values are not set.
        config_map: Its name, for messages.

    Returns:
        The valid values by setting, and one message per unknown key and wrong type.
    """
    values: Values = {}
    problems = []
    for key, text in sorted(data.items()):
        if key not in CLUSTER_KEYS:
            if key not in CONFIG_MAP_KEYS:
                problems.append(_unknown_key(key, config_map))
        elif text.strip():
            name = CLUSTER_KEYS[key]
            try:
                values[name] = _CONVERSIONS[value_type(name)](text.strip())
            except (ValueError, OverflowError, RecursionError):
                problems.append(f"{key} in the ConfigMap {config_map}: {_wrong_type(name, text)}")
    return values, problems


def cluster_default_problems(data: Mapping[str, str], config_map: str) -> list[str]:
    """Return one message per unknown key and invalid value of an administrator's ConfigMap."""
    values, problems = read_cluster_defaults(data, config_map)
    for settings in ALL_SETTINGS:
        try:
            settings.from_parameters({"pictures_uri": "", **values})
        except UsageError as err:
            problems += err.problems
    return problems


def _is_cluster_default(name: str, value: object) -> bool:
    """Return whether a form field leaves the value to the cluster's administrator."""
    field = PARAMETERS[name]
    is_absent = str(value).strip() in ("", NONE, CLUSTER_DEFAULT)
    return field.metadata["cluster_default"] and is_absent


def _unpack(raw: ParameterValues) -> tuple[Values, list[str]]:
    """Return all settings by name: those given as such, and those inside `settings`."""
    named = {name: value for name, value in raw.items() if name != SETTINGS_FIELD}
    if SETTINGS_FIELD not in raw:
        return named, []
    try:
        inner = _CONVERSIONS[dict](raw[SETTINGS_FIELD])
    except (ValueError, RecursionError):
        return named, [_wrong(SETTINGS_FIELD, _KINDS[dict], raw[SETTINGS_FIELD])]
    problems = [
        f"{name} must be given once; it is a value of its own and a key of {SETTINGS_FIELD}."
        for name in sorted(named.keys() & inner.keys())
    ]
    return {**inner, **named}, problems


def _read_json(settings: ParameterValues) -> tuple[Values, list[str]]:
    """Check the keys and JSON types of the form's field `settings`."""
    values: Values = {}
    problems = []
    for name, value in settings.items():
        if name not in PARAMETERS:
            problems.append(_unknown(name))
        elif name in FORM_FIELDS:
            problems.append(
                f"{name} is a field of the form: set it there, and remove it from {SETTINGS_FIELD}."
            )
        elif PARAMETERS[name].metadata["place"] == "pipeline":
            problems.append(
                f"{name} is part of the compiled pipeline: remove it from {SETTINGS_FIELD}. "
                f"`repot compile -p {name}=...` writes a pipeline with another value; upload that."
            )
        elif not _has_json_type(value, value_type(name)):
            problems.append(_wrong_json_type(name, value))
        else:
            # KFP's JSON has only floats.
            values[name] = int(value) if value_type(name) is int else value
    return values, problems


def _has_json_type(value: Any, expected: type) -> bool:
    if expected is bool or isinstance(value, bool):
        return isinstance(value, bool) and expected is bool
    if expected is int:
        return isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if expected is float:
        # Not math.isfinite, which a whole number of hundreds of digits overflows.
        return isinstance(value, int | float) and abs(value) <= sys.float_info.max
    if expected is str:
        return isinstance(value, str) and value.isprintable()
    return isinstance(value, expected)


def _wrong_json_type(name: str, value: Any) -> str:
    expected = value_type(name)
    kind = "text on one line" if expected is str else _KINDS[expected]
    example = json.dumps(DEFAULTS[name])
    advice = f'Write "{name}": {example}, for example'
    if isinstance(value, str) and expected is not str:
        advice += ": without quotes"
    elif value is None:
        advice = "Remove the key to use the default"
    shown = f"{json.dumps(value):.{_MAX_SHOWN}}"
    return f"{name} in {SETTINGS_FIELD} must be {kind}; got {shown}. {advice}."


def _unknown(name: str) -> str:
    near = nearest_names(name.replace("-", "_"), PARAMETERS, limit=2)
    every = ", ".join(sorted(PARAMETERS))
    advice = f"Did you mean {' or '.join(near)}?" if near else f"There are {every}."
    return f"{name} must be the name of a setting; there is none of that name. {advice}"


def _unknown_key(key: str, config_map: str) -> str:
    known = (*CLUSTER_KEYS, *CONFIG_MAP_KEYS)
    near = {each.lower(): each for each in known}
    found = nearest_names(key, near)
    name = PARAMETERS.get(key.lower())
    if name is not None:
        advice = (
            "It is part of the compiled pipeline: `repot compile -p "
            f"{name.name}=...` writes a pipeline with another value."
            if name.metadata["place"] == "pipeline"
            else "Each run sets it."
        )
    else:
        advice = f"Did you mean {near[found[0]]}?" if found else f"It may have {', '.join(known)}."
    return f"The ConfigMap {config_map} must not have the key {key}, which nothing reads. {advice}"


def _wrong_type(name: str, value: object) -> str:
    return _wrong(name, _KINDS[value_type(name)], value)


def _wrong(name: str, kind: str, value: object) -> str:
    return f"{name} must be {kind}; got {name}={f'{value!r:.{_MAX_SHOWN}}'}."


def _text(value: Any) -> str:
    # The text is printed, and kept by a server; no setting has several lines.
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
            # YAML has keys that are numbers, and dates; JSON has neither.
            return json.loads(json.dumps(parsed, allow_nan=False))
        except TypeError as err:
            raise ValueError(value) from err

    return convert


_CONVERSIONS: dict[Any, Callable[[Any], Any]] = {
    str: _text,
    int: _integer,
    float: _number,
    bool: _boolean,
    list: _json(list),
    dict: _json(dict),
}
