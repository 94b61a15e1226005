"""checkpoint.json, the record of a converted checkpoint, its id, and which checkpoints are stored.

<checkpoints_uri>/
  <sha256>/<backbone>-<values>/            weights.h5, checkpoint.json (last)
  by-source/<content id of the URI>.json   the checksum of the files last fetched from that URI
"""

from dataclasses import dataclass

from repot import layout, storage
from repot.errors import CheckpointError
from repot.json_record import JsonRecord, checked_text, read_record
from repot.layout import CHECKPOINT_NAME, FETCHED_SOURCES_FOLDER


@dataclass(frozen=True, kw_only=True, slots=True)
class _FetchedSource(JsonRecord):
    """One file below by-source/; the source's URI is left out because it can hold secrets."""

    version: str
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointRecord(JsonRecord):
    """Content of checkpoint.json, the completion marker of a converted checkpoint.

    Attributes:
        source: The checkpoint as the user named it: a known name, a path, or a URI without secrets.
        sha256: Checksum of the original files.
        backbone: The backbone that the weights are for.
        kind: Format of the original: tensorflow, keras, pytorch or preset.
        values: The values that were converted: "ema" or "raw".
        available_values: Every kind of values that the original has.
        num_arrays, num_parameters: Size of the backbone, BatchNorm statistics included.
        step: Training step of the original; None if it is unknown.
        num_auxiliary_arrays: Arrays of an auxiliary head that the weights file holds too; None in
            records of versions that did not convert it.
        licence: Licence of the weights; "" if it is not known.
    """

    source: str
    sha256: str
    backbone: str
    kind: str
    values: str
    available_values: tuple[str, ...]
    num_arrays: int
    num_parameters: int
    step: int | None
    num_auxiliary_arrays: int | None = None
    licence: str = ""

    @property
    def checkpoint_id(self) -> str:
        """The id of these weights, see `checkpoint_id`."""
        return checkpoint_id(sha256=self.sha256, backbone=self.backbone, values=self.values)

    @property
    def licence_text(self) -> str:
        """The licence, for people."""
        return f"licence {self.licence or 'not known'}"


def checkpoint_id(*, sha256: str, backbone: str, values: str) -> str:
    """Return the id of a converted checkpoint, which is also its folder below checkpoints/.

    Args:
        sha256: Checksum of the original files.
        backbone: A key of `repot.zoo.BACKBONES`.
        values: "ema" or "raw".
    """
    return f"{sha256}/{backbone}-{values}"


def find_checkpoint(checkpoints_uri: str, *, sha256: str, backbone: str, values: str) -> str:
    """Return the id of a stored checkpoint; "" if it is not stored.

    "auto" finds averaged values (EMA), and raw values only if the original has no others. One that
    was converted before auxiliary heads were is not found, so that it is converted again.
    """
    for stored_values in ("ema", "raw") if values == "auto" else (values,):
        stored_id = checkpoint_id(sha256=sha256, backbone=backbone, values=stored_values)
        record_uri = storage.join(checkpoints_uri, stored_id, CHECKPOINT_NAME)
        if not storage.exists(record_uri):
            continue
        record = read_record(record_uri, CheckpointRecord, error=CheckpointError)
        if record.kind == "tensorflow" and record.num_auxiliary_arrays is None:
            continue
        if values == "auto" and stored_values == "raw" and record.available_values != ("raw",):
            continue
        return stored_id
    return ""


def find_sha256(checkpoints_uri: str, *, source_uri: str, version: str | None) -> str:
    """Return the checksum of the files last fetched from a source.

    Args:
        checkpoints_uri: Folder of all stored checkpoints.
        source_uri: Where they were fetched from.
        version: Current version of the source; None if unknown, then it is assumed to be unchanged.

    Returns:
        "" if nothing was fetched from the source, or if it has changed since.
    """
    uri = _fetched_source_uri(checkpoints_uri, source_uri)
    if not storage.exists(uri):
        return ""
    fetched = read_record(uri, _FetchedSource, error=CheckpointError)
    return fetched.sha256 if version in (None, fetched.version) else ""


def save_sha256(checkpoints_uri: str, *, source_uri: str, version: str, sha256: str) -> None:
    """Store the checksum of the files fetched from a source, with the version of the source."""
    uri = _fetched_source_uri(checkpoints_uri, source_uri)
    record = _FetchedSource(version=version, sha256=sha256)
    storage.write_text(uri, checked_text(record.to_json()))


def _fetched_source_uri(checkpoints_uri: str, source_uri: str) -> str:
    return storage.join(
        checkpoints_uri, FETCHED_SOURCES_FOLDER, f"{layout.content_id(source_uri)}.json"
    )
