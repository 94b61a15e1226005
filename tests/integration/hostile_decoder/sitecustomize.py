"""What a picture could do that takes control of the decoder that reads it.

Python imports this module in every process whose PYTHONPATH has this folder. In a picture decoder
it replaces the normaliser by one that runs an attack if the file is a JSON text with its name. The
result of an attack that works becomes the picture; one that fails raises.
"""

import contextlib
import ctypes
import functools
import json
import mmap
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PARENT = os.getppid()
ATTACKS: dict[str, Callable[[dict[str, Any]], object]] = {}
LIBC = ctypes.CDLL(None, use_errno=True)
CPU_SECONDS = 1.0
MINIATURE_BYTES = 48 * 48 * 3
# What `repot.jpeg_structure.is_plain_rgb` accepts: a frame of three components, a scan, an end.
PLAIN_JPEG = bytes.fromhex(
    "ffd8 ffc0 0011 08 0001 0001 03 011100 021101 031101 "
    "ffda 000c 03 0100 0211 0311 00 3f 00 00 ffd9"
)


def attack(function: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], object]:
    ATTACKS[function.__name__] = function
    return function


def call(name: str, *arguments: object) -> int:
    result = int(getattr(LIBC, name)(*arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), name)
    return result


@attack
def environment(_: dict[str, Any]) -> object:
    if "SECRET" in os.environ:
        return os.environ["SECRET"]
    raise PermissionError("no SECRET")


@attack
def own_environment(_: dict[str, Any]) -> object:
    return Path("/proc/self/environ").read_bytes()


@attack
def parent_environment(_: dict[str, Any]) -> object:
    return Path(f"/proc/{PARENT}/environ").read_bytes()


@attack
def parent_memory(_: dict[str, Any]) -> object:
    return Path(f"/proc/{PARENT}/mem").open("rb")


@attack
def parent_descriptors(_: dict[str, Any]) -> object:
    return list(Path(f"/proc/{PARENT}/fd").iterdir())


@attack
def read_file(target: dict[str, Any]) -> object:
    return Path(target["path"]).read_bytes()


@attack
def list_folder(_: dict[str, Any]) -> object:
    return list(Path("/").iterdir())


@attack
def descriptors(_: dict[str, Any]) -> object:
    """Look for something else than the two pipes and the place where output goes."""
    for number in range(1024):
        with contextlib.suppress(OSError):
            mode = os.fstat(number).st_mode
            if not stat.S_ISFIFO(mode) and not stat.S_ISCHR(mode):
                return number
    raise PermissionError("no descriptor")


@attack
def connect(target: dict[str, Any]) -> object:
    with socket.socket() as connection:
        connection.connect(("127.0.0.1", target["port"]))
        return "connected"


@attack
def unix_socket(_: dict[str, Any]) -> object:
    return socket.socketpair()


@attack
def resolve(_: dict[str, Any]) -> object:
    return socket.getaddrinfo(b"metadata.google.internal", 80)


@attack
def write_file(target: dict[str, Any]) -> object:
    return Path(target["new"]).write_text("here I was")


@attack
def make_folder(target: dict[str, Any]) -> object:
    Path(target["new"]).mkdir()
    return "made"


@attack
def make_link(target: dict[str, Any]) -> object:
    Path(target["new"]).symlink_to("/etc/passwd")
    return "made"


@attack
def remove_file(target: dict[str, Any]) -> object:
    Path(target["path"]).unlink()
    return "removed"


@attack
def change_mode(target: dict[str, Any]) -> object:
    Path(target["path"]).chmod(0o777)
    return "changed"


@attack
def memory_file(_: dict[str, Any]) -> object:
    return os.memfd_create("x") if hasattr(os, "memfd_create") else call("shm_open", b"/x", 66, 0)


@attack
def execute(target: dict[str, Any]) -> object:
    return os.execv("/bin/sh", ["sh", "-c", f"touch {target['new']}"])


@attack
def start_process(target: dict[str, Any]) -> object:
    return subprocess.run(["/bin/sh", "-c", f"touch {target['new']}"], check=True)


@attack
def fork_bomb(target: dict[str, Any]) -> object:
    while True:
        if os.fork() == 0:
            Path(target["new"]).write_text("here I was")


@attack
def kill_parent(_: dict[str, Any]) -> object:
    os.kill(PARENT, signal.SIGKILL)
    return "killed"


@attack
def kill_all(_: dict[str, Any]) -> object:
    # Signal 0 harms nobody if it is allowed.
    os.kill(-1, 0)
    return "killed"


@attack
def trace_parent(_: dict[str, Any]) -> object:
    return call("ptrace", 16, PARENT, None, None)  # PTRACE_ATTACH


@attack
def read_parent(_: dict[str, Any]) -> object:
    buffer = ctypes.create_string_buffer(8)
    vector = (ctypes.c_size_t * 2)(ctypes.addressof(buffer), 8)
    return call("process_vm_readv", PARENT, vector, 1, vector, 1, 0)


