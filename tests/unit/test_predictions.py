import csv
import io
import json
from collections.abc import Iterator

import pytest

from repot.errors import printable
from repot.predictions import (
    FORMATS,
    LabelProbability,
    Prediction,
    PredictionSet,
    table_lines,
)

PREDICTIONS = [
    Prediction(
        picture="a.jpg", labels=(LabelProbability("cat", 0.75), LabelProbability("dog", 0.25))
    ),
    Prediction(picture="long name.jpg", problem="the file is empty"),
]
PICTURES = ["a.jpg", "long name.jpg"]


def test_table_pads_pictures_to_the_longest_name() -> None:
    assert list(FORMATS["table"](PREDICTIONS, PICTURES)) == [
        "a.jpg          0.750 cat  0.250 dog",
        "long name.jpg  not used: the file is empty",
    ]


def test_csv_has_a_header_and_one_line_per_label() -> None:
    assert list(FORMATS["csv"](PREDICTIONS, PICTURES)) == [
        "picture,rank,label,probability,in_set,set_size,unlike,problem",
        "a.jpg,1,cat,0.750000,,,,",
        "a.jpg,2,dog,0.250000,,,,",
        "long name.jpg,,,,,,,the file is empty",
    ]


def test_every_format_has_the_set_and_marks_pictures_unlike_the_training_pictures() -> None:
    labels = (LabelProbability("cat", 0.75), LabelProbability("dog", 0.25))
    promises = {
        "like.jpg": PredictionSet(labels=("cat",), unlike=0.5),
        "none.jpg": PredictionSet(labels=(), unlike=1.0),
        "many.jpg": PredictionSet(labels=tuple("abcdefghijkl"), unlike=1.8),
    }
    predictions = [
        Prediction(picture=name, labels=labels, promise=promise)
        for name, promise in promises.items()
    ]

    flag = "  UNLIKE the training pictures (1.8)"
    assert list(FORMATS["table"](predictions, list(promises))) == [
        "like.jpg  0.750 cat  0.250 dog  set: cat",
        "none.jpg  0.750 cat  0.250 dog  set: no label is likely enough",
        f"many.jpg  0.750 cat  0.250 dog  set: a, b, c, d, e, f, g, h, i, j and 2 more{flag}",
    ]
    assert list(FORMATS["csv"](predictions[:2], []))[1:] == [
        "like.jpg,1,cat,0.750000,1,1,0.500,",
        "like.jpg,2,dog,0.250000,0,1,0.500,",
        "none.jpg,1,cat,0.750000,0,0,1.000,",
        "none.jpg,2,dog,0.250000,0,0,1.000,",
    ]
    lines = [json.loads(line) for line in FORMATS["jsonl"](predictions, [])]
    assert [len(line["set"]) for line in lines] == [1, 0, 12]
    assert [line["unlike"] for line in lines] == [0.5, 1.0, 1.8]
    assert [line["is_unlike"] for line in lines] == [False, False, True]


def test_json_lines_have_either_names_or_a_problem() -> None:
    first, second = map(json.loads, FORMATS["jsonl"](PREDICTIONS, PICTURES))

    assert first["names"] == [
        {"label": "cat", "probability": 0.75},
        {"label": "dog", "probability": 0.25},
    ]
    assert second == {"picture": "long name.jpg", "problem": "the file is empty"}


HOSTILE = (
    "=1+1|cmd",
    "a\nb\r\tc.jpg",
    "\x1b[31mred\x1b[0m",
    "\x9bH",
    "abc\u202egpj.exe",
    "'quoted'",
)


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("is_problem", [True, False])
def test_hostile_text_keeps_one_line_per_picture_and_reads_back(
    text: str, is_problem: bool
) -> None:
    labels = () if is_problem else (LabelProbability(text, 0.5),)
    prediction = Prediction(picture=text, labels=labels, problem=text if is_problem else "")

    (table,) = FORMATS["table"]([prediction], [text])
    assert table.isprintable()
    assert printable(text) in table
    (line,) = FORMATS["jsonl"]([prediction], [text])
    assert line.isprintable()
    parsed = json.loads(line)
    assert parsed["picture"] == text
    assert (parsed["problem"] if is_problem else parsed["names"][0]["label"]) == text
    output = "\n".join(FORMATS["csv"]([prediction], [text]))
    header, row = csv.reader(io.StringIO(output, newline=""))
    assert dict(zip(header, row, strict=True))["picture"] == text
    assert text in row[1:]


def test_table_is_aligned_by_what_is_shown() -> None:
    prediction = Prediction(picture="a\nb", labels=(LabelProbability("cat", 1.0),))

    assert list(table_lines([prediction], ["a\nb", "12345"])) == ["a\\nb   1.000 cat"]


def test_one_long_name_does_not_widen_the_column() -> None:
    prediction = Prediction(picture="12345", labels=(LabelProbability("cat", 1.0),))
    long = Prediction(picture="a" * 200, labels=(LabelProbability("dog", 1.0),))
    lines = table_lines([prediction, long], ["12345", "a" * 200])
    assert list(lines) == ["12345  1.000 cat", f"{'a' * 200}  1.000 dog"]


def test_lines_are_written_as_predictions_arrive() -> None:
    def endless() -> Iterator[Prediction]:
        while True:
            yield PREDICTIONS[0]

    assert next(table_lines(endless(), PICTURES)).startswith("a.jpg")
