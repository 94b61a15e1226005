"""Confine this process: afterwards it can only compute and use its open descriptors.

This needs no privileges, so it works in a pod under the Pod Security Standard "restricted". There
are four layers, each applied where the system supports it:

    limits      no new descriptors, files or core dumps; limited memory. Every system.
    namespaces  an empty network, and no capabilities outside. Linux, unless the machine or the
                container runtime forbids user namespaces, as in most pods.
    Landlock    no file, no TCP, no signals to other processes. Linux 5.13; TCP 6.7; signals 6.12.
    seccomp     only the system calls of a computation: no open, socket, fork, exec, ptrace or kill,
                and no new executable memory. Linux on x86_64 and aarch64.

Sources: https://docs.kernel.org/userspace-api/landlock.html and <linux/landlock.h>;
https://docs.kernel.org/userspace-api/seccomp_filter.html, <linux/seccomp.h>, <linux/filter.h> and
<linux/audit.h>; the numbers of system calls from <asm/unistd_64.h> and <asm-generic/unistd.h>.
"""

import contextlib
import ctypes
import errno
import os
import platform
import resource
import signal
import struct
import sys

LIMITS, NAMESPACES, LANDLOCK, SECCOMP = "limits", "namespaces", "Landlock", "seccomp"
"""The names of the layers."""

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_CLONE_NEWUSER, _CLONE_NEWNET, _CLONE_NEWIPC = 0x10000000, 0x40000000, 0x08000000

# The same numbers on all machines that Linux runs on, except Alpha.
_LANDLOCK_CREATE_RULESET, _LANDLOCK_RESTRICT_SELF = 444, 446
_LANDLOCK_CREATE_RULESET_VERSION = 1
# All rights to files, to TCP, and to what is outside of the sandbox, by the ABI that adds them.
_FILE_RIGHTS = {1: (1 << 13) - 1, 2: 1 << 13, 3: 1 << 14, 5: 1 << 15}
_TCP_RIGHTS = {4: 0b11}
_SCOPES = {6: 0b11}

_SET_MODE_FILTER, _FLAG_TSYNC = 1, 1
_RETURN_ALLOW, _RETURN_ERRNO, _RETURN_KILL = 0x7FFF0000, 0x00050000, 0x80000000
_LOAD, _JUMP_EQUAL, _JUMP_ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_NUMBER_OFFSET, _ARCHITECTURE_OFFSET, _ARGUMENTS_OFFSET = 0, 4, 16
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_SECCOMP = {"x86_64": 317, "aarch64": 277}
# What memory, threads, time and open descriptors need, by x86_64 and aarch64. Most frequent first.
_ALLOWED = {
    "read": (0, 63),
    "write": (1, 64),
    "futex": (202, 98),
    "brk": (12, 214),
    "munmap": (11, 215),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "clock_gettime": (228, 113),
    "sched_yield": (24, 124),
    "rt_sigprocmask": (14, 135),
    "readv": (19, 65),
    "writev": (20, 66),
    "lseek": (8, 62),
    "fstat": (5, 80),
    "close": (3, 57),
    "getpid": (39, 172),
    "gettid": (186, 178),
    "getrandom": (318, 278),
    "gettimeofday": (96, 169),
    "getrusage": (98, 165),
    "sysinfo": (99, 179),
    "nanosleep": (35, 101),
    "clock_nanosleep": (230, 115),
    "clock_getres": (229, 114),
    "restart_syscall": (219, 128),
    "rt_sigaction": (13, 134),
    "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132),
    "sched_getaffinity": (204, 123),
    "membarrier": (324, 283),
    "rseq": (334, 293),
    "set_robust_list": (273, 99),
    "set_tid_address": (218, 96),
    "exit": (60, 93),
    "exit_group": (231, 94),
}
# Allowed unless the memory becomes executable.
_MEMORY = {"mmap": (9, 222), "mprotect": (10, 226)}
_PROT_EXEC = 4
# Allowed to start a thread. clone3 hides its flags in memory; libc falls back to clone without it.
_CLONE, _CLONE3 = (56, 220), (435, 435)
_CLONE_THREAD = 0x10000
_CLONE_NEW_NAMESPACE = 0x7E020080
# Allowed for this process: abort() sends a signal to itself.
_TGKILL = (234, 131)

_Instruction = tuple[int, int, int, int]


def confine(*, memory_bytes: int) -> tuple[str, ...]:
    """Confine this process and all that it starts; there is no way back.

    Call it after everything is imported, and while there is one thread: Landlock and namespaces
    apply to the calling thread only.

    Args:
        memory_bytes: Limit of the address space.

    Returns:
        The names of the active layers; that of Landlock with the version of its interface.
    """
    active = [LIMITS]
    is_linux = sys.platform == "linux"
    if is_linux and _enter_namespaces():
        active.append(NAMESPACES)
    if is_linux:
        # After the namespaces, which reset the first one.
        end_with_parent()
        _libc().prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        if abi := _landlock():
            active.append(f"{LANDLOCK} {abi}")
    _limit_resources(memory_bytes)
    if is_linux and _seccomp():
        active.append(SECCOMP)
    return tuple(active)


