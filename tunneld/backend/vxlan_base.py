"""What both vxlan backends have in common: device, MAC, unreachable routes, repair, status.

The kernel forwards alone. The daemon's part is to keep device and tables true to the store, and
what it leaves behind when it stops goes on to carry traffic.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, ClassVar

from tunneld.backend import BackendOptions, BackendStatus, vxlan_config
from tunneld.backend.skipped import Skipped
from tunneld.backend.vxlan_device import VxlanDevice
from tunneld.backend.vxlan_peers import Vtep, read_peers
from tunneld.backend.vxlan_tables import VxlanTables
from tunneld.dataplane import DataplaneCounters, PeerCounters
from tunneld.errors import StartError
from tunneld.lease import Lease, LeaseAttrs, LeaseFormatError, VtepData, parse_vtep
from tunneld.link import rtnl_neigh
from tunneld.link.rtnl_bulk import BulkSocket
from tunneld.link.rtnl_vxlan import VxlanSettings
from tunneld.observe.log import fields
from tunneld.supervise import Backoff, supervise

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping, Sequence
    from ipaddress import IPv4Network

    from tunneld.link.rtnl import Rtnl
    from tunneld.link.rtnl_neigh import NeighbourEvent
    from tunneld.link.underlay import Underlay

log = logging.getLogger(__name__)

_DEBOUNCE_S = 0.01
_MIN_GAP_S = 0.1


class VxlanBase(ABC):
    """See `tunneld.backend.Backend`.

    Args:
        options: from the network config and the command line.
        rtnl: the kernel's links, addresses and routes.

    Raises:
        ConfigError: a Backend option of the network config is wrong.
    """

    TYPE: ClassVar[str]
    SYSCTLS: ClassVar[Mapping[str, str]] = {}

    def __init__(self, options: BackendOptions, rtnl: Rtnl) -> None:
        self._options = options
        self._rtnl = rtnl
        self._config = vxlan_config.parse(options.backend, options.source)
        self._bulk = BulkSocket()
        self._device = VxlanDevice(rtnl, self._config.device, options.network, self.SYSCTLS)
        self._tables = VxlanTables(self._bulk, options.network)
        # Repairs, new peers and a new underlay may all come in the same moment.
        self._lock = asyncio.Lock()
        self._underlay: Underlay | None = None
        self._mac = ""
        self._own: Lease | None = None
        self._peers: tuple[Lease, ...] | None = None
        self._vteps: tuple[Vtep, ...] = ()
        self._skipped = Skipped()
        self._failed: Mapping[IPv4Network, str] = {}
        self._repairs: Counter[str] = Counter()
        self._forwarding = False
        self._dirty = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def prepare(self, underlay: Underlay) -> LeaseAttrs:
        """Make the device: what fails, fails before a lease is taken.

        Raises:
            StartError: the kernel does not let us have it; with the remedy.
        """
        self._underlay = underlay
        self._mac = (
            self._announced_mac(await self._options.leases(), underlay)
            or await self._device.existing_mac()
            or vxlan_config.derive_mac(underlay.public_ip, self._config.vni)
        )
        # A device that differs is deleted, and with it the routes of an earlier life.
        await self._rtnl.ensure_unreachable(self._options.network)
        await self._ensure_device(underlay, None)
        return LeaseAttrs(
            public_ip=underlay.public_ip,
            backend_type=self.TYPE,
            backend_data=VtepData(self._mac, self._config.vni).document,
        )

    async def start(self, own: Lease) -> None:
        """Bring up unreachable routes, then the device's address; the tables come with the peers.

        Those of an earlier life stay until then: they carry traffic.
        """
        async with self._lock:
            self._own = own
            await self._block(own)
            await self._ensure_device(self._wanted(), own.subnet)
            self._forwarding = True
        self._spawn(supervise("neighbour watch", self._watch))
        self._spawn(supervise("table repair", self._repair))

    async def stop(self) -> None:
        """Leave device, routes and entries: traffic goes on without us."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        async with self._lock:
            self._own = self._peers = None
            self._bulk.close()

    async def apply(self, peers: Sequence[Lease]) -> None:
        """Make the tables those of exactly these peers."""
        async with self._lock:
            self._peers = tuple(peers)
            await self._sync_peers()

    async def ensure(self) -> None:
        """Repair what others removed or changed, counted by kind."""
        async with self._lock:
            own = self._own
            if own is None:
                return
            try:
                for kind in await self._ensure_device(self._wanted(), own.subnet):
                    self._repaired(kind)
                self._forwarding = True
            except StartError:
                self._forwarding = False
                await self._block(own)
                raise
            for kind in await self._sync_peers():
                self._repaired(kind)

    async def underlay_changed(self, underlay: Underlay) -> None:
        """Follow a new address or interface (a new device, peers entered again) or a new MTU."""
        async with self._lock:
            before, self._underlay = self._wanted(), underlay
            if self._own is None:
                return
            try:
                await self._ensure_device(underlay, self._own.subnet)
            except StartError:
                self._underlay = before
                raise
            await self._sync_peers()
            if (underlay.ifindex, underlay.address) != (before.ifindex, before.address):
                self._repaired("underlay_address")
            if underlay.mtu != before.mtu:
                self._repaired("underlay_mtu")

    def status(self) -> BackendStatus:
        """Return the state as of now."""
        config, underlay = self._config, self._underlay
        return BackendStatus(
            type=self.TYPE,
            device=config.device,
            mtu=config.device_mtu(underlay.mtu) if underlay else 0,
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
        """Return nothing: the tables do not count."""
        return {}

    @abstractmethod
    def _settings(self, underlay: Underlay) -> VxlanSettings:
        """Return the device that is wanted on this underlay."""

    @abstractmethod
    async def _sync(self, own: Lease) -> Counter[str]:
        """Make the kernel's tables true to `self._vteps`; return what was repaired, by kind."""

    @abstractmethod
    def _take(self, event: NeighbourEvent) -> None:
        """Look at a change of our device's neighbours or FDB."""

    async def _block(self, own: Lease) -> None:
        await self._rtnl.ensure_unreachable(self._options.network)
        await self._rtnl.ensure_unreachable(own.subnet)

    async def _sync_peers(self) -> Counter[str]:
        # Before the first listing nothing is known that an earlier life did not know better.
        if self._own is None or self._peers is None:
            return Counter()
        self._vteps, skipped = read_peers(
            self._peers, backend_type=self.TYPE, vni=self._config.vni, own_mac=self._mac
        )
        if self._device.fresh:
            self._device.fresh = False
            self._tables.forget()
        before, self._failed = self._failed, {}
        try:
            return await self._sync(self._own)
        finally:
            self._skipped.update({**skipped, **self._failed})
            if self._failed.keys() - before.keys():
                self._dirty.set()

    async def _ensure_device(self, underlay: Underlay, subnet: IPv4Network | None) -> list[str]:
        mtu = self._config.device_mtu(underlay.mtu)
        settings = self._settings(underlay)
        return await self._device.ensure(settings, mac=self._mac, mtu=mtu, subnet=subnet)

    def _announced_mac(self, leases: Sequence[Lease], underlay: Underlay) -> str | None:
        """Return the MAC that our lease of an earlier life tells the peers."""
        for lease in leases:
            if lease.public_ip == underlay.public_ip:
                with suppress(LeaseFormatError):
                    data = parse_vtep(lease.attrs.backend_data)
                    if data.vni in {None, self._config.vni}:
                        return data.mac
        return None

    def _wanted(self) -> Underlay:
        if self._underlay is None:
            raise StartError("the backend was not prepared")
        return self._underlay

    async def _watch(self) -> None:
        events = rtnl_neigh.watch()
        # What changed before the watch was open would else wait for the next comparison.
        self._dirty.set()
        async for event in events:
            if event.entry is None:
                self._dirty.set()
            elif event.entry.ifindex == self._device.index:
                self._take(event)

    async def _repair(self) -> None:
        """Coalesce changes: one comparison for a burst; peers that failed are tried again."""
        backoff = Backoff(first=1.0)
        while True:
            with suppress(TimeoutError):
                timeout = backoff.delay() if self._failed else None
                await asyncio.wait_for(self._dirty.wait(), timeout)
            await asyncio.sleep(_DEBOUNCE_S)
            self._dirty.clear()
            try:
                await self.ensure()
            except BaseException:
                self._dirty.set()
                raise
            if not self._failed:
                backoff.reset()
            await asyncio.sleep(_MIN_GAP_S)

    def _repaired(self, kind: str) -> None:
        self._repairs[kind] += 1
        log.warning("repaired", extra=fields(kind=kind))

    def _spawn(self, coroutine: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
