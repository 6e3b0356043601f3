"""One dataplane after the other, seen as one: the counters of ended ones are kept.

A dataplane lives as long as its descriptors. When the TUN is deleted or the socket is renewed a
new one takes over, and nobody who reads counters notices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from ipaddress import IPv4Network

from tunneld.dataplane import Dataplane, DataplaneCounters, PeerCounters, RouteSnapshot
from tunneld.dataplane.ladder import Rung, open_dataplane


class PacketPath:
    """Owns the dataplane of the udp backend; borrows its descriptors.

    Args:
        wanted: the rung to run from the next start on.
        on_lost: called in the event loop when the dataplane ended by itself.
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
        self._current: Dataplane | None = None
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
        return self._current.rung if self._current else self.wanted.name

    @property
    def threads(self) -> int:
        """How many threads move packets now."""
        return self._current.threads if self._current and self._alive else 0

    def start(self, tun_fd: int, udp_fd: int, snapshot: RouteSnapshot) -> None:
        """Begin to forward on these descriptors; the one before must be stopped.

        Raises:
            OSError: the dataplane refused.
        """
        current = self._factory(self.wanted, tun_fd=tun_fd, udp_fd=udp_fd, snapshot=snapshot)

        def on_exit(error: OSError | None) -> None:
            if self._current is current and self._alive:
                self._alive = False
                self._on_lost(error)

        current.start(on_exit)
        self._current = current
        self._alive = True

    async def stop(self) -> None:
        """End the dataplane and keep what it counted; afterwards the descriptors are free."""
        current = self._current
        self._alive = False
        if current is None:
            return
        await current.stop()
        self._ended = self.counters()
        self._ended_peers = dict(self.peer_counters())
        self._current = None

    def publish(self, snapshot: RouteSnapshot) -> None:
        """Swap the routes; counters of peers that left are forgotten."""
        if self._current is not None and self._alive:
            self._current.publish(snapshot)
        if self._ended_peers:
            stay = {route.subnet for route in snapshot.routes}
            self._ended_peers = {
                subnet: counters for subnet, counters in self._ended_peers.items() if subnet in stay
            }

    def counters(self) -> DataplaneCounters:
        """Return the sums over all dataplanes so far."""
        if self._current is None:
            return self._ended
        now = self._current.counters()
        return DataplaneCounters(
            outbound=_sum(self._ended.outbound, now.outbound),
            inbound=_sum(self._ended.inbound, now.inbound),
        )

    def peer_counters(self) -> Mapping[IPv4Network, PeerCounters]:
        """Return the sums per peer over all dataplanes so far."""
        if self._current is None:
            return self._ended_peers
        now = self._current.peer_counters()
        if not self._ended_peers:
            return now
        return {
            subnet: _sum_peer(self._ended_peers.get(subnet), counters)
            for subnet, counters in now.items()
        }

    def gauges(self) -> Mapping[str, int | bool | str]:
        """Return the dataplane's gauges."""
        return self._current.gauges() if self._current else {}


def _sum(before: Mapping[str, int], now: Mapping[str, int]) -> dict[str, int]:
    return {name: value + before.get(name, 0) for name, value in now.items()}


def _sum_peer(before: PeerCounters | None, now: PeerCounters) -> PeerCounters:
    if before is None:
        return now
    names = [field.name for field in fields(PeerCounters)]
    return PeerCounters(*(getattr(before, name) + getattr(now, name) for name in names))
