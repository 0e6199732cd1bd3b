"""Confinement: the process can from now on reach no network and start no program.

A seccomp filter (seccomp(2)) answers the system calls for sockets and for running programs with EPERM. It holds for
every thread that is started afterwards and cannot be taken off. Linux on x86-64 and 64-bit ARM.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_LOAD_WORD, _JUMP_EQUAL, _JUMP_AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x80000000
_NUMBER_AT, _ARCHITECTURE_AT = 0, 4
_CALLS = {
    "x86_64": (0xC000003E, (41, 42, 53, 59, 322, 62, 200, 234, 101, 425)),
    "aarch64": (0xC00000B7, (198, 199, 203, 221, 281, 129, 130, 131, 117, 425)),
}
"""For each machine its audit number and its numbers of socket, connect, socketpair, execve, execveat, kill, tkill,
tgkill, ptrace and io_uring_setup (which could open sockets by itself).
"""
_X32 = 0x40000000
"""Bit set in the numbers of x86-64's second set of system calls (x32), none of which is needed."""


def confine() -> None:
    """Confine this process.

    Raises:
        OSError: The kernel refuses the filter, or the machine is of another architecture.
    """
    machine = platform.machine()
    if machine not in _CALLS:
        raise OSError(errno.ENOSYS, f"processes cannot be confined on {machine}")
    architecture, calls = _CALLS[machine]
    program = _program(architecture, calls)
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *each) for each in program))
    header = ctypes.create_string_buffer(struct.pack("@HP", len(program), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    _prctl(libc, _PR_SET_NO_NEW_PRIVS, 1)
    _prctl(libc, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(header))


def _program(architecture: int, calls: tuple[int, ...]) -> list[tuple[int, int, int, int]]:
    """Make the instructions of classic BPF: operation, jumps if true and if false, operand."""
    tests = [(_JUMP_AT_LEAST, len(calls) + 1, 0, _X32)]
    tests += [(_JUMP_EQUAL, len(calls) - index, 0, call) for index, call in enumerate(calls)]
    return [
        (_LOAD_WORD, 0, 0, _ARCHITECTURE_AT),
        (_JUMP_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD_WORD, 0, 0, _NUMBER_AT),
        *tests,
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _REFUSE),
    ]


def _prctl(libc: ctypes.CDLL, option: int, *arguments: int) -> None:
    filled = [ctypes.c_ulong(each) for each in (*arguments, *[0] * (4 - len(arguments)))]
    if libc.prctl(option, *filled):
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): the kernel does not confine this process")
