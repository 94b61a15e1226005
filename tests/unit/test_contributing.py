"""The lists of "How to add" in CONTRIBUTING.md must name existing files and tests that hold."""

import inspect
import re
from pathlib import Path

import pytest

from repot.recipes import RECIPES
from repot.storage.backend import Backend
from repot.storage.operations import find_backend
from repot.storage.uris import SCHEMES
from repot.zoo import BACKBONES

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
SUBJECTS = [
    "A setting",
    "A setting of a service that hears about a run",
    "A backbone",
    "A recipe",
    "A metric in the report",
    "An input format",
    "A storage backend",
    "An export format",
    "A command",
]


def test_how_to_add_covers_every_subject() -> None:
    (section,) = re.findall(r"## How to add\n(.*?)\n## ", TEXT, flags=re.DOTALL)

    assert re.findall(r"(?m)^### (.+)$", section) == SUBJECTS


def test_files_named_in_the_guide_exist() -> None:
    names = re.findall(r"`((?:components|pipelines|tests|docs|images|manifests)/[\w./*-]+)`", TEXT)

    assert len(names) > 25
    assert [name for name in names if not list(ROOT.glob(name.rstrip("/")))] == []


@pytest.mark.parametrize("scheme", ["", *SCHEMES])
def test_every_storage_backend_has_the_functions_of_the_protocol(scheme: str) -> None:
    names = [name for name, _ in inspect.getmembers(Backend, inspect.isfunction) if name[0] != "_"]

    assert names
    for name in names:
        expected = list(inspect.signature(getattr(Backend, name)).parameters)[1:]
        assert list(inspect.signature(getattr(find_backend(scheme), name)).parameters) == expected


def test_every_scheme_has_a_backend() -> None:
    modules = {find_backend(scheme).__name__ for scheme in ("", *SCHEMES)}  # type: ignore[attr-defined]

    assert len(modules) == 1 + len(SCHEMES)


def test_every_recipe_and_backbone_has_one_line_for_help_and_report() -> None:
    summaries = [recipe.summary for recipe in RECIPES.values()]
    summaries += [backbone.summary for backbone in BACKBONES.values()]

    assert [text for text in summaries if not re.fullmatch(r"[^\n]{10,100}", text)] == []
