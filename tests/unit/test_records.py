import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from repot import records
from repot.errors import CorruptShardError

GOLDEN = Path(__file__).parents[1] / "golden" / "build_image_data" / "shards"
BOX = records.Box(xmin=0.25, ymin=0.0, xmax=1.0, ymax=0.5)


def _features() -> dict[str, list[records.Value]]:
    return records.picture_features(
        jpeg=b"\xff\xd8", height=60, width=2**40, class_id=3, label="Ö", filename="a\udce9.jpg"
    )


def test_picture_features_have_the_2016_names_and_types() -> None:
    original = records.decode_example(next(records.read_records(GOLDEN / "train-00000-of-00004")))
    features = _features()
    assert sorted(features) == sorted(original)
    for name, values in original.items():
        assert [type(value) for value in features[name]] == [type(value) for value in values]
    assert features["image/channels"] == original["image/channels"]
    assert features["image/colorspace"] == original["image/colorspace"]
    assert features["image/format"] == original["image/format"]


def test_filename_that_is_not_utf8_keeps_its_bytes() -> None:
    assert _features()["image/filename"] == [b"a\xe9.jpg"]


def test_example_can_be_decoded() -> None:
    features = _features()
    features |= {"floats": [0.5, -2.0], "negative": [-1, 2**63 - 1], "none": []}
    assert records.decode_example(records.encode_example(features)) == features


def test_order_of_features_does_not_change_the_bytes() -> None:
    features = _features()
    assert records.encode_example(features) == records.encode_example(
        dict(reversed(features.items()))
    )


@pytest.mark.parametrize("size_bytes", [0, 1, 80, 127, 128, 16_300, 16_400, 2_097_200])
@pytest.mark.parametrize("extra", [{}, {"text": "a dog"}, {"boxes": ()}, {"boxes": (BOX, BOX)}])
def test_frame_of_a_picture_in_pieces_is_that_of_its_record(
    size_bytes: int, extra: dict[str, Any]
) -> None:
    features = records.picture_features(
        jpeg=b"\xff" * size_bytes,
        height=300,
        width=1,
        class_id=129,
        label="a label of many letters " * 9,
        filename="a.jpg",
        **extra,
    )
    pieces = records.frame_picture(features)
    assert b"".join(pieces) == records.frame_record(records.encode_example(features))
    assert [pieces[1]] == features["image/encoded"]


def test_golden_records_can_be_decoded_and_encoded() -> None:
    for shard in sorted(GOLDEN.iterdir()):
        for record in records.read_records(shard):
            features = records.decode_example(record)
            encoded = records.encode_example(features)
            assert len(encoded) == len(record)
            assert records.decode_example(encoded) == features


def test_frames_equal_those_of_golden_shards() -> None:
    for shard in sorted(GOLDEN.iterdir()):
        assert (
            b"".join(map(records.frame_record, records.read_records(shard))) == shard.read_bytes()
        )


def test_tensorflow_can_read_the_records(tmp_path: Path) -> None:
    import tensorflow as tf

    path = tmp_path / "shard"
    written = [
        records.encode_example({**_features(), "image/height": [height]}) for height in range(3)
    ]
    path.write_bytes(b"".join(map(records.frame_record, written)))
    read = [record.numpy() for record in tf.data.TFRecordDataset(str(path))]
    assert read == written
    for height, record in enumerate(read):
        example = tf.train.Example.FromString(record)
        assert example.features.feature["image/height"].int64_list.value == [height]
        assert example.features.feature["image/width"].int64_list.value == [2**40]
        assert example.features.feature["image/class/text"].bytes_list.value == ["Ö".encode()]
        assert example.SerializeToString(deterministic=True) == record


@pytest.mark.parametrize("order", ["tensorflow, repot.records", "repot.records, tensorflow"])
def test_records_and_tensorflow_can_be_imported_in_one_process(order: str) -> None:
    code = f"import {order}; repot.records.encode_example({{'a': [1]}}); tensorflow.train.Example()"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_read_records_accepts_bytes_and_empty_shards() -> None:
    framed = records.frame_record(b"one") + records.frame_record(b"")
    assert list(records.read_records(framed)) == [b"one", b""]
    assert list(records.read_records(b"")) == []


def test_every_changed_byte_is_detected() -> None:
    framed = records.frame_record(b"first") + records.frame_record(b"second")
    for position in range(len(framed)):
        damaged = bytearray(framed)
        damaged[position] ^= 1
        with pytest.raises(CorruptShardError, match=r"record [01] of"):
            list(records.read_records(bytes(damaged)))


def test_every_truncation_is_detected(tmp_path: Path) -> None:
    first, second = records.frame_record(b"first"), records.frame_record(b"second")
    path = tmp_path / "train-00000-of-00001"
    for length in range(len(first) + 1, len(first + second)):
        path.write_bytes((first + second)[:length])
        with pytest.raises(CorruptShardError, match=f"record 1 of {path}, at byte {len(first)}"):
            list(records.read_records(path))


def test_huge_length_with_wrong_checksum_is_rejected() -> None:
    with pytest.raises(CorruptShardError, match="checksum of the length"):
        list(records.read_records(struct.pack("<QI", 2**62, 0)))
