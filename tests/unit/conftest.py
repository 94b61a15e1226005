"""Small pictures in label folders, and a function that plans their dataset."""

import io
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from repot.picture_decoder import PictureDecoder
from repot.planner.listing import PictureRoots
from repot.planner.plan import PlannedDataset, plan_dataset
from repot.settings import DatasetSettings

WritePictures = Callable[[Path, Mapping[str, int]], None]
MakePlan = Callable[..., PlannedDataset]


def make_jpeg(seed: int) -> bytes:
    """Return a small JPEG of noise, different for each seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def decoder() -> Iterator[PictureDecoder]:
    """Return a sandboxed decoder."""
    with PictureDecoder() as started:
        yield started


@pytest.fixture
def write_pictures() -> WritePictures:
    """Return a function that writes a given number of pictures into each subfolder."""

    def write(folder: Path, counts: Mapping[str, int]) -> None:
        for label, count in counts.items():
            (folder / label).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                (folder / label / f"{number:03}.jpg").write_bytes(
                    make_jpeg(zlib.crc32(f"{label}{number}".encode()))
                )

    return write


@pytest.fixture
def pictures(tmp_path: Path, write_pictures: WritePictures) -> Path:
    """Return a folder with 30 pictures of three labels."""
    write_pictures(tmp_path / "pictures", {"a": 12, "b": 10, "c": 8})
    return tmp_path / "pictures"


@pytest.fixture
def make_plan(tmp_path: Path, pictures: Path) -> MakePlan:
    """Return a function that plans a dataset, by default of `pictures` into `storage`."""

    def make(
        folder: Path | None = None,
        *,
        storage_uri: str = "",
        roots: PictureRoots | None = None,
        use_cache: bool = True,
        labels: str = "",
        **settings: float,
    ) -> PlannedDataset:
        base = storage_uri or str(tmp_path / "storage")
        labels_file = tmp_path / "labels.txt"
        labels_file.write_text(labels)
        return plan_dataset(
            roots or PictureRoots(pictures_uri=str(folder or pictures)),
            dataset_folder=lambda dataset_id: f"{base}/datasets/{dataset_id}",
            listings_uri=f"{base}/listings" if use_cache else None,
            settings=DatasetSettings.from_json(settings),
            labels_file_uri=str(labels_file) if labels else "",
        )

    return make
