import dataclasses

import pytest

from repot.checkpoint_record import CheckpointRecord
from repot.json_record import RecordError

RECORD = CheckpointRecord(
    source="inception-v3-2016-03-01",
    sha256="ab" * 32,
    backbone="inception_v3",
    kind="tensorflow",
    values="ema",
    available_values=("ema", "raw"),
    num_arrays=376,
    num_parameters=21_802_784,
    step=157_585,
)


def test_record_is_equal_after_writing_and_reading() -> None:
    assert CheckpointRecord.from_text(RECORD.to_text()) == RECORD


def test_record_with_an_unknown_key_is_rejected() -> None:
    with pytest.raises(RecordError, match="weights_path"):
        CheckpointRecord.from_json({**RECORD.to_json(), "weights_path": "/tmp/weights.h5"})


@pytest.mark.parametrize(("licence", "text"), [("MIT", "licence MIT"), ("", "licence not known")])
def test_licence_that_is_not_known_is_named_as_that(licence: str, text: str) -> None:
    assert dataclasses.replace(RECORD, licence=licence).licence_text == text


def test_checkpoint_id_is_checksum_backbone_and_values() -> None:
    assert RECORD.checkpoint_id == f"{'ab' * 32}/inception_v3-ema"
