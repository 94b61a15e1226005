"""Commands, options, make targets and links in the documents must exist in the code."""

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from repot_pipelines.cli import repot

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
REFERENCE = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
DOCUMENTS = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "images/README.md",
    "manifests/README.md",
    "tests/golden/README.md",
    *sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")),
]


def commands(group: click.Group, prefix: str = "repot") -> Iterator[tuple[str, click.Command]]:
    """Yield every command that is not a group, by what a user types."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}", command


COMMANDS = dict(commands(repot))


def options(command: click.Command) -> set[str]:
    return {
        name for parameter in command.params for name in parameter.opts if name.startswith("--")
    }


def documented_options(start: str) -> set[str]:
    """Return the options in table rows that begin with `start`, option groups included."""
    row = re.compile(rf"\| {re.escape(start)}[ `]")
    cells = [line.split("|")[-2] for line in REFERENCE.splitlines() if row.match(line)]
    named = {f"{kind} options" for cell in cells for kind in re.findall(r"(\w+) options", cell)}
    own = {option for cell in cells for option in re.findall(r"--[a-z0-9-]+", cell)}
    return own.union(*map(documented_options, named))


def code_lines(text: str) -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]


@pytest.mark.parametrize("name", COMMANDS)
def test_reference_lists_exactly_the_options_of_each_command(name: str) -> None:
    assert documented_options(f"`{name}") == options(COMMANDS[name]) - {"--debug"}


def test_every_command_is_in_the_readme() -> None:
    rows = "".join(line for line in README.splitlines() if line.startswith("| "))

    assert all(f"`repot {name}" in rows for name in repot.commands)


@pytest.mark.parametrize("document", [README, REFERENCE], ids=["README", "commands"])
def test_every_option_exists(document: str) -> None:
    known = set().union(*map(options, COMMANDS.values()), {"--help", "--version"})
    named = re.findall(r"--[a-z][a-z0-9_-]+", document)

    assert {name.replace("_", "-") for name in named} <= known


@pytest.mark.parametrize("document", DOCUMENTS)
def test_command_lines_in_documents_are_accepted(document: str) -> None:
    for line in code_lines((ROOT / document).read_text(encoding="utf-8")):
        command, *_ = line.split(" | ")
        words = shlex.split(command, comments=True)
        if words[:1] in (["repot"], [".venv/bin/repot"]):
            _parse(repot, words[1:])


@pytest.mark.parametrize("document", DOCUMENTS)
def test_make_targets_in_documents_exist(document: str) -> None:
    targets = re.findall(
        r"(?m)(?:`|^)make ([a-z0-9-]+)", (ROOT / document).read_text(encoding="utf-8")
    )

    for target in targets:
        subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_in_documents_have_targets(document: str) -> None:
    links = re.findall(r"\]\(([^)#]+)", (ROOT / document).read_text(encoding="utf-8"))

    missing = [
        link
        for link in links
        if "://" not in link and not (ROOT / document).parent.joinpath(link).exists()
    ]
    assert missing == []


def test_ci_runs_the_test_command_of_the_readme() -> None:
    (line,) = [line for line in code_lines(README) if line.startswith("make test")]

    assert (
        line.split("#")[0].strip()
        in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    )


def test_changelog_starts_with_unreleased() -> None:
    headings = re.findall(r"(?m)^## (.*)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))

    assert headings[0] == "[Unreleased]"


def _parse(command: click.Command, words: list[str]) -> None:
    if isinstance(command, click.Group):
        _parse(command.commands[words[0]], words[1:])
    else:
        command.make_context(command.name, words)
