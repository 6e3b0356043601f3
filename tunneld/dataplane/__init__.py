"""The Dataplane protocol: what Python hands to the packet path, and what it reads back.

Only two things cross: a whole `RouteSnapshot` goes in (no deltas: nothing to lose), counters come
out. `engine.py` runs the C core, `reference.py` is the same path in plain Python.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from ipaddress import IPv4Address, IPv4Network
from typing import Protocol


class SourceCheck(IntEnum):
    """How much the inbound path trusts a datagram's outer and inner source."""

    OFF = 0
    PEER = 1
    STRICT = 2


@dataclass(frozen=True, slots=True)
class Route:
    """One peer's subnet.

    Attributes:
        subnet: the peer's lease.
        public_ip: where its datagrams go and come from.
        path_mtu: bytes of the largest outer IP packet that reaches the peer; 0: not known, use the
            underlay's.
    """

    subnet: IPv4Network
    public_ip: IPv4Address
    path_mtu: int = 0


@dataclass(frozen=True, slots=True)
class RouteSnapshot:
    """Everything that the packet path decides by, swapped as one between two batches.

    Attributes:
        network: the overlay network.
        subnet: the own lease.
        tun_address: source of the ICMP errors we make: the base address of the lease.
        mtu: MTU of the TUN, bytes of an inner packet (underlay MTU - 28).
        port: the network's UDP port; peers send from it and to it.
        routes: the peers; overlaps of different lengths are legal, the longest wins.
        own_addresses: this host's own IPv4 addresses, never legal as an inner source.
        allow_sources: further outer source prefixes (`--allow-source`).
        source_check: see `SourceCheck`.
    """

    network: IPv4Network
    subnet: IPv4Network
    tun_address: IPv4Address
    mtu: int
    port: int
    routes: tuple[Route, ...] = ()
    own_addresses: frozenset[IPv4Address] = frozenset()
    allow_sources: tuple[IPv4Network, ...] = ()
    source_check: SourceCheck = SourceCheck.PEER


@dataclass(slots=True)
class PeerCounters:
    """Inner packets and bytes exchanged with one peer."""

    tx_packets: int = 0
    tx_bytes: int = 0
    rx_packets: int = 0
    rx_bytes: int = 0


@dataclass(slots=True)
class DataplaneCounters:
    """Counter name -> value for each direction; the names have their home in csrc/counters.h."""

    outbound: dict[str, int] = field(default_factory=dict)
    inbound: dict[str, int] = field(default_factory=dict)


class Dataplane(Protocol):
    """A running packet path on borrowed file descriptors (it never closes them)."""

    @property
    def rung(self) -> str:
        """The rung of the ladder that really runs: python, syscall, mmsg, gso or offload."""
        ...

    @property
    def threads(self) -> int:
        """How many threads move packets now (0 for the asyncio reference)."""
        ...

    def start(self, on_exit: Callable[[OSError | None], None]) -> None:
        """Begin to forward; needs a running event loop.

        Args:
            on_exit: called once, in the event loop, when the path ends: with None after `stop`,
                with OSError(ENODEV) when the TUN was deleted, with another OSError otherwise.
        """
        ...

    def publish(self, snapshot: RouteSnapshot) -> None:
        """Swap the whole snapshot between two batches; counters of peers that stay go on."""
        ...

    def counters(self) -> DataplaneCounters:
        """Read all counters; cheap, never blocks the packet path."""
        ...

    def peer_counters(self) -> Mapping[IPv4Network, PeerCounters]:
        """Read the per-peer counters of the current snapshot, in the event loop.

        The mapping may be looked at in any thread; with thousands of peers better in another one.
        """
        ...

    def gauges(self) -> Mapping[str, int | bool | str]:
        """Return what `status` shows under backend.offload: effective features, downgrades."""
        ...

    async def stop(self) -> None:
        """End the path and wait until no thread touches the file descriptors; idempotent."""
        ...
