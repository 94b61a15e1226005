"""Manifests of every format, as their systems document them, and what is wrong with rows."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from repot import storage
from repot.errors import UsageError
from repot.planner.file_table import FileTable, FoundFile
from repot.planner.inputs.inventory import CandidatePicture, Inventory
from repot.planner.inputs.read import ReadOptions, read_inventory
from repot.planner.listing import PictureRoots
from repot.records import Box


def _inventory(uri: str | Path, **options: Any) -> Inventory:
    return read_inventory(PictureRoots(pictures_uri=str(uri)), ReadOptions(**options))


def _rows(uri: str | Path, **options: Any) -> list[tuple[str, str, str]]:
    """Return name, label and split of every picture."""
    return [
        (each.file.name, each.label, each.split) for each in _inventory(uri, **options).candidates
    ]


def _write(folder: Path, text: str, name: str = "manifest", encoding: str = "utf-8") -> Path:
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with the pictures 1.jpg to 4.jpg."""
    for number in range(1, 5):
        (tmp_path / f"{number}.jpg").write_bytes(b"picture %d" % number)
    return tmp_path


def _problem(path: Path, **options: Any) -> str:
    with pytest.raises(UsageError) as caught:
        _inventory(path, **options)
    return str(caught.value)


VERTEX_CSV = """test,gs://{b}/1.jpg,daisy
training,gs://{b}/2.jpg,dandelion
gs://{b}/3.jpg,daisy
UNASSIGNED,gs://{b}/4.jpg,dandelion
"""


def _vertex_line(bucket: str, number: int, label: str, use: str) -> str:
    return json.dumps(
        {
            "imageGcsUri": f"gs://{bucket}/{number}.jpg",
            "classificationAnnotation": {
                "displayName": label,
                "annotationResourceLabels": {
                    "aiplatform.googleapis.com/annotation_set_name": "displayName",
                    "env": "prod",
                },
            },
            "dataItemResourceLabels": {"aiplatform.googleapis.com/ml_use": use},
        }
    )


@pytest.fixture
def bucket(gcs: str) -> str:
    """Return the name of a bucket on gs:// with four pictures."""
    for number in range(1, 5):
        storage.write_bytes(f"{gcs}/{number}.jpg", b"picture %d" % number)
    return gcs.removeprefix("gs://")


def test_import_files_of_vertex(folder: Path, bucket: str) -> None:
    expected = [
        ("1.jpg", "daisy", "test"),
        ("2.jpg", "dandelion", "train"),
        ("3.jpg", "daisy", ""),
        ("4.jpg", "dandelion", ""),
    ]
    assert _rows(_write(folder, VERTEX_CSV.format(b=bucket))) == expected
    uses = {"test": "test", "train": "training", "": "unassigned"}
    lines = [
        _vertex_line(bucket, number, label, uses[split])
        for number, (_, label, split) in enumerate(expected, start=1)
    ]
    assert _rows(_write(folder, "\n".join(lines))) == expected


def test_manifest_in_one_bucket_names_pictures_in_others(bucket: str, s3: str, gcs: str) -> None:
    for number in range(100):
        storage.write_bytes(f"{s3}/deep/{number % 3}/{number}.jpg", b"%d" % number)
    lines = [f"{s3}/deep/{number % 3}/{number}.jpg,b" for number in range(100)]
    text = "\n".join(["uri,label", f"gs://{bucket}/1.jpg,a", "./2.jpg,a", *lines])
    storage.write_text(f"{gcs}/lists/m.csv", text)
    problem = "there is no file gs://.*/lists/2.jpg"
    with pytest.raises(UsageError, match=problem):
        _inventory(f"{gcs}/lists/m.csv")
    storage.write_text(f"{gcs}/lists/m.csv", text.replace("\n./2.jpg", "\n../2.jpg"))
    candidates = _inventory(f"{gcs}/lists/m.csv").candidates
    assert len({each.file.uri for each in candidates}) == 102
    assert {each.file.uri[:5] for each in candidates} == {"gs://", "s3://"}
    storage.write_text(f"{gcs}/lists/m.csv", "uri,label\n../../1.jpg,a\n")
    with pytest.raises(UsageError, match="must be in the manifest's bucket"):
        _inventory(f"{gcs}/lists/m.csv")


