"""export.json: what an export is, how to feed it, and how its answers compare with the model's."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from repot import storage
from repot.extras import EXPORT_FORMATS
from repot.folder_checksums import write_last
from repot.json_record import JsonRecord, RecordError, record_text
from repot.layout import EXPORT_NAME, EXPORTS_FOLDER
from repot.model_spec import MAX_RECORD_BYTES, ModelSpec

PROBABILITIES = "probabilities"
"""Name of the output that every export has."""
UNLIKE = "unlike"
"""Name of the output of most exports: above 1 for a picture unlike those of the training."""
MAX_DIFFERENCE = 1e-5
"""Largest accepted difference of a probability of an export that computes in float32."""
MAX_LOSS = 0.005
"""Largest accepted loss of precision@1 of an export that computes in integers."""
INTEGER_FORMATS = ("litert-int8",)
INTEGER_ARITHMETICS = {
    "int8": "8-bit integers",
    "int8-float-head": "8-bit integers, and 32-bit floats from the backbone's features on",
    "int16": "8-bit weights and 16-bit activations",
}
"""How an export can compute in integers, smallest and fastest first: the first one that is accepted
is used."""

_log = logging.getLogger(__name__)


def arithmetics_of(export_format: str) -> tuple[str, ...]:
    """Return how an export of this format can compute, the preferred way first."""
    return tuple(INTEGER_ARITHMETICS) if export_format in INTEGER_FORMATS else ("float32",)


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportedFile(JsonRecord):
    """A file of an export: its name in the folder, its size in bytes and its SHA-256."""

    name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportedTensor(JsonRecord):
    """An input or output of an export.

    Attributes:
        name: Its name.
        dtype: Its type, such as float32.
        shape: Its sides; -1 for any number.
        scale, zero_point: Of an integer q, which stands for (q - zero_point) * scale; None of other
            types.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    scale: float | None = None
    zero_point: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversion(JsonRecord):
    """What a converter has written.

    Attributes:
        labels: The labels, in the order of the probabilities.
        spec: The views of a picture, which are the inputs.
        preprocessing: Sentences that say how a picture becomes the inputs.
        inputs, outputs: The tensors of the default signature.
        arithmetic: A key of INTEGER_ARITHMETICS, "float32", or "" for an earlier version's export.
        float_operations: Kinds of operations that an integer export still computes in float32.
        libraries: Versions of the packages that wrote it and run it.
    """

    labels: tuple[str, ...]
    spec: ModelSpec
    preprocessing: tuple[str, ...]
    inputs: tuple[ExportedTensor, ...]
    outputs: tuple[ExportedTensor, ...]
    float_operations: tuple[str, ...]
    libraries: dict[str, str]
    arithmetic: str = ""

    @property
    def has_unlike(self) -> bool:
        """Whether it says how unlike the training pictures a picture is."""
        return any(output.name == UNLIKE for output in self.outputs)


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportParity(JsonRecord):
    """The answers of an export next to those of the model, on every scored picture of validation.

    Attributes:
        num_pictures: Number of pictures.
        num_agreeing: Those for which both have the same most probable label.
        max_difference: Largest difference of a probability, over all pictures and labels.
        num_correct: Pictures that the model gets right.
        only_model, only_export: Pictures that only one of the two gets right.
        num_unlike_agreeing: Pictures that both, or neither, call unlike the training pictures; None
            if the export does not say.
        max_unlike_difference: Largest difference of that score; None likewise.
    """

    num_pictures: int
    num_agreeing: int
    max_difference: float
    num_correct: int
    only_model: int
    only_export: int
    num_unlike_agreeing: int | None = None
    max_unlike_difference: float | None = None

    @property
    def loss(self) -> float:
        """precision@1 of the model minus that of the export."""
        return (self.only_model - self.only_export) / self.num_pictures

    @property
    def model_precision_at_1(self) -> float:
        """precision@1 of the model."""
        return self.num_correct / self.num_pictures

    @property
    def precision_at_1(self) -> float:
        """precision@1 of the export."""
        return (self.num_correct - self.only_model + self.only_export) / self.num_pictures

    def problem(self, export_format: str) -> str:
        """Return why an export of this format is rejected, as a clause; "" if it is accepted."""
        if export_format in INTEGER_FORMATS:
            if self.loss <= MAX_LOSS:
                return ""
            return (
                f"it loses {100 * self.loss:.1f} points of precision@1 on {self.num_pictures:,} "
                f"pictures, of which only the model gets {self.only_model:,} right and only the "
                f"export {self.only_export:,}; at most {100 * MAX_LOSS:g} points are accepted"
            )
        differing = self.num_pictures - self.num_agreeing
        if differing:
            return f"it has another first label for {differing:,} of {self.num_pictures:,} pictures"
        # Not `>`: NaN is rejected, too.
        if not self.max_difference <= MAX_DIFFERENCE:
            return (
                f"a probability differs by {self.max_difference:.1e}; at most {MAX_DIFFERENCE:g} "
                "is accepted (every first label is the same; runtimes add numbers in another "
                "order, and some networks amplify the rounding)"
            )
        if self.num_unlike_agreeing not in (None, self.num_pictures):
            return "it calls other pictures unlike the training pictures"
        return ""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportRecord(JsonRecord):
    """What export.json holds; it is written last, and without files if the export is rejected.

    Attributes:
        export_id: Id of everything that the export depends on.
        format: A key of `repot.extras.EXPORT_FORMATS`.
        dataset_id: The dataset of the pictures that it was compared on.
        conversion: What was written; None if it could not be.
        files: Every other file of the folder; empty if the export is rejected.
        parity: How its answers compare with the model's; None if there are none.
        problem: Why the export is rejected, as a clause; "" if it is accepted.
    """

    export_id: str
    format: str
    dataset_id: str
    conversion: Conversion | None = None
    files: tuple[ExportedFile, ...] = ()
    parity: ExportParity | None = None
    problem: str = ""

    @property
    def size_bytes(self) -> int:
        """Size of all files."""
        return sum(file.size_bytes for file in self.files)

    @property
    def summary(self) -> str:
        """Return size and comparison in one sentence, for an export that was compared."""
        if self.parity is None:
            return self.rejection
        parity = self.parity
        arithmetic = INTEGER_ARITHMETICS.get(self.conversion.arithmetic if self.conversion else "")
        kind = f" in {arithmetic}" if arithmetic else ""
        return (
            f"{self.format}{kind}, {self.size_bytes / 1e6:.1f} MB; on {parity.num_pictures:,} "
            f"validation pictures it has the same first label for {parity.num_agreeing:,}, "
            f"probabilities that differ by at most {parity.max_difference:.1e}, and a precision@1 "
            f"of {parity.precision_at_1:.4f} (the model's: {parity.model_precision_at_1:.4f})."
        )

    @property
    def rejection(self) -> str:
        """Return the sentence that says that the export is rejected; "" if it is accepted."""
        if not self.problem:
            return ""
        return f"The export to {self.format} is rejected and not published: {self.problem}."


