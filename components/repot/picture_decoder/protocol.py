"""What a decoder and its users send each other.

    request   uint32 number of files, uint32 whether they are in the shared memory, uint32 the most
              pixels per side that a result may have, 0 for any; uint64 size of each, four float32
              of each, the edges of the part to crop it to; then the files, concatenated, in the
              shared memory or in the request
    answers   per file: uint8 kind, uint8 format, uint32 height, uint32 width, uint64 size; then, of
              that size, the JSON of a rejection, or a miniature, followed by the JPEG if the
              picture was encoded again

Each request holds several files, because one file per request costs 25 % more time. If the files
are in the shared memory, their miniatures are written there too, not in the answers: through the
pipe, they would cost 15 % more time. Those answers are sent together, so a counter in that memory
has the number of finished files.

A host takes commands: to fork a decoder, or to report how one ended.
"""

import enum
import struct

from repot.picture_result import MINIATURE_BYTES, Edges

MAX_FILES = 64
"""Files per request at most."""
MAX_FILES_BYTES = 8 << 20
"""Bytes of a request that fit into shared memory; a larger file is sent alone, through the pipe."""

REQUEST = struct.Struct("<III")
ANSWER = struct.Struct("<BBIIQ")
WHOLE: Edges = (0.0, 0.0, 1.0, 1.0)
"""The edges of a picture that is not cropped."""

# The shared memory: files, one byte with the number of those that are done, and miniatures.
COUNTER = MAX_FILES_BYTES
_MINIATURES = MAX_FILES_BYTES + 1
SHARED_BYTES = _MINIATURES + MAX_FILES * MINIATURE_BYTES

# To a host: what to do; the memory of the decoder to fork, or the process to report on. From it:
# the process, or how it ended.
COMMAND = struct.Struct("<BQ")
START, WAIT = 0, 1
REPLY = struct.Struct("<i")
STILL_RUNS = -(1 << 20)
MAX_DESCRIPTORS = 3


class Kind(enum.IntEnum):
    """Kind of an answer; the first one of a decoder is READY, with the layers of its sandbox."""

    READY = 0
    UNCHANGED = 1
    ENCODED = 2
    REJECTED = 3
    OUT_OF_MEMORY = 4


def miniature_place(number: int) -> slice:
    """Return where the miniature of a file of a request is in the shared memory."""
    start = _MINIATURES + number * MINIATURE_BYTES
    return slice(start, start + MINIATURE_BYTES)