def test_manifest_in_a_bucket_names_no_local_file(gcs: str, folder: Path) -> None:
    storage.write_text(f"{gcs}/m.csv", f"uri,label\n{folder}/1.jpg,a\nfile:///etc/passwd,a\n")
    with pytest.raises(UsageError) as caught:
        _inventory(f"{gcs}/m.csv")
    assert str(caught.value).count("a manifest in a bucket must not name files of a machine") == 2


def test_import_files_of_sagemaker(folder: Path, s3: str) -> None:
    lst = "5\t1\t1.jpg\n1000\t0.000000\t2.jpg\n22\t2\t./3.jpg\n"
    assert _rows(_write(folder, lst, "train.lst")) == [
        ("1.jpg", "1", ""),
        ("2.jpg", "0", ""),
        ("3.jpg", "2", ""),
    ]
    assert [
        label for _, label, _ in _rows(folder / "train.lst", listed_labels=["a", "b", "c"])
    ] == [
        "b",
        "a",
        "c",
    ]
    for number in (1, 2):
        storage.write_bytes(f"{s3}/image/filename{number}.jpg", b"%d" % number)
    plain = [
        {"source-ref": f"{s3}/image/filename1.jpg", "class": "0"},
        {"source-ref": f"{s3}/image/filename2.jpg", "class": "1", "class-metadata": {"a": 1}},
    ]
    path = _write(folder, "\n".join(map(json.dumps, plain)))
    assert [label for _, label, _ in _rows(path)] == ["0", "1"]
    # The output of a labelling job of Ground Truth.
    metadata = {"confidence": 0.93, "job-name": "j", "class-name": "dog", "human-annotated": "yes"}
    labelled = [
        {"source-ref": f"{s3}/image/filename{number}.jpg", "pets": 0, "pets-metadata": metadata}
        for number in (1, 2)
    ]
    path = _write(folder, "\n".join(map(json.dumps, labelled)))
    assert [label for _, label, _ in _rows(path)] == ["dog", "dog"]
    ambiguous = json.dumps({"source-ref": f"{s3}/image/filename1.jpg", "a": 0, "b": 1})
    assert "the first line of" in _problem(_write(folder, ambiguous))


