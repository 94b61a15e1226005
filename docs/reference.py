"""Write the tables that are derived from the code into the documentation.

    python docs/reference.py          rewrite README.md and the pages in docs/
    python docs/reference.py --check  exit with 1 if one of them is out of date

A table stands between `<!-- NAME: written by make docs -->` and `<!-- end -->`.
"""

import dataclasses
import sys
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path

import click

from repot import cluster_names
from repot.settings import (
    ALL_SETTINGS,
    CLUSTER_KEYS,
    FORM_FIELDS,
    PARAMETERS,
    PIPELINE_SETTINGS,
    SETTINGS_FIELD,
    option_name,
    parameter_default,
)
from repot.settings.integrations import ENVIRONMENT_SETTINGS, variable_name
from repot_pipelines.cli import repot
from repot_pipelines.commands.ci import ci_command
from repot_pipelines.commands.schedule import apply_command, pause_command
from repot_pipelines.commands.submit import submit_command

ROOT = Path(__file__).resolve().parent.parent
IMAGE_OPTIONS = ("--cpu-image", "--trainer-image")


def form_table() -> str:
    """Return one row per field of the form in the UI: default, meaning, and when to change it."""
    rows = ["| field | default | meaning | change it when |", "|---|---|---|---|"]
    texts = {
        name: (
            f"`{name}`",
            _default(name),
            _meaning(name),
            PARAMETERS[name].metadata["change_when"],
        )
        for name in FORM_FIELDS
    }
    texts[SETTINGS_FIELD] = (
        f"`{SETTINGS_FIELD}`",
        "`{}`",
        "Any setting of the next table, as a JSON object.",
        "one of them must change",
    )
    return "\n".join([*rows, *(_row(texts[name]) for name in sorted(texts))])


def settings_table() -> str:
    """Return one row per setting that is no field of the form, and where its default may be."""
    rows = [
        "| setting | default | administrator's | meaning | change it when |",
        "|---|---|---|---|---|",
    ]
    keys = {name: f"`{key}`" for key, name in CLUSTER_KEYS.items()}
    keys |= {name: f"{keys.get(name, '')} compile".strip() for name in PIPELINE_SETTINGS}
    for name in sorted(PARAMETERS.keys() - set(FORM_FIELDS)):
        change_when = PARAMETERS[name].metadata["change_when"]
        cells = (f"`{name}`", _default(name), keys.get(name, ""), _meaning(name), change_when)
        rows.append(_row(cells))
    return "\n".join(rows)


def integration_table() -> str:
    """Return one row per setting of the services that hear about a run."""
    keys = {variable: f"`{key}`" for key, variable in cluster_names.INTEGRATION_VARIABLES.items()}
    for key, variable in cluster_names.INTEGRATION_SECRET_VARIABLES.items():
        keys[variable] = f"`{key}` (Secret)"
    rows = ["| key | environment variable | default | meaning |", "|---|---|---|---|"]
    for field in chain.from_iterable(map(dataclasses.fields, ENVIRONMENT_SETTINGS)):
        variable = variable_name(field.name)
        default = "" if field.default == "" else _shown_default(field.default)
        rows.append(f"| {keys[variable]} | `{variable}` | {default} | {field.metadata['help']} |")
    return "\n".join(rows)


def command_table() -> str:
    """Return one row per command, by the sections of the help text."""
    rows = ["| | command | what it does |", "|---|---|---|"]
    for title, members in repot.sections.items():
        for index, name in enumerate(members):
            command = repot.commands[name]
            is_group = isinstance(command, click.Group)
            arguments = "COMMAND" if is_group else _arguments(command)
            what = command.get_short_help_str(200).rstrip(".")
            section = "" if index else title
            rows.append(f"| {section} | `{f'repot {name} {arguments}'.strip()}` | {what} |")
    return "\n".join(rows)


