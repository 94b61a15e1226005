"""Hostile records of a model: every command ends with one message, and nothing is obeyed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from repot.folder_checksums import write_checksums
from repot.json_record import record_text
from repot.layout import (
    CHAMPION_NAME,
    KERAS_NAME,
    LABELS_NAME,
    MODEL_RECORD_NAME,
    MODEL_SPEC_NAME,
)
from repot.model_registry import Champion, ChampionChange, ModelRecord, ModelScores
from repot.model_spec import MAX_RECORD_BYTES, ModelSpec
from repot.predictor import MAX_MODEL_BYTES
from tests.integration.evaluator.colours import COLOURS, IMAGE_SIZE, save_model, save_picture
from tests.integration.kfp_api.command_line import run_repot

TIME = "2026-11-27T14:05:00Z"
ESCAPES = "\x1b[2J\x1b]0;owned\x07\u202egnp.exe"


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a storage with a published version, and a picture."""
    folder = tmp_path_factory.mktemp("complete")
    version = folder / "storage" / "models" / "m" / "v"
    save_model(version, tuple(COLOURS), tuple(COLOURS))
    scores = ModelScores(
        precision_at_1=0.9,
        precision_at_1_interval=(0.8, 0.95),
        recall_at_5=1.0,
        recall_k=3,
        loss=0.1,
        num_examples=10,
        subset="validation",
    )
    record = ModelRecord(
        name="m",
        version="v",
        labels=tuple(COLOURS),
        backbone="mobilenet_v2",
        image_size=IMAGE_SIZE,
        dataset_id="d",
        training_id="v",
        metrics=scores,
    )
    change = ChampionChange(version="v", action="promote", time=TIME)
    champion = Champion(
        model_name="m",
        version="v",
        dataset_id="d",
        precision_at_1=0.9,
        promotion=change,
        history=(change,),
    )
    (version / MODEL_RECORD_NAME).write_text(record_text(record))
    (version / MODEL_SPEC_NAME).write_text(
        record_text(ModelSpec(backbone="", image_size=IMAGE_SIZE))
    )
    (version.parent / CHAMPION_NAME).write_text(record_text(champion))
    save_picture(folder / "red.png", "red")
    return folder


@pytest.fixture
def folder(complete: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(complete, tmp_path / "copy"))


def run_all(folder: Path) -> list[tuple[int, str, str]]:
    """Run every command that reads a model; return exit codes and what they printed."""
    storage = ("--storage-uri", str(folder / "storage"))
    model = folder / "storage" / "models" / "m"
    commands: list[tuple[str, ...]] = [
        ("models", "list", *storage),
        ("models", "list", "--model-name", "m", *storage),
        ("models", "show", "v", "--model-name", "m", *storage),
        ("models", "promote", "v", "--reason", "x", "--model-name", "m", *storage),
        ("models", "rollback", "--to", "v", "--model-name", "m", *storage),
        ("serve-manifest", str(model / "v")),
        ("export", str(model / "v"), "--format", "keras", "--output", str(folder / "export")),
        ("predict", str(model), str(folder / "red.png")),
    ]
    results = [run_repot(*command) for command in commands]
    return [(each.exit_code, each.output, each.errors) for each in results]


def test_unchanged_model_is_used(folder: Path) -> None:
    results = run_all(folder)

    assert [code for code, *_ in results[:3]] == [0] * 3
    assert "red, green, blue" in results[2][1]
    assert results[-1][0] == 0
    assert "red" in results[-1][1]


Edit = Callable[[dict[str, Any]], object]
RECORDS: dict[str, Edit | str] = {
    "thousands of digits": '{"image_size": 1%s}' % ("0" * 10_000),
    "nested deeply": "[" * 100_000,
    "no object": "[]",
    "infinite": lambda record: record.update(image_size=float("inf")),
    "not a number": lambda record: record.update(precision_at_1=float("nan"), temperature="x"),
    "whole number too large for a float": lambda record: (
        record.update(precision_at_1=10**400, temperature=10**400),
        record.get("metrics", {}).update(loss=10**400),
    ),
    "unknown key": lambda record: record.update({f"__class__{ESCAPES}": "os.system"}),
    "key of another checksum": lambda record: record.update({"sha256_of_the_resu": ESCAPES}),
    "texts that a terminal obeys": lambda record: record.update(
        labels=[ESCAPES], backbone=ESCAPES, name=ESCAPES, dataset_id=ESCAPES, model_name=ESCAPES
    ),
    "version elsewhere": lambda record: record.update(version="../../../etc"),
    "version that a terminal obeys": lambda record: record.update(version=ESCAPES),
    "file elsewhere": lambda record: record.update(
        files=[{"name": "../../../../../etc/passwd", "size_bytes": 1, "sha256": ""}]
    ),
    "absolute file": lambda record: record.update(
        files=[{"name": "/etc/passwd", "size_bytes": 1, "sha256": ""}]
    ),
    "many labels": lambda record: record.update(labels=["x"] * 100_000),
}


