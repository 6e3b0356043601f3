"""What may pass the tunnel: two pure functions from a packet and a table to a `Verdict`.

The rules and their order are those of the design's admission section; each has its own drop
counter, and the first rule that a packet breaks is the one that is counted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING, NamedTuple

from tunneld.dataplane import PeerCounters, Route, RouteSnapshot, SourceCheck
from tunneld.dataplane.packet import (
    FLAG_DF,
    FRAGMENTATION_NEEDED,
    NET_UNREACHABLE,
    TIME_EXCEEDED,
    Header,
    decrement_ttl,
    icmp_error,
    is_martian_source,
    may_answer,
    parse,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

OUTER_HEADERS = 28
"""Bytes of an IPv4 and a UDP header; nothing else stands before the inner packet."""

SMALLEST_PATH_MTU = 576
"""RFC 791: every host takes that much; a smaller figure is a forged or broken ICMP message."""

TTL_NET_UNREACHABLE = 8
"""What flannel sends it with; our other errors go further."""

TTL_ICMP = 64

_COUNTER = {
    NET_UNREACHABLE: "icmp_sent_net_unreachable",
    TIME_EXCEEDED: "icmp_sent_time_exceeded",
    FRAGMENTATION_NEEDED: "icmp_sent_fragmentation_needed",
}
_ANSWER = {
    "drop_no_route": NET_UNREACHABLE,
    "drop_ttl_expired": TIME_EXCEEDED,
    "drop_too_big": FRAGMENTATION_NEEDED,
}


class Prefix(NamedTuple):
    """An address range as integers: a mask and a comparison tell whether it covers an address."""

    address: int
    mask: int

    @classmethod
    def of(cls, network: IPv4Network) -> Prefix:
        """Return the range of `network`."""
        return cls(int(network.network_address), int(network.netmask))

    def covers(self, address: int) -> bool:
        """Whether `address` lies in the range."""
        return address & self.mask == self.address


@dataclass(slots=True, eq=False)
class Peer:
    """One route of the table, with what each packet to it needs and what was counted for it.

    Attributes:
        route: as published.
        public_ip: the peer's public IP as an integer.
        endpoint: where its datagrams go, as `socket.sendto` takes it.
        mtu: bytes of the largest inner packet that reaches it in one piece.
        counters: carried on from table to table while subnet and public IP stay.
    """

    route: Route
    public_ip: int
    endpoint: tuple[str, int]
    mtu: int
    counters: PeerCounters = field(default_factory=PeerCounters)


class Table:
    """A `RouteSnapshot`, prepared for lookups whose cost does not grow with the number of peers.

    Args:
        snapshot: what to decide by; a second route for a subnet is ignored.
    """

    def __init__(self, snapshot: RouteSnapshot) -> None:
        self.snapshot = snapshot
        self.network = Prefix.of(snapshot.network)
        self.subnet = Prefix.of(snapshot.subnet)
        self.tun_address = int(snapshot.tun_address)
        self.own_addresses = frozenset(int(address) for address in snapshot.own_addresses)
        self.peers: dict[IPv4Network, Peer] = {}
        self._allowed = tuple(Prefix.of(prefix) for prefix in snapshot.allow_sources)
        self._by_public_ip: dict[int, Peer] = {}
        levels: dict[int, dict[int, Peer]] = {}
        for route in snapshot.routes:
            peer = Peer(
                route,
                int(route.public_ip),
                (str(route.public_ip), snapshot.port),
                inner_mtu(route.path_mtu, snapshot.mtu),
            )
            prefix = Prefix.of(route.subnet)
            levels.setdefault(prefix.mask, {}).setdefault(prefix.address, peer)
            self.peers.setdefault(route.subnet, peer)
            self._by_public_ip.setdefault(peer.public_ip, peer)
        # One dictionary per prefix length in use, longest first: one or two in a real network.
        self._levels = sorted(levels.items(), reverse=True)

    def covering(self, address: int) -> Iterator[Peer]:
        """Yield the peers whose subnet covers `address`, the longest prefix first."""
        for mask, by_prefix in self._levels:
            peer = by_prefix.get(address & mask)
            if peer is not None:
                yield peer

    def lookup(self, address: int) -> Peer | None:
        """Return the peer whose subnet covers `address` with the longest prefix."""
        return next(self.covering(address), None)

    def peer_at(self, public_ip: int) -> Peer | None:
        """Return the first peer with this public IP."""
        return self._by_public_ip.get(public_ip)

    def allows_source(self, public_ip: int) -> bool:
        """Whether `--allow-source` names this outer source."""
        return any(prefix.covers(public_ip) for prefix in self._allowed)


class Answer(NamedTuple):
    """What the sender of a dropped packet is told.

    Attributes:
        counter: to count when it was sent; "icmp_suppressed" where the rules forbid an answer.
        packet: the ICMP error; empty where the rules forbid one.
    """

    counter: str
    packet: bytes


class Verdict(NamedTuple):
    """What to do with one packet.

    Attributes:
        length: bytes of the inner packet, for the counters.
        drop: the counter of the rule that the packet broke; empty: it is forwarded.
        packet: what is forwarded: without padding, its TTL one smaller.
        peer: where it goes to or came from; None for a source outside the network that only
            `--allow-source` or `--source-check=off` lets in.
        answer: what the sender is told about a drop, before the rate limit.
    """

    length: int
    drop: str = ""
    packet: bytes = b""
    peer: Peer | None = None
    answer: Answer | None = None


def inner_mtu(path_mtu: int, mtu: int) -> int:
    """Return bytes of the largest inner packet that reaches a peer in one piece.

    Args:
        path_mtu: largest outer packet on the way to it; 0, or too small to be believed: not known.
        mtu: of the TUN.
    """
    return min(mtu, path_mtu - OUTER_HEADERS) if path_mtu >= SMALLEST_PATH_MTU else mtu


def decide_outbound(packet: bytes, table: Table) -> Verdict:
    """Decide about a packet that the kernel routed to the TUN: is there a peer to send it to?"""
    header = parse(packet)
    if isinstance(header, str):
        return Verdict(len(packet), header)
    reason, peer = _admit_outbound(header, table)
    if reason:
        return _dropped(reason, packet, header, table, mtu=peer.mtu if peer else 0)
    length = header.total_length
    return Verdict(length, "", decrement_ttl(packet[:length]), peer)


def decide_inbound(datagram: bytes, source: tuple[str, int], table: Table) -> Verdict:
    """Decide about a datagram that reached the socket: does it come from a peer, and is it for us?

    Args:
        datagram: the payload.
        source: outer source address and port, as `socket.recvfrom` returns them.
        table: what to decide by.
    """
    header = parse(datagram)
    if isinstance(header, str):
        return Verdict(len(datagram), header)
    reason, peer = _admit_inbound(header, int(IPv4Address(source[0])), source[1], table)
    if reason:
        return _dropped(reason, datagram, header, table)
    length = header.total_length
    return Verdict(length, "", decrement_ttl(datagram[:length]), peer)


def _admit_outbound(header: Header, table: Table) -> tuple[str, Peer | None]:
    """Return the counter of the rule that a packet breaks, or "", and the peer it is for.

    The order is flannel's and the kernel's: route, TTL, size.
    """
    # Nothing overrides the own subnet: here it would go round in a loop while docker0 is down.
    if table.subnet.covers(header.destination):
        return "drop_own_subnet", None
    peer = table.lookup(header.destination)
    if peer is None:
        return "drop_no_route", None
    if peer.public_ip in table.own_addresses:
        return "drop_own_peer", peer
    if header.ttl <= 1:
        return "drop_ttl_expired", peer
    if header.fragment & FLAG_DF and header.total_length > peer.mtu:
        return "drop_too_big", peer
    return "", peer


def _admit_inbound(
    header: Header, public_ip: int, port: int, table: Table
) -> tuple[str, Peer | None]:
    """Return the counter of the rule that a packet breaks, or "", and the peer it came from."""
    check = table.snapshot.source_check
    any_peer = check is SourceCheck.OFF or table.allows_source(public_ip)
    if not any_peer and table.peer_at(public_ip) is None:
        return "drop_outer_source", None
    # flannel always sends from the port; a masqueraded container of a peer's host does not.
    if check is not SourceCheck.OFF and port != table.snapshot.port:
        return "drop_outer_port", None
    # With accept_local=1 the kernel takes its own addresses as a source: the check is ours.
    if header.source in table.own_addresses:
        return "drop_own_source", None
    reason, peer = _admit_source(header.source, public_ip, table, any_peer=any_peer)
    # What is not for our own containers would be relayed, or go round in a loop.
    if not reason and not table.subnet.covers(header.destination):
        reason = "drop_foreign_destination"
    if not reason and header.ttl <= 1:
        reason = "drop_ttl_expired"
    return reason, peer


def _admit_source(
    source: int, public_ip: int, table: Table, *, any_peer: bool
) -> tuple[str, Peer | None]:
    """Return the counter of the rule that an inner source breaks, or "", and its peer."""
    if table.subnet.covers(source):
        return "drop_spoofed_source", None
    if table.network.covers(source):
        # One public IP may hold several leases, and leases may overlap: any of them will do.
        for peer in table.covering(source):
            if any_peer or peer.public_ip == public_ip:
                return "", peer
        return "drop_spoofed_source", None
    if is_martian_source(source):
        return "drop_martian_source", None
    if table.snapshot.source_check is SourceCheck.STRICT:
        return "drop_outside_source", None
    return "", table.peer_at(public_ip)


def _dropped(reason: str, packet: bytes, header: Header, table: Table, *, mtu: int = 0) -> Verdict:
    """Return the verdict about a packet that ends here, with the ICMP error where one is due."""
    kind = _ANSWER.get(reason)
    if kind is None:
        return Verdict(header.total_length, reason)
    if not may_answer(packet, header):
        return Verdict(header.total_length, reason, answer=Answer("icmp_suppressed", b""))
    error = icmp_error(
        kind,
        packet,
        header,
        source=table.tun_address,
        ttl=TTL_NET_UNREACHABLE if kind == NET_UNREACHABLE else TTL_ICMP,
        mtu=mtu if kind == FRAGMENTATION_NEEDED else 0,
    )
    return Verdict(header.total_length, reason, answer=Answer(_COUNTER[kind], error))