def test_import_files_of_azure_machine_learning(folder: Path) -> None:
    datastore = "azureml://subscriptions/s/resourcegroups/r/workspaces/w/datastores/d/paths/"
    lines = [
        {
            "image_url": f"{prefix}{number}.jpg",
            "image_details": {"format": "jpg", "width": "400px", "height": "258px"},
            "label": label,
        }
        for number, (prefix, label) in enumerate(
            [(f"{datastore}image_data/", "can"), ("AmlDatastore://image_data/", "milk_bottle")], 1
        )
    ]
    assert _rows(_write(folder, "\n".join(map(json.dumps, lines)))) == [
        ("1.jpg", "can", ""),
        ("2.jpg", "milk_bottle", ""),
    ]
    (folder / "image_data").mkdir()
    for number in (1, 2):
        (folder / f"{number}.jpg").rename(folder / "image_data" / f"{number}.jpg")
    assert len(_rows(folder / "manifest")) == 2


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_metadata_files_of_hugging_face(name: str, folder: Path) -> None:
    rows = [{"file_name": f"{number}.jpg", "label": number % 2} for number in (1, 2, 3)]
    text = (
        "\n".join(map(json.dumps, rows))
        if name.endswith("jsonl")
        else "\n".join(["file_name,label", *(f"{row['file_name']},{row['label']}" for row in rows)])
    )
    _write(folder, text, name)
    expected = [("1.jpg", "1", ""), ("2.jpg", "0", ""), ("3.jpg", "1", "")]
    assert _rows(folder) == expected
    assert [(each.path, each.reason) for each in _inventory(folder).rejected] == [
        ("4.jpg", "not_in_manifest"),
        (name, "system_file"),
    ]
    assert _rows(folder / name) == expected


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_metadata_file_of_each_label_folder_looks_only_at_its_own_files(
    kind: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = folder / "root"
    for label in range(50):
        (root / f"label-{label}").mkdir(parents=True)
        (root / f"label-{label}" / "1.jpg").write_bytes(b"picture %d" % label)
        _write(root / f"label-{label}", f"file_name,label\n1.jpg,{label}\n", "metadata.csv")
    if kind == "zip":
        root = Path(shutil.make_archive(str(tmp_path / "root"), "zip", root))
    num_looks = 0
    read = FileTable._file

    def count(table: FileTable, number: int) -> FoundFile:
        nonlocal num_looks
        num_looks += 1
        return read(table, number)

    monkeypatch.setattr(FileTable, "_file", count)
    pictures = _inventory(root).candidates
    assert [*pictures.labels] == [str(label) for label in sorted(map(str, range(50)))]
    # Each of a hundred files is looked at a few times, not once for each of fifty folders.
    assert num_looks < 1000


def test_objects_of_hugging_face_are_boxes(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    objects = {"bbox": [[10, 20, 30, 40], [0, 0, 100, 200]], "categories": ["b", 7]}
    row = {"file_name": "1.jpg", "label": "a", "objects": objects, "width": 100, "height": 200}
    without = {"file_name": "2.jpg", "label": "a", "objects": objects}
    caplog.set_level("INFO")
    _write(folder, f"{json.dumps(row)}\n{json.dumps(without)}\n", "metadata.jsonl")
    first, second = _inventory(folder).candidates
    assert first.boxes == (
        Box(xmin=0.1, ymin=0.1, xmax=0.4, ymax=0.3, label="b"),
        Box(xmin=0, ymin=0, xmax=1, ymax=1, label="a"),
    )
    assert second.boxes == ()
    assert "1 of the rows of" in caplog.text
    assert "Add the keys width and height" in caplog.text
    for wrong in (
        {"bbox": [[10, 20, 30]], "categories": ["b"]},
        {"bbox": [[1, 2, 3, 4]], "categories": []},
        {"bbox": 3},
    ):
        _write(folder, json.dumps(row | {"objects": wrong}), "metadata.jsonl")
        assert "line 1: objects must have equally many bbox" in _problem(folder)
    too_wide = {"bbox": [[90, 0, 20, 10]], "categories": ["b"]}
    _write(folder, json.dumps(row | {"objects": too_wide}), "metadata.jsonl")
    assert "within 100 x 200 pixels" in _problem(folder)


def test_folders_are_labels_where_hugging_face_metadata_has_none(folder: Path) -> None:
    for label in ("cat", "dog"):
        (folder / "train" / label).mkdir(parents=True)
        (folder / "train" / label / "1.jpg").write_bytes(label.encode())
    _write(folder, "file_name,text\ncat/1.jpg,a cat\ndog/1.jpg,a dog\n", "train/metadata.csv")
    assert _rows(folder / "train") == [("1.jpg", "cat", ""), ("1.jpg", "dog", "")]


def test_cells_may_be_quoted_and_columns_in_any_order(folder: Path) -> None:
    text = 'GROUP;Label;"path"\r\n7;"roses; red";1.jpg\r\n\r\n;" daisy ";"2.jpg"\r\n'
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32"):
        first, second = _inventory(_write(folder, text, encoding=encoding)).candidates
        assert (first.label, first.group) == ("roses; red", "7")
        assert (second.label, second.group) == ("daisy", "")


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_delimiters_and_line_ends_of_other_programs_are_read(
    delimiter: str, line_end: str, folder: Path
) -> None:
    lines = ["", delimiter.join(["Path", "", "LABEL"]), f"1.jpg{delimiter}x{delimiter}a"]
    for end in ("", line_end, 2 * line_end):
        assert _rows(_write(folder, line_end.join(lines) + end)) == [("1.jpg", "a", "")]


def test_boxes_are_fractions_or_pixels(folder: Path) -> None:
    header = "path,label,xmin,ymin,xmax,ymax"
    fractions = f"{header}\n1.jpg,a,0,.5,1,1\n1.jpg,a,0.25,0,0.5,1\n2.jpg,b,,,,\n"
    first, second = _inventory(_write(folder, fractions)).candidates
    assert first.boxes == (
        Box(xmin=0, ymin=0.5, xmax=1, ymax=1, label="a"),
        Box(xmin=0.25, ymin=0, xmax=0.5, ymax=1, label="a"),
    )
    assert second.boxes == ()
    pixels = f"{header},width,height\n1.jpg,a,0,50,200,100,200,100\n"
    assert _inventory(_write(folder, pixels)).candidates[0].boxes == first.boxes[:1]
    row = {"path": "1.jpg", "label": "a", "boxes": [[0, 0.5, 1, 1], [0.25, 0, 0.5, 1]]}
    assert _inventory(_write(folder, json.dumps(row))).candidates[0].boxes == first.boxes


def _boxed(candidate: CandidatePicture) -> list[str]:
    return [box.label for box in candidate.boxes]


def test_repeated_box_is_named(folder: Path) -> None:
    row = "1.jpg,a,0,0,1,1"
    text = f"path,label,xmin,ymin,xmax,ymax\n{row}\n1.jpg,a,0,0,1,.5\n{row}\n"
    problem = _problem(_write(folder, text))
    assert "line 4: it names the picture of line 2 again, with the same box" in problem


def test_many_rows_of_one_picture_are_merged_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edges = [f"1.jpg,a,0,{number / 1000},1,1\n" for number in range(500)]
    path = _write(folder, "path,label,xmin,ymin,xmax,ymax\n" + "".join(edges))
    num_hashes = 0
    hash_of = Box.__hash__

    def count(box: Box) -> int:
        nonlocal num_hashes
        num_hashes += 1
        return hash_of(box)

    monkeypatch.setattr(Box, "__hash__", count)
    (candidate,) = _inventory(path).candidates
    assert [box.ymin for box in candidate.boxes] == [number / 1000 for number in range(500)]
    # A few for each box, not one for each pair of boxes.
    assert num_hashes < 10 * len(edges)


def test_boxes_of_several_labels_need_cropping(folder: Path) -> None:
    text = "path,label,xmin,ymin,xmax,ymax\n1.jpg,a,0,0,1,1\n1.jpg,b,0,0,.5,1\n"
    assert "line 3: the picture has another label, 'a', in line 2" in _problem(_write(folder, text))
    (candidate,) = _inventory(folder / "manifest", crop_to_boxes=True).candidates
    assert _boxed(candidate) == ["a", "b"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("1.jpg,", "line 3: the label is empty"),
        (",a", "line 3: it names no picture"),
        ("5.jpg,a", "line 3: there is no file {folder}/5.jpg"),
        ("./2.jpg,a", "line 3: it names the picture of line 2 again"),
        ("1.jpg,a,b", "line 3: it has 3 cells, but the header has 2; quote cells"),
        ("1.jpg", "line 3: it has 1 cells, but the header has 2; quote cells"),
        ('"1.jpg"x,a', "line 3: the quoting is not valid CSV"),
        ('1.jpg,"a', "line 3: the quoting is not valid CSV"),
        ("https://x.org/1.jpg,a", "line 3: A storage location must be a gs:// or s3:// URI"),
        (r"C:\pictures\1.jpg,a", "is on a disk of Windows; use relative paths"),
        (r"\\server\share\1.jpg,a", "is on a disk of Windows; use relative paths"),
        (".,a", "line 3: there is no file {folder}"),
    ],
)
def test_wrong_row_is_named(row: str, message: str, folder: Path) -> None:
    problem = _problem(_write(folder, f"path,label\n2.jpg,b\n{row}\n"))
    assert problem.startswith(
        f"Every row of {folder}/manifest must name a picture and its label; 1"
    )
    assert message.format(folder=folder) in problem


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ("dev2,,,,", "the split must be train, validation, test or empty; got 'dev2'"),
        (",0,0,1,1.2", "a box must have xmin < xmax and ymin < ymax, fractions of the picture"),
        (",0.5,0,0.5,1", "got 0.5, 0, 0.5, 1"),
        (",-0.1,0,0.5,1", "got -0.1, 0, 0.5, 1"),
        (",0,0,1,", "a box must have four numbers"),
        (",nan,0,1,1", "a box must have xmin < xmax"),
    ],
)
def test_wrong_split_or_box_is_named(cells: str, message: str, folder: Path) -> None:
    text = f"path,label,split,xmin,ymin,xmax,ymax\n1.jpg,a,{cells}\n"
    assert f"line 2: {message}" in _problem(_write(folder, text)).replace(
        "; got 0.5", ": got 0.5"
    ) or message in _problem(folder / "manifest")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("path,lable", "it has no column label, but 'lable'"),
        ("path,label,label", "it has 'label' more than once"),
        ("path,uri,label", "it has 'path', 'uri', which name the same thing"),
        ("label,image", "it has no column path or uri"),
        ("path,label,xmin", "of xmin, ymin, xmax, ymax it has only xmin"),
    ],
)
def test_wrong_header_is_explained(header: str, message: str, folder: Path) -> None:
    problem = _problem(_write(folder, f"{header}\n1.jpg,a\n"))
    assert message in problem
    assert "Its columns are" in problem


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"path": "1.jpg"}', "the label is empty"),
        ('{"path": "1.jpg", "label": ["a", "b"]}', "the label must be one text; got ['a', 'b']"),
        ('{"path": "1.jpg", "label": {"x": 1}}', "the label must be one text"),
        ('{"path": 1, "label": "a"}', "it names no picture"),
        ('{"path": "1.jpg", "label": "a", "label": "b"}', "the key 'label' occurs twice"),
        ("[1]", "it is not a JSON object"),
        ('{"path": "1.jpg", ', "it is not a JSON object"),
        ('{"path": "1.jpg", "label": "a", "boxes": 3}', "boxes must be a list"),
        (
            '{"path": "1.jpg", "label": "a", "boxes": [[0, 0, 1, 1]], "width": "x", "height": 9}',
            "width and height must be numbers; got 'x' and 9",
        ),
    ],
)
def test_wrong_json_row_is_named(line: str, message: str, folder: Path) -> None:
    text = f'{{"path": "2.jpg", "label": "b"}}\n{line}\n'
    assert f"line 2: {message}" in _problem(_write(folder, text))


