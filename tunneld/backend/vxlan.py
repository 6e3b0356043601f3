"""The vxlan backend, generation 2 (flannel v0.9 on): every peer's entries are static.

Route, neighbour and FDB entry of each peer are written when its lease appears, so the kernel never
has to ask, tables grow with nodes and not with containers, and a dead daemon breaks nothing. Wire
and leases are flannel's (pkg/backend/vxlan).
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, ClassVar

from tunneld.backend.vxlan_base import VxlanBase
from tunneld.link import rtnl_routes
from tunneld.link.rtnl_vxlan import VxlanSettings

if TYPE_CHECKING:
    from tunneld.lease import Lease
    from tunneld.link.rtnl_neigh import NeighbourEvent
    from tunneld.link.underlay import Underlay


class VxlanBackend(VxlanBase):
    """See `tunneld.backend.Backend`; with DirectRouting, peers on the same link need no tunnel."""

    TYPE: ClassVar[str] = "vxlan"

    def _settings(self, underlay: Underlay) -> VxlanSettings:
        return VxlanSettings(
            vni=self._config.vni,
            link=underlay.ifindex,
            local=underlay.address,
            port=self._config.port,
            learning=self._config.learning,
            gbp=self._config.gbp,
        )

    async def _sync(self, own: Lease) -> Counter[str]:
        direct = {}
        if self._config.direct_routing:
            public_ips = [vtep.public_ip for vtep in self._vteps]
            direct = await rtnl_routes.on_link(self._bulk, public_ips)
        blocked = (self._options.network, own.subnet)
        done = await self._tables.sync(self._device.index, self._vteps, direct, blocked)
        self._failed = done.failed
        return done.repaired

    def _take(self, event: NeighbourEvent) -> None:
        if event.entry is None or event.kind == "miss":
            return
        if self._tables.wrong(event.entry, deleted=event.kind == "deleted"):
            self._dirty.set()
