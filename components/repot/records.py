"""TFRecord frames and tf.train.Example messages, read and written without TensorFlow.

A shard is a sequence of frames
(https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details):

    uint64 little-endian   length of the data
    uint32 little-endian   masked CRC32C of the 8 length bytes
    length bytes           the data, one serialized tf.train.Example
    uint32 little-endian   masked CRC32C of the data

The protobuf messages are declared here, field by field as in
tensorflow/core/example/{example,feature}.proto. They live in their own descriptor pool, because
TensorFlow may be loaded in the same process and declares them too.
"""

import contextlib
import functools
import io
import mmap
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import google_crc32c
import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from repot.errors import CorruptShardError

Value = bytes | int | float

_LENGTH = struct.Struct("<Q")
_CRC = struct.Struct("<I")
HEADER_BYTES = _LENGTH.size + _CRC.size
FRAME_BYTES = _LENGTH.size + 2 * _CRC.size
"""By how much a record in a shard is larger than its data."""
# The limit of a protobuf message.
_MAX_RECORD_BYTES = (1 << 31) - 1
_MASK_DELTA = 0xA282EAD8
_FIELD = descriptor_pb2.FieldDescriptorProto

_JPEG_NAME = "image/encoded"
# A message in a field is the field's tag, its size and itself. From the inside: the value, the list
# of one value, the feature, which follows its name, and both as an entry of the map.
# Source: https://protobuf.dev/programming-guides/encoding/
_FIELD_1, _FIELD_2 = b"\x0a", b"\x12"
_NAMED = _FIELD_1 + bytes([len(_JPEG_NAME)]) + _JPEG_NAME.encode()
_JPEG_TAGS = (_FIELD_1, _FIELD_1, _NAMED + _FIELD_2, _FIELD_1)

