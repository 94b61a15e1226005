import sys
from pathlib import Path

import pytest

from repot_pipelines.commands import run


def test_program_is_called_by_its_name_only_where_the_shell_finds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, other = tmp_path / ".venv" / "bin" / "repot", tmp_path / "other" / "repot"
    for path in (script, other):
        path.parent.mkdir(parents=True)
        path.touch(mode=0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(other.parent))

    monkeypatch.setattr(sys, "argv", [".venv/bin/repot", "run"])
    assert run._program() == ".venv/bin/repot"
    monkeypatch.setattr(sys, "argv", [str(other), "run"])
    assert run._program() == "repot"
    monkeypatch.setattr(sys, "argv", ["-c", "run"])
    assert run._program() == "repot"