def test_first_twenty_wrong_rows_are_named_and_the_others_counted(folder: Path) -> None:
    rows = [f"missing {number}.jpg,a" for number in range(30)]
    lines = _problem(_write(folder, "\n".join(["path,label", "1.jpg,a", *rows]))).splitlines()
    assert "30 rows are wrong" in lines[0]
    assert lines[1] == f"  line 3: there is no file {folder}/missing 0.jpg"
    assert lines[20].startswith("  line 22: ")
    assert lines[21:] == ["  and 10 more", "Correct the file, or the pictures that it names."]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is an empty file"),
        (b"\xff\xd8\xff\xe0picture", "is a single picture"),
        (b"%PDF-1.4", "is a PDF document"),
        (b"some text, with commas\n", "is a file whose first line is 'some text, with commas'"),
        (b"path,label\n\xe9.jpg,a\n", "must be UTF-8 or UTF-16 text; byte 11 is not"),
        ("path,label\n1.jpg,a\n".encode("utf-16-le"), "it contains NUL characters"),
        (b'{"picture": "1.jpg"}', "is a file whose first line is"),
        (b'[{"path": "1.jpg", "label": "a"}]', "must be JSON Lines, one object per line"),
        (b'{\n "images": []\n}', "must be JSON Lines, one object per line"),
        (b"PAR1\x15\0", "is a Parquet file. Export its pictures, or write its rows as CSV"),
        (bytes(10240), "is an empty file"),  # what tar writes for no files
    ],
)
def test_unknown_content_is_described(data: bytes, message: str, folder: Path) -> None:
    (folder / "m").write_bytes(data)
    assert message in _problem(folder / "m")


