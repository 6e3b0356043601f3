"""Path MTUs of the peers that we send to.

Nothing tells an unconnected socket that a path became narrower; the kernel knows, so once a second
it is asked for each peer whose send counter moved (ARCHITECTURE.md, "Path MTU"). What is too big
for a narrow path is dropped before it is sent and moves only a counter of all peers together: then
all narrow paths are asked for, so that one that has become wide again is not missed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from ipaddress import IPv4Address, IPv4Network

from tunneld.backend import udp_socket
from tunneld.dataplane import DataplaneCounters, PeerCounters
from tunneld.lease import Lease
from tunneld.observe.log import fields

log = logging.getLogger(__name__)

PERIOD_S = 1.0
"""How often active peers are asked for, seconds."""

SMALLEST = 576
"""RFC 791: every host takes that much; a smaller figure is a broken or forged ICMP."""

_YIELD_EVERY = 200


class PathMtus:
    """What is known of each path that is narrower than our own link.

    Args:
        port: the tunnel's UDP port.
        counters: returns the counters of the whole path.
        peer_counters: returns the counters of the current peers.
        publish: called after a change.
        ask: how the kernel is asked; tests give their own.

    Attributes:
        limit: bytes of our own largest outer packet; a path that takes as much needs no entry.
    """

    def __init__(
        self,
        port: int,
        counters: Callable[[], DataplaneCounters],
        peer_counters: Callable[[], Mapping[IPv4Network, PeerCounters]],
        publish: Callable[[], None],
        ask: Callable[[IPv4Address, int], int | None] = udp_socket.path_mtu,
    ) -> None:
        self.limit = 65535
        self._port = port
        self._counters = counters
        self._peer_counters = peer_counters
        self._publish = publish
        self._ask = ask
        self._known: dict[IPv4Address, int] = {}
        self._public_ips: dict[IPv4Network, IPv4Address] = {}
        self._sent: dict[IPv4Network, int] = {}
        self._sent_in_all = 0
        self._too_big_in_all = 0

    def of(self, public_ip: IPv4Address) -> int:
        """Return the path MTU to a peer in bytes; 0: as wide as our own link."""
        return self._known.get(public_ip, 0)

    def keep_only(self, peers: Iterable[Lease]) -> None:
        """Forget the peers that left."""
        self._public_ips = {peer.subnet: peer.public_ip for peer in peers}
        # To hash thousands of addresses takes tens of milliseconds, so only where there is a need;
        # a peer that comes back with an old figure is asked for once too often, no more.
        if self._known:
            stay = set(self._public_ips.values())
            self._known = {ip: mtu for ip, mtu in self._known.items() if ip in stay}

    def forget(self) -> None:
        """Forget all figures: our own link changed."""
        self._known.clear()

    async def ask_active(self) -> None:
        """Ask for each peer that we had packets for since the last time; publish what changed."""
        outbound = self._counters().outbound
        sent, too_big = outbound.get("packets_written", 0), outbound.get("drop_too_big", 0)
        active: set[IPv4Address] = set()
        if too_big != self._too_big_in_all:
            self._too_big_in_all = too_big
            active.update(self._known)
        # An idle tunnel with thousands of peers must cost nothing.
        if sent != self._sent_in_all:
            self._sent_in_all = sent
            # With thousands of peers it takes longer than the event loop may stall.
            found = self._peer_counters()
            self._sent, moved = await asyncio.to_thread(_moved, found, self._sent)
            active.update(self._public_ips[net] for net in moved if net in self._public_ips)
        changed = False
        for index, public_ip in enumerate(active, start=1):
            changed |= self._learn(public_ip)
            if index % _YIELD_EVERY == 0:
                await asyncio.sleep(0)
        if changed:
            self._publish()

    def _learn(self, public_ip: IPv4Address) -> bool:
        mtu = self._ask(public_ip, self._port)
        if mtu is None or mtu < SMALLEST:
            return False
        known = 0 if mtu >= self.limit else mtu
        if known == self.of(public_ip):
            return False
        if known:
            self._known[public_ip] = known
            log.info("the path to a peer is narrow", extra=fields(peer=public_ip, bytes=known))
        else:
            self._known.pop(public_ip, None)
            log.info("the path to a peer is as wide as our link", extra=fields(peer=public_ip))
        return True


def _moved(
    found: Mapping[IPv4Network, PeerCounters], before: Mapping[IPv4Network, int]
) -> tuple[dict[IPv4Network, int], list[IPv4Network]]:
    """Return what was sent to each peer, and the peers for which that differs from before."""
    now = {subnet: counters.tx_packets for subnet, counters in found.items()}
    return now, [subnet for subnet, sent in now.items() if sent != before.get(subnet, 0)]