def option_table() -> str:
    """Return one row per command, then one per group of options that several commands share."""
    groups = option_groups()
    rows = ["| command | what it does | options |", "|---|---|---|"]
    for name, command in _commands(repot):
        options = _options(command)
        shared = [group for group, members in groups.items() if members.keys() <= set(options)]
        own = [name for name in options if not any(name in groups[group] for group in shared)]
        texts = [" ".join(f"`{option}`" for option in own), *shared]
        what = command.get_short_help_str(200).rstrip(".")
        call = f"{name} {_arguments(command)}".strip()
        rows.append(f"| `{call}` | {what} | {', '.join(text for text in texts if text)} |")
    for settings in ALL_SETTINGS:
        members = [option_name(PARAMETERS[name]) for name in settings.__dataclass_fields__]
        if any(members):
            subject = settings.__name__.removesuffix("Settings").lower()
            rows.append(f"| pipeline options | {subject} | {_code(filter(None, members))} |")
    rows.append(f"| image options | container images | {_code(IMAGE_OPTIONS)} |")
    rows.append(f"| start options | how a run is started | {_code(groups['start options'])} |")
    rows.append(f"| follow options | how a run is followed | {_code(groups['follow options'])} |")
    rows.append(
        f"| server options | server address and credentials | {_code(groups['server options'])} |"
    )
    return "\n".join(rows)


def option_groups() -> dict[str, dict[str, None]]:
    """Return the options that several commands share, in order, by the group's name."""
    pipeline = dict.fromkeys(filter(None, map(option_name, PARAMETERS.values())))
    server = dict.fromkeys(name for name in _options(pause_command) if name != "--id")
    grouped = {*pipeline, *server, "--storage-uri", "--preset"}
    # submit and ci start a run and follow it; schedule apply only starts runs.
    submit, ci, schedule = map(_options, (submit_command, ci_command, apply_command))
    start = [name for name in schedule if name in submit and name not in grouped]
    follow = [name for name in submit if name in ci and name not in {*grouped, *start}]
    return {
        "pipeline options": pipeline,
        "image options": dict.fromkeys(IMAGE_OPTIONS),
        "start options": dict.fromkeys(start),
        "follow options": dict.fromkeys(follow),
        "server options": server,
    }


TABLES = {
    "README.md": {"commands": command_table},
    "docs/commands.md": {"options": option_table},
    "docs/after-promotion.md": {"integrations": integration_table},
    "docs/kubeflow-ui.md": {"form": form_table, "settings": settings_table},
}


def with_tables(text: str, tables: Mapping[str, str]) -> str:
    """Return a document with its generated tables replaced."""
    for name, table in tables.items():
        start, end = f"<!-- {name}: written by make docs -->\n", "\n<!-- end -->"
        before, found_start, rest = text.partition(start)
        _, found_end, after = rest.partition(end)
        if not (found_start and found_end):
            raise ValueError(f"The document must have a table between {start!r} and {end!r}.")
        text = before + start + table + end + after
    return text


def outdated_documents(*, write: bool) -> Iterator[str]:
    """Yield the documents whose tables differ from the code; rewrite them if asked to."""
    for name, makers in TABLES.items():
        path = ROOT / name
        before = path.read_text(encoding="utf-8")
        after = with_tables(before, {table: make() for table, make in makers.items()})
        if after != before:
            yield name
            if write:
                path.write_text(after, encoding="utf-8")


def main() -> int:
    """Rewrite or check the documents."""
    is_check = "--check" in sys.argv[1:]
    outdated = list(outdated_documents(write=not is_check))
    for name in outdated:
        print(f"{name} is out of date: run `make docs`." if is_check else f"{name}: rewritten")
    return 1 if is_check and outdated else 0


def _commands(group: click.Group, prefix: str = "repot") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from _commands(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}", command


def _arguments(command: click.Command) -> str:
    return " ".join(
        parameter.make_metavar(click.Context(command))
        for parameter in command.params
        if isinstance(parameter, click.Argument)
    )


def _options(command: click.Command) -> list[str]:
    return [
        parameter.opts[0]
        for parameter in command.params
        if isinstance(parameter, click.Option) and parameter.opts[0] != "--debug"
    ]


def _code(names: object) -> str:
    return " ".join(f"`{name}`" for name in names)  # type: ignore[attr-defined]


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _meaning(name: str) -> str:
    field = PARAMETERS[name]
    rule = field.metadata["rule"]
    meaning: str = field.metadata["help"]
    if rule and not rule.choices:
        meaning += f" Must {rule.text}."
    elif rule and name not in ("backbone", "recipe"):
        meaning += f" One of {', '.join(f'`{choice}`' for choice in rule.choices)}."
    return meaning


def _default(name: str) -> str:
    """Return a setting's default as the form of the UI shows it, or as JSON has it."""
    default = parameter_default(PARAMETERS[name])
    return "*required*" if default is None else _shown_default(default)


def _shown_default(default: object) -> str:
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, int | float):
        return f"`{default:g}`"
    return f"`{default}`"


if __name__ == "__main__":
    sys.exit(main())