def test_input_format_overrides_detection(folder: Path) -> None:
    path = _write(folder, "file_name,label\n1.jpg,a\n")
    assert _rows(path, input_format="csv") == [("1.jpg", "a", "")]
    for name, message in (
        ("webdataset", "must have input_format=webdataset; it is a file whose first line is"),
        ("azureml", "must have one JSON object per line"),
    ):
        assert message in _problem(path, input_format=name)
    assert "PICTURES must be a file" in _problem(folder, input_format="vertex")


def test_pictures_without_a_split_are_reported(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="repot.progress")
    path = _write(folder, "path,label,split\n1.jpg,a,train\n2.jpg,a,\n3.jpg,b,\n")
    assert not _inventory(path).is_split
    assert "2 of 3 pictures have no split and are split like pictures of an input without" in (
        caplog.text
    )


def test_missing_bucket_is_named(gcs: str) -> None:
    with pytest.raises(UsageError, match=r"there is no bucket gs://.*-missing"):
        _inventory(f"{gcs}-missing/m.csv")


def test_gzipped_manifest_is_read(folder: Path) -> None:
    import gzip

    (folder / "m.csv.gz").write_bytes(gzip.compress(b"path,label\n1.jpg,a\n"))
    assert _rows(folder / "m.csv.gz") == [("1.jpg", "a", "")]


