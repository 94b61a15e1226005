"""Output on terminals that cannot show every character, and names that contain escape sequences."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.command_line import REPOT, repot

DRY_RUN = ["submit", "gs://bucket/pictures", "--storage-uri", "gs://bucket/repot", "--dry-run"]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_characters_that_the_terminal_lacks_are_escaped(
    encoding: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", encoding)

    done = repot(*DRY_RUN, "--experiment", "花", cwd=tmp_path)

    assert (done.returncode, done.stderr) == (0, "")
    assert "experiment  \\u82b1\n" in done.stdout


def test_missing_folder_is_one_message_on_a_latin_1_terminal(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")

    done = repot("run", "Buecher-花", cwd=tmp_path)

    assert done.returncode == 2
    assert done.stderr.startswith("Error: ")
    assert "Buecher-\\u82b1" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such arguments")
@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "pictures-\udcff"),
        ("run", "--sample", "--storage-uri", "\udcff"),
        ("run", "--sample", "--cpu-image", "repot\udcff"),
        ("run", "--sample", "--rebuild", "\udcff"),
        ("compile", "--cpu-image", "repot\udcff", "--output", "x.yaml"),
        (*DRY_RUN, "-p", "cpu_image=repot\udcff"),
        (*DRY_RUN, "--model-name", "\udcff"),
        (*DRY_RUN, "--experiment", "\udcff"),
    ],
)
def test_argument_that_is_not_text_is_wrong_usage(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    done = repot(*arguments, cwd=tmp_path)

    assert done.returncode == 2
    assert "Error: " in done.stderr
    assert "\\udcff" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("--experiment", "a\x1b[31m"),
        ("--pipeline-name", "a\x1b[31m"),
        ("--version-name", "a\x1b[31m"),
        ("--pipeline-root", "gs://a\x1b[31m"),
        ("--params", "a\x1b[31m"),
        ("--prices", "a\x1b[31m"),
        ("--preset", "a\x1b[31m"),
        ("-p", "rebuild=a\x1b[31m"),
        ("-p", "a\x1b[31m=1"),
        ("-p", "a\x1b[31m"),
        ("--labels-file", "gs://bucket/a\x1b[31m"),
    ],
)
def test_escape_sequence_in_an_option_never_reaches_the_terminal(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    done = repot(*DRY_RUN, *arguments, cwd=tmp_path)

    assert done.returncode == 2
    assert "\x1b" not in done.stdout + done.stderr
    assert "\\x1b" in done.stderr or "\\u001b" in done.stderr


def _in_shell(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script; "$@" is the console command."""
    command = ["sh", "-c", script, "sh", *REPOT, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&- <&-"])
def test_closed_streams_do_not_change_the_exit_code(closed: str, tmp_path: Path) -> None:
    done = _in_shell(f'"$@" {closed}', "compile", "--output", str(tmp_path / "x.yaml"))
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "x.yaml").stat().st_size > 1000

    assert _in_shell(f'"$@" {closed}', "compile", "--cpu-image", "A B").returncode == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
def test_full_disk_behind_the_output_is_named() -> None:
    done = _in_shell('"$@" > /dev/full', "--help")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: The output, or a file, cannot be written: the disk is")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems keep the folder")
@pytest.mark.parametrize("arguments", [("compile",), ("run", "--sample"), ("doctor",)])
def test_deleted_working_folder_is_named(arguments: tuple[str, ...], tmp_path: Path) -> None:
    done = _in_shell(f'mkdir "{tmp_path}/a" && cd "{tmp_path}/a" && rmdir ../a && "$@"', *arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: The working folder must exist; it was deleted.")
