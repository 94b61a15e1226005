"""The model registry: models/<name>/<version>/model.json and models/<name>/champion.json."""

import dataclasses
import datetime
from dataclasses import dataclass
from typing import Literal, NamedTuple

from repot import layout, storage
from repot.errors import ModelError, NotFoundError, printable
from repot.folder_checksums import FileChecksum, describe_change
from repot.json_record import JsonRecord, checked_text, read_record
from repot.metrics import Interval
from repot.model_spec import MAX_RECORD_BYTES, NetworkSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelScores(JsonRecord):
    """The main scores of a version, see `repot.evaluation_record.EvaluationRecord`."""

    precision_at_1: float
    precision_at_1_interval: Interval
    recall_at_5: float
    recall_k: int
    loss: float | None
    num_examples: int
    subset: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelRecord(JsonRecord):
    """What model.json holds; the file is written last and makes a version published.

    Attributes:
        name: The model.
        version: The version: the id of its training.
        labels: Label names; labels[i] has class_id i + 1.
        backbone: A name of `repot.zoo.BACKBONES`.
        image_size: Height and width of the model's input, in pixels.
        dataset_id: The dataset that it was trained and evaluated on.
        training_id: Its training.
        metrics: Its scores on the validation split.
        test_metrics: Its scores on the test split; None if there is none.
        files: Every other file of the version, except those that serve it with KServe, which have
            checksums of their own; empty for a version of an earlier repot.
        network: How its network is built, as in model_spec.json: without it there, the version is
            not loaded. None for a version of an earlier repot.
    """

    name: str
    version: str
    labels: tuple[str, ...]
    backbone: str
    image_size: int
    dataset_id: str
    training_id: str
    metrics: ModelScores
    test_metrics: ModelScores | None = None
    files: tuple[FileChecksum, ...] = ()
    network: NetworkSpec | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ChampionChange(JsonRecord):
    """How a version became the champion.

    Attributes:
        version: The version.
        action: "promote", by the gate or by hand, or "rollback".
        time: When, in UTC, e.g. 2026-11-27T14:05:00Z.
        run_id: Id of the pipeline run that promoted it; "" for a person's decision.
        verdict: Name of the gate's verdict.json under the storage URI; "" for a person's decision.
        reason: Why a person promoted it whatever the gate found; "" if the gate decided.
    """

    version: str
    action: Literal["promote", "rollback"]
    time: str
    run_id: str = ""
    verdict: str = ""
    reason: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Champion(JsonRecord):
    """What champion.json holds: the version in production.

    Attributes:
        model_name: The model.
        version: The version in production.
        dataset_id: The dataset that it was trained and evaluated on.
        precision_at_1: Its score on that dataset, in [0, 1].
        previous: The version that was in production before, or "".
        rolled_back: Versions that were rolled back; the gate does not promote them again.
        promotion: The latest promotion of this version, on the gate's verdict or by hand; None if
            it was never promoted and came into production by a rollback.
        history: Every change of the champion, oldest first; the last one made this champion.
    """

    model_name: str
    version: str
    dataset_id: str
    precision_at_1: float
    previous: str = ""
    rolled_back: tuple[str, ...] = ()
    promotion: ChampionChange | None = None
    history: tuple[ChampionChange, ...] = ()

    def __post_init__(self) -> None:
        """Check the names of versions, which become paths and are printed.

        Raises:
            ValueError: One is not the name of a folder.
        """
        versions = (self.version, self.previous, *self.rolled_back)
        for version in filter(None, versions):
            if "/" in version or version in (".", "..") or printable(version) != version:
                raise ValueError(
                    f"a version must be the name of a folder; got {printable(version)!r}"
                )

    def to_bytes(self) -> bytes:
        """Return the file's content."""
        return checked_text(self.to_json()).encode()


class Pointer(NamedTuple):
    """A champion and the object version of its file; both None when the file does not exist."""

    champion: Champion | None
    object_version: str | None


def utc_time() -> str:
    """Return the present time as records state it, e.g. 2026-11-27T14:05:00Z."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def read_champion(uri: str) -> Pointer:
    """Read a champion.json.

    Raises:
        ModelError: The file exists but is not a valid champion.json.
        StorageError: It is too large to be one, or cannot be read.
    """
    storage.check_size(uri, MAX_RECORD_BYTES)
    try:
        content = storage.read_object(uri)
    except NotFoundError:
        return Pointer(None, None)
    try:
        champion = Champion.from_text(content.data.decode())
    except ValueError as err:
        names = ", ".join(field.name for field in dataclasses.fields(Champion))
        raise ModelError(
            f"{uri} must be a JSON object of {names}; got {err}. Repair or delete it."
        ) from err
    return Pointer(champion, content.info.version)


def read_model_record(version_uri: str) -> ModelRecord:
    """Read the model.json of a version.

    Raises:
        NotFoundError: There is none.
        ModelError: It is not a valid one.
        StorageError: It is too large to be one, or cannot be read.
    """
    uri = storage.join(version_uri, layout.MODEL_RECORD_NAME)
    return read_record(uri, ModelRecord, error=ModelError, max_bytes=MAX_RECORD_BYTES)


def check_version(version_uri: str, record: ModelRecord) -> None:
    """Check that a version has the files that it was published with, and no others.

    A version of an earlier repot has no list of its files, and passes.

    Raises:
        ModelError: A file is missing or changed, or was added; all of them are named.
        StorageError: A file cannot be read.
    """
    if not record.files:
        return
    problems = [
        f"{storage.join(version_uri, file.name)}: {change}"
        for file in record.files
        if (change := describe_change(storage.join(version_uri, file.name), file))
    ]
    known = {file.name for file in record.files}
    problems += [
        f"{uri}: it was added"
        for info in storage.list_objects(version_uri)
        if (name := storage.relative_name(uri := info.uri, version_uri)) not in known
        and name.split("/")[0] not in layout.ADDED_TO_VERSIONS
    ]
    if problems:
        raise ModelError(
            "A version must have the files that it was published with; got "
            f"{'; '.join(problems)}. Restore them from a backup, or train again with a new "
            "`rebuild` text."
        )
