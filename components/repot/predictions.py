"""Predictions of `repot predict`: the labels of pictures, written as a table, CSV or JSON Lines.

A picture that cannot be used gets a prediction with a problem, and the others are still predicted.
Files are read, decoded and prepared while the network computes, and no more than a few batches are
in memory, so a million pictures take no more of it than a hundred.
"""

import contextlib
import itertools
import json
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from repot import progress, storage
from repot.csv_text import csv_line
from repot.errors import EXIT_FAILED, printable
from repot.memory import num_cores
from repot.metrics import FloatArray, prediction_sets
from repot.picture_decoder import DecoderHost, PictureDecoder
from repot.picture_files import PictureFile, read_ahead
from repot.picture_result import RejectedPicture
from repot.prediction_file import PredictionFile, PredictionRun, open_prediction_file
from repot.predictor import BATCH_SIZE, Model, find_model, load_model, model_digest, read_labels
from repot.progress import ProgressCounter
from repot.signatures import check_signature

_MAX_COLUMN = 60
_MAX_NAMES = 1000
"""Names that the width of a table's first column is chosen by."""
_MAX_WORKERS = 16
_MAX_SET = 10
"""Labels of a set that a table shows."""
_CSV_COLUMNS = (
    *("picture", "rank", "label", "probability", "in_set", "set_size", "unlike", "problem"),
)


