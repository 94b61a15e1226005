"""What docs/ says about parameters, messages and files must be so."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from repot_pipelines.run_request import read_request

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(page.name for page in DOCS.glob("*.md"))
VALUE = "\0"  # stands for a value in a message, as … does in its key


def text_of(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


def shown(definition: dict[str, Any]) -> str:
    """Return a parameter's default as the UI's form shows it."""
    default = definition.get("defaultValue")
    if default is None:
        return "*required*"
    if default == "":
        return "*empty*"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{default:g}`" if isinstance(default, int | float) else f"`{default}`"


def written_texts(source: str) -> Iterator[str]:
    """Yield every string of a program, with VALUE for each value that is put into it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            yield "".join(
                str(part.value) if isinstance(part, ast.Constant) else VALUE for part in node.values
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def all_texts() -> str:
    sources = sorted(
        path for folder in ("components", "pipelines") for path in (ROOT / folder).rglob("*.py")
    )
    return "\n\n".join(
        text for path in sources for text in written_texts(path.read_text(encoding="utf-8"))
    )


def message_keys() -> list[str]:
    return re.findall(r"(?m)^### `(.+)`$", text_of("troubleshooting.md"))


def test_every_page_is_in_the_index() -> None:
    linked = re.findall(r"(?m)^\| \[([a-z-]+\.md)\]\(\1\) \|", text_of("README.md"))

    assert sorted([*linked, "README.md"]) == PAGES


def test_generated_tables_are_up_to_date() -> None:
    check = [sys.executable, str(DOCS / "reference.py"), "--check"]

    result = subprocess.run(check, capture_output=True, text=True, check=False)

    assert (result.stdout, result.returncode) == ("", 0)


def test_form_table_holds_the_parameters_of_the_pipeline_and_their_defaults() -> None:
    compiled = (ROOT / "pipelines" / "compiled" / "finetune.yaml").read_text(encoding="utf-8")
    definitions = next(yaml.safe_load_all(compiled))["root"]["inputDefinitions"]["parameters"]

    _, _, text = text_of("kubeflow-ui.md").partition("<!-- form: ")
    table = re.findall(r"(?m)^\| `(\w+)` \| (.+?) \|", text.partition("<!-- end -->")[0])

    assert dict(table) == {name: shown(definition) for name, definition in definitions.items()}
    assert len(table) == len(definitions)


def test_troubleshooting_keys_are_messages_that_the_code_writes() -> None:
    texts = all_texts()
    anything = f"[^\n]*{VALUE}[^\n]*"
    patterns = {
        key: anything.join(map(re.escape, key.strip("… ").split("…"))) for key in message_keys()
    }
    unknown = [key for key, pattern in patterns.items() if not re.search(pattern, texts)]

    assert len(message_keys()) > 40
    assert unknown == []


def test_troubleshooting_keys_are_there_once() -> None:
    assert len(set(message_keys())) == len(message_keys())


@pytest.mark.parametrize("page", PAGES)
def test_parameter_files_of_the_page_are_accepted(page: str, tmp_path: Path) -> None:
    places = {"pictures_uri": "gs://your-bucket/pictures", "storage_uri": "gs://your-bucket/repot"}
    for block in re.findall(r"```yaml\n(.*?)```", text_of(page), flags=re.DOTALL):
        # The placeholder is in capitals so that a run with it is rejected at once.
        text = block.replace("YOUR-REGISTRY", "registry.example")
        (tmp_path / "parameters.yaml").write_text(text, encoding="utf-8")
        options = {name: uri for name, uri in places.items() if name not in block}
        read_request(
            preset="cluster",
            parameter_file=tmp_path / "parameters.yaml",
            options=options,
            assignments=[],
        )


@pytest.mark.parametrize("page", PAGES)
def test_links_and_paths_of_the_page_lead_somewhere(page: str) -> None:
    text = text_of(page)
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", text)
    named = re.findall(
        r"(?:manifests|images|examples|pipelines)/[\w./-]+",
        re.sub(r"https?://\S+|github\.com/\S+", "", text),
    )

    missing = [link for link in links if "://" not in link and not (DOCS / link).exists()]
    missing += [path for path in named if not (ROOT / path.rstrip(".")).exists()]
    assert missing == []
