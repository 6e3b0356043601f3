"""End flows that connection tracking remembers from before our rules, by netlink.

A container's flow to a peer's port that was masqueraded before the guard was there has taken the
tunnel's port: what that peer sends us is translated back to the container, and each such packet
prolongs the flow, so that it would never end by itself. The guard keeps new ones from coming up,
because a flow is entered only when its first packet has passed every rule.

The kernel's side is linux/netfilter/nfnetlink_conntrack.h; the filter of a dump is Linux 5.8, older
kernels send everything, and what arrives is looked at here in any case.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address

from tunneld.link.nft_socket import NETLINK_NETFILTER, attribute, attributes

_GET, _DELETE = 1 << 8 | 1, 1 << 8 | 2
_REQUEST, _ACK, _DUMP = 1, 4, 0x300
_ERROR, _DONE = 2, 3
_NESTED = 0x8000
_ORIG, _STATUS, _ID, _ZONE, _FILTER = 1, 3, 12, 18, 25
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_IP_SOURCE, _IP_DESTINATION = 1, 2
_PROTO_NUMBER, _PROTO_DESTINATION_PORT = 1, 3
_FILTER_ORIG = 1
_BY_PROTOCOL_AND_PORT = 1 << 3 | 1 << 5  # CTA_FILTER_FLAG of CTA_PROTO_NUM, CTA_PROTO_DST_PORT
_SRC_NAT = 1 << 4  # IPS_SRC_NAT
_WAIT_S = 10.0


def end_masqueraded(
    port: int, destinations: frozenset[IPv4Address] | None, own: IPv4Address
) -> int:
    """End every UDP flow whose source was translated and that goes to a port at certain addresses.

    Blocking.

    Args:
        port: of the destination.
        destinations: None: any.
        own: source of the tunnel's flows, which are left alone.

    Returns:
        How many were ended.

    Raises:
        OSError: no right to, or a kernel without connection tracking or its netlink part.
    """
    with contextlib.closing(
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
    ) as sock:
        sock.settimeout(_WAIT_S)
        # First all, then away with them: a dump is not to change under its reader.
        ours = [flow for flow in _dump(sock, port) if _is_meant(flow, port, destinations, own)]
        return sum(_delete(sock, flow) for flow in ours)


def _dump(sock: socket.socket, port: int) -> Iterator[dict[int, bytes]]:
    protocol = attribute(_PROTO_NUMBER, bytes([socket.IPPROTO_UDP]))
    protocol += attribute(_PROTO_DESTINATION_PORT, port.to_bytes(2, "big"))
    wanted = attribute(_ORIG | _NESTED, attribute(_TUPLE_PROTO | _NESTED, protocol))
    by = attribute(_FILTER_ORIG, struct.pack("=I", _BY_PROTOCOL_AND_PORT))
    _send(sock, _GET, _DUMP, wanted + attribute(_FILTER | _NESTED, by))
    for kind, body in _answers(sock):
        if kind == _DONE:
            return
        yield attributes(body[4:])


def _is_meant(
    flow: dict[int, bytes],
    port: int,
    destinations: frozenset[IPv4Address] | None,
    own: IPv4Address,
) -> bool:
    tuple_ = attributes(flow[_ORIG])
    protocol, addresses = attributes(tuple_[_TUPLE_PROTO]), attributes(tuple_[_TUPLE_IP])
    if protocol[_PROTO_NUMBER][0] != socket.IPPROTO_UDP:
        return False
    if protocol[_PROTO_DESTINATION_PORT] != port.to_bytes(2, "big"):
        return False
    if not int.from_bytes(flow[_STATUS], "big") & _SRC_NAT:
        return False
    if IPv4Address(addresses[_IP_SOURCE]) == own:
        return False
    return destinations is None or IPv4Address(addresses[_IP_DESTINATION]) in destinations


def _delete(sock: socket.socket, flow: dict[int, bytes]) -> bool:
    body = attribute(_ORIG | _NESTED, flow[_ORIG])
    # The id, lest a new flow of the same addresses is meant; the zone is part of its name.
    body += b"".join(attribute(name, flow[name]) for name in (_ID, _ZONE) if name in flow)
    _send(sock, _DELETE, _ACK, body)
    try:
        next(_answers(sock))
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
        return False
    return True


def _send(sock: socket.socket, kind: int, flags: int, body: bytes) -> None:
    body = struct.pack("=BBH", socket.AF_INET, 0, 0) + body
    sock.sendto(struct.pack("=IHHII", 16 + len(body), kind, _REQUEST | flags, 0, 0) + body, (0, 0))


def _answers(sock: socket.socket) -> Iterator[tuple[int, bytes]]:
    while True:
        data, offset = sock.recv(1 << 17), 0
        while offset < len(data):
            length, kind = struct.unpack_from("=IH", data, offset)
            body = data[offset + 16 : offset + length]
            if kind == _ERROR and (number := -struct.unpack_from("=i", body)[0]):
                raise OSError(number, os.strerror(number))
            yield kind, body
            offset += (length + 3) & ~3
