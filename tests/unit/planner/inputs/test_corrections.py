"""Corrected labels: by content or by path, in every input; wrong rows are named."""

import csv
import json
import shutil
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from repot import storage
from repot.data_checks import DataLimits
from repot.errors import UsageError
from repot.label_suspects import SUSPECTS_COLUMNS
from repot.planner.inputs import corrections
from repot.planner.listing import PictureRoots
from repot.planner.plan import PlannedDataset, plan_dataset
from repot.settings import DatasetSettings, InputSettings
from repot.shard_builder.build import build_shards
from repot.shard_builder.complete import complete_dataset
from repot.storage_check import verify_folder
from repot.work_list import SourcePicture, read_work_list
from tests.unit.conftest import make_jpeg

LABELS = ("=cat", "dog")
"""One label looks like a formula to a spreadsheet."""


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Return a folder with five pictures in each of two labels."""
    for index, label in enumerate(LABELS):
        (tmp_path / "pictures" / label).mkdir(parents=True)
        for number in range(5):
            path = tmp_path / "pictures" / label / f"é{index}{number}.jpg"
            path.write_bytes(make_jpeg(10 * index + number))
    return tmp_path / "pictures"


def _plan(uri: Path | str, target: Path, corrections: Path | str = "") -> PlannedDataset:
    return plan_dataset(
        PictureRoots(pictures_uri=str(uri)),
        dataset_folder=lambda _: str(target),
        listings_uri=None,
        unpacked_uri=str(target.with_name("unpacked")),
        settings=DatasetSettings(),
        inputs=InputSettings(corrections_file_uri=str(corrections)),
    )


def _labels(planned: PlannedDataset) -> dict[str, str]:
    return {Path(picture.path).name: picture.label for picture in _sources(planned)}


def _sources(planned: PlannedDataset) -> list[SourcePicture]:
    return [
        picture
        for shard in planned.plan.shard_names
        for picture in read_work_list(planned.dataset_uri, shard)
    ]


def _write(path: Path, rows: Iterable[Mapping[str, str]], *, delimiter: str = ",") -> Path:
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, SUSPECTS_COLUMNS, delimiter=delimiter, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


def _edited(planned: PlannedDataset, path: Path, **new_labels: str) -> Path:
    """Write the table of all pictures of a dataset, with new labels of some file names."""
    return _write(
        path,
        [
            {
                "path": picture.path,
                "given_label": f"'{picture.label}",
                "content": picture.content,
                "new_label": new_labels.get(Path(picture.path).stem, ""),
            }
            for picture in _sources(planned)
        ],
    )


def test_pictures_are_relabelled_and_removed(
    pictures: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="repot.progress")
    before = _plan(pictures, tmp_path / "before")
    file = _edited(before, tmp_path / "edited.csv", é00="dog", é11="'=cat", é12="-", é13="Remove")

    planned = _plan(pictures, tmp_path / "after", file)

    labels = _labels(planned)
    assert (labels["é00.jpg"], labels["é11.jpg"]) == ("dog", "=cat")
    assert {"é12.jpg", "é13.jpg"}.isdisjoint(labels)
    assert [(each.path, each.reason) for each in planned.plan.rejected] == [
        ("dog/é12.jpg", "removed"),
        ("dog/é13.jpg", "removed"),
    ]
    assert planned.plan.num_found == 10
    assert planned.plan.dataset_id != before.plan.dataset_id
    assert (
        "corrections: pictures with another label: 2, removed: 2, with their new label already: 0; "
        "rows that keep the label: 6"
    ) in caplog.text


@pytest.mark.parametrize("store", ["gcs", "s3"])
def test_file_and_pictures_may_be_in_object_storage(
    store: str, pictures: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    bucket = request.getfixturevalue(store)
    for path in sorted(pictures.rglob("*.jpg")):
        name = path.relative_to(pictures).as_posix()
        storage.write_bytes(f"{bucket}/pictures/{name}", path.read_bytes())
    before = _plan(pictures, tmp_path / "before")
    file = _edited(before, tmp_path / "edited.csv", é00="dog", é12="-")
    uri = f"{bucket}/my corrections/suspects.csv"

    with pytest.raises(UsageError, match=rf"there is no file {uri}"):
        _plan(f"{bucket}/pictures", tmp_path / "missing", uri)
    storage.write_bytes(uri, file.read_bytes())
    planned = _plan(f"{bucket}/pictures", tmp_path / "after", uri)

    assert _labels(planned)["é00.jpg"] == "dog"
    assert [each.path for each in planned.plan.rejected] == ["dog/é12.jpg"]
    expected = _plan(pictures, tmp_path / "local", file)
    assert planned.plan.dataset_id == expected.plan.dataset_id


def test_removed_pictures_do_not_count_as_rejected(pictures: Path, tmp_path: Path) -> None:
    file = _write(tmp_path / "c.csv", [{"path": "dog/é10.jpg", "new_label": "-"}])
    planned = _plan(pictures, tmp_path / "data", file)

    build_shards(planned.dataset_uri, num_processes=1)
    manifest = complete_dataset(planned.dataset_uri, limits=DataLimits(max_rejected_fraction=0))

    assert manifest.num_accepted == 9


def test_dataset_is_the_one_of_folders_with_these_labels(pictures: Path, tmp_path: Path) -> None:
    file = _edited(_plan(pictures, tmp_path / "before"), tmp_path / "edited.csv", é00="dog")
    corrected = _plan(pictures, tmp_path / "corrected", file).plan.dataset_id

    (pictures / "=cat" / "é00.jpg").rename(pictures / "dog" / "é00.jpg")

    assert _plan(pictures, tmp_path / "moved").plan.dataset_id == corrected
    # The file still fits: the content has moved, and has the new label already.
    assert _plan(pictures, tmp_path / "both", file).plan.dataset_id == corrected


def test_rows_without_a_change_do_not_change_the_dataset(pictures: Path, tmp_path: Path) -> None:
    before = _plan(pictures, tmp_path / "before")
    file = _edited(before, tmp_path / "edited.csv", é00="=cat")

    assert _plan(pictures, tmp_path / "after", file).plan.dataset_id == before.plan.dataset_id


def test_picture_is_found_by_its_content_after_it_was_renamed(
    pictures: Path, tmp_path: Path
) -> None:
    file = _edited(_plan(pictures, tmp_path / "before"), tmp_path / "edited.csv", é00="dog")
    (pictures / "=cat" / "é00.jpg").rename(pictures / "=cat" / "new.jpg")
    # Another picture takes its place.
    (pictures / "=cat" / "é00.jpg").write_bytes(make_jpeg(99))

    labels = _labels(_plan(pictures, tmp_path / "after", file))

    assert labels["new.jpg"] == "dog"
    assert labels["é00.jpg"] == "=cat"


def test_picture_is_found_by_its_path_after_its_bytes_changed(
    pictures: Path, tmp_path: Path
) -> None:
    file = _edited(_plan(pictures, tmp_path / "before"), tmp_path / "edited.csv", é00="dog")
    (pictures / "=cat" / "é00.jpg").write_bytes(make_jpeg(99))

    assert _labels(_plan(pictures, tmp_path / "after", file))["é00.jpg"] == "dog"


def test_copies_with_the_given_label_are_corrected_alike(pictures: Path, tmp_path: Path) -> None:
    file = _edited(_plan(pictures, tmp_path / "before"), tmp_path / "edited.csv", é00="dog")
    shutil.copy(pictures / "=cat" / "é00.jpg", pictures / "=cat" / "copy.jpg")
    shutil.copy(pictures / "=cat" / "é00.jpg", pictures / "dog" / "conflict.jpg")

    labels = _labels(_plan(pictures, tmp_path / "after", file))

    assert [labels[name] for name in ("é00.jpg", "copy.jpg", "conflict.jpg")] == ["dog"] * 3


def test_corrections_work_in_an_archive_a_manifest_and_shards(
    pictures: Path, tmp_path: Path
) -> None:
    before = _plan(pictures, tmp_path / "before")
    file = _edited(before, tmp_path / "edited.csv", é00="dog", é12="-")
    expected = _plan(pictures, tmp_path / "folders", file).plan.dataset_id
    names = [path.relative_to(pictures) for path in sorted(pictures.rglob("*.jpg"))]
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive:
        for name in names:
            archive.write(pictures / name, str(name))
    rows = [json.dumps({"path": str(name), "label": name.parent.name}) for name in names]
    (pictures / "manifest.jsonl").write_text("\n".join(rows))

    for source in (tmp_path / "pictures.zip", pictures / "manifest.jsonl"):
        planned = _plan(source, tmp_path / source.name.replace(".", "-"), file)
        assert planned.plan.dataset_id == expected
    build_shards(before.dataset_uri, num_processes=1)
    complete_dataset(before.dataset_uri, limits=DataLimits())
    from_shards = _plan(before.dataset_uri, tmp_path / "from-shards")
    by_path = _edited(from_shards, tmp_path / "shards.csv", é00="dog", é12="-")
    labels = _labels(_plan(before.dataset_uri, tmp_path / "corrected-shards", by_path))
    assert labels["é00.jpg"] == "dog"
    assert "é12.jpg" not in labels


def test_rows_that_match_nothing_are_reported(
    pictures: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="repot.progress")
    file = _write(
        tmp_path / "c.csv",
        [{"path": f"dog/no{i}.jpg", "new_label": "dog"} for i in range(22)],
        delimiter=";",
    )

    _plan(pictures, tmp_path / "data", file)

    printed = caplog.text
    assert f"22 rows of {file} name no picture of the input: line 2 ('dog/no0.jpg')" in printed
    assert "line 21 ('dog/no19.jpg') and 2 more" in printed


def test_every_wrong_row_is_named(pictures: Path, tmp_path: Path) -> None:
    rows = [
        {"path": "dog/é10.jpg", "new_label": "dgo"},
        {"new_label": "dog"},
        {"path": "dog/é11.jpg", "given_label": "bird", "new_label": "'=cat"},
        {"path": "dog/é12.jpg", "new_label": "'=cat"},
        {"path": "dog/é12.jpg", "new_label": "-"},
        {"path": "dog/é14.jpg", "new_label": "remove"},
        {"path": "dog/é14.jpg", "new_label": "dog"},
        *({"path": "dog/é13.jpg", "new_label": f"label {i}"} for i in range(20)),
    ]
    file = _write(tmp_path / "c.csv", rows)

    with pytest.raises(UsageError) as caught:
        _plan(pictures, tmp_path / "data", file)

    message = str(caught.value)
    assert (
        f"Every row of {file} must name a picture and its new label; 25 rows are wrong" in message
    )
    assert "line 2: new_label 'dgo' is not one of the labels; did you mean 'dog'?" in message
    assert "line 3: it names no picture" in message
    assert "line 4: 'dog/é11.jpg' has the label 'dog' now, not 'bird'" in message
    assert "line 6: line 5 gives the same picture the label '=cat'" in message
    assert "line 8: line 7 removes the same picture" in message
    assert "label 0' is not one of the labels, which are =cat, dog" in message
    assert "and 5 more" in message


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "has none"),
        ("path,label\ndog/x.jpg,dog\n", "has path, label"),
        ("given_label,new_label\n", "has given_label, new_label"),
    ],
)
def test_file_with_other_columns_is_refused(
    pictures: Path, tmp_path: Path, text: str, problem: str
) -> None:
    (tmp_path / "c.csv").write_text(text)

    with pytest.raises(UsageError, match="must be a CSV file whose first line has the columns"):
        _plan(pictures, tmp_path / "data", tmp_path / "c.csv")
    with pytest.raises(UsageError, match=problem):
        _plan(pictures, tmp_path / "data", tmp_path / "c.csv")


def test_missing_file_is_named(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"there is no file {tmp_path}/none.csv"):
        _plan(pictures, tmp_path / "data", tmp_path / "none.csv")


def test_label_that_loses_its_pictures_is_an_error(pictures: Path, tmp_path: Path) -> None:
    rows = [{"path": f"dog/é1{i}.jpg", "new_label": "'=cat"} for i in range(5)]
    file = _write(tmp_path / "c.csv", rows)

    with pytest.raises(Exception, match=r"must have at least two pictures.*'dog'"):
        _plan(pictures, tmp_path / "data", file)


def test_applied_rows_are_kept_with_the_dataset_and_can_be_applied_again(
    pictures: Path, tmp_path: Path
) -> None:
    before = _plan(pictures, tmp_path / "before")
    file = _edited(before, tmp_path / "edited.csv", é00="dog", é11="'=cat", é12="-")
    planned = _plan(pictures, tmp_path / "after", file)
    kept = tmp_path / "after" / "corrections.csv"

    with kept.open(encoding="utf-8", newline="") as stored:
        rows = {Path(row["path"]).stem: row for row in csv.DictReader(stored)}
    assert {name: row["new_label"] for name, row in rows.items()} == {
        "é00": "dog",
        "é11": "'=cat",
        "é12": "remove",
    }
    again = _plan(pictures, tmp_path / "again", kept)
    assert again.plan.dataset_id == planned.plan.dataset_id
    assert not (tmp_path / "before" / "corrections.csv").exists()


def test_label_called_like_a_removal_is_a_label(pictures: Path, tmp_path: Path) -> None:
    (pictures / "dog").rename(pictures / "-")
    before = _plan(pictures, tmp_path / "before")
    file = _edited(before, tmp_path / "edited.csv", é00="-", é11="remove")
    planned = _plan(pictures, tmp_path / "after", file)
    labels = _labels(planned)
    assert labels["é00.jpg"] == "-"
    assert "é11.jpg" not in labels
    again = _plan(pictures, tmp_path / "again", tmp_path / "after" / "corrections.csv")
    assert again.plan.dataset_id == planned.plan.dataset_id


def test_one_wrong_label_of_many_rows_is_looked_up_once(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up: list[str] = []

    def nearest_names(name: str, _: object) -> list[str]:
        looked_up.append(name)
        return ["dog"]

    monkeypatch.setattr(corrections, "nearest_names", nearest_names)
    rows = [{"path": f"dog/{i}.jpg", "new_label": f"dgo{i % 2}"} for i in range(100)]
    with pytest.raises(UsageError, match="100 rows are wrong"):
        _plan(pictures, tmp_path / "data", _write(tmp_path / "c.csv", rows))
    assert looked_up == ["dgo0", "dgo1"]


def _files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_corrections_that_change_nothing_more_leave_a_finished_dataset_as_it_is(
    pictures: Path, tmp_path: Path
) -> None:
    before = _plan(pictures, tmp_path / "before")
    file = _edited(before, tmp_path / "edited.csv", é00="dog")
    planned = _plan(pictures, tmp_path / "after", file)
    build_shards(planned.dataset_uri)
    complete_dataset(planned.dataset_uri, limits=DataLimits())
    stored = _files(tmp_path / "after")

    # é14 is a dog already: the dataset is the same.
    more = _edited(before, tmp_path / "more.csv", é00="dog", é14="dog")
    assert _plan(pictures, tmp_path / "after", more).exists

    assert _files(tmp_path / "after") == stored
    assert not verify_folder(planned.dataset_uri).damaged
