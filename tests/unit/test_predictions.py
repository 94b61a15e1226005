import json
from collections.abc import Iterator

from repot.predictions import FORMATS, LabelProbability, Prediction, table_lines

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
        "picture,rank,label,probability,problem",
        "a.jpg,1,cat,0.750000,",
        "a.jpg,2,dog,0.250000,",
        "long name.jpg,,,,the file is empty",
    ]


def test_json_lines_have_either_names_or_a_problem() -> None:
    first, second = map(json.loads, FORMATS["jsonl"](PREDICTIONS, PICTURES))

    assert first["names"] == [
        {"label": "cat", "probability": 0.75},
        {"label": "dog", "probability": 0.25},
    ]
    assert second == {"picture": "long name.jpg", "problem": "the file is empty"}


def test_lines_are_written_as_predictions_arrive() -> None:
    def endless() -> Iterator[Prediction]:
        while True:
            yield PREDICTIONS[0]

    assert next(table_lines(endless(), PICTURES)).startswith("a.jpg")
