"""What the arguments of `repot predict` name: folders, lists, standard input, buckets."""

import gzip
from pathlib import Path

import pytest

from repot import storage
from repot.errors import UsageError
from repot_pipelines.picture_lists import find_pictures


@pytest.mark.parametrize(
    "text",
    [
        "label,path\nx,a.jpg\ny,sub/b.jpg\n",
        "path;label\n\n a.jpg ;\nsub/b.jpg;y",
        'uri\n"a.jpg"\r\nsub/b.jpg\r\n',
        '{"path": "a.jpg"}\n\n{"path": "sub/b.jpg", "label": 3}\n',
        '{"source-ref": "a.jpg", "class": 0}\n{"source-ref": "sub/b.jpg"}\n',
        "0\t1.0\ta.jpg\n1\t2.0\tsub/b.jpg\n",
        "a.jpg\n\nsub/b.jpg\n",
        "\ufeffa.jpg\r\nsub/b.jpg",
    ],
)
@pytest.mark.parametrize("is_compressed", [False, True])
def test_lists_name_pictures_from_their_folder(
    text: str, is_compressed: bool, tmp_path: Path
) -> None:
    data = text.encode()
    (tmp_path / "list").write_bytes(gzip.compress(data) if is_compressed else data)

    assert list(find_pictures([str(tmp_path / "list")], [])) == [
        f"{tmp_path}/a.jpg",
        f"{tmp_path}/sub/b.jpg",
    ]


def test_whole_names_in_a_list_stay(tmp_path: Path) -> None:
    names = ["gs://b/a.jpg", "s3://b/a.jpg", "https://host/a.jpg", "/a.jpg", "/\u2028\x0c.jpg"]
    (tmp_path / "list.txt").write_text("\n".join(names))
    assert list(find_pictures([str(tmp_path / "list.txt")], [])) == names


def test_folders_are_searched_at_any_depth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b/2.jpg", "b/c/no extension", "a.JPG", ".DS_Store", ".git/x.jpg", "Thumbs.db"):
        (tmp_path / "pictures" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pictures" / name).write_bytes(b"\xff\xd8\xff\0")
    monkeypatch.chdir(tmp_path)

    expected = ["pictures/a.JPG", "pictures/b/2.jpg", "pictures/b/c/no extension"]
    assert list(find_pictures(["pictures"], [])) == expected
    assert list(find_pictures(["pictures/"], [])) == expected


def test_standard_input_and_single_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("picture").write_bytes(b"\xff\xd8\xff\0")
    Path("text.jpg").write_text("not a list")
    arguments = ["text.jpg", "-", "picture", "missing", "ftp://x/y", "https://host/a"]

    found = list(find_pictures(arguments, ["in 1.jpg\n", "\r\n", "gs://b/2.jpg\r\n"]))

    assert found == ["text.jpg", "in 1.jpg", "gs://b/2.jpg", *arguments[2:]]


@pytest.mark.parametrize("scheme", ["gcs", "s3"])
def test_buckets_have_folders_and_lists(scheme: str, request: pytest.FixtureRequest) -> None:
    bucket = request.getfixturevalue(scheme)
    for name in ("p/b.jpg", "p/q/a.jpg", "other.jpg"):
        storage.write_bytes(f"{bucket}/{name}", b"\xff\xd8\xff\0")
    storage.write_text(f"{bucket}/lists/x.csv", "uri\nb.jpg\n")

    found = list(find_pictures([f"{bucket}/p", f"{bucket}/lists/x.csv", f"{bucket}/none"], []))

    assert found == [
        f"{bucket}/p/b.jpg",
        f"{bucket}/p/q/a.jpg",
        f"{bucket}/lists/b.jpg",
        f"{bucket}/none",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"path": "a.jpg"}\n{"label": "x"}\n', "line 2 of .*list does not"),
        ('{"path": "a.jpg"}\n{\n', "line 2 of .*list is not JSON"),
        ('{"path": "a.jpg"}\n[1]\n', r"line 2 of .*list is '\[1\]'. Correct it"),
        ("path,label\na.jpg,x\n,y\n", "line 3 of .*list does not"),
        ('path,label\n"a.jpg,x\n', "of .*list is not"),
    ],
)
def test_damaged_list_is_an_error(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "list").write_text(text)
    with pytest.raises(UsageError, match=message):
        list(find_pictures([str(tmp_path / "list")], []))
