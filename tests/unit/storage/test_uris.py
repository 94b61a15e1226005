from pathlib import Path

import pytest

from repot import storage
from repot.errors import UsageError
from repot.storage import parent


@pytest.mark.parametrize(
    ("text", "uri"),
    [
        ("gs://bucket/a/b", "gs://bucket/a/b"),
        ("gs://bucket/a/b/", "gs://bucket/a/b"),
        ("gs://bucket/", "gs://bucket"),
        # A folder with an empty name keeps both slashes.
        ("gs://bucket//", "gs://bucket//"),
        ("s3://bucket///", "s3://bucket///"),
        ("gs://bucket/a//", "gs://bucket/a//"),
        ("gs://bucket//a/", "gs://bucket//a"),
        ("GS://bucket/A", "gs://bucket/A"),
        ("s3://bucket/a b#c?d%20é/", "s3://bucket/a b#c?d%20é"),
        ("S3://bucket", "s3://bucket"),
        ("gs://bucket/a b#c?d%20é", "gs://bucket/a b#c?d%20é"),
        ("gs://bucket/a//b", "gs://bucket/a//b"),
        ("/a/./b/../c/", "/a/c"),
        ("/", "/"),
        ("/a:b", "/a:b"),
        ("/a b#c?d%20é", "/a b#c?d%20é"),
        ("file:///a%20b", "/a b"),
        ("file://localhost/a#b", "/a#b"),
        ("file:///a?b", "/a?b"),
        ("file:/a", "/a"),
        (Path("/a"), "/a"),
    ],
)
def test_normalise_returns_the_canonical_uri(text: str | Path, uri: str) -> None:
    assert storage.normalise(text) == uri
    assert storage.normalise(uri) == uri


def test_normalise_expands_home_and_relative_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert storage.normalise("~/a") == storage.normalise("a") == f"{tmp_path}/a"


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "gs://bucket/a ",
        "a\0b",
        "s3a://bucket/a",
        "http://host/a",
        "hdfs:/a",
        "file://host/a",
        "file:a",
    ],
)
def test_normalise_rejects_invalid_locations(text: str) -> None:
    with pytest.raises(UsageError, match="must"):
        storage.normalise(text)


@pytest.mark.parametrize(
    "text",
    [
        "gs://",
        "gs:///a",
        "gs://ab",
        "gs://Bucket/a",
        "gs://buck et/a",
        "gs://-bucket/a",
        "gs:/bucket/a",
        "gs:bucket/a",
        "s3://ab",
        "s3:/bucket/a",
        "s3:bucket",
    ],
)
def test_normalise_rejects_invalid_buckets(text: str) -> None:
    with pytest.raises(UsageError, match=r"://BUCKET/PATH"):
        storage.normalise(text)


def test_normalise_of_a_path_made_from_a_uri_names_it() -> None:
    with pytest.raises(UsageError, match="gs:/bucket/a"):
        storage.normalise(Path("gs://bucket/a"))


@pytest.mark.parametrize(
    ("parts", "joined"),
    [
        (("gs://bucket",), "gs://bucket"),
        (("gs://bucket", "a", "b/c"), "gs://bucket/a/b/c"),
        (("gs://bucket/a/", "/b/", "", "c"), "gs://bucket/a/b/c"),
        (("gs://bucket//", "a", "b"), "gs://bucket//a/b"),
        (("gs://bucket/a//", "b"), "gs://bucket/a//b"),
        (("gs://bucket//",), "gs://bucket//"),
        (("/a", "b c"), "/a/b c"),
        (("/", "a"), "/a"),
        (("/",), "/"),
    ],
)
def test_join_separates_names_by_one_slash(parts: tuple[str, ...], joined: str) -> None:
    assert storage.join(*parts) == joined


@pytest.mark.parametrize(
    ("folder", "uri"),
    [
        ("/a", "/a/b/c"),
        ("/", "/b/c"),
        ("gs://bucket", "gs://bucket/b/c"),
        ("gs://bucket//", "gs://bucket//b/c"),
        ("gs://bucket/a//", "gs://bucket/a//b/c"),
    ],
)
def test_relative_name_reverses_join(folder: str, uri: str) -> None:
    assert storage.relative_name(uri, folder) == "b/c"
    assert storage.join(folder, "b/c") == uri


@pytest.mark.parametrize(
    ("uri", "folder"),
    [
        ("gs://bucket/a/b", "gs://bucket/a"),
        ("gs://bucket/a", "gs://bucket"),
        ("gs://bucket//a", "gs://bucket//"),
        ("s3://bucket/a//b", "s3://bucket/a//"),
        ("/a/b", "/a"),
        ("/a", "/"),
    ],
)
def test_parent_is_the_folder_of_an_object(uri: str, folder: str) -> None:
    assert parent(uri) == folder
    assert storage.join(folder, uri.rpartition("/")[2]) == uri


def test_local_path_rejects_bucket_uris() -> None:
    assert storage.local_path("/a") == Path("/a")
    assert storage.is_local("/a")
    assert not storage.is_local("gs://bucket/a")
    with pytest.raises(UsageError, match="gs://bucket/a"):
        storage.local_path("gs://bucket/a")