def end_with_parent() -> None:
    """End this process when the thread that started it ends; on Linux."""
    if sys.platform == "linux":
        _libc().prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _enter_namespaces() -> bool:
    return not _libc().unshare(_CLONE_NEWUSER | _CLONE_NEWNET | _CLONE_NEWIPC)


def _landlock() -> int:
    """Forbid all that Landlock knows; return the ABI in force, 0 if there is none."""
    abi = _system_call(_LANDLOCK_CREATE_RULESET, None, 0, _LANDLOCK_CREATE_RULESET_VERSION)
    if abi < 1:
        return 0
    rights = [
        sum(bits for since, bits in table.items() if since <= abi)
        for table in (_FILE_RIGHTS, _TCP_RIGHTS, _SCOPES)
    ]
    # struct landlock_ruleset_attr; a kernel accepts zeros behind the fields that it knows.
    attributes = struct.pack("=QQQ", *rights)
    ruleset = _system_call(_LANDLOCK_CREATE_RULESET, attributes, len(attributes), 0)
    if ruleset < 0:
        return 0
    try:
        return abi if _system_call(_LANDLOCK_RESTRICT_SELF, ruleset, 0) == 0 else 0
    finally:
        os.close(ruleset)


def _limit_resources(memory_bytes: int) -> None:
    limits = {
        resource.RLIMIT_AS: memory_bytes,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NOFILE: 0,
    }
    if sys.platform != "linux":
        # Linux also counts threads, which decoders need; there, seccomp forbids processes.
        limits[resource.RLIMIT_NPROC] = 0
    for kind, limit in limits.items():
        _, hard = resource.getrlimit(kind)
        lower = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        # macOS does not limit address spaces.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(kind, (lower, lower))


def _seccomp() -> bool:
    """Allow the system calls of a computation only; return whether that is in force."""
    machine = platform.machine()
    if machine not in _ARCHITECTURES or sys.maxsize < 2**32 or sys.byteorder != "little":
        return False
    # Try it in a child: where a kernel of another machine is emulated, the filter kills.
    child = os.fork()
    if child == 0:
        os._exit(0 if _install_filter(machine) and os.getpid() else 1)
    _, status = os.waitpid(child, 0)
    return status == 0 and _install_filter(machine)


def _install_filter(machine: str) -> bool:
    program = b"".join(
        struct.pack("=HBBI", code, if_true, if_false, value)
        for code, value, if_true, if_false in _filter(machine, os.getpid())
    )
    # struct sock_fprog
    instructions = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(instructions))
    return _system_call(_SECCOMP[machine], _SET_MODE_FILTER, _FLAG_TSYNC, header) == 0


def _filter(machine: str, process_id: int) -> list[_Instruction]:
    """Return a BPF program: (code, value, instructions to skip if true, if false) per line."""
    column = list(_ARCHITECTURES).index(machine)
    denied = (_RETURN, _RETURN_ERRNO | errno.EPERM, 0, 0)
    allowed = (_RETURN, _RETURN_ALLOW, 0, 0)
    first_argument, third_argument = (
        (_LOAD, _ARGUMENTS_OFFSET + 8 * index, 0, 0) for index in (0, 2)
    )
    program = [
        (_LOAD, _ARCHITECTURE_OFFSET, 0, 0),
        (_JUMP_EQUAL, _ARCHITECTURES[machine], 1, 0),
        (_RETURN, _RETURN_KILL, 0, 0),
        (_LOAD, _NUMBER_OFFSET, 0, 0),
    ]

    def add(numbers: tuple[int, int], *instructions: _Instruction) -> None:
        program.append((_JUMP_EQUAL, numbers[column], 0, len(instructions)))
        program.extend(instructions)

    for numbers in _MEMORY.values():
        add(numbers, third_argument, (_JUMP_ANY_BIT, _PROT_EXEC, 0, 1), denied, allowed)
    for numbers in _ALLOWED.values():
        add(numbers, allowed)
    add(
        _CLONE,
        first_argument,
        (_JUMP_ANY_BIT, _CLONE_NEW_NAMESPACE, 2, 0),
        (_JUMP_ANY_BIT, _CLONE_THREAD, 0, 1),
        allowed,
        denied,
    )
    add(_CLONE3, (_RETURN, _RETURN_ERRNO | errno.ENOSYS, 0, 0))
    add(_TGKILL, first_argument, (_JUMP_EQUAL, process_id, 0, 1), allowed, denied)
    return [*program, denied]


def _system_call(number: int, *arguments: int | bytes | None) -> int:
    call = _libc().syscall
    call.restype = ctypes.c_long
    return int(
        call(
            ctypes.c_long(number),
            *(ctypes.c_long(each) if isinstance(each, int) else each for each in arguments),
        )
    )


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
