"""Slices of a real dataset: folders, sizes, formats and columns reach the report."""

from pathlib import Path

import pytest

from repot.data_checks import DataLimits
from repot.evaluator.evaluate import evaluate
from repot.evaluator.report.data import ReportData, SliceRecord
from repot.json_record import read_record
from repot.planner.listing import PictureRoots
from repot.planner.plan import plan_dataset
from repot.settings import DatasetSettings
from repot.shard_builder.build import build_shards
from repot.shard_builder.complete import complete_dataset
from tests.integration.evaluator.colours import MakeRun, save_picture


@pytest.fixture(scope="module")
def sliced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a dataset of a manifest with a column; the red ones of site b look blue."""
    folder = tmp_path_factory.mktemp("sliced")
    rows = ["path,label,split,camera,note"]
    for label in ("blue", "green", "red"):
        for i in range(2):
            save_picture(folder / "in" / "train" / f"{label}{i}.jpg", label, size=(50 + i, 60))
            rows.append(f"train/{label}{i}.jpg,{label},train,,")
    for i in range(20):
        site, camera, suffix = ("a", "new", "jpg") if i < 12 else ("b", "old", "png")
        colour = "blue" if site == "b" else "red"
        name = f"sites/{site}/red{i}.{suffix}"
        size = (140 if i % 2 else 40, 200 + i)
        save_picture(folder / "in" / name, colour, size=size)
        rows.append(f"{name},red,validation,{camera},note {i}")
    (folder / "in" / "m.csv").write_text("\n".join(rows))
    (folder / "in" / "sites" / "b" / "red19.png").write_bytes(b"no picture")
    plan_dataset(
        PictureRoots(pictures_uri=str(folder / "in" / "m.csv")),
        dataset_folder=lambda _: str(folder / "data"),
        listings_uri=None,
        settings=DatasetSettings(train_shards=1, validation_shards=3),
    )
    build_shards(str(folder / "data"), num_processes=1)
    complete_dataset(str(folder / "data"), limits=DataLimits(max_rejected_fraction=0.5))
    return folder / "data"


def slices_of(dataset: Path, make_run: MakeRun, output: Path) -> dict[tuple[str, str], SliceRecord]:
    evaluate(f"{make_run('first')}/model", str(dataset), str(output))
    slices = read_record(str(output / "report_data.json"), ReportData).slices
    return {(each.column, each.value): each for each in slices.slices} if slices else {}


def test_slices_have_folder_size_format_and_columns(
    sliced: Path, make_run: MakeRun, tmp_path: Path
) -> None:
    slices = slices_of(sliced, make_run, tmp_path / "out")

    counts = {key: (each.num_correct, each.num_examples) for key, each in slices.items()}
    assert counts == {
        ("camera", "old"): (0, 7),
        ("file format", "PNG"): (0, 7),
        ("folder", "b"): (0, 7),
        ("shorter side", "below 64 pixels"): (6, 10),
        ("shorter side", "128 to 255 pixels"): (6, 9),
        ("camera", "new"): (12, 12),
        ("file format", "JPEG"): (12, 12),
        ("folder", "a"): (12, 12),
    }
    assert [key for key, each in slices.items() if each.is_worse] == [
        ("camera", "old"),
        ("file format", "PNG"),
        ("folder", "b"),
    ]
    assert "<h2>Slices</h2>" in (tmp_path / "out" / "report.html").read_text()


def test_dataset_without_these_files_has_no_slices(
    sliced: Path, make_run: MakeRun, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in sliced.rglob("*"):
        if path.is_file() and path.parent.name not in ("checks", "work"):
            (copy / path.relative_to(sliced)).parent.mkdir(parents=True, exist_ok=True)
            (copy / path.relative_to(sliced)).write_bytes(path.read_bytes())

    assert slices_of(copy, make_run, tmp_path / "out") == {}
