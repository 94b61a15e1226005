"""The commands of docs/model-life.md do what the page says."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def run_shell(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a script with the commands of this environment, as a reader would in a checkout."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_every_command_of_the_page_works_and_has_the_result_that_it_names(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "model-life.md").read_text(encoding="utf-8")
    (tmp_path / "pipelines").symlink_to(ROOT / "pipelines")
    script = "".join(re.findall(r"^```sh\n(.*?)^```", page, re.DOTALL | re.MULTILINE))

    done = run_shell(script, tmp_path)

    assert done.returncode == 0, done.stderr
    verdicts = re.findall(r"^verdict +(\w+):", done.stdout, re.MULTILINE)
    assert verdicts[:3] == ["Promoted", "Undecided", "Promoted"]
    assert re.search(
        r"^differs +dataset: \w+ \(12 train.* -> \w+ \(92 train", done.stdout, re.MULTILINE
    )

    listed = run_shell(
        "repot models list --model-name drawings --storage-uri life/storage --json", tmp_path
    )
    versions: list[dict[str, Any]] = json.loads(listed.stdout)
    # Rolled back twice: the latest version is in production, and the first one is not.
    assert [each["state"] for each in versions] == ["champion", "", "rolled back"]
    with (tmp_path / "life" / "predictions.csv").open(encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == 40
    assert (tmp_path / "life" / "served" / "1" / "saved_model.pb").exists()
