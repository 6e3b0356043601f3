"""The vxlan-miss backend, generation 1 (flannel v0.2-v0.4): the daemon answers the kernel's misses.

One route for the whole network leads to the VTEP. The kernel then lacks the MAC of a container that
it was never sent to and asks user space for it (RTM_GETNEIGH, only with app_solicit, because the
VTEP is no port of a bridge), and for the underlay address behind that MAC (l2miss). We answer both
out of the leases with entries that expire. So the tables grow with the containers that are talked
to, every new conversation waits for us, and when the daemon is gone new destinations fail, and old
ones as soon as their entries must be confirmed. That is history; generation 2 is `vxlan.py`.
One thing differs: flannel's device also learned from what came in; ours only with "Learning": true,
because an entry that expires may be moved by anybody's packet.

flannel nodes do not take part: they know nothing of this type, so the start is refused beside them.
"""

from __future__ import annotations

import logging
from collections import Counter
from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING, ClassVar

from tunneld.backend.vxlan_base import VxlanBase
from tunneld.backend.vxlan_tables import route, unreachable
from tunneld.errors import ConfigError
from tunneld.link import rtnl_neigh
from tunneld.link.rtnl_neigh import NUD_INCOMPLETE, NUD_REACHABLE, Neighbour
from tunneld.link.rtnl_vxlan import VxlanSettings
from tunneld.observe.log import fields

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tunneld.backend.vxlan_peers import Vtep
    from tunneld.lease import Lease, LeaseAttrs
    from tunneld.link.rtnl_neigh import NeighbourEvent
    from tunneld.link.underlay import Underlay

log = logging.getLogger(__name__)

_FLANNEL = "vxlan"


class Answers:
    """Who has an address, who has a MAC. Pure.

    Args:
        vteps: the peers; the longest prefix wins.
    """

    def __init__(self, vteps: Iterable[Vtep] = ()) -> None:
        self._by_subnet = {vtep.subnet: vtep for vtep in vteps}
        self._by_mac = {vtep.mac: vtep for vtep in self._by_subnet.values()}
        self._lengths = sorted({net.prefixlen for net in self._by_subnet}, reverse=True)

    def entries(self, asked: Neighbour) -> list[Neighbour]:
        """Return the entries that answer a miss; none for what belongs to no peer."""
        peer = self._by_mac.get(asked.mac) if asked.fdb else self._of(asked.dst)
        if peer is None:
            return []
        # The FDB entry first: with the neighbour the kernel sends at once what waits for it.
        found = [Neighbour(asked.ifindex, peer.mac, peer.public_ip, NUD_REACHABLE, fdb=True)]
        if not asked.fdb:
            found.append(Neighbour(asked.ifindex, peer.mac, asked.dst, NUD_REACHABLE, fdb=False))
        return found

    def right(self, entry: Neighbour) -> bool:
        """Tell whether an entry of the kernel says what we would say."""
        if not entry.mac:
            return True  # not resolved, so it leads nowhere
        if entry.fdb:
            peer = self._by_mac.get(entry.mac)
            return peer is not None and peer.public_ip == entry.dst
        peer = self._of(entry.dst)
        return peer is not None and peer.mac == entry.mac

    def _of(self, address: IPv4Address | None) -> Vtep | None:
        if address is None:
            return None
        for length in self._lengths:
            found = self._by_subnet.get(IPv4Network((int(address), length), strict=False))
            if found is not None:
                return found
        return None


class VxlanMissBackend(VxlanBase):
    """See `tunneld.backend.Backend`."""

    TYPE: ClassVar[str] = "vxlan-miss"
    SYSCTLS: ClassVar[Mapping[str, str]] = {"net/ipv4/neigh/{}/app_solicit": "3"}

    _answers = Answers()

    def _settings(self, underlay: Underlay) -> VxlanSettings:
        return VxlanSettings(
            vni=self._config.vni,
            link=underlay.ifindex,
            local=underlay.address,
            port=self._config.port,
            learning=self._config.learning,
            gbp=self._config.gbp,
            # proxy: the ARP requests that follow unanswered misses stay inside the device.
            proxy=True,
            l2miss=True,
        )

    async def prepare(self, underlay: Underlay) -> LeaseAttrs:
        """Refuse to start beside flannel's nodes, then make the device.

        Raises:
            ConfigError: the store holds leases of flannel's vxlan backend.
            StartError: the kernel does not let us have the device; with the remedy.
        """
        flannels = [
            lease
            for lease in await self._options.leases()
            if lease.attrs.backend_type == _FLANNEL and lease.public_ip != underlay.public_ip
        ]
        if flannels:
            raise ConfigError(
                f"vxlan-miss is tunneld's own, and the store has {len(flannels)} lease(s) of type"
                f" {_FLANNEL}, for example {flannels[0].key} of {flannels[0].public_ip}: that node"
                " and this one would never reach each other",
                field="Backend.Type",
                source=self._options.source,
                remedy='use "Type": "vxlan", or remove those keys if their nodes are gone',
            )
        return await super().prepare(underlay)

    async def _sync(self, own: Lease) -> Counter[str]:
        index, network = self._device.index, self._options.network
        self._answers = Answers(self._vteps)
        repaired = await self._tables.sync_routes(
            index,
            [
                unreachable(network),
                unreachable(own.subnet),
                route(network, index, None, onlink=False),
            ],
        )
        there = [
            entry
            for fdb in (False, True)
            for entry in await rtnl_neigh.neighbours(self._bulk, index, fdb=fdb)
        ]
        wrong = [rtnl_neigh.drop(entry) for entry in there if not self._answers.right(entry)]
        # Asked while nobody knew: a peer that is new now, or a daemon that was not there yet.
        waiting = [entry for entry in there if entry.state == NUD_INCOMPLETE]
        answers = [answer for entry in waiting for answer in self._answers.entries(entry)]
        await self._bulk.exchange([*wrong, *map(rtnl_neigh.put, answers)])
        return repaired

    def _take(self, event: NeighbourEvent) -> None:
        if event.entry is None or event.kind != "miss":
            return
        # At once and not in a task of its own: the packet that asks waits in the kernel.
        entries = self._answers.entries(event.entry)
        asked = event.entry.dst or event.entry.mac
        for answer in self._bulk.exchange_now([rtnl_neigh.put(entry) for entry in entries]):
            if answer.errno:
                pair = fields(asked=asked, error=answer.reason)
                log.warning("the kernel refuses an answer", extra=pair)
        if entries:
            # The FDB entry, which is always the first, has both: the MAC and the node behind it.
            pair = fields(asked=asked, mac=entries[0].mac, via=entries[0].dst)
            log.debug("answered", extra=pair)
        else:
            log.debug("no answer", extra=fields(asked=asked))
