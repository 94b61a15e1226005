"""Bad input to `repot run` and `repot predict`: a clear message, exit code 1 or 2, no traceback."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from repot_pipelines.local.run import SAMPLE_FOLDER
from tests.integration.command_line import REPOT, repot
from tests.web_server import running_web_server


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of pictures folders: several invalid ones and a good one."""
    root = tmp_path_factory.mktemp("bad")
    fruit, mammals = (
        sorted((SAMPLE_FOLDER / "train" / label).iterdir()) for label in ("fruit", "mammals")
    )
    contents = {
        "empty": [],
        "one_label/a": fruit,
        "single/a": fruit,
        "single/b": mammals[:1],
        "flat": fruit,
        "good/a": fruit,
        "good/b": mammals,
        "damaged/a": fruit,
        "damaged/b": mammals,
        "no_good_picture/a": fruit,
        "no_good_picture/b": [],
    }
    for name, pictures in contents.items():
        (root / name).mkdir(parents=True)
        for picture in pictures:
            shutil.copyfile(picture, root / name / picture.name)
    for i in range(4):
        (root / f"damaged/a/truncated{i}.jpg").write_bytes(fruit[0].read_bytes()[:900])
        (root / f"damaged/b/empty{i}.jpg").touch()
        (root / f"no_good_picture/b/text{i}.jpg").write_text("not a picture")
    (root / "labels.txt").write_text("a\n\nb\nb\nzebra\n")
    (root / "corrupt.h5").write_bytes(b"\x89HDF\r\n\x1a\n and no valid content")
    return root


