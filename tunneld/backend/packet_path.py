"""One set of dataplanes after the other, seen as one: the counters of ended ones are kept.

A dataplane lives as long as its descriptors. When the TUN is deleted or the socket is renewed new
ones take over, and nobody who reads counters notices. With several queues there is one dataplane
for each queue of the TUN, with a socket of its own; all follow the same routes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from ipaddress import IPv4Network

from tunneld.dataplane import Dataplane, DataplaneCounters, PeerCounters, RouteSnapshot
from tunneld.dataplane.ladder import Rung, open_dataplane
from tunneld.dataplane.later import Later

Gauges = Mapping[str, int | bool | str]


class PacketPath:
    """Owns the dataplanes of the udp backend; borrows their descriptors.

    Args:
        wanted: the rung to run from the next start on.
        on_lost: called in the event loop when a dataplane ended by itself, once for all of them.
        factory: how a dataplane is made; tests give their own.
    """

    def __init__(
        self,
        wanted: Rung,
        on_lost: Callable[[OSError | None], None],
        factory: Callable[..., Dataplane] = open_dataplane,
    ) -> None:
        self.wanted = wanted
        self._on_lost = on_lost
        self._factory = factory
        self._current: list[Dataplane] = []
        self._alive = False
        self._ended = DataplaneCounters()
        self._ended_peers: dict[IPv4Network, PeerCounters] = {}

    @property
    def running(self) -> bool:
        """Whether packets move now."""
        return self._alive

    @property
    def rung(self) -> str:
        """The rung that runs, or will run."""
        return self._current[0].rung if self._current else self.wanted.name

    @property
    def threads(self) -> int:
        """How many threads move packets now."""
        return sum(plane.threads for plane in self._current) if self._alive else 0

    def start(
        self, tun_fds: Sequence[int], udp_fds: Sequence[int], snapshot: RouteSnapshot
    ) -> None:
        """Begin to forward on these descriptors, one of each kind per queue.

        Those before must be stopped.

        Raises:
            OSError: the dataplane refused.
        """
        current = [
            self._factory(self.wanted, tun_fd=tun_fd, udp_fd=udp_fd, snapshot=snapshot)
            for tun_fd, udp_fd in zip(tun_fds, udp_fds, strict=True)
        ]

        def on_exit(error: OSError | None) -> None:
            if self._current is current and self._alive:
                self._alive = False
                self._on_lost(error)

        for plane in current:
            plane.start(on_exit)
        self._current = current
        self._alive = True

    async def stop(self) -> None:
        """End the dataplanes and keep what they counted; afterwards the descriptors are free."""
        self._alive = False
        if not self._current:
            return
        await asyncio.gather(*(plane.stop() for plane in self._current))
        self._ended = self.counters()
        self._ended_peers = dict(self.peer_counters())
        self._current = []

    def publish(self, snapshot: RouteSnapshot) -> None:
        """Swap the routes; counters of peers that left are forgotten."""
        if self._alive:
            for plane in self._current:
                plane.publish(snapshot)
        if self._ended_peers:
            stay = {route.subnet for route in snapshot.routes}
            self._ended_peers = {
                subnet: counters for subnet, counters in self._ended_peers.items() if subnet in stay
            }

    def counters(self) -> DataplaneCounters:
        """Return the sums over all dataplanes so far."""
        total = self._ended
        for plane in self._current:
            now = plane.counters()
            total = DataplaneCounters(
                outbound=_sum(total.outbound, now.outbound),
                inbound=_sum(total.inbound, now.inbound),
            )
        return total

    def peer_counters(self) -> Mapping[IPv4Network, PeerCounters]:
        """Return the sums per peer over all dataplanes so far; see `Dataplane.peer_counters`."""
        ended, found = self._ended_peers, [plane.peer_counters() for plane in self._current]
        return Later(lambda: _sum_peers(ended, found))

    def gauges(self) -> Gauges:
        """Return the gauges, of several dataplanes as one: downgrades summed, the worst of all."""
        return _join([plane.gauges() for plane in self._current])

    def queues(self) -> list[dict[str, int]]:
        """Return what each dataplane that runs now has read: how the load is spread."""
        read = [plane.counters() for plane in self._current]
        return [
            {
                "outbound": now.outbound.get("packets_read", 0),
                "inbound": now.inbound.get("packets_read", 0),
            }
            for now in read
        ]


def _join(gauges: Sequence[Gauges]) -> Gauges:
    if len(gauges) < 2:
        return gauges[0] if gauges else {}
    return {name: _join_one(name, [each[name] for each in gauges]) for name in gauges[0]}


def _join_one(name: str, values: Sequence[int | bool | str]) -> int | bool | str:
    numbers = [value for value in values if not isinstance(value, str)]
    if not numbers:
        return values[0]
    # A switch that is off anywhere is off; a limit is the lowest; events add up.
    return sum(numbers) if name.startswith("downgrades") else min(numbers)


def _sum(before: Mapping[str, int], now: Mapping[str, int]) -> dict[str, int]:
    return {name: value + before.get(name, 0) for name, value in now.items()}


def _sum_peers(
    ended: Mapping[IPv4Network, PeerCounters], found: Sequence[Mapping[IPv4Network, PeerCounters]]
) -> Mapping[IPv4Network, PeerCounters]:
    total = ended
    for now in found:
        # Nearly always so; the sums of thousands of peers take as long as reading them.
        total = (
            now
            if not total
            else {
                subnet: _sum_peer(total.get(subnet), counters) for subnet, counters in now.items()
            }
        )
    return total


def _sum_peer(before: PeerCounters | None, now: PeerCounters) -> PeerCounters:
    if before is None:
        return now
    names = [field.name for field in fields(PeerCounters)]
    return PeerCounters(*(getattr(before, name) + getattr(now, name) for name in names))
