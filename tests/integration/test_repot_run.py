"""`repot run`: the whole pipeline in a new process, on real pictures and real weights."""

import json
import sys
import time
from pathlib import Path

import pytest

from repot_pipelines.local.run import SAMPLE_FOLDER
from tests.integration.command_line import repot

TASKS = ("plan", "build-shards", "fetch-checkpoint", "train", "evaluate")


def shadow_modules(folder: Path) -> None:
    """Give a folder modules with the names of others; when imported, they leave a file and fail."""
    code = (
        "import os\n"
        "open(os.path.dirname(__file__) + f'/imported-{__name__}', 'w').close()\n"
        "raise SystemExit(__file__)\n"
    )
    others = ["PIL", "google", "h5py", "keras", "kfp", "numpy", "repot", "tensorflow", "yaml"]
    for name in [*sys.stdlib_module_names, *others, "repot_pipelines", "sitecustomize"]:
        (folder / f"{name}.py").write_text(code)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which `repot run --sample` has run once."""
    folder = tmp_path_factory.mktemp("a folder with blanks")
    shadow_modules(folder)
    temporary = tmp_path_factory.mktemp("temporary")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(temporary))
        done = repot("run", "--sample", cwd=folder)
    assert list(temporary.iterdir()) == []
    assert done.returncode == 0, done.stderr
    assert [path.name for path in folder.glob("imported-*")] == []
    assert "precision@1" in done.stdout
    assert str(folder / "repot-output" / "report.html") in done.stdout
    assert "recall@4" not in done.stdout  # there are four labels
    assert "not in production" not in done.stdout
    return folder


def test_sample_reaches_its_expected_score_and_is_promoted(finished: Path) -> None:
    metrics = json.loads((finished / "repot-output" / "metrics.json").read_text())
    assert metrics["precision_at_1"] >= 0.85  # 34 of 40; recipe head reaches 33
    assert metrics["num_examples"] == 40
    assert metrics["recall_at_5"] == 1.0
    assert (metrics["promoted"], metrics["verdict"]) == (True, "promote")
    champion = json.loads(
        (finished / "repot-storage" / "models" / "classifier" / "champion.json").read_text()
    )
    version = json.loads((finished / "repot-output" / "model" / "model.json").read_text())[
        "version"
    ]
    assert champion["version"] == version


def test_output_contains_report_and_model(finished: Path) -> None:
    output = finished / "repot-output"
    report = (output / "report.html").read_text()
    assert "Promoted" in report
    assert len(report) < 4_000_000
    log = output / "pipeline.log"
    assert b"\x1b" not in log.read_bytes()
    order = [log.read_text().index(f"Executing task '{name}'") for name in TASKS]
    assert order == sorted(order)
    assert log.stat().st_mode & 0o777 == 0o600
    assert {
        "model.keras",
        "saved_model",
        "labels.txt",
        "metrics.json",
        "model_card.md",
        "model.json",
    } <= {path.name for path in (output / "model").iterdir()}


def test_second_run_does_not_train_and_is_unchanged(finished: Path) -> None:
    started = time.monotonic()
    again = repot("run", "--sample", "--require-promotion", cwd=finished)
    assert again.returncode == 0, again.stderr
    assert "Unchanged: this version" in again.stdout
    assert "steps" not in again.stdout
    assert "epochs" not in again.stdout
    assert time.monotonic() - started < 30


def test_gate_rejection_exits_with_3_only_with_require_promotion(
    finished: Path, tmp_path: Path
) -> None:
    storage = str(finished / "repot-storage")
    options = [
        "--sample",
        "--storage-uri",
        storage,
        "--output",
        str(tmp_path / "out"),
        "--min-precision",
        "1.0",
    ]
    required = repot("run", *options, "--seed", "1", "--require-promotion", cwd=tmp_path)
    assert required.returncode == 3, required.stderr
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["promoted"] is False
    not_required = repot("run", *options, "--seed", "1", cwd=tmp_path)
    assert not_required.returncode == 0
    assert "Not promoted: precision@1 of" in not_required.stdout
    assert "/out/model  (this version, which is not in production)" in not_required.stdout


def test_predict_accepts_every_kind_of_model_path(finished: Path) -> None:
    picture = str(next((SAMPLE_FOLDER / "validation" / "roadsigns").iterdir()))
    storage = finished / "repot-storage"
    version = json.loads((finished / "repot-output" / "model" / "model.json").read_text())[
        "version"
    ]
    for model in (
        finished / "repot-output",
        storage / "models" / "classifier" / "champion.json",
        storage / "models" / "classifier" / version,
    ):
        done = repot("predict", str(model), picture, "--format", "jsonl", cwd=finished)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["names"][0]["label"] in {
            "fruit",
            "mammals",
            "roadsigns",
            "vehicles",
        }


def test_predict_works_on_a_terminal_without_the_characters_of_a_name(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    source = next((SAMPLE_FOLDER / "validation" / "roadsigns").iterdir())
    (tmp_path / "花.jpg").write_bytes(source.read_bytes())
    (tmp_path / "\udcff.jpg").write_bytes(source.read_bytes())  # a name that is not UTF-8
    names = ["花.jpg", "\udcff.jpg"]

    table = repot("predict", str(finished / "repot-output"), *names, cwd=tmp_path)
    lines = repot(
        "predict", str(finished / "repot-output"), *names, "--format", "jsonl", cwd=tmp_path
    )

    assert (table.returncode, table.stderr) == (0, "")
    assert [line.split()[0] for line in table.stdout.splitlines()] == [r"\u82b1.jpg", r"\udcff.jpg"]
    assert [json.loads(line)["picture"] for line in lines.stdout.splitlines()] == names


@pytest.mark.parametrize("kind", ["gcs", "s3"])
def test_run_works_on_object_storage(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    from repot import storage

    bucket = request.getfixturevalue(kind)
    storage.upload_folder(SAMPLE_FOLDER / "train", f"{bucket}/pictures/train")
    storage.upload_folder(SAMPLE_FOLDER / "validation", f"{bucket}/pictures/validation")
    done = repot(
        "run",
        f"{bucket}/pictures",
        "--storage-uri",
        f"{bucket}/storage",
        "--recipe",
        "head",
        "--epochs",
        "10",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert storage.read_json(f"{bucket}/storage/models/classifier/champion.json")["previous"] == ""
    assert json.loads((tmp_path / "repot-output" / "metrics.json").read_text())["promoted"] is True
