"""Two questions to nf_tables by netlink, cheap enough to be asked again and again.

`nft` is a process of several milliseconds. Whether it is worth starting tells the generation of
the ruleset, a number that every transaction of anybody raises (linux/netfilter/nf_tables.h,
NFT_MSG_GETGEN). Rules of iptables-nft are nf_tables too, those of iptables-legacy are not.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct

from tunneld.link.nft import Tally

NETLINK_NETFILTER = 12
_SUBSYSTEM = 10 << 8
_GETGEN, _GETOBJ = 16, 19
_NLMSG_ERROR, _NLM_F_REQUEST, _NLA_TYPE = 2, 1, 0x3FFF
_GEN_ID, _OBJ_TABLE, _OBJ_NAME, _OBJ_TYPE, _OBJ_DATA = 1, 1, 2, 3, 4
_COUNTER, _COUNTER_BYTES, _COUNTER_PACKETS = 1, 1, 2
_IPV4 = 2


def generation() -> int:
    """Return the generation of the ruleset of this network namespace.

    Raises:
        OSError: no right to ask, or a kernel without nf_tables.
    """
    return int.from_bytes(_ask(_GETGEN)[_GEN_ID], "big")


def counter(table: str, name: str) -> Tally:
    """Return a named counter of an `ip` table.

    Raises:
        OSError: there is none, no right to ask, or a kernel without nf_tables.
    """
    found = _ask(
        _GETOBJ,
        (_OBJ_TABLE, table.encode() + b"\0"),
        (_OBJ_NAME, name.encode() + b"\0"),
        (_OBJ_TYPE, _COUNTER.to_bytes(4, "big")),
    )
    values = attributes(found[_OBJ_DATA])
    return Tally(
        packets=int.from_bytes(values[_COUNTER_PACKETS], "big"),
        bytes=int.from_bytes(values[_COUNTER_BYTES], "big"),
    )


def _ask(kind: int, *given: tuple[int, bytes]) -> dict[int, bytes]:
    body = struct.pack("=BBH", _IPV4, 0, 0)
    for number, value in given:
        body += attribute(number, value)
    header = struct.pack("=IHHII", 16 + len(body), _SUBSYSTEM | kind, _NLM_F_REQUEST, 0, 0)
    with contextlib.closing(
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
    ) as sock:
        # The kernel answers both within the call that asks.
        sock.setblocking(False)
        sock.sendto(header + body, (0, 0))
        answer = sock.recv(65536)
    if struct.unpack_from("=H", answer, 4)[0] == _NLMSG_ERROR:
        number = -struct.unpack_from("=i", answer, 16)[0]
        raise OSError(number, os.strerror(number))
    return attributes(answer[20:])


def attribute(number: int, value: bytes) -> bytes:
    """Put a netlink attribute together."""
    return struct.pack("=HH", 4 + len(value), number) + value + bytes(-len(value) % 4)


def attributes(data: bytes) -> dict[int, bytes]:
    """Take netlink attributes apart: number -> value, of several with one number the last."""
    found, offset = {}, 0
    while offset + 4 <= len(data):
        length, number = struct.unpack_from("=HH", data, offset)
        found[number & _NLA_TYPE] = data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found
