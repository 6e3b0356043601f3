"""`--dataplane kernel`: flannel's UDP format with no daemon in the packet path (ip-fou(8), ipip).

The kernel takes the datagrams of the port (fou) and hands the packets in them to one ipip device
for each public IP; a route for each of its leases leads there. What the packet path of the daemon
checks for itself, an nft table and reverse path filtering do here (`udp_kernel_rules`). Everything
stays when the daemon goes, so traffic goes on; `tunneld cleanup` removes it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from functools import partial
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from tunneld.backend import BackendOptions, BackendStatus, udp_kernel_rules, udp_socket
from tunneld.backend.skipped import Skipped
from tunneld.backend.udp import ENCAPSULATION_BYTES
from tunneld.backend.udp_kernel_devices import Devices
from tunneld.backend.udp_kernel_rules import Rules
from tunneld.dataplane import DataplaneCounters, PeerCounters
from tunneld.dataplane.later import Later
from tunneld.errors import ConfigError, StartError
from tunneld.lease import Lease, LeaseAttrs
from tunneld.link import ipip, peer_routes
from tunneld.link.fou import Fou, FouPort, taken
from tunneld.link.ipip import Tunnel
from tunneld.link.peer_routes import Hop
from tunneld.link.rtnl_bulk import BulkSocket
from tunneld.observe.log import fields
from tunneld.supervise import supervise

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from ipaddress import IPv4Network

    from tunneld.link.rtnl import Rtnl
    from tunneld.link.underlay import Underlay

log = logging.getLogger(__name__)

RULES_S = 5.0
"""How often the nft table is compared and its counters are read although nobody touched it."""

LOOK_S = 0.25
"""How often the kernel is asked whether somebody did: a flushed table is a tunnel without guard."""

_ANY_ADDRESS = "0.0.0.0"  # noqa: S104 - tried because fou has no address of its own


class UdpKernelBackend:
    """See `tunneld.backend.Backend`.

    Args:
        options: from the network config and the command line.
        rtnl: the kernel's links, addresses and routes.

    Raises:
        ConfigError: the options ask for what this dataplane cannot do.
    """

    def __init__(self, options: BackendOptions, rtnl: Rtnl) -> None:
        _check_options(options)
        self._options = options
        self._rtnl = rtnl
        self._bulk = BulkSocket()
        self._fou = Fou()
        # Repairs, new peers and a new underlay may all come in the same moment.
        self._lock = asyncio.Lock()
        self._underlay: Underlay | None = None
        self._own: Lease | None = None
        self._peers: tuple[Lease, ...] | None = None
        self._devices: Devices | None = None
        self._rules: Rules | None = None
        self._skipped = Skipped()
        self._repairs: Counter[str] = Counter()
        self._watch: asyncio.Task[None] | None = None
        self._forwarding = False

    async def prepare(self, underlay: Underlay) -> LeaseAttrs:
        """Check the kernel, nft and the port: what fails, fails before a lease is taken.

        Raises:
            StartError: this host cannot do it; with the remedy.
        """
        self._underlay = underlay
        if not await self._fou.available(load=True):
            raise _lacks("fou")
        if not await ipip.devices(self._bulk):
            await self._try_device(underlay)
        await udp_kernel_rules.check(self._options)
        await self._check_port()
        return LeaseAttrs(public_ip=underlay.public_ip)

    async def _try_device(self, underlay: Underlay) -> None:
        probe = Tunnel(underlay.address, ipip.NOBODY, self._options.port)
        requests = [ipip.create(probe, underlay.mtu - ENCAPSULATION_BYTES), ipip.delete(probe.name)]
        made, _ = await self._bulk.exchange(requests)
        if made.errno:
            raise _lacks(f"ipip devices in UDP ({made.reason})")

    async def _check_port(self) -> None:
        port = self._options.port
        there = [found for found in await self._fou.ports() if found.port == port]
        if FouPort(port) in there:
            return
        if there:
            raise taken(there[0])
        # fou takes the port of all addresses: whoever has it on one of them is in the way.
        udp_socket.open_socket(IPv4Address(_ANY_ADDRESS), port).close()

    async def start(self, own: Lease) -> None:
        """Bring up unreachable routes, rules and the port; devices come with the peers."""
        async with self._lock:
            self._own = own
            await self._block(own)
            rules = self._rules = Rules(self._options, own.subnet)
            await rules.ensure()
            await self._fou.ensure(self._options.port)
            self._devices = Devices(self._bulk, own.subnet.network_address)
            self._forwarding = True
        watch = supervise("rules of the kernel dataplane", partial(self._watch_rules, rules))
        self._watch = asyncio.get_running_loop().create_task(watch)

    async def apply(self, peers: Sequence[Lease]) -> None:
        """Make devices and routes those of exactly these peers."""
        async with self._lock:
            self._peers = tuple(peers)
            await self._sync()

    async def ensure(self) -> None:
        """Repair what differs from the wanted state, counted by kind."""
        async with self._lock:
            if self._own is None:
                return
            if await self._block(self._own):
                self._repaired("unreachable_route")
            if await self._fou.ensure(self._options.port):
                self._repaired("fou_port")
            for kind in await self._sync():
                self._repaired(kind)

    async def underlay_changed(self, underlay: Underlay) -> None:
        """Follow a new address (new devices) or MTU."""
        async with self._lock:
            before, self._underlay = self._underlay, underlay
            if before is None:
                return
            await self._sync()
            if underlay.address != before.address:
                self._repaired("underlay_address")
            if underlay.mtu != before.mtu:
                self._repaired("underlay_mtu")

    async def stop(self) -> None:
        """Leave everything: traffic goes on, and the next start finds it right."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        async with self._lock:
            self._own = self._peers = self._devices = None
            self._bulk.close()
            self._fou.close()

    def status(self) -> BackendStatus:
        """Return the state as of now."""
        return BackendStatus(
            type="udp",
            device=f"{ipip.PREFIX}*",
            mtu=self._mtu if self._underlay is not None else 0,
            dataplane="kernel",
            threads=0,
            repairs=dict(self._repairs),
            forwarding=self._forwarding,
            skipped=self._skipped.shown(),
        )

    def counters(self) -> DataplaneCounters:
        """Return nothing: what the kernel counts stands in `kernel_counters`."""
        return DataplaneCounters()

    def kernel_counters(self) -> Mapping[str, int]:
        """Return what the nft table dropped, at most `RULES_S` ago."""
        return {} if self._rules is None else self._rules.counters

    def peer_counters(self) -> Mapping[IPv4Network, PeerCounters]:
        """Return the counters of each peer's device; leases of one public IP share one.

        The kernel counts a superpacket once in packets, and all of it in bytes.
        """
        if self._peers is None:
            return {}
        peers, local, port = self._peers, self._wanted_underlay().address, self._options.port

        def read() -> dict[IPv4Network, PeerCounters]:
            found = ipip.statistics()
            names = ((peer, Tunnel(local, peer.public_ip, port).name) for peer in peers)
            return {peer.subnet: found[name] for peer, name in names if name in found}

        return Later(read)

    @property
    def _mtu(self) -> int:
        return self._options.mtu or self._wanted_underlay().mtu - ENCAPSULATION_BYTES

    def _wanted_underlay(self) -> Underlay:
        if self._underlay is None:
            raise StartError("the backend was not prepared")
        return self._underlay

    def _tunnel(self, peer: Lease) -> Tunnel:
        return Tunnel(self._wanted_underlay().address, peer.public_ip, self._options.port)

    async def _block(self, own: Lease) -> bool:
        changed = await self._rtnl.ensure_unreachable(self._options.network)
        return await self._rtnl.ensure_unreachable(own.subnet) or changed

    async def _sync(self) -> list[str]:
        """Make the kernel's state that of the peers; returns the kinds of what was not right."""
        # Before the first listing nothing is known that an earlier life did not know better.
        if self._own is None or self._peers is None or not self._devices or not self._rules:
            return []
        tunnels = {peer.subnet: self._tunnel(peer) for peer in self._peers}
        await self._rules.admit({tunnel.remote for tunnel in tunnels.values()})
        repaired = await self._devices.ensure(set(tunnels.values()), self._mtu)
        routes = await peer_routes.sync(
            self._bulk,
            self._options.network,
            {
                subnet: Hop(self._devices.index[tunnel])
                for subnet, tunnel in tunnels.items()
                if tunnel in self._devices.index
            },
            blocked={self._options.network, self._own.subnet},
        )
        self._skipped.update(
            {
                subnet: self._devices.refused.get(tunnel) or routes.refused[subnet]
                for subnet, tunnel in tunnels.items()
                if tunnel in self._devices.refused or subnet in routes.refused
            }
        )
        # A new device lacks its routes by nature.
        return repaired or (["route"] if routes else [])

    async def _watch_rules(self, rules: Rules) -> None:
        loop = asyncio.get_running_loop()
        compared = loop.time()
        while True:
            await asyncio.sleep(LOOK_S)
            if not rules.touched() and loop.time() - compared < RULES_S:
                continue
            compared = loop.time()
            async with self._lock:
                if await rules.ensure():
                    self._repaired("rules")

    def _repaired(self, kind: str) -> None:
        self._repairs[kind] += 1
        log.warning("repaired", extra=fields(kind=kind))


def _check_options(options: BackendOptions) -> None:
    remedy = "leave it out, or use --dataplane=auto"
    if options.source_check == "off":
        message = "rung 'kernel' always checks sources: the kernel takes datagrams of peers only"
        raise ConfigError(message, field="source-check", remedy=remedy)
    if options.queues > 1:
        message = f"--queues={options.queues}: rung 'kernel' has no TUN, and uses all cores"
        raise ConfigError(message, field="queues", remedy=remedy)
    if options.allow_sources:
        message = "rung 'kernel' takes datagrams from the peers' public IPs and from nobody else"
        raise ConfigError(message, field="allow-source", remedy=remedy)


def _lacks(what: str) -> StartError:
    return StartError(
        f"rung 'kernel' needs {what}, which this kernel lacks",
        remedy="load the modules (`modprobe -a fou ipip`; Debian's kernels have both), or use"
        " --dataplane=auto",
    )
