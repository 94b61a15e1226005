import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter, ImageOps

import repot_pipelines
from repot.data_checks import DataLimits, read_checks
from repot.errors import DataError
from repot.shard_builder import data_page, examine
from repot.shard_builder.complete import complete_dataset
from tests.unit.conftest import MakePlan, WritePictures

SAMPLE = Path(repot_pipelines.__file__).parent / "sample" / "pictures" / "train"


@pytest.fixture
def dirty(tmp_path: Path) -> Path:
    """Return drawings of two labels with copies, a conflict and unusual pictures."""
    folder = tmp_path / "dirty"
    for split, first, last in (("train", 0, 8), ("validation", 8, 12)):
        for label in ("fruit", "vehicles"):
            target = folder / split / label
            target.mkdir(parents=True)
            for path in sorted((SAMPLE / label).iterdir())[first:last]:
                shutil.copy(path, target / path.name)
    trained = sorted((folder / "train" / "fruit").iterdir())
    with Image.open(trained[0]) as image:
        picture = image.convert("RGB")
    ImageOps.mirror(picture).save(folder / "validation" / "fruit" / "mirrored.jpg", quality=60)
    shutil.copy(trained[1], folder / "train" / "vehicles" / f"conflict{trained[1].suffix}")
    Image.new("RGB", (90, 80), "white").save(folder / "train" / "fruit" / "blank.png")
    with Image.open(trained[2]) as image:
        other = image.convert("RGB")
    other.resize((20, 20)).save(folder / "train" / "fruit" / "tiny.png")
    other.resize((500, 90)).save(folder / "train" / "fruit" / "long.png")
    blurred = other.filter(ImageFilter.GaussianBlur(min(other.size) / 12))
    blurred.save(folder / "train" / "fruit" / "blurred.png")
    # Soft light on sand.
    light = np.add.outer(np.arange(300), np.arange(300)) * 0.3 + 20
    grain = np.random.default_rng(0).normal(0, 25, (300, 300))
    sand = Image.fromarray((light + grain).clip(0, 255).astype(np.uint8))
    sand.convert("RGB").save(folder / "train" / "vehicles" / "grainy.png")
    return folder


def test_findings_are_stored_shown_and_limited(make_plan: MakePlan, dirty: Path) -> None:
    dataset_uri = make_plan(dirty).dataset_uri

    manifest = complete_dataset(dataset_uri, limits=DataLimits())

    checks = read_checks(dataset_uri)
    assert checks is not None
    (leaked,) = manifest.excluded
    assert (leaked.split, leaked.path, leaked.reason) == (
        "validation",
        "validation/fruit/mirrored.jpg",
        "copy_of_training",
    )
    assert leaked.detail == f"train/fruit/{min(p.name for p in (SAMPLE / 'fruit').iterdir())}"
    (conflict,) = checks.conflicts
    assert sorted(conflict.labels) == ["fruit", "vehicles"]
    assert conflict.is_exact
    unusual = {(item.kind, item.picture.path.rpartition("/")[2]) for item in checks.outliers}
    assert unusual >= {
        ("blank", "blank.png"),
        ("very_small", "tiny.png"),
        ("extreme_aspect", "long.png"),
        ("blurred", "blurred.png"),
    }
    assert "grainy.png" not in {name for _, name in unusual}
    page = (Path(dataset_uri) / "data.html").read_text()
    assert page.count("data:image/jpeg;base64,") > 10
    assert "mirrored.jpg" in page

    for limits, message in (
        (DataLimits(max_leaked_fraction=0.1), "At most 10.0% of validation may be copies"),
        (DataLimits(max_conflicts=0), "At most 0 pictures may have several labels; 1 have"),
        (DataLimits(min_pictures_per_label=50), "Every label must have at least 50 pictures"),
    ):
        with pytest.raises(DataError, match=message):
            complete_dataset(dataset_uri, limits=limits)
    assert complete_dataset(dataset_uri, limits=DataLimits(max_conflicts=1)) == manifest


def test_groups_that_are_not_listed_are_counted(
    make_plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawings = sorted((SAMPLE / "fruit").iterdir())[:6]
    for number, path in enumerate(drawings):
        for label in ("one", "other"):
            # The first three have two copies in one label, the others one in each.
            name = f"{label} {path.name}"
            target = tmp_path / "copied" / ("one" if number < 3 else label) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    monkeypatch.setattr(examine, "MAX_GROUPS", 2)
    dataset_uri = make_plan(tmp_path / "copied").dataset_uri

    complete_dataset(dataset_uri, limits=DataLimits(max_rejected_fraction=1))

    checks = read_checks(dataset_uri)
    assert checks is not None
    assert (checks.num_copies, checks.num_conflicts) == (6, 3)
    assert (len(checks.copies), len(checks.conflicts)) == (2, 2)
    assert all(group.is_exact and group.num_pictures == 2 for group in checks.copies)
    labels = [sorted(group.labels) for group in (*checks.copies, *checks.conflicts)]
    assert labels == [["one"], ["one"], ["one", "other"], ["one", "other"]]


def test_dataset_of_an_earlier_version_has_no_checks_and_stays_usable(
    make_plan: MakePlan, pictures: Path
) -> None:
    dataset_uri = make_plan().dataset_uri
    manifest = complete_dataset(dataset_uri, limits=DataLimits())
    for name in ("checks.json", "data.html"):
        (Path(dataset_uri) / name).unlink()
    shutil.rmtree(Path(dataset_uri) / "checks")

    assert complete_dataset(dataset_uri, limits=DataLimits(max_conflicts=0)) == manifest


def test_page_shows_each_of_400_labels_and_stays_small(
    make_plan: MakePlan,
    tmp_path: Path,
    write_pictures: WritePictures,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_pictures(tmp_path / "many", {f"label {number:03}": 2 for number in range(400)})
    dataset_uri = make_plan(tmp_path / "many").dataset_uri
    complete_dataset(dataset_uri, limits=DataLimits())
    samples = (Path(dataset_uri) / "data.html").read_text().partition("<h2>Samples</h2>")[2]
    assert samples.count("<img") == 400
    # On a phone, a page with all of them open was 57,000 pixels high.
    assert re.sub("<details>.*?</details>", "", samples, flags=re.DOTALL).count("<img") == 12
    assert samples.count("<details>") == 9

    # As with pictures that are larger: what comes last on the page finds no room.
    monkeypatch.setattr(data_page, "MAX_PAGE_BYTES", 40_000)
    for name in ("manifest.json", "data.html"):
        (Path(dataset_uri) / name).unlink()
    complete_dataset(dataset_uri, limits=DataLimits())
    page = (Path(dataset_uri) / "data.html").read_text()
    assert 30_000 < sum(map(len, set(re.findall('src="([^"]+)"', page)))) <= 40_000
    assert page.count("not shown") > page.count("<img") > 10
