"""Predictions of `repot predict`: the labels of pictures, written as a table, CSV or JSON Lines.

A picture that cannot be used gets a prediction with a problem, and the others are still predicted.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from repot import storage
from repot.csv_text import csv_line
from repot.errors import EXIT_FAILED, StorageError, UsageError, printable
from repot.metrics import FloatArray
from repot.picture_decoder import PictureDecoder
from repot.picture_result import RejectedPicture
from repot.predictor import BATCH_SIZE, Model, find_model, load_model

_MAX_COLUMN = 60
_CSV_COLUMNS = ("picture", "rank", "label", "probability", "problem")


class LabelProbability(NamedTuple):
    """A label and its probability in [0, 1]."""

    label: str
    probability: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """The most probable labels of one picture.

    Attributes:
        picture: Path or URI as the user wrote it.
        labels: The most probable labels, best first; empty if there is a problem.
        problem: Why the picture cannot be used, or "".
    """

    picture: str
    labels: tuple[LabelProbability, ...] = ()
    problem: str = ""


def predict_files(
    model: str,
    pictures: Sequence[str],
    *,
    output_format: str,
    top: int,
    write: Callable[[str], object],
) -> int:
    """Predict the labels of pictures and write them as lines of text.

    Args:
        model: Location of the model, see `repot.predictor.find_model`.
        pictures: Local paths or URIs.
        output_format: A key of FORMATS.
        top: Number of labels per picture.
        write: Called with each line.

    Returns:
        The exit code: EXIT_FAILED if a picture cannot be used, else 0.

    Raises:
        ModelError: There is no model, or it cannot be loaded.
    """
    exit_code = 0
    # It starts while the model is loaded.
    with PictureDecoder() as decoder:
        loaded = load_model(find_model(storage.normalise(model)))

        def predictions() -> Iterator[Prediction]:
            nonlocal exit_code
            for prediction in predict_pictures(loaded, decoder, pictures, top=top):
                if prediction.problem:
                    exit_code = EXIT_FAILED
                yield prediction

        for line in FORMATS[output_format](predictions(), pictures):
            write(line)
    return exit_code


def predict_pictures(
    model: Model, decoder: PictureDecoder, pictures: Sequence[str], *, top: int
) -> Iterator[Prediction]:
    """Yield the prediction of each picture, in order.

    Args:
        model: The model.
        decoder: Decodes the pictures.
        pictures: Local paths or URIs of pictures in any format that training accepts.
        top: Number of labels per picture.
    """
    for start in range(0, len(pictures), BATCH_SIZE):
        batch = pictures[start : start + BATCH_SIZE]
        jpegs, problems = {}, {}
        for picture in dict.fromkeys(batch):
            try:
                (result,) = decoder.decode([(picture, _read(picture))])
            except (StorageError, UsageError) as err:
                problems[picture] = str(err)
            else:
                if isinstance(result, RejectedPicture):
                    problems[picture] = str(result)
                else:
                    jpegs[picture] = result.jpeg
        scores = dict(zip(jpegs, model.predict(list(jpegs.values())), strict=True))
        for picture in batch:
            if picture in problems:
                yield Prediction(picture=picture, problem=problems[picture])
            else:
                labels = _top_labels(model.labels, scores[picture], top)
                yield Prediction(picture=picture, labels=labels)


def table_lines(predictions: Iterable[Prediction], pictures: Sequence[str]) -> Iterator[str]:
    """Yield one line per picture: its name, then each label after its probability.

    Characters that would break the line or control the terminal are escaped.

    Args:
        predictions: One per picture.
        pictures: Names of all pictures; the longest of up to 60 characters sets the width of the
            first column.
    """
    lengths = [len(printable(picture)) for picture in pictures]
    width = max((length for length in lengths if length <= _MAX_COLUMN), default=0)
    for prediction in predictions:
        labels = "  ".join(f"{label.probability:.3f} {label.label}" for label in prediction.labels)
        result = printable(labels or f"not used: {prediction.problem}")
        yield f"{printable(prediction.picture):<{width}}  {result}"


def csv_lines(predictions: Iterable[Prediction], _pictures: Sequence[str]) -> Iterator[str]:
    """Yield a header, then one row per label; a picture with a problem has one row.

    The texts are unchanged, for the program that reads them.
    """
    yield csv_line(_CSV_COLUMNS)
    for prediction in predictions:
        for rank, label in enumerate(prediction.labels, start=1):
            probability = f"{label.probability:.6f}"
            yield csv_line(
                [prediction.picture, rank, label.label, probability, ""], escape_formulas=False
            )
        if prediction.problem:
            yield csv_line(
                [prediction.picture, "", "", "", prediction.problem], escape_formulas=False
            )


def json_lines(predictions: Iterable[Prediction], _pictures: Sequence[str]) -> Iterator[str]:
    """Yield one JSON object per picture, with either `names` or `problem`."""
    for prediction in predictions:
        line: dict[str, object] = {"picture": prediction.picture}
        if prediction.problem:
            line["problem"] = prediction.problem
        else:
            line["names"] = [label._asdict() for label in prediction.labels]
        # These escapes are JSON's own, so the text reads back unchanged.
        yield printable(json.dumps(line, ensure_ascii=False))


_Format = Callable[[Iterable[Prediction], Sequence[str]], Iterator[str]]
FORMATS: dict[str, _Format] = {"table": table_lines, "csv": csv_lines, "jsonl": json_lines}


def _read(picture: str) -> bytes:
    uri = storage.normalise(picture)
    if storage.is_local(uri) and storage.local_path(uri).is_dir():
        raise UsageError(
            f"{picture} is a folder. Name the pictures in it, such as {picture.rstrip('/')}/*.jpg."
        )
    return storage.read_bytes(uri)


def _top_labels(
    labels: Sequence[str], scores: FloatArray, top: int
) -> tuple[LabelProbability, ...]:
    order = np.argsort(-scores, kind="stable")[:top]
    return tuple(LabelProbability(labels[i], float(scores[i])) for i in order)
