"""No install command asks a package index for repot; extras are those of pyproject.toml."""

import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from repot.extras import DISTRIBUTION, EXTRAS, install_command

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
FOLDERS = (".ci", ".github", "benchmarks", "components", "docs", "examples", "images", "manifests")
SUFFIXES = {".md", ".py", ".yml", ".yaml", ".sh", ".j2", ".toml", ""}
INSTALL = re.compile(r"\b(?:pip3?|pipx|uv)\b[^`\n]*? (?:install|wheel|download|add)\b([^`\n]*)")
# The bare name, also with an extra or a version; not as a part of a path or of another name.
BARE_NAME = re.compile(r"(?<![\w/.@-])repot(?![\w/.-])")


def texts() -> Iterator[tuple[str, str]]:
    """Yield name and text of every file in which a command can stand."""
    paths = [path for folder in (*FOLDERS, "pipelines") for path in (ROOT / folder).rglob("*")]
    paths += [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "Makefile")]
    for path in paths:
        if path.is_file() and path.suffix in SUFFIXES and "__pycache__" not in path.parts:
            yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8").replace("\\\n", " ")


def install_arguments(text: str) -> list[str]:
    return [match[1] for match in INSTALL.finditer(text)]


def test_no_command_asks_a_package_index_for_repot() -> None:
    found = [(name, words) for name, text in texts() for words in install_arguments(text)]

    assert len(found) > 15
    assert [(name, words) for name, words in found if BARE_NAME.search(words)] == []


@pytest.mark.parametrize(
    "command",
    [
        "pip install 'repot[s3]'",
        "python -m pip install --upgrade repot",
        "uv pip install repot==0.1.0",
        "pipx install repot",
        "$(BIN)/python -m pip install --quiet repot",
    ],
)
def test_command_that_asks_an_index_is_recognised(command: str) -> None:
    (words,) = install_arguments(f"Run `{command}` first.")

    assert BARE_NAME.search(words)


@pytest.mark.parametrize(
    "command",
    [
        "pip install --editable '.[dev]'",
        'python -m pip install "$(ls dist/repot-*.whl)[s3]"',
        "python3 -m pip --python x install --prefix /opt/repot wheels/*.whl",
    ],
)
def test_command_that_names_a_file_or_folder_is_accepted(command: str) -> None:
    (words,) = install_arguments(command)

    assert not BARE_NAME.search(words)


def test_name_with_an_extra_is_used_only_in_a_direct_reference() -> None:
    name_with_extra = re.compile(rf"repot\[(?:{'|'.join(EXTRAS)})[^\]]*\](?! @ https://)")

    assert [name for name, text in texts() if name_with_extra.search(text)] == []


def test_extras_install_what_the_project_declares() -> None:
    declared = PROJECT["optional-dependencies"]

    assert PROJECT["name"] == DISTRIBUTION
    assert {name: list(packages) for name, packages in EXTRAS.items()} == {
        name: packages
        for name, packages in declared.items()
        if name not in ("test", "lint", "dev", "browser")
    }


def test_indexes_reject_an_upload() -> None:
    assert "Private :: Do Not Upload" in PROJECT["classifiers"]


@pytest.mark.parametrize("extra", EXTRAS)
def test_documentation_shows_the_commands_of_the_messages(extra: str) -> None:
    page = (ROOT / "docs" / "installation.md").read_text(encoding="utf-8")
    in_checkout, elsewhere = re.findall(r"`([^`]+)`", install_command(extra))

    assert elsewhere in page.splitlines()
    assert f"| `{extra}` |" in page
    assert in_checkout == f"make venv EXTRAS={extra}"


def test_make_installs_the_extras_that_the_documentation_names(tmp_path: Path) -> None:
    named = {
        match for _, text in texts() for match in re.findall(r"make venv EXTRAS=([\w,]+)", text)
    }

    assert {extra for names in named for extra in names.split(",")} == set(EXTRAS)
    for extras in named:
        command = ["make", "--dry-run", "venv", f"EXTRAS={extras}", f"VENV={tmp_path}"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        assert f"--editable '.[{extras}]'" in done.stdout
    plain = ["make", "--dry-run", "venv", f"VENV={tmp_path}"]
    done = subprocess.run(plain, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "--editable '.'" in done.stdout
