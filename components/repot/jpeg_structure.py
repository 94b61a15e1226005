"""Check the marker structure of a JPEG without decoding pixels.

Decoders tolerate different kinds of damage. Pillow stops after the last row and does not notice a
missing end marker; TensorFlow reads up to the end marker and rejects the picture. A JPEG whose
markers are all in place is accepted by both.

Source: ITU-T T.81, annex B; https://www.w3.org/Graphics/JPEG/itu-t81.pdf
"""

import re
import struct
from dataclasses import dataclass

_START = b"\xff\xd8"
_START_OF_SCAN = 0xDA
_END = 0xD9
# Baseline, extended sequential and progressive with Huffman coding. The others are arithmetic-coded
# or lossless.
HUFFMAN_FRAMES = (0xC0, 0xC1, 0xC2)
OTHER_FRAMES = (0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)
_LOSSLESS_FRAMES = (0xC3, 0xC7, 0xCB, 0xCF)
_JPEG_LS_FRAME = 0xF7
_PROGRESSIVE = 0xC2
# Source: JFIF 1.02, https://www.w3.org/Graphics/JPEG/jfif3.pdf
_JFIF, _JFIF_BYTES = 0xE0, 14
# Of a frame: number of lines, samples per line.
_SIZE = struct.Struct(">HH")
# Markers allowed between two scans: tables (DHT, DQT, DRI), a comment, the next scan.
BETWEEN_SCANS = (0xC4, 0xDB, 0xDD, 0xFE, _START_OF_SCAN)
# In entropy-coded data, 0xFF is followed by 0x00 (a stuffed byte), a restart marker or another 0xFF
# (a fill byte). The pattern starts with the last 0xFF of a run: one that starts with \xff+ finds
# the same, but is 20 times slower, and quadratic in the length of a run.
_MARKER_AFTER_SCAN = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")


@dataclass(frozen=True, slots=True)
class PlainRgb:
    """A complete Huffman-coded JPEG with three 8-bit components.

    Attributes:
        height, width: Its size in pixels, at least 1.
        has_metadata: Whether it has more than tables, comments and a JFIF header: such as EXIF
            data, which may say that it is to be turned.
    """

    height: int
    width: int
    has_metadata: bool


def is_plain_rgb(data: bytes) -> bool:
    """Return whether `find_plain_rgb` finds one."""
    return find_plain_rgb(data) is not None


def find_plain_rgb(data: bytes) -> PlainRgb | None:
    """Return what the data is, if it is a complete Huffman-coded JPEG with three 8-bit components.

    Bytes after the end marker are allowed (multi-picture files, padding).
    """
    if not data.startswith(_START):
        return None
    frame, has_metadata, position = b"", False, len(_START)
    while segment := _segment(data, position):
        marker, body, position = segment
        if marker in OTHER_FRAMES:
            return None
        if marker in HUFFMAN_FRAMES:
            frame = bytes([marker]) + body
        elif marker == _START_OF_SCAN:
            if not (
                _has_three_8_bit_components(frame)
                and _has_end_marker(data, position, _has_one_scan(frame, body))
            ):
                return None
            height, width = _SIZE.unpack_from(frame, 2)
            return PlainRgb(height, width, has_metadata) if height and width else None
        elif marker not in BETWEEN_SCANS and not _is_jfif(marker, body):
            has_metadata = True
    return None


def name_rare_coding(data: bytes) -> str:
    """Return what is unusual about a JPEG's coding; "" for 8-bit Huffman coding or damaged data."""
    position = len(_START)
    while data.startswith(_START) and (segment := _segment(data, position)):
        marker, body, position = segment
        if marker == _JPEG_LS_FRAME:
            return "JPEG-LS"
        if marker in _LOSSLESS_FRAMES:
            return "lossless coding"
        if marker in HUFFMAN_FRAMES + OTHER_FRAMES:
            if body[:1] not in (b"\x08", b""):
                return f"{body[0]}-bit samples"
            return "arithmetic or hierarchical coding" if marker in OTHER_FRAMES else ""
    return ""


def _segment(data: bytes, position: int) -> tuple[int, bytes, int] | None:
    """Return the marker at `position`, its parameters and their end; None if it is incomplete."""
    if data[position : position + 1] != b"\xff":
        return None
    while data[position + 1 : position + 2] == b"\xff":
        position += 1
    body_size = int.from_bytes(data[position + 2 : position + 4], "big")
    end = position + 2 + body_size
    if body_size < 2 or end > len(data):
        return None
    return data[position + 1], data[position + 4 : end], end


def _is_jfif(marker: int, body: bytes) -> bool:
    return marker == _JFIF and len(body) >= _JFIF_BYTES and body.startswith(b"JFIF\0")


def _has_three_8_bit_components(frame: bytes) -> bool:
    """Return whether a frame (marker and parameters) has three components of 8-bit samples."""
    return len(frame) >= 7 and frame[1] == 8 and frame[6] == 3


def _has_one_scan(frame: bytes, scan: bytes) -> bool:
    return frame[:1] != bytes([_PROGRESSIVE]) and scan[:1] == b"\x03"


def _has_end_marker(data: bytes, position: int, is_only_scan: bool) -> bool:
    """Return whether the scan data at `position`, and any further scans, lead to the end marker."""
    while match := _MARKER_AFTER_SCAN.search(data, position):
        position = match.end() - 2
        if data[position + 1] == _END:
            return True
        segment = _segment(data, position)
        if is_only_scan or segment is None or segment[0] not in BETWEEN_SCANS:
            return False
        position = segment[2]
    return False