def read_export(folder_uri: str) -> ExportRecord | None:
    """Return the record of a finished export, or None if there is none of this version of repot."""
    uri = storage.join(folder_uri, EXPORT_NAME)
    if not storage.exists(uri):
        return None
    storage.check_size(uri, MAX_RECORD_BYTES)
    try:
        return ExportRecord.from_text(storage.read_text(uri))
    except RecordError as err:
        _log.warning("%s is replaced: %s", uri, err)
        return None


def read_exports(folder_uri: str) -> tuple[ExportRecord, ...]:
    """Return the records of all finished exports of a run or version, accepted or not."""
    found = (read_export(storage.join(folder_uri, EXPORTS_FOLDER, name)) for name in EXPORT_FORMATS)
    return tuple(record for record in found if record is not None)


def publish_exports(records: Iterable[ExportRecord], run_uri: str, version_uri: str) -> None:
    """Copy the accepted exports of a run to a version."""
    for record in records:
        source = storage.join(run_uri, EXPORTS_FOLDER, record.format)
        target = storage.join(version_uri, EXPORTS_FOLDER, record.format)
        if not record.problem:
            for file in record.files:
                storage.copy(storage.join(source, file.name), storage.join(target, file.name))
            write_last(
                target,
                EXPORT_NAME,
                record_text(record),
                parts=[file.name for file in record.files],
            )
