"""Predictions as lines of text."""

import json
from collections.abc import Iterator

from repot.predictions import FORMATS, NamedProbability, Prediction, table_lines

PREDICTIONS = [
    Prediction(
        picture="a.jpg", names=(NamedProbability("cat", 0.75), NamedProbability("dog", 0.25))
    ),
    Prediction(picture="long name.jpg", problem="the file is empty"),
]
PICTURES = ["a.jpg", "long name.jpg"]


def test_table_pads_names_to_the_longest() -> None:
    assert list(FORMATS["table"](PREDICTIONS, PICTURES)) == [
        "a.jpg          0.750 cat  0.250 dog",
        "long name.jpg  not named: the file is empty",
    ]


def test_csv_has_a_header_and_a_line_a_name() -> None:
    assert list(FORMATS["csv"](PREDICTIONS, PICTURES)) == [
        "picture,rank,label,probability,problem",
        "a.jpg,1,cat,0.750000,",
        "a.jpg,2,dog,0.250000,",
        "long name.jpg,,,,the file is empty",
    ]


def test_json_lines_have_names_or_a_problem() -> None:
    first, second = map(json.loads, FORMATS["jsonl"](PREDICTIONS, PICTURES))

    assert first["names"] == [
        {"label": "cat", "probability": 0.75},
        {"label": "dog", "probability": 0.25},
    ]
    assert second == {"picture": "long name.jpg", "problem": "the file is empty"}


def test_lines_come_one_by_one() -> None:
    def endless() -> Iterator[Prediction]:
        while True:
            yield PREDICTIONS[0]

    assert next(table_lines(endless(), PICTURES)).startswith("a.jpg")
