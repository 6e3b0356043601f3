"""Ping in plain Python: needs no tool, tells what came back, and never waits for a fixed time."""

from __future__ import annotations

import itertools
import os
import select
import socket
import struct
import time
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tunneld.lab.netns import Node

ECHO_REQUEST = 8
ECHO_REPLY = 0
_identifiers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for one echo request.

    Attributes:
        source: who answered.
        type: ICMP type: 0 echo reply, 3 unreachable, 11 time exceeded.
        code: ICMP code.
        mtu: next-hop MTU of a fragmentation-needed error, else 0.
        ttl: TTL with which the answer arrived.
        rtt: seconds.
    """

    source: IPv4Address
    type: int
    code: int
    mtu: int
    ttl: int
    rtt: float


def checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ping(
    node: Node,
    destination: IPv4Address | str,
    *,
    ttl: int = 64,
    size: int = 56,
    dont_fragment: bool = False,
    timeout: float = 5.0,
) -> Answer | None:
    """Send one echo request from a node and return the answer to it, or None.

    Args:
        node: the sender.
        destination: whom to ask.
        ttl: of the request.
        size: ICMP payload, bytes.
        dont_fragment: sets DF and ignores a path MTU that the kernel knows (IP_PMTUDISC_PROBE).
        timeout: seconds.
    """
    identifier = (os.getpid() ^ next(_identifiers) << 4) & 0xFFFF
    head = struct.pack("!BBHHH", ECHO_REQUEST, 0, 0, identifier, 1)
    body = bytes(i & 0xFF for i in range(size))
    packet = head[:2] + struct.pack("!H", checksum(head + body)) + head[4:] + body
    with node.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sock:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
        mode = 3 if dont_fragment else 0  # IP_PMTUDISC_PROBE, IP_PMTUDISC_DONT
        sock.setsockopt(socket.IPPROTO_IP, 10, mode)  # IP_MTU_DISCOVER
        sent = time.monotonic()
        try:
            sock.sendto(packet, (str(destination), 0))
        except OSError:
            # An earlier ICMP error can be reported by this send; the answer below is what counts.
            return None
        deadline = sent + timeout
        while (left := deadline - time.monotonic()) > 0:
            if not select.select([sock], [], [], left)[0]:
                break
            answer = parse_answer(sock.recv(65535), identifier, time.monotonic() - sent)
            if answer is not None:
                return answer
    return None


def parse_answer(packet: bytes, identifier: int, rtt: float) -> Answer | None:
    """Return the answer in an IPv4 packet if it belongs to our request."""
    start = (packet[0] & 15) * 4
    icmp = packet[start:]
    if len(icmp) < 8:
        return None
    kind, code = icmp[0], icmp[1]
    quoted = icmp
    if kind not in (ECHO_REPLY, ECHO_REQUEST):
        if len(icmp) < 36:
            return None
        quoted = icmp[8 + (icmp[8] & 15) * 4 :]
    if kind == ECHO_REQUEST or quoted[4:6] != identifier.to_bytes(2, "big"):
        return None
    mtu = int.from_bytes(icmp[6:8], "big") if (kind, code) == (3, 4) else 0
    return Answer(IPv4Address(packet[12:16]), kind, code, mtu, packet[8], rtt)


def wait_for_ping(node: Node, destination: IPv4Address | str, *, timeout: float = 30.0) -> Answer:
    """Ping until an echo reply comes.

    Raises:
        TimeoutError: none came within `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        answer = ping(node, destination, timeout=0.5)
        if answer is not None and answer.type == ECHO_REPLY:
            return answer
    raise TimeoutError(f"no echo reply from {destination} within {timeout:g} s")