BOX_EDGES = ("xmin", "ymin", "xmax", "ymax")
_BOX_KINDS = {
    "image/object/bbox/label": "int64_list",
    **{f"image/object/bbox/{edge}": "float_list" for edge in BOX_EDGES},
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Box:
    """A bounding box in a picture.

    Attributes:
        xmin, ymin, xmax, ymax: Its edges as fractions of the picture's width and height, in [0, 1],
            with xmin < xmax and ymin < ymax.
        label: Name of what is in it; "" if only the picture has a label.
    """

    xmin: float
    ymin: float
    xmax: float
    ymax: float
    label: str = ""


def picture_features(
    *,
    jpeg: bytes,
    height: int,
    width: int,
    class_id: int,
    label: str,
    filename: str,
    text: str = "",
    boxes: Sequence[Box] | None = None,
) -> dict[str, list[Value]]:
    """Return the features of one picture, with the names and types of 2016.

    There are nine, as build_image_data.py writes them. With boxes and a text, there are the
    fifteen of build_imagenet_data.py.

    Args:
        jpeg: The picture as an RGB JPEG.
        height: Height in pixels.
        width: Width in pixels.
        class_id: In 1..N; 0 is the background.
        label: Name of the class.
        filename: Base name of the source file.
        text: What the label means, for people; then `label` is a synset, the id of a meaning in
            WordNet. "" if there is only the label.
        boxes: The picture's boxes; None leaves out their features.

    Source: research/inception/inception/data/build_image_data.py and build_imagenet_data.py of
        tensorflow/models.
    """
    features: dict[str, list[Value]] = {
        "image/height": [height],
        "image/width": [width],
        "image/channels": [3],
        "image/colorspace": [b"RGB"],
        "image/format": [b"JPEG"],
        "image/class/label": [class_id],
        "image/class/text": [(text or label).encode()],
        # A file name that is not UTF-8 keeps its bytes from the disk.
        "image/filename": [filename.encode(errors="surrogateescape")],
        _JPEG_NAME: [jpeg],
    }
    if text:
        features["image/class/synset"] = [label.encode()]
    if boxes is not None:
        for edge in BOX_EDGES:
            features[f"image/object/bbox/{edge}"] = [getattr(box, edge) for box in boxes]
        features["image/object/bbox/label"] = [class_id] * len(boxes)
    return features


def encode_example(features: Mapping[str, Sequence[Value]]) -> bytes:
    """Serialize features to a tf.train.Example; equal features give equal bytes.

    Args:
        features: Values by feature name. All values of a feature have the same type: bytes,
            int (int64) or float (float32). A feature without values has no kind, except those of
            bounding boxes, which have the kind that they have with boxes.
    """
    example = _Example()
    if features:
        _fill(example.features, features)
    serialized: bytes = example.SerializeToString(deterministic=True)
    return serialized


def frame_picture(features: Mapping[str, Sequence[Value]]) -> tuple[bytes, bytes, bytes]:
    """Return `frame_record(encode_example(features))` in three pieces, without copying the JPEG.

    Args:
        features: Those of `picture_features`.

    Returns:
        What is before the JPEG, the JPEG, and what is behind it.
    """
    (jpeg,) = cast("Sequence[bytes]", features[_JPEG_NAME])
    entries = [
        (name, _encode_feature(name, _kind(values[0]) if values else "", tuple(values)))
        for name, values in sorted(features.items())
        if name != _JPEG_NAME
    ]
    # The map is serialized in the order of its names.
    before = b"".join(entry for name, entry in entries if name < _JPEG_NAME)
    behind = b"".join(entry for name, entry in entries if name > _JPEG_NAME)
    start = b""
    for tag in _JPEG_TAGS:
        start = tag + _varint(len(start) + len(jpeg)) + start
    size_bytes = len(before) + len(start) + len(jpeg) + len(behind)
    start = b"".join((_FIELD_1, _varint(size_bytes), before, start))
    crc = google_crc32c.value(start)
    for part in (jpeg, behind):
        crc = google_crc32c.extend(crc, part)
    return (
        frame_header(len(start) + len(jpeg) + len(behind)) + start,
        jpeg,
        behind + _CRC.pack(_mask(crc)),
    )


def decode_example(serialized: bytes) -> dict[str, list[Value]]:
    """Return the values by feature name of a serialized tf.train.Example.

    Raises:
        CorruptShardError: The bytes are no such message.
    """
    try:
        example = _Example.FromString(serialized)
    except DecodeError as err:
        raise CorruptShardError(
            f"A record must be a tf.train.Example; it cannot be read ({err}). Give other shards."
        ) from err
    features = {}
    for name, feature in example.features.feature.items():
        kind = feature.WhichOneof("kind")
        features[name] = list(getattr(feature, kind).value) if kind else []
    return features


def frame_record(data: bytes) -> bytes:
    """Return the data as a TFRecord frame."""
    length = _LENGTH.pack(len(data))
    return b"".join((length, _CRC.pack(_masked_crc(length)), data, _CRC.pack(_masked_crc(data))))


def frame_header(num_bytes: int) -> bytes:
    """Return the first 12 bytes of the frame of a record of this size in bytes."""
    length = _LENGTH.pack(num_bytes)
    return length + _CRC.pack(_masked_crc(length))


def unmask_crc(masked: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Return the CRC32C of masked checksums, uint32 [records]."""
    rotated = masked - np.uint32(_MASK_DELTA)
    return rotated << np.uint32(15) | rotated >> np.uint32(17)


def read_records(source: bytes | Path) -> Iterator[bytes]:
    """Yield the data of every record in a shard, after verifying its checksums.

    Args:
        source: The shard's bytes, or a local file.

    Raises:
        CorruptShardError: A frame is incomplete or a checksum does not match. The message names
            file, record index and offset.
    """
    name = str(source) if isinstance(source, Path) else f"{len(source)} bytes"
    opened = (
        source.open("rb")
        if isinstance(source, Path)
        else contextlib.nullcontext(io.BytesIO(source))
    )
    with opened as file:
        for _, data in read_frames(file, name):
            yield data


def read_frames(file: BinaryIO, name: str) -> Iterator[tuple[int, bytes]]:
    """Yield the offset and the data of every record of an open shard; see `read_records`."""
    record_index, offset = 0, 0
    while header := file.read(_LENGTH.size + _CRC.size):
        data = _read_data(file, header, f"record {record_index} of {name}, at byte {offset}")
        yield offset + len(header), data
        record_index += 1
        offset += len(header) + len(data) + _CRC.size


def is_frame(head: bytes) -> bool:
    """Return whether these bytes, at least 12, begin with a TFRecord frame."""
    length, crc = head[: _LENGTH.size], head[_LENGTH.size : _LENGTH.size + _CRC.size]
    return len(crc) == _CRC.size and _CRC.unpack(crc)[0] == _masked_crc(length)


def frame_positions(path: Path) -> list[tuple[int, int]]:
    """Return offset and size of the data of every record in a shard, from the frames' headers.

    Checksums are not verified: that of the whole shard covers them.

    Raises:
        CorruptShardError: The last frame is incomplete.
    """
    positions, offset = [], 0
    with path.open("rb") as file, contextlib.ExitStack() as stack:
        end = file.seek(0, io.SEEK_END)
        data = (
            stack.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            if end
            else b""
        )
        while offset + _LENGTH.size + _CRC.size <= end:
            (size_bytes,) = _LENGTH.unpack_from(data, offset)
            positions.append((offset + _LENGTH.size + _CRC.size, size_bytes))
            offset += _LENGTH.size + size_bytes + 2 * _CRC.size
    if offset != end:
        raise _corrupt(f"{len(positions)} records of {path}", "the last one is incomplete")
    return positions


def _read_data(file: BinaryIO, header: bytes, where: str) -> bytes:
    """Return the data of the frame that starts with these 12 bytes."""
    if len(header) < _LENGTH.size + _CRC.size:
        raise _corrupt(where, f"the header must have 12 bytes; got {len(header)}")
    length = header[: _LENGTH.size]
    if _CRC.unpack_from(header, _LENGTH.size)[0] != _masked_crc(length):
        raise _corrupt(where, "the checksum of the length does not match")
    (size_bytes,) = _LENGTH.unpack(length)
    if size_bytes > _MAX_RECORD_BYTES:
        raise _corrupt(where, f"a record must have at most {_MAX_RECORD_BYTES} bytes")
    data, crc = file.read(size_bytes), file.read(_CRC.size)
    if len(data) < size_bytes or len(crc) < _CRC.size:
        raise _corrupt(where, f"the file ends before the record's {size_bytes} bytes")
    if _CRC.unpack(crc)[0] != _masked_crc(data):
        raise _corrupt(where, "the checksum of the data does not match")
    return data


def _corrupt(where: str, problem: str) -> CorruptShardError:
    return CorruptShardError(
        f"A shard must contain complete records; got {where}: {problem}. "
        "Delete the shard and build it again."
    )


def _masked_crc(data: bytes) -> int:
    return _mask(google_crc32c.value(data))


def _mask(crc: int) -> int:
    """Return TFRecord's checksum: CRC32C rotated right by 15 bits plus a constant, modulo 2**32."""
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF


def _fill(message: Any, features: Mapping[str, Sequence[Value]]) -> None:
    """Add features to a message of the type Features."""
    for name, values in features.items():
        feature = message.feature[name]
        if values:
            getattr(feature, _kind(values[0])).value.extend(values)
        elif name in _BOX_KINDS:
            getattr(feature, _BOX_KINDS[name]).SetInParent()


@functools.lru_cache(maxsize=4096)
def _encode_feature(name: str, kind: str, values: tuple[Value, ...]) -> bytes:
    """Return a feature as an entry of the map. Most features of a picture are those of another.

    Args:
        name: Name of the feature.
        kind: Kind of the values; without it, 1 and 1.0 would be the same key of the cache.
        values: The values.
    """
    message = _Features()
    _fill(message, {name: values})
    serialized: bytes = message.SerializeToString(deterministic=True)
    return serialized


def _varint(number: int) -> bytes:
    """Return a number as protobuf writes it: seven bits per byte, the lowest first."""
    if 1 << 14 <= number < 1 << 21:  # most pictures
        return bytes((number & 0x7F | 0x80, number >> 7 & 0x7F | 0x80, number >> 14))
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _kind(value: Value) -> str:
    if isinstance(value, bytes):
        return "bytes_list"
    return "int64_list" if isinstance(value, int) else "float_list"


def _message_classes() -> tuple[Any, Any]:
    """Return message classes that are wire-compatible with tf.train.Example and its Features."""
    file = descriptor_pb2.FileDescriptorProto(
        name="repot/example.proto", package="repot", syntax="proto3"
    )
    for name, value_type in (
        ("Bytes", _FIELD.TYPE_BYTES),
        ("Float", _FIELD.TYPE_FLOAT),
        ("Int64", _FIELD.TYPE_INT64),
    ):
        values = file.message_type.add(name=f"{name}List")
        values.field.add(name="value", number=1, type=value_type, label=_FIELD.LABEL_REPEATED)
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, name in enumerate(("Bytes", "Float", "Int64"), start=1):
        _add_message(feature, f"{name.lower()}_list", number, f"{name}List").oneof_index = 0
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=_FIELD.TYPE_STRING, label=_FIELD.LABEL_OPTIONAL)
    _add_message(entry, "value", 2, "Feature")
    _add_message(features, "feature", 1, "Features.FeatureEntry").label = _FIELD.LABEL_REPEATED
    _add_message(file.message_type.add(name="Example"), "features", 1, "Features")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    example_class, features_class = (
        message_factory.GetMessageClass(pool.FindMessageTypeByName(f"repot.{name}"))
        for name in ("Example", "Features")
    )
    return example_class, features_class


def _add_message(message: Any, name: str, number: int, type_name: str) -> Any:
    return message.field.add(
        name=name,
        number=number,
        type=_FIELD.TYPE_MESSAGE,
        label=_FIELD.LABEL_OPTIONAL,
        type_name=f".repot.{type_name}",
    )


_Example, _Features = _message_classes()
