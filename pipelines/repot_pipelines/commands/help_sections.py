"""Help texts in sections: a command with 80 options, and a program with 17 commands."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click

_Decorated = TypeVar("_Decorated", bound=Callable[..., Any])

_MAX_SENTENCE = 200
"""Characters of a command's line in the list of commands; the formatter wraps it."""


def in_section(
    title: str, *options: Callable[[_Decorated], _Decorated]
) -> Callable[[_Decorated], _Decorated]:
    """Return a decorator that adds options under a heading of the help text.

    An option that has a heading already keeps it.

    Args:
        title: The heading; commands of the class `SectionedCommand` show it.
        options: Click decorators, in the order of the help text.
    """

    def add(command: _Decorated) -> _Decorated:
        num_before = len(_parameters(command))
        for option in reversed(options):
            command = option(command)
        for parameter in _parameters(command)[num_before:]:
            if not _section_of(parameter):
                parameter.help_section = title  # type: ignore[attr-defined]
        return command

    return add


class SectionedCommand(click.Command):
    """A command whose help text has a heading for each section of options."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options without a section first, then those of each section."""
        sections: dict[str, list[tuple[str, str]]] = {"Options": []}
        for parameter in self.get_params(ctx):
            is_option = isinstance(parameter, click.Option)
            record = parameter.get_help_record(ctx) if is_option else None
            if record is not None:
                sections.setdefault(_section_of(parameter) or "Options", []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


class SectionedGroup(click.Group):
    """A group of commands whose help text has a heading for each kind of command.

    Attributes:
        sections: Names of commands by heading; every command is in one of them.
    """

    sections: Mapping[str, Sequence[str]] = {}

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands by section, each with the whole first sentence of its help text."""
        width = max(map(len, self.commands))
        for title, names in self.sections.items():
            with formatter.section(title):
                formatter.write_dl(
                    [
                        (f"{name:{width}}", self.commands[name].get_short_help_str(_MAX_SENTENCE))
                        for name in names
                    ]
                )


def _parameters(command: Any) -> list[click.Parameter]:
    """Return the parameters that decorators have added to a function so far."""
    parameters: list[click.Parameter] = getattr(command, "__click_params__", [])
    return parameters


def _section_of(parameter: click.Parameter) -> str:
    return getattr(parameter, "help_section", "")
