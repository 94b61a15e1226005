import pytest

from repot.errors import DataError, UsageError
from repot.planner.folders import FolderContents, sort_files
from repot.planner.labels import (
    find_label_problems,
    find_overlap,
    find_too_few_labels,
    raise_problems,
)
from repot.planner.listing import FoundFile, PictureRoots


def _contents(*paths: str) -> FolderContents:
    files = [
        FoundFile(uri=f"/{path}", path=path, size_bytes=1, crc32c="", version="1-1")
        for path in sorted(paths)
    ]
    return sort_files(files, listed_labels=None)


@pytest.mark.parametrize(
    ("labels", "words"), [([], "got none"), (["a"], "got a"), (["a", "b"], "")]
)
def test_two_labels_are_enough(labels: list[str], words: str) -> None:
    assert (
        words in "".join(find_too_few_labels(labels))
        if words
        else find_too_few_labels(labels) == []
    )


def test_every_label_with_fewer_than_two_pictures_is_named() -> None:
    contents = _contents("a/1", "a/2", "b/1", "c/1")
    (problem,) = find_label_problems(contents, ["a", "b", "c", "gone"])
    assert "these have fewer: b, c, gone" in problem
    assert find_label_problems(contents, ["a"]) == []


def test_split_folders_need_training_pictures_of_every_label_and_any_to_validate() -> None:
    assert (
        find_label_problems(_contents("train/a/1", "train/b/1", "validation/a/1"), ["a", "b"]) == []
    )
    (problem,) = find_label_problems(
        _contents("train/a/1", "validation/b/1", "validation/c/1"), ["a", "b", "c"]
    )
    assert "these have none: b, c" in problem
    (problem,) = find_label_problems(
        _contents("train/a/1", "train/b/1", "validation/notes"), ["a", "b"]
    )
    assert "validation folder must hold pictures" in problem


@pytest.mark.parametrize(
    ("dataset_uri", "is_inside"),
    [("/p", True), ("/p/out/", True), ("/pictures", False), ("/", False), ("gs://p/out", False)],
)
def test_data_set_among_the_pictures_is_found(dataset_uri: str, is_inside: bool) -> None:
    assert bool(find_overlap(PictureRoots(pictures_uri="/p"), dataset_uri)) is is_inside
    assert (
        bool(find_overlap(PictureRoots(train_uri="/t", validation_uri="/p"), dataset_uri))
        is is_inside
    )


def test_problems_are_one_error() -> None:
    raise_problems()
    with pytest.raises(DataError, match=r"one\ntwo"):
        raise_problems(data=["one", "two"])
    with pytest.raises(UsageError) as caught:
        raise_problems(usage=["option"], data=["pictures"])
    assert caught.value.problems == ("option", "pictures")
