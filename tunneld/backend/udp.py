"""The udp backend: a TUN, a UDP socket and the packet path between them (flannel's `udp`).

The order matters (fail closed): the unreachable routes are there before the device's routes and
stay after them, so no packet for the network ever leaves by the default route.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import time
from collections import Counter, deque
from typing import TYPE_CHECKING

from tunneld.backend import BackendOptions, BackendStatus, udp_socket
from tunneld.backend.downgrades import Downgrades
from tunneld.backend.overlay_device import OverlayDevice
from tunneld.backend.packet_path import PacketPath
from tunneld.backend.path_mtu import PERIOD_S, PathMtus
from tunneld.dataplane import (
    DataplaneCounters,
    PeerCounters,
    Route,
    RouteSnapshot,
    SourceCheck,
    ladder,
)
from tunneld.dataplane.probe import set_gro
from tunneld.errors import StartError
from tunneld.lease import Lease, LeaseAttrs
from tunneld.loop import breathe
from tunneld.observe.log import fields
from tunneld.supervise import Backoff, supervise

if TYPE_CHECKING:
    import socket
    from collections.abc import Coroutine, Mapping, Sequence
    from ipaddress import IPv4Address, IPv4Network

    from tunneld.link.rtnl import Rtnl
    from tunneld.link.underlay import Underlay

log = logging.getLogger(__name__)

ENCAPSULATION_BYTES = 28
"""Outer IPv4 header and UDP header; nothing else stands before the inner packet."""

_MAX_LOSSES = 5
_LOSS_WINDOW_S = 10.0


class UdpBackend:
    """See `tunneld.backend.Backend`.

    Args:
        options: from the network config and the command line.
        rtnl: the kernel's links, addresses and routes.
    """

    def __init__(self, options: BackendOptions, rtnl: Rtnl) -> None:
        self._options = options
        self._rtnl = rtnl
        self._path = PacketPath(ladder.Rung(ladder.choose(options.dataplane)), self._path_lost)
        self._path_mtus = PathMtus(
            options.port, self._path.counters, self._path.peer_counters, self._publish
        )
        self._downgrades = Downgrades(self._path.gauges)
        # One change of the kernel's state at a time: repairs, new peers and a new underlay may
        # all come in the same moment.
        self._lock = asyncio.Lock()
        self._underlay: Underlay | None = None
        self._sockets: list[socket.socket] = []
        self._device: OverlayDevice | None = None
        self._device_gone = False
        self._own: Lease | None = None
        self._peers: tuple[Lease, ...] = ()
        self._own_addresses: frozenset[IPv4Address] = frozenset()
        self._repairs: Counter[str] = Counter()
        self._losses: deque[float] = deque(maxlen=_MAX_LOSSES)
        self._tasks: set[asyncio.Task[None]] = set()
        self._socket_dropped_before = 0

    async def prepare(self, underlay: Underlay) -> LeaseAttrs:
        """Open the socket, and a TUN for a moment: what fails, fails before a lease is taken."""
        self._underlay = underlay
        self._path.wanted = ladder.fit(
            self._path.wanted.name, self._options.threads, self._options.queues
        )
        self._sockets = self._open_sockets(underlay.address)
        return LeaseAttrs(public_ip=underlay.public_ip)

    async def start(self, own: Lease) -> None:
        """Bring up unreachable routes, device, address, route and packet path, in this order."""
        async with self._lock:
            self._own = own
            self._device = OverlayDevice(
                self._rtnl,
                self._options.network,
                own.subnet,
                vnet_hdr=self._path.wanted.vnet_hdr,
                queues=self._path.wanted.queues,
            )
            await self._device.block()
            if stale := await self._device.clear():
                log.info("routes of an earlier backend removed", extra=fields(routes=stale))
            await self._device.open(self._mtu)
            # After the device: its address is our own too.
            self._own_addresses = await self._read_own_addresses()
            self._start_path()
        self._spawn(supervise("path mtu", self._follow_kernel))

    async def stop(self) -> None:
        """Stop traffic and remove the device; the unreachable routes stay."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        async with self._lock:
            await self._path.stop()
            if self._device is not None:
                self._device.close()
            self._close_sockets()
            self._own = self._device = None

    async def apply(self, peers: Sequence[Lease]) -> None:
        """Publish exactly these peers."""
        async with self._lock:
            self._peers = tuple(peers)
            self._path_mtus.keep_only(self._peers)
            await breathe(len(self._peers))
            self._publish()

    async def ensure(self) -> None:
        """Repair what differs from the wanted state, counted by kind."""
        async with self._lock:
            device = self._device
            if device is None:
                return
            if await device.block():
                self._repaired("unreachable_route")
            # Who asks at the moment of a deletion may still be shown the device: ENODEV is sure.
            present = not self._device_gone and await device.present()
            if not present:
                await self._path.stop()
                device.close()
                await device.open(self._mtu)
                self._device_gone = False
                self._repaired("device")
            for kind in await device.ensure(self._mtu):
                self._repaired(kind)
            addresses = await self._read_own_addresses()
            if addresses != self._own_addresses:
                self._own_addresses = addresses
                self._publish()
            # Deleted meanwhile: whoever was told of it comes here again.
            if not self._path.running and not self._device_gone:
                await self._path.stop()
                self._start_path()
                if present:
                    self._repaired("dataplane")

    async def underlay_changed(self, underlay: Underlay) -> None:
        """Follow a new address (new socket and dataplane) or MTU (TUN and routes)."""
        async with self._lock:
            before, self._underlay = self._wanted(), underlay
            if self._device is None or not self._sockets:
                return
            self._path_mtus.forget()
            if underlay.address != before.address:
                try:
                    renewed = self._open_sockets(underlay.address)
                except StartError:
                    self._underlay = before
                    raise
                await self._path.stop()
                self._close_sockets()
                self._sockets = renewed
                self._start_path()
                self._repaired("underlay_address")
            if underlay.mtu != before.mtu:
                await self._device.ensure(self._mtu)
                self._publish()
                self._repaired("underlay_mtu")

    def status(self) -> BackendStatus:
        """Return the state as of now."""
        return BackendStatus(
            type="udp",
            device="" if self._device is None else self._device.name,
            mtu=self._mtu if self._underlay is not None else 0,
            dataplane=self._path.rung,
            threads=self._path.threads,
            offload=self._path.gauges(),
            queues=self._path.queues(),
            repairs=dict(self._repairs),
            forwarding=self._path.running,
        )

    def counters(self) -> DataplaneCounters:
        """Return the packet counters, over all dataplanes of this process."""
        return self._path.counters()

    def kernel_counters(self) -> Mapping[str, int]:
        """Return what the kernel dropped before we read it."""
        now = sum(udp_socket.dropped(sock) for sock in self._sockets)
        return {
            "tun_queue_dropped": 0 if self._device is None else self._device.queue_dropped(),
            "socket_dropped": self._socket_dropped_before + now,
        }

    def peer_counters(self) -> Mapping[IPv4Network, PeerCounters]:
        """Return per-peer counters by subnet."""
        return self._path.peer_counters()

    def _open_sockets(self, address: IPv4Address) -> list[socket.socket]:
        wanted = self._path.wanted
        sockets = udp_socket.open_group(address, self._options.port, wanted.queues)
        if wanted.gro:
            for sock in sockets:
                set_gro(sock)
        return sockets

    def _close_sockets(self) -> None:
        sockets, self._sockets = self._sockets, []
        for sock in sockets:
            self._socket_dropped_before += udp_socket.dropped(sock)
            sock.close()

    @property
    def _mtu(self) -> int:
        return self._options.mtu or self._wanted().mtu - ENCAPSULATION_BYTES

    def _wanted(self) -> Underlay:
        if self._underlay is None:
            raise StartError("the backend was not prepared")
        return self._underlay

    async def _read_own_addresses(self) -> frozenset[IPv4Address]:
        return frozenset(info.address for info in await self._rtnl.addresses())

    def _snapshot(self, own: Lease) -> RouteSnapshot:
        return RouteSnapshot(
            network=self._options.network,
            subnet=own.subnet,
            tun_address=own.subnet.network_address,
            mtu=self._mtu,
            port=self._options.port,
            routes=tuple(
                Route(peer.subnet, peer.public_ip, self._path_mtus.of(peer.public_ip))
                for peer in self._peers
            ),
            own_addresses=self._own_addresses,
            allow_sources=self._options.allow_sources,
            source_check=SourceCheck[self._options.source_check.upper()],
        )

    def _start_path(self) -> None:
        if self._own is not None and self._device is not None and self._sockets:
            sockets = [sock.fileno() for sock in self._sockets]
            self._path.start(self._device.fds, sockets, self._snapshot(self._own))
            # What is refused from the first second on differs from this.
            self._downgrades.look()

    def _publish(self) -> None:
        if self._own is not None:
            self._path_mtus.limit = self._mtu + ENCAPSULATION_BYTES
            self._path.publish(self._snapshot(self._own))

    def _path_lost(self, error: OSError | None) -> None:
        """Bring a dataplane back that ended by itself; netlink may have nothing to tell."""
        log.warning("the packet path ended", extra=fields(error=error or "none"))
        # A device may be deleted as often as somebody likes; any other end must not become a loop.
        if error is not None and error.errno == errno.ENODEV:
            self._device_gone = True
        else:
            now = time.monotonic()
            self._losses.append(now)
            if len(self._losses) == _MAX_LOSSES and now - self._losses[0] < _LOSS_WINDOW_S:
                self._options.on_failure(
                    error or StartError("the packet path ends again and again")
                )
                return
        self._spawn(self._revive())

    async def _revive(self) -> None:
        backoff = Backoff(first=0.05, ceiling=5.0)
        while self._device is not None and not self._path.running:
            try:
                await self.ensure()
            except Exception as error:  # noqa: BLE001 - whatever it is, forwarding must come back
                log.warning("repair failed", extra=fields(error=error))
                await asyncio.sleep(backoff.delay())

    async def _follow_kernel(self) -> None:
        """Once a second, what no event tells: path MTUs, and offloads that were refused."""
        while True:
            await asyncio.sleep(PERIOD_S)
            await self._path_mtus.ask_active()
            self._downgrades.look()

    def _repaired(self, kind: str) -> None:
        self._repairs[kind] += 1
        log.warning("repaired", extra=fields(kind=kind))

    def _spawn(self, coroutine: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