CASES = {
    "no such folder": (["nowhere"], 2, ["nowhere", "must exist"]),
    "no such folder and more": (
        ["nowhere", "--epochs=-1"],
        2,
        ["nowhere", "must exist", "epochs=-1"],
    ),
    "empty folder": (["empty"], 2, ["is empty"]),
    "one label": (["one_label"], 1, ["at least two labels"]),
    "label with one picture": (["single"], 1, ["at least two pictures", ": 'b'."]),
    "no label folders": (["flat"], 1, ["PICTURES/<label>/<picture>"]),
    "labels file": (["good", "--labels-file", "labels.txt"], 2, ["line 2", "line 4", "zebra"]),
    "too many damaged": (["damaged"], 1, ["4 x truncated", "4 x empty", "--max-rejected-fraction"]),
    "no good picture": (
        ["no_good_picture", "--max-rejected-fraction", "1"],
        1,
        ["usable picture", "text0.jpg"],
    ),
    "no such checkpoint": (["good", "--checkpoint", "gone/weights.h5"], 2, ["gone/weights.h5"]),
    "corrupt checkpoint": (["good", "--checkpoint", "corrupt.h5"], 1, ["corrupt.h5"]),
    "unreachable host": (["good", "--checkpoint", "http://127.0.0.1:9/w.h5"], 1, ["127.0.0.1:9"]),
    "wrong checksum": (["good", "--checkpoint-sha256", "0" * 64], 1, ["0" * 64, "SHA-256"]),
    "storage that is a file": (
        ["good", "--storage-uri", "labels.txt/x"],
        2,
        ["labels.txt/x", "cannot be written"],
    ),
    "unknown scheme": (["good", "--storage-uri", "ftp://host/x"], 2, ["ftp://host/x"]),
    "pictures and sample": (["good", "--sample"], 2, ["either PICTURES"]),
    "output among the pictures": (
        ["good", "--output", "good/out"],
        2,
        ["must not lie inside the pictures' folder"],
    ),
    "output that is a file": (
        ["good", "--output", "labels.txt/x"],
        2,
        ["labels.txt/x", "must be writable"],
    ),
    "no number": (["good", "--validation-fraction=nan"], 2, ["--validation-fraction", "finite"]),
    "options out of range": (
        [
            "good",
            "--epochs=-1",
            "--batch-size=0",
            "--backbone=vgg",
            "--validation-fraction=2",
            "--min-precision=7",
        ],
        2,
        [
            "epochs=-1",
            "batch_size=0",
            "backbone='vgg'",
            "validation_fraction=2.0",
            "min_precision=7.0",
        ],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_run_with_bad_input_reports_the_problem(name: str, folder: Path, tmp_path: Path) -> None:
    arguments, exit_code, parts = CASES[name]
    done = repot("run", "--output", str(tmp_path / "out"), *arguments, cwd=folder)
    assert done.returncode == exit_code, done.stderr
    assert "Error:" in done.stderr
    assert "Traceback" not in done.stderr
    for part in parts:
        assert part in done.stderr


def test_failed_run_sends_a_notification(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_web_server() as web:
        monkeypatch.setenv("REPOT_NOTIFY_URL", web.serve("/hook", b"ok"))
        done = repot("run", "--output", str(tmp_path / "out"), "one_label", cwd=folder)

    (sent,) = map(json.loads, web.posts)
    assert (sent["event"], sent["task"]) == ("failed", "plan")
    assert sent["reason"] in done.stderr
    assert sent["run_id"].startswith("local-")


def test_shards_tells_what_it_found_and_left_out(folder: Path, tmp_path: Path) -> None:
    for split in ("train", "validation"):
        shutil.copytree(folder / "good", tmp_path / split)
        (tmp_path / split / "pears").mkdir()
    (tmp_path / "train" / "A" / "sub").mkdir(parents=True)
    for name in ("1.jpg", "2.jpg", "sub/3.jpg"):
        shutil.copyfile(next((folder / "good/a").iterdir()), tmp_path / "train/A" / name)
    os.mkfifo(tmp_path / "train/a/pipe.jpg")
    (tmp_path / "train/a/drawing.jpg").write_text("<svg>")
    folders = ["--train-directory", "train", "--validation-directory", "validation"]
    done = repot("shards", *folders, "--output-directory", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    for task in ("read checksums", "build shards"):
        counts = [found for line in lines if (found := re.match(rf"{task}: (\d+)/(\d+)", line))]
        assert counts[-1][1] == counts[-1][2]
    for part in (
        "pictures of 3 labels, per label 2 to",
        "left out 1: it is a pipe, a socket, a device or a link to a folder",
        "'train/a/pipe.jpg': a named pipe",
        "'train/a/drawing.jpg': an SVG drawing. Export",
        "left out: 'train/pears', 'validation/pears'.",
        "left out, 1 in total, such as 'train/A/sub/3.jpg'. Use --nested",
        "The labels 'A', 'a' differ only by case",
    ):
        assert part in done.stderr
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["empty_label_folders"] == ["train/pears", "validation/pears"]
    assert manifest["num_found"] == manifest["num_accepted"] + len(manifest["rejected"])


def test_debug_option_shows_the_traceback(folder: Path, tmp_path: Path) -> None:
    done = repot("run", "nowhere", "--output", str(tmp_path / "out"), "--debug", cwd=folder)
    assert done.returncode == 2
    assert "Traceback" in done.stderr


def test_output_folder_with_an_unknown_model_folder_is_not_changed(
    folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.txt").write_text("mine")
    done = repot("run", "good", "--output", str(tmp_path), cwd=folder)
    assert done.returncode == 2
    assert "is not a repot model" in done.stderr
    assert (tmp_path / "model" / "mine.txt").read_text() == "mine"


def test_predict_without_a_model_names_the_missing_file(folder: Path) -> None:
    done = repot("predict", "good", "good/a/apple.jpg", cwd=folder)
    assert done.returncode in (1, 2)
    assert "model.keras" in done.stderr
    assert "Traceback" not in done.stderr


def test_unwritable_output_file_is_an_error_without_traceback(folder: Path) -> None:
    done = repot("compile", "--output", "labels.txt/finetune.yaml", cwd=folder)
    assert done.returncode == 1
    assert done.stderr.startswith("Error:")
    assert "labels.txt" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such limit")
def test_compiled_file_is_complete_or_absent(tmp_path: Path) -> None:
    output = tmp_path / "finetune.yaml"
    limited = ["sh", "-c", 'ulimit -f 8 && exec "$@"', "sh", *REPOT]
    done = subprocess.run(
        [*limited, "compile", "--output", str(output)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "cannot be written: the file is too large" in done.stderr
    assert not output.exists()
