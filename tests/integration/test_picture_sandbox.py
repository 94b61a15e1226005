"""Pictures are decoded in a process that a hostile file cannot leave: planted attacks fail."""

import functools
import json
import logging
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from repot import sandbox
from repot.data_checks import DataLimits
from repot.errors import RepotError
from repot.picture_decoder import MAX_FILES, MAX_FILES_BYTES, DecoderLimits, PictureDecoder
from repot.picture_result import Picture, RejectedPicture
from repot.pictures import normalise_picture
from repot.planner.listing import PictureRoots
from repot.planner.plan import plan_dataset
from repot.settings import DatasetSettings
from repot.shard_builder.build import build_shards
from repot.shard_builder.complete import complete_dataset

TESTS = Path(__file__).parents[1]
GOLDEN = TESTS / "golden" / "build_image_data" / "data"
DIRTY = TESTS / "golden" / "build_image_data_dirty" / "data"
HOSTILE = Path(__file__).parent / "hostile_decoder"
SECRET = "the keys of the store"
# How an attack must fail, where it is not with a refusal of the system.
REFUSED = r"PermissionError"
EXPECTED = {
    "resolve": r"gaierror|PermissionError",
    "parent_descriptors": r"PermissionError",
    "executable_memory": r"PermissionError",
    "memory_bomb": r"MemoryError",
    "thread_bomb": r"can't start new thread",
    "raise_limits": r"ValueError|PermissionError",
    "endless_loop": r"more than 1 s of processor time",
    "crash": "ended by SIGSEGV",
    "abort": "ended by SIGABRT",
    "leave": "exited with status 0",
}
READ = [
    "token",
    "google-key.json",
    ".aws/credentials",
    ".config/gcloud/application_default_credentials.json",
]
ATTACKS = re.findall(r"(?m)^@attack\ndef (\w+)", (HOSTILE / "sitecustomize.py").read_text())
FORGERIES = [name for name in ATTACKS if name.startswith("forge_")]
OTHERS = [name for name in ATTACKS if name not in ("sleep", *FORGERIES)]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox of Linux")


@pytest.fixture
def secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Plant secrets, and the attacks in every Python process; return the home folder."""
    home = tmp_path / "home"
    for name in READ:
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(SECRET)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("SECRET", SECRET)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(home / "google-key.json"))
    monkeypatch.setenv("PYTHONPATH", str(HOSTILE))
    return home


@pytest.fixture
def port() -> Iterator[int]:
    """Run a server that accepts connections, and return its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def _file(attack: str, **target: object) -> bytes:
    return json.dumps({"attack": attack, **target}).encode()


def _decode(decoder: PictureDecoder, *files: bytes) -> list[Picture | RejectedPicture]:
    return decoder.decode([(f"file {number}", data) for number, data in enumerate(files)])


def _plain(path: Path) -> Picture | tuple[str, str]:
    try:
        return normalise_picture(path.read_bytes())
    except RejectedPicture as rejection:
        return rejection.reason, rejection.detail


@pytest.fixture
def _short_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an endless loop end soon."""
    limits = functools.partial(DecoderLimits, cpu_seconds=1.0, wall_seconds=60.0)
    monkeypatch.setattr("repot.picture_decoder.decoder.DecoderLimits", limits)


@pytest.mark.usefixtures("_short_limits")
def test_every_attack_fails_and_every_picture_is_built(
    secrets: Path,
    port: int,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    pictures, new = tmp_path / "pictures", tmp_path / "new"
    for label in ("even", "odd"):
        (pictures / label).mkdir(parents=True)
    attacks = {f"read {name}": ("read_file", str(secrets / name)) for name in READ}
    attacks |= {name: (name, str(secrets / "token")) for name in OTHERS}
    for number, (title, (attack, target)) in enumerate(attacks.items()):
        file = _file(attack, path=target, new=str(new), port=port)
        name = f"{number:02} {title.replace('/', ' ')}.jpg"
        (pictures / ("odd" if number % 2 else "even") / name).write_bytes(file)
    good = sorted((GOLDEN / "train" / "roses").glob("img_*.*"))
    for number in range(40):
        path = pictures / ("odd" if number % 2 else "even") / f"{number:02} good.jpg"
        path.write_bytes(good[number % len(good)].read_bytes())
    planned = plan_dataset(
        PictureRoots(pictures_uri=str(pictures)),
        dataset_folder=lambda _: str(tmp_path / "dataset"),
        listings_uri=None,
        settings=DatasetSettings(train_shards=1, validation_shards=1),
    )

    with caplog.at_level(logging.INFO):
        build_shards(planned.dataset_uri, num_processes=2)
    manifest = complete_dataset(planned.dataset_uri, limits=DataLimits(max_rejected_fraction=1))

    assert manifest.num_accepted == 40
    assert len(manifest.rejected) == len(attacks) > 35
    for rejection in manifest.rejected:
        title = Path(rejection.path).stem.partition(" ")[2]
        assert re.search(EXPECTED.get(title, REFUSED), rejection.detail), rejection
        is_stopped = EXPECTED.get(title, "")[:4] in ("more", "ende", "exit")
        assert rejection.reason == ("decoder_stopped" if is_stopped else "corrupt")
    assert not new.exists()
    assert (secrets / "token").stat().st_mode & 0o777 != 0o777
    assert (secrets / "token").read_text() == SECRET
    assert "printed by" not in "".join(capfd.readouterr())
    (line,) = [text for text in caplog.messages if "sandbox" in text]
    assert re.search(r"limits.*seccomp", line)


def test_attacks_work_without_the_sandbox(secrets: Path, port: int, tmp_path: Path) -> None:
    """The attacks above fail because of the sandbox, not because they are wrong."""
    code = f"""