@pytest.mark.parametrize(
    ("training", "validation"), [("train", "dev"), ("training", "val"), ("Train", "Validate")]
)
def test_names_of_splits_are_those_of_the_column_split(
    training: str, validation: str, folder: Path
) -> None:
    _write(folder, "path,label\n1.jpg,a\n", f"{training}.csv")
    _write(folder, "path,label\n2.jpg,a\n", f"{validation}.csv")
    assert sorted(_rows(folder)) == [("1.jpg", "a", "train"), ("2.jpg", "a", "validation")]
    rows = f"path,label,split\n1.jpg,a,{training}\n2.jpg,a,{validation}\n"
    assert _rows(_write(folder, rows)) == [("1.jpg", "a", "train"), ("2.jpg", "a", "validation")]


def test_folder_with_a_manifest_for_each_split(folder: Path) -> None:
    _write(folder, "5\t1\t1.jpg\n6\t0\t2.jpg\n", "train.lst")
    _write(folder, "1\t1\t3.jpg\n2\t0\t4.jpg\n", "my_validation.lst")
    assert sorted(_rows(folder)) == [
        ("1.jpg", "1", "train"),
        ("2.jpg", "0", "train"),
        ("3.jpg", "1", "validation"),
        ("4.jpg", "0", "validation"),
    ]
    roots = PictureRoots(
        train_uri=f"{folder}/train.lst", validation_uri=f"{folder}/my_validation.lst"
    )
    assert len(read_inventory(roots, ReadOptions()).candidates) == 4


def test_wrong_rows_of_all_manifests_are_reported_at_once(folder: Path) -> None:
    _write(folder, "path,label\n1.jpg,\n", "train.csv")
    _write(folder, "path,label\n9.jpg,a\n", "validation.csv")
    problem = _problem(folder)
    assert f"{folder}/train.csv must name a picture and its label; 1 row is wrong" in problem
    assert f"{folder}/validation.csv must name a picture and its label; 1 row is wrong" in problem


