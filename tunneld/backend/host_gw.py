"""The host-gw backend: no tunnel, each peer's subnet is routed to the peer's own address.

`SUBNET via PUBLIC_IP dev EXTERNAL`, for each peer on the same link; the underlay's MTU. Packets go
as they are, so the peers must be neighbours: a router between them would not know the subnets.
The kernel forwards alone, so traffic goes on while the daemon is away, and the routes stay until
`tunneld cleanup`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import TYPE_CHECKING

from tunneld.backend import BackendOptions, BackendStatus
from tunneld.backend.skipped import Skipped
from tunneld.dataplane import DataplaneCounters, PeerCounters
from tunneld.errors import StartError
from tunneld.lease import Lease, LeaseAttrs
from tunneld.link import peer_routes
from tunneld.link.peer_routes import Hop
from tunneld.link.rtnl_bulk import BulkSocket
from tunneld.observe.log import fields

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from ipaddress import IPv4Network

    from tunneld.link.rtnl import Rtnl
    from tunneld.link.underlay import Underlay

log = logging.getLogger(__name__)

BACKEND_TYPE = "host-gw"


class HostGwBackend:
    """See `tunneld.backend.Backend`.

    Args:
        options: from the network config; host-gw has none of its own.
        rtnl: the kernel's links, addresses and routes.
    """

    def __init__(self, options: BackendOptions, rtnl: Rtnl) -> None:
        self._network = options.network
        self._rtnl = rtnl
        self._bulk = BulkSocket()
        # Repairs, new peers and a new underlay may all come in the same moment.
        self._lock = asyncio.Lock()
        self._underlay: Underlay | None = None
        self._own: Lease | None = None
        self._peers: tuple[Lease, ...] | None = None
        self._skipped = Skipped()
        self._repairs: Counter[str] = Counter()
        self._forwarding = False

    async def prepare(self, underlay: Underlay) -> LeaseAttrs:
        """Refuse a public IP that peers cannot use as a next hop.

        Raises:
            StartError: it is not an address of the external interface.
        """
        await self._check(underlay)
        # Without the right to write routes we would else hold a lease and forward nothing.
        await self._rtnl.ensure_unreachable(self._network)
        self._underlay = underlay
        return LeaseAttrs(public_ip=underlay.public_ip, backend_type=BACKEND_TYPE)

    async def _check(self, underlay: Underlay) -> None:
        own = [info.address for info in await self._rtnl.addresses(underlay.ifindex)]
        if underlay.public_ip not in own:
            raise StartError(
                f"host-gw needs a public IP that its interface bears: {underlay.public_ip} is not"
                f" among the addresses of {underlay.ifname}"
                f" ({', '.join(map(str, own)) or 'none'})",
                remedy="leave out --public-ip, name another interface with --iface, or use the"
                " backend udp or vxlan, which work behind NAT",
            )

    async def start(self, own: Lease) -> None:
        """Bring up the unreachable routes; the peers' routes of an earlier life stay until then."""
        async with self._lock:
            self._own = own
            await self._block(own)

    async def apply(self, peers: Sequence[Lease]) -> None:
        """Route to exactly these peers."""
        async with self._lock:
            self._peers = tuple(peers)
            await self._sync()

    async def ensure(self) -> None:
        """Bring back what others removed, counted by kind."""
        async with self._lock:
            if self._own is None:
                return
            if await self._block(self._own):
                self._repaired("unreachable_route")
            if await self._sync():
                self._repaired("route")

    async def underlay_changed(self, underlay: Underlay) -> None:
        """Follow a new interface, address or MTU."""
        async with self._lock:
            await self._check(underlay)
            before, self._underlay = self._underlay, underlay
            if before is None:
                return
            await self._sync()
            if underlay.mtu != before.mtu:
                self._repaired("underlay_mtu")
            if (underlay.ifindex, underlay.address) != (before.ifindex, before.address):
                self._repaired("underlay_address")

    async def stop(self) -> None:
        """Leave the routes: traffic goes on, as flannel's does."""
        async with self._lock:
            self._own = self._peers = None
            self._bulk.close()

    def status(self) -> BackendStatus:
        """Return the state as of now."""
        return BackendStatus(
            type=BACKEND_TYPE,
            device=self._underlay.ifname if self._underlay else "",
            mtu=self._underlay.mtu if self._underlay else 0,
            dataplane="kernel",
            threads=0,
            repairs=dict(self._repairs),
            forwarding=self._forwarding,
            skipped=self._skipped.shown(),
        )

    def counters(self) -> DataplaneCounters:
        """Return nothing: the packets are the kernel's own."""
        return DataplaneCounters()

    def kernel_counters(self) -> Mapping[str, int]:
        """Return nothing: there is no queue of ours."""
        return {}

    def peer_counters(self) -> Mapping[IPv4Network, PeerCounters]:
        """Return nothing: a route does not count."""
        return {}

    async def _block(self, own: Lease) -> bool:
        changed = await self._rtnl.ensure_unreachable(self._network)
        return await self._rtnl.ensure_unreachable(own.subnet) or changed

    async def _sync(self) -> bool:
        """Make the routes those of the peers; True: they were not."""
        # Before the first listing nothing is known that an earlier life did not know better.
        if self._own is None or self._peers is None or self._underlay is None:
            return False
        link = await self._rtnl.link(self._underlay.ifname)
        forwarding = link is not None and link.up
        if forwarding != self._forwarding:
            self._forwarding = forwarding
            if not forwarding:
                # The kernel has dropped the routes with it, and takes none until it is back.
                log.warning("external interface is down", extra=fields(name=self._underlay.ifname))
        if link is None or not link.up:
            return False
        skipped = {
            peer.subnet: f"its lease is of type {peer.attrs.backend_type or 'udp'}, not host-gw"
            for peer in self._peers
            if peer.attrs.backend_type != BACKEND_TYPE
        }
        via = {peer.subnet: peer.public_ip for peer in self._peers if peer.subnet not in skipped}
        done = await peer_routes.sync(
            self._bulk,
            self._network,
            {subnet: Hop(link.index, public_ip) for subnet, public_ip in via.items()},
            blocked={self._network, self._own.subnet},
        )
        for subnet, words in done.refused.items():
            skipped[subnet] = (
                f"{via[subnet]} is not on the same link as {self._underlay.ifname}, and host-gw"
                f" cannot go through a router (the kernel: {words})"
            )
        self._skipped.update(skipped)
        for route in done.removed:
            log.info("removed a route that no peer has", extra=fields(route=route, via=route.via))
        return bool(done)

    def _repaired(self, kind: str) -> None:
        self._repairs[kind] += 1
        log.warning("repaired", extra=fields(kind=kind))