import sys
sys.path.insert(0, {str(HOSTILE)!r})
import sitecustomize
print(sitecustomize.ATTACKS[sys.argv[1]](dict(
    path={str(secrets / "token")!r}, new={str(tmp_path / "new")!r}, port={port}
)))
"""
    names = (
        "environment",
        "own_environment",
        "parent_environment",
        "read_file",
        "connect",
        "write_file",
        "executable_memory",
        "memory_file",
        "unix_socket",
        "raise_limits",
    )
    for name in names:
        subprocess.run([sys.executable, "-c", code, name], check=True, stdout=subprocess.DEVNULL)


def test_results_are_those_of_the_normaliser(tmp_path: Path) -> None:
    paths = sorted(
        path for folder in (GOLDEN, DIRTY) for path in folder.rglob("*") if path.is_file()
    )
    samples = Image.fromarray((np.arange(4096) * 16).astype(np.uint16).reshape(64, 64))
    for suffix, options in (("tif", {"compression": "tiff_lzw"}), ("png", {})):
        samples.save(tmp_path / f"deep.{suffix}", **options)
    colours = Image.merge("RGBA", [Image.linear_gradient("L")] * 4)
    for suffix in ("avif", "webp", "bmp", "gif", "png"):
        colours.save(tmp_path / f"colours.{suffix}")
    paths += sorted(tmp_path.iterdir())
    expected = [_plain(path) for path in paths]

    with PictureDecoder() as decoder:
        results = _decode(decoder, *[path.read_bytes() for path in paths])

    found = [
        (result.reason, result.detail) if isinstance(result, RejectedPicture) else result
        for result in results
    ]
    assert found == expected
    assert len([each for each in expected if isinstance(each, Picture)]) > 60


@pytest.mark.parametrize("size_bytes", [MAX_FILES_BYTES, MAX_FILES_BYTES + 1, 3 * MAX_FILES_BYTES])
def test_files_larger_than_the_shared_memory_are_decoded(size_bytes: int) -> None:
    jpeg = (GOLDEN / "train" / "roses" / "img_00.jpg").read_bytes()
    # Bytes behind the end marker are allowed.
    large = jpeg + bytes(size_bytes - len(jpeg))

    with PictureDecoder() as decoder:
        results = _decode(decoder, jpeg, large, jpeg, large)

    assert results == [normalise_picture(data) for data in (jpeg, large, jpeg, large)]


@pytest.mark.parametrize("position", [0, MAX_FILES - 1, MAX_FILES])
def test_only_the_file_that_stops_the_decoder_is_rejected(secrets: Path, position: int) -> None:
    files = [(GOLDEN / "train" / "roses" / "img_00.jpg").read_bytes()] * (MAX_FILES + 2)
    expected: list[Picture | str] = [normalise_picture(data) for data in files]
    files[position], expected[position] = _file("crash"), "it was ended by SIGSEGV"

    with PictureDecoder() as decoder:
        results = _decode(decoder, *files)

    assert [
        result.detail if isinstance(result, RejectedPicture) else result for result in results
    ] == expected


def test_forged_answers_are_rejected(secrets: Path) -> None:
    good = (GOLDEN / "train" / "roses" / "img_00.jpg").read_bytes()

    with PictureDecoder(DecoderLimits(cpu_seconds=10.0)) as decoder:
        # Only the miniature of a file that is not in the shared memory has a length.
        padding = {"forge_miniature": b" " * MAX_FILES_BYTES}
        results = {
            name: _decode(decoder, _file(name) + padding.get(name, b""))[0] for name in FORGERIES
        }
        (after,) = _decode(decoder, good)

    assert len(results) == 12
    assert after == normalise_picture(good)
    # A lone surrogate could not be written into a receipt.
    forged = results.pop("forge_text")
    assert isinstance(forged, RejectedPicture)
    assert (forged.reason, forged.detail) == ("corrupt", "ValueError: text ?")
    for name, result in results.items():
        assert isinstance(result, RejectedPicture), name
        assert (result.reason, result.detail) == ("decoder_stopped", "it gave an invalid answer")


def test_decoder_that_waits_is_stopped(secrets: Path) -> None:
    with PictureDecoder(DecoderLimits(wall_seconds=1.0)) as decoder:
        (result,) = _decode(decoder, _file("sleep"))

    assert isinstance(result, RejectedPicture)
    assert (result.reason, result.detail) == ("decoder_stopped", "it took more than 1 s")


def test_picture_that_needs_more_memory_than_the_limit_is_rejected(tmp_path: Path) -> None:
    Image.new("L", (6000, 6000)).save(tmp_path / "large.png")

    with PictureDecoder(DecoderLimits(memory_bytes=280 << 20)) as decoder:
        (result,) = _decode(decoder, (tmp_path / "large.png").read_bytes())

    assert isinstance(result, RejectedPicture)
    assert (result.reason, result.detail) == (
        "decoder_stopped",
        "it needs more than 280 MiB of memory",
    )


@pytest.mark.parametrize("limit", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_too_little_memory_of_the_machine_is_an_error_that_names_the_picture(
    limit: str, tmp_path: Path
) -> None:
    Image.new("L", (6000, 6000)).save(tmp_path / "large.png")
    mebibytes = 280 if limit == "RLIMIT_AS" else 100
    code = f"""
