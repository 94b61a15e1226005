from repot.dataset_description import describe_dataset
from repot.manifest import Rejection


def _rejection(path: str, reason: str, detail: str = "") -> Rejection:
    return Rejection(path=path, label="", split="", reason=reason, detail=detail)


def test_one_line_tells_pictures_labels_and_splits() -> None:
    counts = {"a": 3, "b": 10, "c": 4, "d": 0}
    lines = describe_dataset({"train": counts, "validation": {"a": 1, "d": 2}}, [])
    assert lines == [
        "20 pictures of 4 labels, per label 2 to 10, median 4; 17 for training, 3 for validation"
    ]


def test_labels_with_equally_many_pictures_have_one_number() -> None:
    (line,) = describe_dataset({"train": {"a": 3, "b": 2}, "validation": {"a": 1, "b": 2}}, [])
    assert line == "8 pictures of 2 labels, 4 of each; 5 for training, 3 for validation"


def test_one_line_tells_the_test_split_if_there_is_one() -> None:
    (line,) = describe_dataset(
        {"train": {"a": 3}, "validation": {"a": 1}, "test": {"a": 2, "b": 1}}, []
    )
    assert line.endswith("; 3 for training, 1 for validation, 3 for testing")


def test_one_line_per_reason_names_the_first_files() -> None:
    rejected = [
        _rejection("a/1", "empty"),
        *(_rejection(f"b/{number}", "corrupt", "bad\x1b[2J") for number in range(4)),
    ]
    lines = describe_dataset({"train": {"a": 1}, "validation": {"a": 1}}, rejected)
    assert lines[1:] == [
        (
            "left out 4: the picture is damaged and cannot be decoded "
            "('b/0': 'bad\\x1b[2J', 'b/1': 'bad\\x1b[2J' and 2 more)"
        ),
        "left out 1: the file is empty ('a/1')",
    ]


def test_names_that_are_not_text_are_escaped() -> None:
    rejected = [_rejection("a/ros\udce9\n\x1b.jpg", "empty")]
    (_, line) = describe_dataset({"train": {"a": 1}, "validation": {"a": 1}}, rejected)
    assert line.isprintable()