TEXT_FILES = (MODEL_RECORD_NAME, MODEL_SPEC_NAME, CHAMPION_NAME, LABELS_NAME)


@pytest.mark.parametrize(
    ("name", "max_bytes"),
    [*((name, MAX_RECORD_BYTES) for name in TEXT_FILES), (KERAS_NAME, MAX_MODEL_BYTES)],
)
def test_file_that_is_too_large_is_one_message_and_is_not_read(
    name: str, max_bytes: int, folder: Path
) -> None:
    (path,) = folder.rglob(name)
    with path.open("ab") as file:
        file.truncate(max_bytes)  # Takes no room on the disk.

    predict = ("predict", str(folder / "storage" / "models" / "m"), str(folder / "red.png"))
    assert "must have at most" not in run_repot(*predict).errors
    with path.open("ab") as file:
        file.truncate(max_bytes + 1)

    results = run_all(folder)

    code, _, errors = results[-1]
    assert code == 1
    problem = f"{path} must have at most {max_bytes:,} bytes; it has {max_bytes + 1:,}. Restore it"
    assert errors.startswith(f"Error: {problem}"), errors
    assert all(code == 0 or errors.startswith("Error:") for code, _, errors in results)


@pytest.mark.parametrize("name", [*TEXT_FILES, KERAS_NAME])
def test_file_without_an_end_is_not_read(name: str, folder: Path) -> None:
    (path,) = folder.rglob(name)
    path.unlink()
    path.symlink_to("/dev/zero")

    for code, _, errors in run_all(folder):
        assert code == 0 or errors.startswith("Error:"), errors


@pytest.mark.parametrize("name", [MODEL_RECORD_NAME, MODEL_SPEC_NAME, CHAMPION_NAME])
@pytest.mark.parametrize("kind", RECORDS)
def test_hostile_record_is_one_message(kind: str, name: str, folder: Path) -> None:
    edit = RECORDS[kind]
    (path,) = folder.rglob(name)
    if isinstance(edit, str):
        path.write_text(edit)
    else:
        record = json.loads(path.read_text())
        edit(record)
        path.write_text(json.dumps(record))

    for code, output, errors in run_all(folder):
        assert code in (0, 1, 2)
        assert (code == 0) or errors.startswith("Error:"), errors
        for line in (output + errors).split("\n"):
            assert line.isprintable(), line


@pytest.mark.parametrize("text", [ESCAPES, "a\nb\nc\n" * 400_000, ""])
def test_hostile_labels_are_one_message(text: str, folder: Path) -> None:
    (path,) = folder.rglob("labels.txt")
    path.write_text(text)

    done = run_repot("predict", str(folder / "storage" / "models" / "m"), str(folder / "red.png"))

    assert done.exit_code == 1
    assert done.errors.startswith("Error: ")
    assert "labels.txt" in done.errors
    assert done.errors.strip().isprintable()


@pytest.mark.parametrize("name", ["model.keras", "saved_model", "exports", "extra.py"])
def test_link_out_of_the_version_gives_nothing_away(name: str, folder: Path) -> None:
    version = folder / "storage" / "models" / "m" / "v"
    (version / name).unlink(missing_ok=True)
    (version / name).symlink_to("/etc/passwd" if name != "saved_model" else "/etc")

    for code, output, errors in run_all(folder):
        assert code in (0, 1, 2)
        assert "root:" not in output + errors


def test_name_of_a_file_is_printed_without_escapes(folder: Path) -> None:
    path = folder / f"{ESCAPES}.txt"
    path.write_text("a")
    write_checksums(str(folder), parts=[path.name])
    path.write_text("b")

    done = run_repot("verify", str(folder))

    assert done.exit_code == 1
    assert r"\u001b[2J" in done.output
    assert all(line.isprintable() for line in done.output.split("\n"))
