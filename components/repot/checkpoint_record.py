"""checkpoint.json, the record of a converted checkpoint, and the id that it is stored under."""

from dataclasses import dataclass

from repot.json_record import JsonRecord


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointRecord(JsonRecord):
    """Content of checkpoint.json, the completion marker of a converted checkpoint.

    Attributes:
        source: The checkpoint as the user named it: a known name, a path, or a URI without secrets.
        sha256: Checksum of the original files.
        backbone: The backbone that the weights are for.
        kind: Format of the original: tensorflow, keras or pytorch.
        values: The values that were converted: "ema" or "raw".
        available_values: Every kind of values that the original has.
        num_arrays, num_parameters: Size of the backbone, BatchNorm statistics included.
        step: Training step of the original; None if it is unknown.
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

    @property
    def checkpoint_id(self) -> str:
        """The id of these weights, see `checkpoint_id`."""
        return checkpoint_id(sha256=self.sha256, backbone=self.backbone, values=self.values)


def checkpoint_id(*, sha256: str, backbone: str, values: str) -> str:
    """Return the id of a converted checkpoint, which is also its folder below checkpoints/.

    Args:
        sha256: Checksum of the original files.
        backbone: A key of `repot.zoo.BACKBONES`.
        values: "ema" or "raw".
    """
    return f"{sha256}/{backbone}-{values}"
