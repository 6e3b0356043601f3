"""The TUN device of the udp backend with all that the kernel must know about it.

flannel's device: POINTOPOINT, NOARP, the base address of the lease as /32, one route for the
whole network. Ours beside it: the unreachable routes below (fail closed), accept_local so that
ICMP errors from the device's own address arrive, no IPv6.
"""

from __future__ import annotations

import logging
from ipaddress import IPv4Interface, IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING

from tunneld.dataplane.probe import set_offloads
from tunneld.errors import StartError
from tunneld.link import steering, sysctl
from tunneld.link.tun import TunDevice, open_tun
from tunneld.observe.log import fields

if TYPE_CHECKING:
    from tunneld.link.rtnl import Rtnl

log = logging.getLogger(__name__)

TEMPLATE = "flannel%d"
TXQLEN = 5000
"""Packets that may wait while nobody reads; the default of 500 is 50 ms at 10 kpps."""

_SYSCTLS = {
    "net/ipv4/conf/{}/accept_local": "containers are not told what the tunnel refuses",
    "net/ipv6/conf/{}/disable_ipv6": "the device has an IPv6 address that leads nowhere",
}
"""Sysctl that shall be 1 -> what is lost where it cannot be set (/proc/sys is read-only)."""


class OverlayDevice:
    """The device and its routes, wanted and compared with what is there.

    Args:
        rtnl: the kernel's links, addresses and routes.
        network: the overlay network.
        subnet: the own lease.
        vnet_hdr: let superpackets pass (rung offload).
        queues: with more than one, each flow has its own one (see `tunneld.link.steering`).
    """

    def __init__(
        self,
        rtnl: Rtnl,
        network: IPv4Network,
        subnet: IPv4Network,
        *,
        vnet_hdr: bool = False,
        queues: int = 1,
    ) -> None:
        self._vnet_hdr = vnet_hdr
        self._queues = queues
        self._rtnl = rtnl
        self._network = network
        self._subnet = subnet
        self._tun: TunDevice | None = None
        self._ifindex = 0
        self._name = TEMPLATE
        self._dropped = 0
        self._dropped_before = 0
        self._refused: set[str] = set()

    @property
    def name(self) -> str:
        """Name of the device, for example `flannel0`; stays the same when it is made again."""
        return self._name

    @property
    def fds(self) -> tuple[int, ...]:
        """The descriptors of its packets, one per queue.

        Raises:
            StartError: the device is not open.
        """
        if self._tun is None:
            raise StartError(f"{self._name} is not open")
        return self._tun.fds

    async def block(self) -> bool:
        """Have the unreachable routes for the network and the own subnet; True: one was missing."""
        changed = await self._rtnl.ensure_unreachable(self._network)
        return await self._rtnl.ensure_unreachable(self._subnet) or changed

    async def clear(self) -> int:
        """Remove our routes of another backend's life: a peer's /24 would outrank the device's.

        Returns:
            How many there were.
        """
        stale = [
            route
            for route in await self._rtnl.our_routes()
            if route.dst.subnet_of(self._network)
            and not (route.unreachable and route.dst in {self._network, self._subnet})
        ]
        return sum([await self._rtnl.remove_route(route) for route in stale])

    async def open(self, mtu: int) -> None:
        """Make the device, up, with address and route.

        Raises:
            StartError: the kernel or our capabilities do not allow it.
        """
        try:
            self._tun = self._open_tun(self._name)
        except StartError:
            if self._name == TEMPLATE:
                raise
            # Somebody took the name meanwhile: another one serves as well.
            self._tun = self._open_tun(TEMPLATE)
        self._name = self._tun.name
        link = await self._rtnl.link(self._name)
        self._ifindex = link.index if link else 0
        await self.ensure(mtu)

    def _open_tun(self, name: str) -> TunDevice:
        tun = open_tun(name, vnet_hdr=self._vnet_hdr, queues=self._queues)
        if self._vnet_hdr:
            set_offloads(tun.fds[0])
        if self._queues > 1:
            try:
                steering.attach(tun.fds[0])
            except StartError:
                tun.close()
                raise
        return tun

    async def present(self) -> bool:
        """Whether the device that we opened is still the one of that name."""
        link = await self._rtnl.link(self._name)
        return self._tun is not None and link is not None and link.index == self._ifindex

    async def ensure(self, mtu: int) -> list[str]:
        """Repair sysctls, link, address and route, in this order.

        Returns:
            The kinds of what was not right.
        """
        repaired = []
        if self._ensure_sysctls():
            repaired.append("sysctl")
        if await self._rtnl.ensure_link(self._name, mtu=mtu, up=True, txqlen=TXQLEN):
            repaired.append("link")
        address = IPv4Interface((self._subnet.network_address, 32))
        if await self._rtnl.ensure_address(self._ifindex, address):
            repaired.append("address")
        if await self._rtnl.ensure_route(self._network, ifindex=self._ifindex):
            repaired.append("route")
        self._read_dropped()
        return repaired

    def _ensure_sysctls(self) -> bool:
        changed = False
        for path, harm in _SYSCTLS.items():
            try:
                changed |= sysctl.ensure(path.format(self._name), "1")
            except FileNotFoundError:
                # A kernel without IPv6 has no such file, and needs none.
                continue
            except OSError as error:
                if path not in self._refused:
                    self._refused.add(path)
                    detail = fields(sysctl=path.format(self._name), error=error, harm=harm)
                    log.warning("a sysctl cannot be set", extra=detail)
        return changed

    def close(self) -> None:
        """Give up the descriptors, and with them the device; idempotent."""
        if self._tun is not None:
            self._read_dropped()
            self._dropped_before += self._dropped
            self._dropped = 0
            self._tun.close()
            self._tun = None

    def queue_dropped(self) -> int:
        """Return how many packets the kernel dropped before we read them, over all devices."""
        self._read_dropped()
        return self._dropped_before + self._dropped

    def _read_dropped(self) -> None:
        # /proc/self/net follows the network namespace; /sys may be another one's.
        for line in Path("/proc/self/net/dev").read_text(encoding="ascii").splitlines():
            name, colon, words = line.partition(":")
            if colon and name.strip() == self._name:
                self._dropped = int(words.split()[11])
