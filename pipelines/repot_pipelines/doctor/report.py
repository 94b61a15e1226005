"""Print check results: a table for people, JSON for programs; never credentials."""

import dataclasses
import json
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape

from repot_pipelines.doctor.checks import Section
from repot_pipelines.doctor.results import NOT_CHECKED, OK, PROBLEM, WARNING

_MARKS = {
    OK: "[green]✓[/green]",
    WARNING: "[yellow]![/yellow]",
    PROBLEM: "[red]✗[/red]",
    NOT_CHECKED: "[dim]–[/dim]",
}
_STYLES = {OK: "", WARNING: "yellow", PROBLEM: "red", NOT_CHECKED: "dim"}
_NAME_WIDTH = 17


def is_ready(sections: Sequence[Section]) -> bool:
    """Return whether no check found a problem."""
    return not _count(sections, PROBLEM)


def print_section(console: Console, section: Section) -> None:
    """Print the results of one section, with the fix below each that has one."""
    console.print(f"[bold]{escape(section.title)}[/bold]", highlight=False)
    for check in section.checks:
        name = escape(f"{check.name:<{_NAME_WIDTH}}")
        finding, style = escape(check.finding), _STYLES[check.state]
        text = f"[{style}]{finding}[/{style}]" if style else finding
        console.print(f"  {_MARKS[check.state]} {name} {text}", highlight=False, soft_wrap=True)
        if check.fix:
            console.print(
                f"    {'':<{_NAME_WIDTH}} → {escape(check.fix)}", highlight=False, soft_wrap=True
            )


def print_summary(console: Console, sections: Sequence[Section]) -> None:
    """Print in one line whether a run can start."""
    num_problems, num_warnings = _count(sections, PROBLEM), _count(sections, WARNING)
    counts = [_format_count(num_problems, "problem"), _format_count(num_warnings, "warning")]
    summary = " and ".join(count for count in counts if count)
    if num_problems:
        console.print(f"[red]Not ready: {summary}.[/red]", highlight=False)
    else:
        console.print(f"Ready{f', with {summary}' if summary else ''}.", highlight=False)


def to_json(sections: Sequence[Section]) -> str:
    """Return `ready` and all `checks` as JSON, each with section, name, state, finding and fix."""
    checks = [
        {"section": section.title, **dataclasses.asdict(check)}
        for section in sections
        for check in section.checks
    ]
    return json.dumps({"ready": is_ready(sections), "checks": checks}, indent=2, ensure_ascii=False)


def _count(sections: Sequence[Section], state: str) -> int:
    return sum(check.state == state for section in sections for check in section.checks)


def _format_count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number > 1 else ''}" if number else ""
