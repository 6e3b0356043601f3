"""Which queue of a multi-queue TUN a packet comes out of: an eBPF program of ours decides.

Left alone the kernel moves a flow to the queue on which the other direction was written last
(tun_flow_update() in drivers/net/tun.c) and forgets it after three seconds: each move may reorder
the flow. With a steering program (TUNSETSTEERINGEBPF, Linux 4.16) it keeps no such table. Ours
hashes what never changes within a flow, so a flow has one queue, always:

* addresses and protocol of every packet;
* the ports too where it is TCP with DF and no fragment. A segment without DF may be cut on its way
  here, fragments have no ports, and whole and cut segments of one connection must not part.
  TCP that looks for the path MTU (RFC 1191; everybody's default) sets DF on all its segments.
* not of UDP: Linux clears DF of the datagrams that it cuts and sets it on the others, so one flow
  has both kinds. Network cards hash UDP by addresses for the same reason (ethtool -N, "sd").
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import struct
import sys

from tunneld.errors import StartError

# linux/if_tun.h
_TUNSETSTEERINGEBPF = 0x800454E0

# linux/bpf.h
_BPF_PROG_LOAD = 5
_BPF_PROG_TYPE_SOCKET_FILTER = 1
_SYSCALLS = {
    **dict.fromkeys(("aarch64", "riscv64", "loongarch64"), 280),
    "x86_64": 321,
    "ppc64le": 361,
    "s390x": 351,
}
"""Number of bpf(2), which has no function in the C library."""

_NAME = b"tunneld_flow"
_LICENSE = b"Apache-2.0"

# Registers: a packet load (LD_ABS, LD_IND) wants the packet in R6, answers in R0 and spoils R1-R5.
_R0, _R1, _CONTEXT, _HEADER_BYTES, _HASH, _PROTOCOL = 0, 1, 6, 7, 8, 9

# Operation codes (Documentation/bpf/standardization/instruction-set.rst).
_LOAD_BYTE, _LOAD_HALF, _LOAD_WORD, _LOAD_WORD_AT = 0x30, 0x28, 0x20, 0x40
_MOVE64, _MOVE, _XOR = 0xBF, 0xBC, 0xAC
_AND_K, _MUL_K, _SHIFT_LEFT_K, _SHIFT_RIGHT_K = 0x54, 0x24, 0x64, 0x74
_JUMP_UNLESS, _EXIT = 0x55, 0x95

# IPv4 header (RFC 791), offsets in bytes.
_VERSION_AT, _FLAGS_AT, _PROTOCOL_AT, _SOURCE_AT, _DESTINATION_AT = 0, 6, 9, 12, 16
_ALL_BUT_RESERVED, _DF = 0x7FFF, 0x4000
_TCP = 6

# Odd constants that spread neighbours (Knuth's golden ratio; the finalizer of MurmurHash3).
GOLDEN, FINAL = 0x9E3779B1, 0x85EBCA6B


def _op(code: int, target: int = 0, source: int = 0, jump: int = 0, constant: int = 0) -> bytes:
    registers = source << 4 | target if sys.byteorder == "little" else target << 4 | source
    return struct.pack("=BBhI", code, registers, jump, constant)


def _mix() -> list[bytes]:
    """HASH = (HASH ^ R0) * GOLDEN, upper bits folded onto the lower ones."""
    return [
        _op(_XOR, _HASH, _R0),
        _op(_MUL_K, _HASH, constant=GOLDEN),
        _op(_MOVE, _R1, _HASH),
        _op(_SHIFT_RIGHT_K, _R1, constant=15),
        _op(_XOR, _HASH, _R1),
    ]


def program() -> bytes:
    """Return the program as instructions of eight bytes in this machine's byte order.

    It answers with 16 bits, of which the kernel takes the remainder by the number of queues. A
    packet that ends before what is read goes to queue 0; the packet path drops it.
    """
    ports = [
        _op(_LOAD_HALF, constant=_FLAGS_AT),
        _op(_AND_K, _R0, constant=_ALL_BUT_RESERVED),
        _op(_JUMP_UNLESS, _R0, jump=6, constant=_DF),
        _op(_LOAD_WORD_AT, source=_HEADER_BYTES),
        *_mix(),
    ]
    return b"".join(
        [
            _op(_MOVE64, _CONTEXT, _R1),
            _op(_LOAD_BYTE, constant=_VERSION_AT),
            _op(_MOVE, _HEADER_BYTES, _R0),
            _op(_AND_K, _HEADER_BYTES, constant=0x0F),
            _op(_SHIFT_LEFT_K, _HEADER_BYTES, constant=2),
            _op(_LOAD_BYTE, constant=_PROTOCOL_AT),
            _op(_MOVE, _PROTOCOL, _R0),
            _op(_MOVE, _HASH, _R0),
            _op(_LOAD_WORD, constant=_SOURCE_AT),
            *_mix(),
            _op(_LOAD_WORD, constant=_DESTINATION_AT),
            *_mix(),
            _op(_JUMP_UNLESS, _PROTOCOL, jump=len(ports), constant=_TCP),
            *ports,
            _op(_MUL_K, _HASH, constant=FINAL),
            _op(_MOVE, _R0, _HASH),
            _op(_SHIFT_RIGHT_K, _R0, constant=16),
            _op(_EXIT),
        ]
    )


def load() -> int:
    """Load the program and return its descriptor, which the caller closes; see bpf(2).

    Raises:
        StartError: we may not, or the kernel does not know it.
    """
    number = _SYSCALLS.get(platform.machine())
    if number is None:
        raise StartError(
            f"no steering program for several queues on a {platform.machine()}",
            remedy="use --queues=1",
        )
    code = program()
    instructions = ctypes.create_string_buffer(code, len(code))
    license_text = ctypes.create_string_buffer(_LICENSE)
    attributes = struct.pack(
        "=IIQQIIQII16s",
        _BPF_PROG_TYPE_SOCKET_FILTER,
        len(code) // 8,
        ctypes.addressof(instructions),
        ctypes.addressof(license_text),
        0,  # log level, size and buffer
        0,
        0,
        0,  # kernel version
        0,  # flags
        _NAME,
    )
    libc = ctypes.CDLL(None, use_errno=True)
    fd: int = libc.syscall(number, _BPF_PROG_LOAD, attributes, len(attributes))
    if fd < 0:
        raise _explain(ctypes.get_errno())
    return fd


def _explain(number: int) -> StartError:
    if number in {errno.EPERM, errno.EACCES}:
        return StartError(
            "cannot load the steering program that keeps each flow on one queue:"
            f" {os.strerror(number)}",
            remedy="run as root or with CAP_BPF (AmbientCapabilities=, --cap-add BPF;"
            " a user namespace's own is not enough), or use --queues=1",
        )
    return StartError(
        "this kernel does not take the steering program that keeps each flow on one queue:"
        f" {os.strerror(number)}",
        remedy="use --queues=1",
    )


def attach(tun_fd: int) -> None:
    """Let the program choose the queues of a TUN from now on; the device keeps it.

    Args:
        tun_fd: any queue of the device.

    Raises:
        StartError: the program cannot be loaded, or this kernel does not steer (before 4.16).
    """
    program_fd = load()
    try:
        fcntl.ioctl(tun_fd, _TUNSETSTEERINGEBPF, struct.pack("=i", program_fd))
    except OSError as error:
        raise _explain(error.errno or errno.EINVAL) from error
    finally:
        os.close(program_fd)