import resource
from repot.picture_decoder import PictureDecoder
resource.setrlimit(resource.{limit}, ({mebibytes} << 20, {mebibytes} << 20))
with PictureDecoder() as decoder:
    decoder.decode([("gs://b/large.png", open({str(tmp_path / "large.png")!r}, "rb").read())])
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )

    assert re.search(
        r"RepotError: The decoder of gs://b/large\.png must have enough memory; it needs more than "
        rf"{mebibytes} MiB of memory\. Give the process more memory or use fewer processes\.",
        ended.stderr,
    )


def test_decoder_killed_by_the_system_is_an_error_and_not_a_rejection(secrets: Path) -> None:
    code = """
import os, signal, sys, threading
from repot.picture_decoder import PictureDecoder
with PictureDecoder() as decoder:
    decoder.layers()
    threading.Timer(0.2, os.kill, (decoder._process.process_id, signal.SIGKILL)).start()
    decoder.decode([("x.jpg", sys.argv[1].encode())])
"""
    command = [sys.executable, "-c", code, _file("endless_loop").decode()]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)

    assert "RepotError: The decoder of x.jpg must have enough memory; it was ended by SIGKILL" in (
        ended.stderr
    )


def test_busy_decoder_ends_with_its_parent(secrets: Path) -> None:
    code = """
import sys
from repot.picture_decoder import PictureDecoder
decoder = PictureDecoder()
decoder.layers()
print(decoder._process.process_id, flush=True)
decoder.decode([("x.jpg", sys.argv[1].encode())])
"""
    command = [sys.executable, "-c", code, _file("endless_loop").decode()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        decoder = int(parent.stdout.readline())
        parent.kill()
    deadline = time.monotonic() + 30
    while _is_running(decoder):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _is_running(process_id: int) -> bool:
    try:
        state = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def test_decoder_that_cannot_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with (
        PictureDecoder() as decoder,
        pytest.raises(
            RepotError, match=r"process that decodes pictures must start; it exited with"
        ),
    ):
        decoder.layers()


# Each layer alone, so that every one holds where others are missing.
LAYER = """
import ctypes, os, signal, socket, sys
from repot import picture_decoder, sandbox
port, path = int(sys.argv[1]), sys.argv[2]
ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)
{layer}
for name, attack in {{
    "read": lambda: open(path, "rb"),
    "write": lambda: open(path + ".new", "wb"),
    "connect": lambda: socket.socket().connect(("127.0.0.1", port)),
    "fork": lambda: os.fork() or os._exit(0),
    "signal": lambda: os.kill(os.getppid(), 0),
}}.items():
    try:
        attack()
    except OSError as err:
        print(name)
"""


@pytest.mark.parametrize(
    ("layer", "denied"),
    [
        ("pass", set()),
        ("sandbox._limit_resources(1 << 32)", {"read", "write", "connect"}),
        ("assert sandbox._seccomp()", {"read", "write", "connect", "fork"}),
        ("print(sandbox._landlock())", {"read", "write"}),
        ("print('namespaces' if sandbox._enter_namespaces() else '')", set()),
    ],
)
def test_each_layer_holds_alone(layer: str, denied: set[str], port: int, tmp_path: Path) -> None:
    (tmp_path / "file").write_text(SECRET)
    code = LAYER.format(layer=layer)
    command = [sys.executable, "-c", code, str(port), str(tmp_path / "file")]
    lines = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True
    ).stdout.splitlines()

    if "_landlock" in layer:
        abi = int(lines.pop(0))
        if not abi:
            pytest.skip("this kernel has no Landlock")
        denied = denied | ({"connect"} if abi >= 4 else set()) | ({"signal"} if abi >= 6 else set())
    if "_enter_namespaces" in layer:
        if lines.pop(0) != "namespaces":
            pytest.skip("this kernel has no user namespaces for this user")
        denied = denied | {"connect"}
    assert denied <= set(lines)
    assert layer != "pass" or not lines


