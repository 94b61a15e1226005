"""The same pictures, labels and splits give the same dataset through every input."""

import csv
import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from repot.data_checks import DataLimits
from repot.planner.listing import PictureRoots
from repot.planner.plan import plan_dataset
from repot.settings import DatasetSettings
from repot.shard_builder.build import build_shards
from repot.shard_builder.complete import complete_dataset
from repot.shard_builder.shard import read_picture
from repot.work_list import read_work_list
from tests.unit.conftest import make_jpeg

COUNTS = {"train/cat": 4, "train/dog, brown": 3, "validation/cat": 2, "validation/dog, brown": 1}
"""Number of pictures by split and label; one label needs quoting."""


def _paths(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.jpg"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with splits."""
    folder = tmp_path_factory.mktemp("inputs") / "pictures"
    for number, (name, count) in enumerate(COUNTS.items()):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            path = folder / name / f"é {number}{index}.jpg"
            path.write_bytes(make_jpeg(100 * number + index))
    return folder


def _read(
    uri: str, target: Path, *, nested: bool = False
) -> tuple[str, dict[str, list[tuple[int, str, str, bytes]]]]:
    """Return the id of the dataset, and what the builders read for each shard."""
    planned = plan_dataset(
        PictureRoots(pictures_uri=uri),
        dataset_folder=lambda _: str(target),
        listings_uri=None,
        unpacked_uri=str(target.with_name("unpacked")),
        settings=DatasetSettings(train_shards=2, nested=nested),
    )
    return planned.plan.dataset_id, {
        shard: [
            (picture.class_id, picture.label, Path(picture.path).name, read_picture(picture))
            for picture in read_work_list(str(target), shard)
        ]
        for shard in planned.plan.shard_names
    }


def _build(target: Path) -> dict[str, str]:
    """Return the checksum of each shard."""
    build_shards(str(target), num_processes=1)
    manifest = complete_dataset(str(target), limits=DataLimits(max_rejected_fraction=0))
    return {shard.shard: shard.crc32c for shard in manifest.shards}


def _rows(pictures: Path) -> Iterator[tuple[str, str, str]]:
    """Yield path, label and split of every picture."""
    for path in _paths(pictures):
        split, label, _ = path.split("/")
        yield path, label, split


def _csv(pictures: Path, folder: Path) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["Label", "note", "path", "split"])
    writer.writerows([label, "", path, split] for path, label, split in _rows(pictures))
    (pictures / "manifest.csv").write_bytes(text.getvalue().encode("utf-8-sig"))
    return str(pictures / "manifest.csv")


def _semicolons_in_utf16(pictures: Path, folder: Path) -> str:
    lines = ["uri;label;split"] + [
        f'{pictures}/{path};"{label}";{split.upper()}' for path, label, split in _rows(pictures)
    ]
    (folder / "m.txt").write_text("\r\n".join(lines), encoding="utf-16")
    return str(folder / "m.txt")


def _jsonl(pictures: Path, folder: Path) -> str:
    lines = [
        json.dumps({"path": f"pictures/{path}", "label": label, "split": split})
        for path, label, split in _rows(pictures)
    ]
    target = pictures.parent / "manifest.jsonl"
    target.write_text("\n".join(lines) + "\n")
    return str(target)


