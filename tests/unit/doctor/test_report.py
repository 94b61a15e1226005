import io
import json

import pytest
from rich.console import Console

from repot_pipelines.doctor.checks import Section
from repot_pipelines.doctor.report import is_ready, print_section, print_summary, to_json
from repot_pipelines.doctor.results import CheckResult, not_checked, ok, problem, warning

GREEN, YELLOW = ok("one", "fine [/b]"), warning("two", "Half.", "Look [1].")
RED, GREY = problem("three", "Broken.", "Repair it."), not_checked("four", "not requested")


def section(*checks: CheckResult) -> Section:
    return Section(title="part", checks=checks)


def printed(*checks: CheckResult) -> str:
    console = Console(file=io.StringIO(), width=40)
    print_section(console, section(*checks))
    print_summary(console, [section(*checks)])
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_table_has_each_fix_below_its_finding() -> None:
    assert printed(GREEN, YELLOW, RED, GREY).splitlines() == [
        "part",
        "  ✓ one               fine [/b]",
        "  ! two               Half.",
        "                      → Look [1].",
        "  ✗ three             Broken.",
        "                      → Repair it.",
        "  – four              not requested",
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
def test_summary_counts_problems_and_warnings(checks: tuple[CheckResult, ...], end: str) -> None:
    assert printed(*checks).splitlines()[-1] == end
    assert is_ready([section(*checks)]) == (RED not in checks)


def test_json_contains_every_result() -> None:
    content = json.loads(to_json([section(GREEN, RED)]))

    assert content == {
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