def test_picture_in_the_manifests_of_two_splits_is_named(folder: Path) -> None:
    for number in range(25):
        (folder / f"x{number}.jpg").write_bytes(b"picture %d" % number)
    _write(folder, "".join(f"{n}\t1\tx{n}.jpg\n" for n in range(25)), "train.lst")
    _write(folder, "".join(f"{n}\t1\t./x{n}.jpg\n" for n in range(25)), "validation.lst")
    roots = PictureRoots(train_uri=f"{folder}/train.lst", validation_uri=f"{folder}/validation.lst")
    with pytest.raises(UsageError) as caught:
        read_inventory(roots, ReadOptions())
    assert str(caught.value) == _problem(folder)
    for text in (
        f"of {folder}/validation.lst must name a picture and its label; 25 rows are wrong",
        f"line 2: it names the picture of line 2 of {folder}/train.lst again, ./x1.jpg\n",
        "\n  and 5 more\n",
    ):
        assert text in str(caught.value)
    assert "./x19.jpg" in str(caught.value)
    assert "./x20.jpg" not in str(caught.value)


def test_folder_with_a_manifest_is_not_the_manifest(folder: Path) -> None:
    _write(folder, "path,label\n1.jpg,a\n", "labels.csv")
    assert "contains 'labels.csv'. Give the manifest instead of the folder" in _problem(folder)


def test_manifests_beside_folders_of_splits_state_the_labels(folder: Path) -> None:
    for split in ("train", "test"):
        (folder / split).mkdir()
        for number in (1, 2):
            (folder / split / f"{number}.jpg").write_bytes(f"{split} {number}".encode())
        _write(folder, f"path,label\n{split}/1.jpg,a\n{split}/2.jpg,b\n", f"{split}.csv")
    assert sorted(_rows(folder)) == [
        ("1.jpg", "a", "test"),
        ("1.jpg", "a", "train"),
        ("2.jpg", "b", "test"),
        ("2.jpg", "b", "train"),
    ]


def test_manifest_beside_label_folders_is_left_out(folder: Path) -> None:
    for label in "ab":
        (folder / label).mkdir()
        (folder / label / "1.jpg").write_bytes(b"x")
    _write(folder, "path,label\n1.jpg,a\n", "labels.csv")
    assert [label for _, label, _ in _rows(folder)] == ["a", "b"]


def _columns(uri: str | Path) -> list[dict[str, str]]:
    return [dict(each.columns) for each in _inventory(uri).candidates]


def test_other_columns_of_csv_and_json_lines_stay_with_their_picture(folder: Path) -> None:
    table = _write(folder, "Camera,path,label,group,note\nA 1,1.jpg,a,g,\n,2.jpg,b,g,dark\n")
    assert _columns(table) == [{"camera": "A 1"}, {"note": "dark"}]
    lines = [
        {"path": "1.jpg", "label": "a", "iso": 100, "flash": True, "nested": {"x": 1}},
        {"path": "2.jpg", "label": "b", "note": "x" * 100, "caption": "x" * 101},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    assert _columns(_write(folder, text)) == [
        {"iso": "100", "flash": "True"},
        {"note": "x" * 100},
    ]


@pytest.mark.parametrize("num_values", [1000, 1001])
def test_column_that_names_every_picture_is_left_out(num_values: int, folder: Path) -> None:
    rows = "".join(f"p{i}.jpg,a,id{i},{i}.5,c{i % 2}\n" for i in range(num_values))
    for i in range(num_values):
        (folder / f"p{i}.jpg").write_bytes(b"x%d" % i)

    columns = _columns(_write(folder, "path,label,name,weight,camera\n" + rows))

    names = {"weight", "camera"} | ({"name"} if num_values == 1000 else set())
    assert {frozenset(each) for each in columns} == {frozenset(names)}