class LabelProbability(NamedTuple):
    """A label and its probability in [0, 1]."""

    label: str
    probability: float


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictionSet:
    """What the model promises about one picture, see `repot.model_spec.ModelCalibration`.

    Attributes:
        labels: The labels of its set, best first; often one, and none if no label is likely enough.
        unlike: How unlike the training pictures it is, see `repot.predictor.Scores`.
    """

    labels: tuple[str, ...]
    unlike: float

    @property
    def is_unlike(self) -> bool:
        """Whether the picture is unlike the training pictures, so that nothing is promised."""
        return self.unlike > 1

    @property
    def text(self) -> str:
        """The set and the flag, for people."""
        shown = ", ".join(self.labels[:_MAX_SET]) or "no label is likely enough"
        if len(self.labels) > _MAX_SET:
            shown += f" and {len(self.labels) - _MAX_SET} more"
        flag = f"  UNLIKE the training pictures ({self.unlike:.1f})" if self.is_unlike else ""
        return f"  set: {shown}{flag}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """The most probable labels of one picture.

    Attributes:
        picture: Path or URI as the user wrote it.
        labels: The most probable labels, best first; empty if there is a problem.
        problem: Why the picture cannot be used, or "".
        promise: Its set; None if there is a problem, or if the model promises nothing.
    """

    picture: str
    labels: tuple[LabelProbability, ...] = ()
    problem: str = ""
    promise: PredictionSet | None = None


class PredictionCounts(NamedTuple):
    """How many pictures the output of `predict_files` has.

    Attributes:
        num_pictures: All of them.
        num_problems: Those that cannot be used.
        num_earlier: Those that an earlier call had written to the output file.
    """

    num_pictures: int
    num_problems: int
    num_earlier: int

    @property
    def exit_code(self) -> int:
        """EXIT_FAILED if a picture cannot be used, else 0."""
        return EXIT_FAILED if self.num_problems else 0

    @property
    def text(self) -> str:
        """The counts, for people."""
        parts = [f"{self.num_pictures:,} picture{'' if self.num_pictures == 1 else 's'}"]
        if self.num_problems:
            parts.append(f"{self.num_problems:,} cannot be used, see `problem`")
        if self.num_earlier:
            parts.append(f"{self.num_earlier:,} were in the file already")
        return "; ".join(parts)


def predict_files(
    model: str,
    pictures: Iterable[str],
    *,
    output_format: str,
    top: int,
    write: Callable[[str], object],
    output_path: Path | None = None,
) -> PredictionCounts:
    """Predict the labels of pictures and write them as lines of text.

    Args:
        model: Location of the model, see `repot.predictor.find_model`.
        pictures: Local paths, URIs or URLs; they are read as they are needed.
        output_format: A key of FORMATS.
        top: Number of labels per picture.
        write: Called with each line, unless there is an output file.
        output_path: Local file for the lines, "csv" or "jsonl"; one that an earlier call began with
            the same arguments is continued, see `repot.prediction_file`. Progress is reported then.

    Raises:
        ModelError: There is no model, it cannot be loaded, or it is not signed as
            `repot.signatures` requires.
        UsageError: The output file belongs to another model, other options or other pictures.
    """
    model_uri = find_model(storage.normalise(model))
    check_signature(model_uri)
    remaining = iter(pictures)
    with contextlib.ExitStack() as stack:
        output: PredictionFile | None = None
        if output_path is not None:
            run = PredictionRun(
                model=model_uri,
                model_digest=model_digest(model_uri),
                output_format=output_format,
                top=min(top, len(read_labels(model_uri))),
            )
            output = stack.enter_context(open_prediction_file(output_path, run, remaining))
            write = output.write
        # Before the model is loaded: an output file that is complete needs none.
        names = list(itertools.islice(remaining, _MAX_NAMES if output_format == "table" else 1))
        num_earlier = output.num_pictures if output else 0
        num_pictures, num_problems = num_earlier, output.num_problems if output else 0
        if names:
            # The decoders start while the model is loaded.
            workers = stack.enter_context(PredictionWorkers())
            loaded = load_model(model_uri)

            # Without a file, the lines themselves show the progress.
            counter = (
                ProgressCounter("predict", 0, unit="pictures", done=num_earlier) if output else None
            )

            def predictions() -> Iterator[Prediction]:
                nonlocal num_pictures, num_problems
                every = itertools.chain(names, remaining)
                for prediction in predict_pictures(loaded, workers, every, top=top):
                    num_pictures += 1
                    num_problems += bool(prediction.problem)
                    if counter:
                        counter.add()
                    yield prediction

            lines = FORMATS[output_format](predictions(), names)
            if output and output.has_header:
                next(lines)
            for line in lines:
                write(line)
            if counter:
                progress.report("predict", num_pictures, num_pictures, unit="pictures")
    return PredictionCounts(num_pictures, num_problems, num_earlier)


def predict_pictures(
    model: Model, workers: "PredictionWorkers", pictures: Iterable[str], *, top: int
) -> Iterator[Prediction]:
    """Yield the prediction of each picture, in order.

    Args:
        model: The model.
        workers: Decode the pictures.
        pictures: Local paths, URIs or URLs of pictures in any format that training accepts.
        top: Number of labels per picture.
    """
    for batch in workers.prepare(read_ahead(pictures), model.batch_preparer()):
        answers = [each.numpy() for each in model.call(batch.views)] if batch.views else [(), ()]
        scores = zip(*answers, strict=True)
        for name, problem in batch.pictures:
            if problem:
                yield Prediction(picture=name, problem=problem)
                continue
            probabilities, unlike = next(scores)
            yield Prediction(
                picture=name,
                labels=_top_labels(model.labels, probabilities, top),
                promise=_prediction_set(model, probabilities, float(unlike)),
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Batch:
    """Pictures that are ready for the network.

    Attributes:
        pictures: Name and problem ("" for none) of each picture.
        views: One tensor per view of the pictures without a problem; empty if all have one.
    """

    pictures: list[tuple[str, str]]
    views: tuple[Any, ...]


class PredictionWorkers:
    """Threads, each with a sandboxed decoder, that turn files into batches; a context manager.

    The decoders end with the thread that enters it.
    """

    def __init__(self) -> None:
        self._num_threads = min(num_cores(), _MAX_WORKERS)
        self._local = threading.local()
        self._decoders: list[PictureDecoder] = []
        self._pool = ThreadPoolExecutor(self._num_threads, thread_name_prefix="prepare-pictures")

    def __enter__(self) -> "PredictionWorkers":
        self._host = DecoderHost()
        for _ in range(self._num_threads):
            self._pool.submit(self._decoder)
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        for decoder in self._decoders:
            decoder.close()
        self._host.close()

    def prepare(
        self,
        files: Iterable[PictureFile],
        prepare_batch: Callable[[Sequence[bytes]], tuple[Any, ...]],
    ) -> Iterator[_Batch]:
        """Yield batches of files, in order; the next ones are prepared in the meantime."""
        waiting: deque[Future[_Batch]] = deque()
        batches = iter(files)
        try:
            while batch := list(itertools.islice(batches, BATCH_SIZE)):
                waiting.append(self._pool.submit(self._prepare, batch, prepare_batch))
                if len(waiting) > self._num_threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

    def _prepare(
        self,
        files: Sequence[PictureFile],
        prepare_batch: Callable[[Sequence[bytes]], tuple[Any, ...]],
    ) -> _Batch:
        pictures, jpegs = [], []
        readable = [(file.name, file.data) for file in files if not file.problem]
        results = iter(self._decoder().decode(readable))
        for file in files:
            problem = file.problem
            if not problem:
                result = next(results)
                if isinstance(result, RejectedPicture):
                    problem = str(result)
                else:
                    jpegs.append(result.jpeg)
            pictures.append((file.name, problem))
        return _Batch(pictures=pictures, views=prepare_batch(jpegs) if jpegs else ())

    def _decoder(self) -> PictureDecoder:
        """Return the decoder of this thread."""
        if not hasattr(self._local, "decoder"):
            self._local.decoder = PictureDecoder(host=self._host)
            self._decoders.append(self._local.decoder)
        decoder: PictureDecoder = self._local.decoder
        return decoder


def table_lines(predictions: Iterable[Prediction], pictures: Sequence[str]) -> Iterator[str]:
    """Yield one line per picture: its name, then each label after its probability.

    Characters that would break the line or control the terminal are escaped.

    Args:
        predictions: One per picture.
        pictures: Names of pictures; the longest of up to 60 characters sets the width of the first
            column.
    """
    lengths = [len(printable(picture)) for picture in pictures]
    width = max((length for length in lengths if length <= _MAX_COLUMN), default=0)
    for prediction in predictions:
        labels = "  ".join(f"{label.probability:.3f} {label.label}" for label in prediction.labels)
        promise = prediction.promise.text if prediction.promise else ""
        result = printable(labels + promise or f"not used: {prediction.problem}")
        yield f"{printable(prediction.picture):<{width}}  {result}"


def csv_lines(predictions: Iterable[Prediction], _pictures: Sequence[str]) -> Iterator[str]:
    """Yield a header, then one row per label; a picture with a problem has one row.

    The texts are unchanged, for the program that reads them. `in_set` is 1 or 0; it, the size of
    the set and `unlike` are empty if the model promises nothing.
    """
    yield csv_line(_CSV_COLUMNS)
    for prediction in predictions:
        promise = prediction.promise
        for rank, label in enumerate(prediction.labels, start=1):
            probability = f"{label.probability:.6f}"
            promised: list[str | int] = ["", "", ""]
            if promise is not None:
                size = len(promise.labels)
                promised = [int(rank <= size), size, f"{promise.unlike:.3f}"]
            yield csv_line(
                [prediction.picture, rank, label.label, probability, *promised, ""],
                escape_formulas=False,
            )
        if prediction.problem:
            yield csv_line(
                [prediction.picture, *[""] * 6, prediction.problem], escape_formulas=False
            )


def json_lines(predictions: Iterable[Prediction], _pictures: Sequence[str]) -> Iterator[str]:
    """Yield one JSON object per picture, with either `names` or `problem`.

    If the model promises something, there are also `set`, `unlike` and `is_unlike`.
    """
    for prediction in predictions:
        line: dict[str, object] = {"picture": prediction.picture}
        if prediction.problem:
            line["problem"] = prediction.problem
        else:
            line["names"] = [label._asdict() for label in prediction.labels]
        if prediction.promise is not None:
            line["set"] = prediction.promise.labels
            line["unlike"] = round(prediction.promise.unlike, 3)
            line["is_unlike"] = prediction.promise.is_unlike
        # These escapes are JSON's own, so the text reads back unchanged.
        yield printable(json.dumps(line, ensure_ascii=False))


_Format = Callable[[Iterable[Prediction], Sequence[str]], Iterator[str]]
FORMATS: dict[str, _Format] = {"table": table_lines, "csv": csv_lines, "jsonl": json_lines}


def _prediction_set(model: Model, probabilities: FloatArray, unlike: float) -> PredictionSet | None:
    if model.spec.calibration is None:
        return None
    is_in_set = prediction_sets(probabilities, model.spec.calibration.set_threshold)
    best_first = np.argsort(-probabilities, kind="stable")
    labels = tuple(model.labels[i] for i in best_first if is_in_set[i])
    return PredictionSet(labels=labels, unlike=unlike)


def _top_labels(
    labels: Sequence[str], scores: FloatArray, top: int
) -> tuple[LabelProbability, ...]:
    order = np.argsort(-scores, kind="stable")[:top]
    return tuple(LabelProbability(labels[i], float(scores[i])) for i in order)