@attack
def executable_memory(_: dict[str, Any]) -> object:
    return mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)


@attack
def new_namespace(_: dict[str, Any]) -> object:
    return call("unshare", 0x10000000) or "entered"


@attack
def io_uring(_: dict[str, Any]) -> object:
    return call("syscall", 425, 8, ctypes.create_string_buffer(256))


@attack
def raise_limits(_: dict[str, Any]) -> object:
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    return "raised"


@attack
def memory_bomb(_: dict[str, Any]) -> object:
    return bytearray(1 << 40)


@attack
def thread_bomb(_: dict[str, Any]) -> object:
    never = threading.Event()
    while True:
        threading.Thread(target=never.wait, daemon=True).start()


@attack
def endless_loop(_: dict[str, Any]) -> object:
    while True:
        pass


@attack
def sleep(_: dict[str, Any]) -> object:
    while True:
        time.sleep(1)


@attack
def crash(_: dict[str, Any]) -> object:
    return ctypes.string_at(0)


@attack
def abort(_: dict[str, Any]) -> object:
    os.abort()


@attack
def leave(_: dict[str, Any]) -> object:
    os._exit(0)


@attack
def forge_answer(_: dict[str, Any]) -> object:
    for number in range(3, 16):
        with contextlib.suppress(OSError):
            os.write(number, b"\xff" * 4096)
    return endless_loop({})


@attack
def forge_size(_: dict[str, Any]) -> object:
    for number in range(3, 16):
        with contextlib.suppress(OSError):
            os.write(number, b"\2\0" + b"\1\0\0\0" * 2 + (1 << 62).to_bytes(8, "little"))
    return endless_loop({})


def forge(kind: int, payload: bytes, *, file_format: int = 0) -> object:
    """Answer with a picture of one pixel, or a rejection, by way of every open descriptor."""
    header = bytes([kind, file_format]) + b"\1\0\0\0" * 2 + len(payload).to_bytes(8, "little")
    for number in range(3, 16):
        with contextlib.suppress(OSError):
            os.write(number, header + payload)
    return endless_loop({})


@attack
def forge_unchanged(_: dict[str, Any]) -> object:
    """Claim that this file, which is none, is a JPEG."""
    return forge(1, b"")


@attack
def forge_jpeg(_: dict[str, Any]) -> object:
    return forge(2, b"\xff\xd8\xff but no JPEG")


@attack
def forge_miniature(_: dict[str, Any]) -> object:
    """Answer without a miniature, if the file is not in the shared memory."""
    return forge(2, PLAIN_JPEG[:MINIATURE_BYTES])


@attack
def forge_format(_: dict[str, Any]) -> object:
    return forge(2, PLAIN_JPEG, file_format=255)


@attack
def forge_reason(_: dict[str, Any]) -> object:
    return forge(3, b'["no such reason", ""]')


@attack
def forge_number(_: dict[str, Any]) -> object:
    return forge(3, b"5")


@attack
def forge_list(_: dict[str, Any]) -> object:
    return forge(3, b'[["empty"], ["x"]]')


@attack
def forge_depth(_: dict[str, Any]) -> object:
    return forge(3, b"[" * 60_000)


@attack
def forge_length(_: dict[str, Any]) -> object:
    return forge(3, b'["empty", "' + b"x" * 70_000 + b'"]')


@attack
def forge_text(_: dict[str, Any]) -> object:
    raise ValueError("text \ud800")


@attack
def print_much(_: dict[str, Any]) -> object:
    for number in (1, 2):
        with contextlib.suppress(OSError):
            os.write(number, b"printed by the decoder " * 100_000)
    raise PermissionError("nobody reads it")


def _plant() -> None:
    from repot import pictures
    from repot.picture_result import Edges, Picture, RejectedPicture

    normalise = pictures.normalise_picture

    def hostile(data: bytes, crop: Edges | None = None, *, max_side: int = 0) -> Picture:
        if not data.startswith(b'{"attack"'):
            return normalise(data, crop, max_side=max_side)
        target = json.loads(data)
        try:
            stolen = ATTACKS[target["attack"]](target)
        except (MemoryError, OSError, RuntimeError, ValueError) as err:
            raise RejectedPicture("corrupt", f"{type(err).__name__}: {err}") from err
        return Picture(
            jpeg=repr(stolen).encode(),
            height=1,
            width=1,
            source_format="JPEG",
            miniature=bytes(MINIATURE_BYTES),
        )

    pictures.normalise_picture = hostile


if "repot.picture_decoder.process" in sys.orig_argv:
    _plant()
elif "repot.shard_builder.worker" in sys.orig_argv:
    from repot.picture_decoder import decoder

    # So that an endless loop ends soon.
    decoder.DecoderLimits = functools.partial(  # type: ignore[misc, assignment]
        decoder.DecoderLimits, cpu_seconds=CPU_SECONDS, wall_seconds=60.0
    )
