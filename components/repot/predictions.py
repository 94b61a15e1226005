"""What a model says of pictures, as lines of text: a table for people, CSV and JSON Lines for programs."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

_CSV_COLUMNS = ("picture", "rank", "label", "probability", "problem")


class NamedProbability(NamedTuple):
    """A label and how probable it is, in [0, 1]."""

    label: str
    probability: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """What a model says of one picture.

    Attributes:
        picture: The picture as the user named it.
        names: The most probable labels, best first; empty when there is a problem.
        problem: Why the picture could not be used, or "".
    """

    picture: str
    names: tuple[NamedProbability, ...] = ()
    problem: str = ""


def table_lines(predictions: Iterable[Prediction], pictures: Sequence[str]) -> Iterator[str]:
    """Yield a line a picture: its name, then each label with its probability.

    Args:
        predictions: One for each picture.
        pictures: All of them: the longest name makes the width of the column.
    """
    width = max(map(len, pictures), default=0)
    for prediction in predictions:
        names = "  ".join(f"{name.probability:.3f} {name.label}" for name in prediction.names)
        yield f"{prediction.picture:<{width}}  {names or f'not named: {prediction.problem}'}"


def csv_lines(predictions: Iterable[Prediction], _pictures: Sequence[str]) -> Iterator[str]:
    """Yield a header, then a line a name; a picture that could not be used has one line with its problem."""
    yield ",".join(_CSV_COLUMNS)
    for prediction in predictions:
        for rank, name in enumerate(prediction.names, start=1):
            yield _csv_line(prediction.picture, rank, name.label, f"{name.probability:.6f}", "")
        if prediction.problem:
            yield _csv_line(prediction.picture, "", "", "", prediction.problem)


def json_lines(predictions: Iterable[Prediction], _pictures: Sequence[str]) -> Iterator[str]:
    """Yield a JSON object a picture, with `names` or with `problem`."""
    for prediction in predictions:
        if prediction.problem:
            facts: dict[str, object] = {
                "picture": prediction.picture,
                "problem": prediction.problem,
            }
        else:
            facts = {
                "picture": prediction.picture,
                "names": [name._asdict() for name in prediction.names],
            }
        yield json.dumps(facts, ensure_ascii=False)


Lines = Callable[[Iterable[Prediction], Sequence[str]], Iterator[str]]
FORMATS: dict[str, Lines] = {"table": table_lines, "csv": csv_lines, "jsonl": json_lines}


def _csv_line(*values: object) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(values)
    return text.getvalue()
