import io
import json

import pytest
from rich.console import Console

from repot_pipelines.doctor.check import Check, not_checked, ok, problem, warning
from repot_pipelines.doctor.checks import Section
from repot_pipelines.doctor.report import is_ready, print_end, print_section, to_json

GREEN, YELLOW = ok("one", "fine [/b]"), warning("two", "Half.", "Look [1].")
RED, GREY = problem("three", "Broken.", "Repair it."), not_checked("four", "nobody asked")


def section(*checks: Check) -> Section:
    return Section(title="part", checks=checks)


def printed(*checks: Check) -> str:
    console = Console(file=io.StringIO(), width=40)
    print_section(console, section(*checks))
    print_end(console, [section(*checks)])
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_each_line_has_its_fix_below_it() -> None:
    assert printed(GREEN, YELLOW, RED, GREY).splitlines() == [
        "part",
        "  ✓ one               fine [/b]",
        "  ! two               Half.",
        "                      → Look [1].",
        "  ✗ three             Broken.",
        "                      → Repair it.",
        "  – four              nobody asked",
        "Not ready: 1 problem and 1 warning.",
    ]


@pytest.mark.parametrize(
    ("checks", "end"),
    [
        ((GREEN, GREY), "Ready."),
        ((GREEN, YELLOW), "Ready, with 1 warning."),
        ((YELLOW, YELLOW), "Ready, with 2 warnings."),
        ((RED, RED), "Not ready: 2 problems."),
    ],
)
def test_the_end_counts(checks: tuple[Check, ...], end: str) -> None:
    assert printed(*checks).splitlines()[-1] == end
    assert is_ready([section(*checks)]) == (RED not in checks)


def test_json_has_every_result() -> None:
    facts = json.loads(to_json([section(GREEN, RED)]))

    assert facts == {
        "ready": False,
        "checks": [
            {"section": "part", "name": "one", "state": "ok", "finding": "fine [/b]", "fix": ""},
            {
                "section": "part",
                "name": "three",
                "state": "problem",
                "finding": "Broken.",
                "fix": "Repair it.",
            },
        ],
    }
