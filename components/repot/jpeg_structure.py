"""The outer structure of a JPEG: its markers, without decoding a pixel.

Decoders differ in what they forgive. One that stops reading after the last row never sees that the end is missing;
TensorFlow's reads on to the end marker and refuses the picture. A picture whose markers are all in order is safe with
both.

Source: ITU-T T.81, annex B; https://www.w3.org/Graphics/JPEG/itu-t81.pdf
"""

import re

_START = b"\xff\xd8"
_START_OF_SCAN = 0xDA
_END = 0xD9
# Baseline, extended sequential and progressive, all with Huffman codes; the other kinds are arithmetic or lossless.
_HUFFMAN_FRAMES = (0xC0, 0xC1, 0xC2)
_OTHER_FRAMES = (0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)
_PROGRESSIVE = 0xC2
# What may stand between two scans: tables (DHT, DQT, DRI), a comment, the next scan.
_BETWEEN_SCANS = (0xC4, 0xDB, 0xDD, 0xFE, _START_OF_SCAN)
# Entropy-coded data: 0xFF is followed by 0x00 (a stuffed byte), a restart marker or another 0xFF (fill).
_MARKER_AFTER_SCAN = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")


def is_plain_rgb(data: bytes) -> bool:
    """Return whether `data` is a whole Huffman-coded JPEG of three 8-bit components, every marker in its place.

    Bytes behind the end marker are allowed (multi-picture files, padding).
    """
    if not data.startswith(_START):
        return False
    frame, position = b"", len(_START)
    while segment := _segment(data, position):
        marker, body, position = segment
        if marker in _OTHER_FRAMES:
            return False
        if marker in _HUFFMAN_FRAMES:
            frame = bytes([marker]) + body
        if marker == _START_OF_SCAN:
            return _is_three_bytes_a_pixel(frame) and _ends_well(
                data, position, _has_one_scan(frame, body)
            )
    return False


def _segment(data: bytes, position: int) -> tuple[int, bytes, int] | None:
    """Return the marker at `position`, its parameters and where they end; None if there is no whole segment."""
    if data[position : position + 1] != b"\xff":
        return None
    while data[position + 1 : position + 2] == b"\xff":
        position += 1
    body_size = int.from_bytes(data[position + 2 : position + 4], "big")
    end = position + 2 + body_size
    if body_size < 2 or end > len(data):
        return None
    return data[position + 1], data[position + 4 : end], end


def _is_three_bytes_a_pixel(frame: bytes) -> bool:
    """Return whether a frame (its marker, then its parameters) has 8-bit samples and three components."""
    return len(frame) >= 7 and frame[1] == 8 and frame[6] == 3


def _has_one_scan(frame: bytes, scan: bytes) -> bool:
    return frame[:1] != bytes([_PROGRESSIVE]) and scan[:1] == b"\x03"


def _ends_well(data: bytes, position: int, is_only_scan: bool) -> bool:
    """Return whether the end marker follows the entropy-coded data at `position`, or that of the scans after it."""
    while match := _MARKER_AFTER_SCAN.search(data, position):
        position = match.end() - 2
        if data[position + 1] == _END:
            return True
        segment = _segment(data, position)
        if is_only_scan or segment is None or segment[0] not in _BETWEEN_SCANS:
            return False
        position = segment[2]
    return False
