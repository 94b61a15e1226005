"""Ctrl-C, SIGTERM and SIGKILL in every stage of `repot run`: processes end, and runs resume."""

import json
import os
import secrets
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from repot_pipelines.local.run import SAMPLE_FOLDER
from tests.integration.command_line import REPOT, repot

MARK = "REPOT_TEST_MARK"
STOP_SECONDS = 15.0
HEAD = ("--recipe", "head")
"""The recipe whose training takes as long as its epochs say."""


def processes_with(mark: str) -> list[int]:
    """Return the processes that inherited the mark, except zombies."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment, state = (
                (folder / "environ").read_bytes(),
                (folder / "stat").read_text().rsplit(")", 1)[1],
            )
        except OSError:
            continue
        if f"{MARK}={mark}".encode() in environment.split(b"\0") and not state.startswith(" Z"):
            found.append(int(folder.name))
    return found


def start_and_signal(
    folder: Path, options: list[str], stage: str, signal_number: int
) -> tuple[int, str]:
    """Start a run, and send it a signal when `stage` starts.

    Its temporary files are in `folder`/temporary.

    Returns:
        The exit code, and the mark that its processes inherit.
    """
    (folder / "temporary").mkdir()
    mark = secrets.token_hex(8)
    command = [*REPOT, "run", *options, *HEAD, "--epochs", "2000"]
    with subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, MARK: mark, "TMPDIR": str(folder / "temporary")},
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(f"{stage} ..."):
                break
        else:
            pytest.fail(f"the run ended before {stage}")
        time.sleep(0.2)
        process.send_signal(signal_number)
        return process.wait(timeout=STOP_SECONDS), mark


def wait_until_gone(mark: str) -> None:
    deadline = time.monotonic() + STOP_SECONDS
    while processes_with(mark):
        assert time.monotonic() < deadline, processes_with(mark)
        time.sleep(0.1)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return enough pictures for building shards to take some seconds."""
    folder = tmp_path_factory.mktemp("pictures")
    for source in SAMPLE_FOLDER.glob("*/*/*.jpg"):
        label = folder / source.parent.name
        label.mkdir(exist_ok=True)
        for copy in range(4):
            shutil.copyfile(source, label / f"{source.stem}-{copy}.jpg")
    return folder


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return options of a run whose shards and weights already exist."""
    folder = tmp_path_factory.mktemp("prepared")
    options = ["--sample", "--storage-uri", str(folder / "storage")]
    done = repot("run", *options, *HEAD, "--epochs", "1", cwd=folder)
    assert done.returncode == 0, done.stderr
    return options


@pytest.mark.parametrize("stage", ["plan", "fetch checkpoint", "build shards"])
def test_ctrl_c_before_training_leaves_no_process_or_temporary_file(
    stage: str, pictures: Path, tmp_path: Path
) -> None:
    code, mark = start_and_signal(tmp_path, [str(pictures)], stage, signal.SIGINT)
    assert code == 130
    assert processes_with(mark) == []
    assert list((tmp_path / "temporary").iterdir()) == []


def test_ctrl_c_during_training_leaves_no_process(prepared: list[str], tmp_path: Path) -> None:
    code, mark = start_and_signal(tmp_path, prepared, "train", signal.SIGINT)
    assert code == 130
    assert processes_with(mark) == []


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGKILL])
def test_killed_run_leaves_no_process_or_temporary_file(
    signal_number: int, prepared: list[str], tmp_path: Path
) -> None:
    _, mark = start_and_signal(tmp_path, prepared, "train", signal_number)
    wait_until_gone(mark)
    assert list((tmp_path / "temporary").iterdir()) == []


def test_killed_task_is_named_with_its_signal_and_the_likely_cause(
    prepared: list[str], tmp_path: Path
) -> None:
    command = [*REPOT, "run", *prepared, *HEAD, "--epochs", "2000"]
    mark = secrets.token_hex(8)
    environment = {**os.environ, MARK: mark}
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        while not process.stdout.readline().startswith("train ..."):
            assert process.poll() is None
        (task,) = [
            number
            for number in processes_with(mark)
            if b"\0-m\0kfp.dsl.executor_main\0" in Path(f"/proc/{number}/cmdline").read_bytes()
        ]
        os.kill(task, signal.SIGKILL)
        message = process.stderr.read()

    assert process.returncode == 1
    assert message.startswith("Error: The task train was ended by the signal SIGKILL")
    assert "Most likely the memory ran out." in message


def test_run_resumes_after_ctrl_c_during_training(prepared: list[str], tmp_path: Path) -> None:
    options = ["run", *prepared, *HEAD, "--epochs", "150", "--seed", "7"]
    runs = Path(prepared[-1]) / "runs"
    before = set(runs.iterdir())

    def new_file(name: str) -> Path | None:
        return next(
            (run / name for run in set(runs.iterdir()) - before if (run / name).exists()), None
        )

    with subprocess.Popen([*REPOT, *options], cwd=tmp_path, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while new_file("state/latest.json") is None:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=STOP_SECONDS) == 130
    state = new_file("state/latest.json")
    assert state is not None
    saved = json.loads(state.read_text())["position"]["epoch"]
    assert 0 < saved < 150
    again = repot(*options, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    history = new_file("history.csv")
    assert history is not None
    assert len(history.read_text().splitlines()) == 151
    assert (
        f"resuming after epoch {saved} " in (tmp_path / "repot-output" / "pipeline.log").read_text()
    )


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_and_resumed_run_publishes_the_bytes_of_an_undisturbed_one(tmp_path: Path) -> None:
    options = ["--sample", *HEAD, "--epochs", "60"]
    for name in ("undisturbed", "killed"):
        (tmp_path / name).mkdir()
    undisturbed = repot("run", *options, cwd=tmp_path / "undisturbed", timeout=600)
    assert undisturbed.returncode == 0, undisturbed.stderr

    with subprocess.Popen(
        [*REPOT, "run", *options], cwd=tmp_path / "killed", stdout=subprocess.DEVNULL
    ) as process:
        while not list((tmp_path / "killed").glob("repot-storage/runs/*/state/latest.json")):
            assert process.poll() is None, "the run ended before it could be killed"
            time.sleep(0.01)
        process.kill()
    resumed = repot("run", *options, cwd=tmp_path / "killed", timeout=600)
    assert resumed.returncode == 0, resumed.stderr

    first, second = (published(tmp_path / name) for name in ("undisturbed", "killed"))
    assert {"metrics.json", "model/saved_model/saved_model.pb", "model/model_card.md"} < set(first)
    assert [name for name in first | second if first.get(name) != second.get(name)] == []


def published(folder: Path) -> dict[str, bytes]:
    """Return every file of the output folder by name, without the log and the report.

    The report states how long the training took.
    """
    output = folder / "repot-output"
    return {
        str(path.relative_to(output)): path.read_bytes()
        for path in output.rglob("*")
        if path.is_file() and not path.name.startswith(("pipeline.log", "report.html"))
    }
