"""What is printed of an examination: a table for people, JSON for programs; never anything secret."""

import dataclasses
import itertools
import json
from collections.abc import Iterable

from rich.console import Console
from rich.markup import escape

from repot_pipelines.doctor.check import NOT_CHECKED, OK, PROBLEM, WARNING
from repot_pipelines.doctor.checks import Section

_MARKS = {
    OK: "[green]✓[/green]",
    WARNING: "[yellow]![/yellow]",
    PROBLEM: "[red]✗[/red]",
    NOT_CHECKED: "[dim]–[/dim]",
}
_STYLES = {OK: "", WARNING: "yellow", PROBLEM: "red", NOT_CHECKED: "dim"}
_NAME_WIDTH = 17


def is_ready(sections: Iterable[Section]) -> bool:
    """Return whether nothing is red."""
    return not _count(sections, PROBLEM)


def print_section(console: Console, section: Section) -> None:
    """Print the results of one section, each with its fix below it."""
    console.print(f"[bold]{escape(section.title)}[/bold]", highlight=False)
    for check in section.checks:
        name = escape(f"{check.name:<{_NAME_WIDTH}}")
        finding = escape(check.finding)
        style = _STYLES[check.state]
        told = f"[{style}]{finding}[/{style}]" if style else finding
        console.print(f"  {_MARKS[check.state]} {name} {told}", highlight=False, soft_wrap=True)
        if check.fix:
            console.print(
                f"    {'':<{_NAME_WIDTH}} → {escape(check.fix)}", highlight=False, soft_wrap=True
            )


def print_end(console: Console, sections: Iterable[Section]) -> None:
    """Print in one line how it is altogether."""
    known = list(sections)
    num_problems, num_warnings = _count(known, PROBLEM), _count(known, WARNING)
    words = [_counted(num_problems, "problem"), _counted(num_warnings, "warning")]
    told = " and ".join(word for word in words if word)
    if num_problems:
        console.print(f"[red]Not ready: {told}.[/red]", highlight=False)
    else:
        console.print(f"Ready{f', with {told}' if told else ''}.", highlight=False)


def to_json(sections: Iterable[Section]) -> str:
    """Return all results as JSON: `ready`, and `checks`, each with section, name, state, finding and fix."""
    known = list(sections)
    checks = [
        {"section": section.title, **dataclasses.asdict(check)}
        for section in known
        for check in section.checks
    ]
    return json.dumps({"ready": is_ready(known), "checks": checks}, indent=2, ensure_ascii=False)


def _count(sections: Iterable[Section], state: str) -> int:
    return sum(
        check.state == state
        for check in itertools.chain.from_iterable(found.checks for found in sections)
    )


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number > 1 else ''}" if number else ""