def _zip(pictures: Path, folder: Path) -> str:
    with zipfile.ZipFile(folder / "p.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("pictures/", "")
        archive.writestr("__MACOSX/pictures/._x.jpg", "x")
        for index, path in enumerate(_paths(pictures)):
            method = zipfile.ZIP_STORED if index % 2 else zipfile.ZIP_DEFLATED
            archive.write(pictures / path, f"pictures/{path}", method)
    return str(folder / "p.zip")


def _tar(mode: str) -> Callable[[Path, Path], str]:
    def make(pictures: Path, folder: Path) -> str:
        with tarfile.open(folder / "archive", f"w{mode}") as archive:  # type: ignore[call-overload]
            for path in ("train", "validation"):
                archive.add(pictures / path, f"./{path}")
        return str(folder / "archive")

    return make


def _hugging_face(pictures: Path, folder: Path) -> str:
    for split in ("train", "validation"):
        lines = ["file_name,label"]
        for path, label, in_split in _rows(pictures):
            if split == in_split:
                name = path.rpartition("/")[2]
                (folder / split / "images").mkdir(parents=True, exist_ok=True)
                (folder / split / "images" / name).write_bytes((pictures / path).read_bytes())
                lines.append(f'images/{name},"{label}"')
        (folder / split / "metadata.csv").write_text("\n".join(lines))
    return str(folder)


def _webdataset(pictures: Path, folder: Path) -> str:
    for split in ("train", "validation"):
        with tarfile.open(folder / f"flowers-{split}-000000.tar", "w") as archive:
            for path, label, in_split in _rows(pictures):
                if split == in_split:
                    name = path.rpartition("/")[2]
                    archive.add(pictures / path, f"00/{name}")
                    _add(archive, f"00/{name.removesuffix('.jpg')}.cls", label.encode())
    return str(folder)


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def _shards(pictures: Path, folder: Path) -> str:
    _read(str(pictures), folder / "shards")
    _build(folder / "shards")
    return str(folder / "shards")


@pytest.mark.parametrize(
    "make",
    [
        *(_csv, _semicolons_in_utf16, _jsonl, _zip, _tar(""), _tar(":gz"), _tar(":bz2")),
        *(_tar(":xz"), _hugging_face, _webdataset, _shards),
    ],
    ids=lambda make: make.__qualname__.split(".")[0],
)
def test_every_input_gives_the_same_dataset(
    make: Callable[[Path, Path], str],
    pictures: Path,
    tmp_path: Path,
) -> None:
    (tmp_path / "in").mkdir()
    source = make(pictures, tmp_path / "in")
    assert _read(source, tmp_path / "data") == _read(str(pictures), tmp_path / "expected")


@pytest.mark.parametrize("training", ["folder", "zip", "manifest"])
@pytest.mark.parametrize("validation", ["folder", "zip", "manifest"])
def test_each_split_may_be_another_kind_of_input(
    training: str, validation: str, pictures: Path, tmp_path: Path
) -> None:
    kinds = {"train": training, "validation": validation}
    uris = {split: _split_uri(pictures, split, kind, tmp_path) for split, kind in kinds.items()}
    planned = plan_dataset(
        PictureRoots(train_uri=uris["train"], validation_uri=uris["validation"]),
        dataset_folder=lambda _: f"{tmp_path}/data",
        listings_uri=None,
        settings=DatasetSettings(train_shards=2),
    )
    assert planned.plan.dataset_id == _read(str(pictures), tmp_path / "expected")[0]


def _split_uri(pictures: Path, split: str, kind: str, folder: Path) -> str:
    """Return where the pictures of one split are, as one kind of input."""
    if kind == "folder":
        return str(pictures / split)
    if kind == "zip":
        return shutil.make_archive(str(folder / split), "zip", pictures / split)
    path = folder / f"{split}.jsonl"
    rows = [
        {"path": str(pictures / name), "label": label}
        for name, label, row_split in _rows(pictures)
        if row_split == split
    ]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return str(path)


def test_unsplit_and_nested_pictures_give_the_same_dataset(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    rows = ["path,label"]
    for number in range(24):
        label, day = "ab"[number % 2], f"day {number % 3}"
        path = folder / label / day / f"{number // 6}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(make_jpeg(number))
        rows.append(f"pictures/{label}/{day}/{path.name},{label}")
    (tmp_path / "m.csv").write_text("\n".join(rows))
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        for path in sorted(folder.rglob("*.jpg"), reverse=True):
            archive.write(path, path.relative_to(folder))
    read = [
        _read(str(tmp_path / name), tmp_path / f"data {name}", nested=True)
        for name in ("pictures", "m.csv", "p.zip")
    ]
    assert read[0] == read[1] == read[2]
    assert {len(pictures) for pictures in read[0][1].values()} == {4, 10}


def test_shards_made_from_shards_have_the_same_bytes(pictures: Path, tmp_path: Path) -> None:
    first = _shards(pictures, tmp_path / "in")
    _read(first, tmp_path / "again")
    assert _build(tmp_path / "again") == _build(Path(first))