# What the sandbox must never allow, with the numbers of both kinds of machines.
DANGEROUS = {
    "open": (2, None),
    "openat": (257, 56),
    "openat2": (437, 437),
    "socket": (41, 198),
    "connect": (42, 203),
    "sendto": (44, 206),
    "recvmsg": (47, 212),
    "fork": (57, None),
    "vfork": (58, None),
    "execve": (59, 221),
    "execveat": (322, 281),
    "kill": (62, 129),
    "tkill": (200, 130),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_open": (434, 434),
    "prctl": (157, 167),
    "seccomp": (317, 277),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "bpf": (321, 280),
    "io_uring_setup": (425, 425),
    "memfd_create": (319, 279),
    "unlinkat": (263, 35),
    "renameat2": (316, 276),
    "fchmodat": (268, 53),
    "prlimit64": (302, 261),
    "userfaultfd": (323, 282),
    "perf_event_open": (298, 241),
    "keyctl": (250, 219),
}
ALLOW, DENY, NO_SUCH_CALL, KILL = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
PROCESS_ID = 4711


def _run_filter(machine: str, number: int, *arguments: int, architecture: int = 0) -> int:
    """Run the program as the kernel does; it uses four kinds of instructions."""
    padded = [*arguments, *[0] * (6 - len(arguments))]
    call = struct.pack("<IIQ6Q", number, architecture or ARCHITECTURES[machine], 0, *padded)
    program = sandbox._filter(machine, PROCESS_ID)
    position = accumulator = 0
    while True:
        code, value, if_true, if_false = program[position]
        position += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("<I", call, value)
        elif code == 0x15:
            position += if_true if accumulator == value else if_false
        elif code == 0x45:
            position += if_true if accumulator & value else if_false
        else:
            assert code == 0x06
            return value


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_filter_allows_a_computation_and_nothing_else(machine: str) -> None:
    column = list(ARCHITECTURES).index(machine)

    def run(numbers: tuple[int, int], *arguments: int) -> int:
        return _run_filter(machine, numbers[column], *arguments)

    dangerous = {name: each[column] for name, each in DANGEROUS.items()}
    assert {
        name: _run_filter(machine, number)
        for name, number in dangerous.items()
        if number is not None and _run_filter(machine, number) != DENY
    } == {}
    assert {run(numbers) for numbers in sandbox._ALLOWED.values()} == {ALLOW}
    allowed = {each[column] for each in (*sandbox._ALLOWED.values(), *sandbox._MEMORY.values())}
    # Everything that is not allowed is denied, whatever kernels will add.
    others = set(range(600)) - allowed - {435}
    assert {_run_filter(machine, number) for number in others} == {DENY}
    for numbers in sandbox._MEMORY.values():
        assert run(numbers, 0, 4096, 3) == ALLOW
        assert run(numbers, 0, 4096, 5) == run(numbers, 0, 4096, 7) == DENY
    # Threads as glibc and musl start them; processes, and threads with a new namespace.
    assert run((56, 220), 0x3D0F00) == run((56, 220), 0x7D0F00) == ALLOW
    assert run((56, 220), 0x1200011) == run((56, 220), 0x3D0F00 | 0x40000000) == DENY
    assert run((435, 435)) == NO_SUCH_CALL
    assert run((234, 131), PROCESS_ID, 1, signal.SIGABRT) == ALLOW
    assert run((234, 131), 1, 1, signal.SIGKILL) == DENY
    assert _run_filter(machine, 0, architecture=0x40000003) == KILL
    # The other numbering of x86_64 (x32).
    assert _run_filter(machine, 0x40000000 | 257) == DENY
