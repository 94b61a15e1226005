import hashlib
import io
from pathlib import Path

import pytest
from PIL import Image

import repot_pipelines

SAMPLE_PATH = Path(repot_pipelines.__file__).parent / "sample" / "pictures"
LABELS = ("fruit", "mammals", "roadsigns", "vehicles")
PICTURES = sorted(SAMPLE_PATH.glob("*/*/*"))


def names(split: str, label: str) -> set[str]:
    return {path.name for path in (SAMPLE_PATH / split / label).iterdir()}


def test_sample_has_132_pictures_in_four_labels() -> None:
    assert len(PICTURES) == 132
    for split in ("train", "validation"):
        assert sorted(path.name for path in (SAMPLE_PATH / split).iterdir()) == sorted(LABELS)


@pytest.mark.parametrize("label", LABELS)
def test_validation_is_the_thirty_percent_with_the_lowest_hash(label: str) -> None:
    train, validation = names("train", label), names("validation", label)
    by_hash = sorted(train | validation, key=lambda name: hashlib.sha256(name.encode()).hexdigest())

    assert train.isdisjoint(validation)
    assert validation == set(by_hash[: (3 * len(by_hash) + 5) // 10])


def test_pictures_are_distinct() -> None:
    digests = {hashlib.sha256(path.read_bytes()).digest() for path in PICTURES}

    assert len(digests) == len(PICTURES)


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: str(path.relative_to(SAMPLE_PATH)))
def test_picture_decodes_as_a_small_rgb_jpeg(path: Path) -> None:
    with Image.open(io.BytesIO(path.read_bytes())) as image:
        image.load()
        assert image.format == "JPEG"
        assert image.mode == "RGB"
        assert 32 <= max(image.size) <= 128


def test_provenance_is_documented_next_to_the_pictures() -> None:
    text = (SAMPLE_PATH.parent / "PROVENANCE.md").read_text(encoding="utf-8")

    assert "public domain" in text
    assert "132" in text
    assert all(label in text for label in LABELS)
