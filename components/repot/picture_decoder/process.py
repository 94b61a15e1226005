"""A host of decoders, and the decoders that are forks of it.

Only decoders see pictures. Each confines itself before the first one, see `repot.sandbox`.

Usage: python -m repot.picture_decoder.process CONNECTION

CONNECTION is the file descriptor of a socket.
"""

import contextlib
import gc
import json
import mmap
import os
import socket
import struct
import sys
from typing import IO, NoReturn

from repot import sandbox
from repot.picture_decoder.protocol import (
    ANSWER,
    COMMAND,
    COUNTER,
    MAX_DESCRIPTORS,
    REPLY,
    REQUEST,
    SHARED_BYTES,
    STILL_RUNS,
    WAIT,
    WHOLE,
    Kind,
    miniature_place,
)
from repot.picture_result import SOURCE_FORMATS, Edges, RejectedPicture


def main() -> None:
    """Be a host: fork decoders, and tell how they ended, until the connection closes."""
    sandbox.end_with_parent()
    connection = socket.socket(fileno=int(sys.argv[1]))
    from repot import pictures

    pictures.load_decoders()
    # What was imported is not looked at again, so that forks share it.
    gc.collect()
    gc.freeze()
    # Whoever started this process may be gone.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        _fork_decoders(connection)


def _fork_decoders(connection: socket.socket) -> None:
    while True:
        message, descriptors, *_ = socket.recv_fds(connection, COMMAND.size, MAX_DESCRIPTORS)
        if not message:
            return
        command, number = COMMAND.unpack(message)
        if command == WAIT:
            reply = _find_status(number)
        elif (reply := os.fork()) == 0:
            connection.close()
            _run_decoder(number, *descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        connection.sendall(REPLY.pack(reply))


def _find_status(process_id: int) -> int:
    try:
        found, status = os.waitpid(process_id, os.WNOHANG)
    except ChildProcessError:  # Its status was returned before.
        return 0
    return os.waitstatus_to_exitcode(status) if found else STILL_RUNS


def _run_decoder(memory_bytes: int, *descriptors: int) -> NoReturn:
    """Confine this process, answer requests until there are no more, and exit."""
    status = 1
    try:
        _answer_requests(memory_bytes, *descriptors)
        status = 0
    except SystemExit as err:
        status = err.code if isinstance(err.code, int) else 0
    finally:
        os._exit(status)


def _answer_requests(memory_bytes: int, *descriptors: int) -> None:
    requests, answers = os.fdopen(descriptors[0], "rb"), os.fdopen(descriptors[1], "wb")
    memory = [mmap.mmap(each, SHARED_BYTES) for each in descriptors[2:]]
    for descriptor in descriptors[2:]:
        os.close(descriptor)
    layers = sandbox.confine(memory_bytes=memory_bytes)
    # Whatever libraries print goes nowhere: not to the log. Standard output does already.
    os.close(2)
    _answer(answers, Kind.READY, payload=json.dumps(layers).encode())
    answers.flush()
    while header := requests.read(REQUEST.size):
        count, is_shared, max_side = REQUEST.unpack(header)
        sizes = struct.unpack(f"<{count}Q", requests.read(8 * count))
        crops = struct.iter_unpack("<4f", requests.read(16 * count))
        source: IO[bytes] | mmap.mmap = requests
        if is_shared:
            (source,) = memory
            source.seek(0)
        for number, (size, crop) in enumerate(zip(sizes, crops, strict=True)):
            edges = None if crop == WHOLE else crop
            room = memoryview(memory[0])[miniature_place(number)] if is_shared else None
            _answer_file(source.read(size), edges, max_side, answers, room)
            if is_shared:
                memory[0][COUNTER] = number + 1
            else:
                answers.flush()
        answers.flush()


def _answer_file(
    data: bytes,
    crop: Edges | None,
    max_side: int,
    answers: IO[bytes],
    room: memoryview | None,
) -> None:
    """Write the answer to a file, and its miniature into the room for it, if there is one."""
    from repot.pictures import normalise_picture

    try:
        picture = normalise_picture(data, crop, max_side=max_side)
    except RejectedPicture as rejection:
        payload = json.dumps([rejection.reason, rejection.detail]).encode()
        _answer(answers, Kind.REJECTED, payload=payload)
    except MemoryError:
        _answer(answers, Kind.OUT_OF_MEMORY)
    else:
        is_same = picture.jpeg is data
        kind = Kind.UNCHANGED if is_same else Kind.ENCODED
        file_format = SOURCE_FORMATS.index(picture.source_format)
        payload = b"" if is_same else picture.jpeg
        if room is None:
            payload = picture.miniature + payload
        else:
            # First, because the answer may be sent before this function ends.
            room[:] = picture.miniature
        _answer(
            answers,
            kind,
            file_format=file_format,
            height=picture.height,
            width=picture.width,
            payload=payload,
        )


def _answer(
    answers: IO[bytes],
    kind: Kind,
    *,
    file_format: int = 0,
    height: int = 0,
    width: int = 0,
    payload: bytes = b"",
) -> None:
    answers.write(ANSWER.pack(kind, file_format, height, width, len(payload)))
    answers.write(payload)


if __name__ == "__main__":
    main()
