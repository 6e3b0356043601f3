"""Run a test in a network namespace of its own that has no name, so nothing is left behind.

The body runs in a thread: a namespace belongs to a thread, and dies with it and its descriptors.
"""

from __future__ import annotations

import asyncio
import ctypes
import functools
import inspect
import os
import socket
import struct
import subprocess
import threading
from collections.abc import Callable
from ipaddress import IPv4Address
from typing import Any

from tunneld.loop import new_event_loop

CLONE_NEWNET = 0x40000000


def apart(test: Callable[..., Any]) -> Callable[..., None]:
    """Decorate a test (plain or async; on our event loop) to run in a fresh namespace."""

    @functools.wraps(test)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        failures: list[BaseException] = []

        def body() -> None:
            try:
                libc = ctypes.CDLL(None, use_errno=True)
                if libc.unshare(CLONE_NEWNET) != 0:
                    number = ctypes.get_errno()
                    raise OSError(number, os.strerror(number))  # noqa: TRY301 - all end up below
                ip("link set lo up")
                if inspect.iscoroutinefunction(test):
                    with asyncio.Runner(loop_factory=new_event_loop) as runner:
                        runner.run(test(*args, **kwargs))
                else:
                    test(*args, **kwargs)
            except BaseException as error:  # noqa: BLE001 - carried over to the thread of pytest
                failures.append(error)

        thread = threading.Thread(target=body, name=test.__name__)
        thread.start()
        thread.join()
        if failures:
            raise failures[0]

    return wrapper


def ip(command: str) -> str:
    """Run iproute2 in the namespace of the calling thread and return what it prints."""
    done = subprocess.run(
        ["ip", *command.split()], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, f"ip {command}: {done.stderr}"
    return done.stdout


def descriptors() -> int:
    """How many file descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - one less while it is counted


def checksum(data: bytes) -> int:
    """RFC 1071."""
    words = struct.unpack(f"!{len(data) // 2}H", data)
    total: int = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ipv4(source: str, destination: str, protocol: int, payload: bytes) -> bytes:
    """An IPv4 packet with TTL 64 and a right checksum."""
    header = struct.pack(
        "!BBHHHBBH4s4s",
        0x45,
        0,
        20 + len(payload),
        0,
        0,
        64,
        protocol,
        0,
        IPv4Address(source).packed,
        IPv4Address(destination).packed,
    )
    return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + payload


def icmp_unreachable(source: str, about: bytes, code: int, next_hop_mtu: int = 0) -> bytes:
    """A Destination Unreachable to the sender of `about`, quoting its header and 8 bytes."""
    quote = about[:28]
    body = struct.pack("!BBHHH", 3, code, 0, 0, next_hop_mtu) + quote
    body = body[:2] + struct.pack("!H", checksum(body)) + body[4:]
    return ipv4(source, str(IPv4Address(about[12:16])), socket.IPPROTO_ICMP, body)


def udp(source: str, destination: str, port: int, payload: bytes) -> bytes:
    """A UDP packet from and to `port`, without a UDP checksum."""
    datagram = struct.pack("!HHHH", port, port, 8 + len(payload), 0) + payload
    return ipv4(source, destination, socket.IPPROTO_UDP, datagram)
