"""The ipip devices of `--dataplane kernel`: one for each public IP, compared and repaired."""

from __future__ import annotations

import logging
from collections.abc import Collection
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from tunneld.link import ipip, sysctl
from tunneld.observe.log import fields

if TYPE_CHECKING:
    from tunneld.link.ipip import Device, Tunnel
    from tunneld.link.rtnl_bulk import BulkSocket, Request

log = logging.getLogger(__name__)

_SYSCTLS = {
    "net/ipv4/conf/{}/rp_filter": "the nft table alone checks inner sources",
    "net/ipv6/conf/{}/disable_ipv6": "the device has an IPv6 address that leads nowhere",
}
"""Sysctl that shall be 1 -> what is lost where it cannot be set (/proc/sys is read-only)."""


class Devices:
    """The devices as they should be.

    Args:
        bulk: for the requests.
        address: base address of the own lease; each device bears it, as flannel0 does, so that
            what this host sends of its own has a source that the peer can answer.

    Attributes:
        index: interface number of each tunnel that is up.
        refused: reason for each that could not be made.
    """

    def __init__(self, bulk: BulkSocket, address: IPv4Address) -> None:
        self.index: dict[Tunnel, int] = {}
        self.refused: dict[Tunnel, str] = {}
        self._bulk = bulk
        self._address = address
        self._sysctls_refused: set[str] = set()

    async def ensure(self, wanted: Collection[Tunnel], mtu: int) -> list[str]:
        """Make exactly these devices, up, with sysctls and address; the right ones stay.

        Returns:
            The kinds of what was not right.

        Raises:
            StartError: the kernel's answers are lost.
        """
        there = await ipip.devices(self._bulk)
        repaired = []
        if await self._remove_stale(there, wanted) | await self._create(there, wanted, mtu):
            there = await ipip.devices(self._bulk)
            repaired.append("device")
        ours = [device for device in there.values() if device.tunnel in wanted]
        # Before they are up: from then on packets come in.
        if {self._ensure_sysctls(device) for device in ours} - {False}:
            repaired.append("sysctl")
        bearers = await ipip.holders(self._bulk, self._address)
        bare = [device for device in ours if device.index not in bearers]
        if await self._send([ipip.add_address(device, self._address) for device in bare]):
            repaired.append("address")
        wrong = [device for device in ours if device.mtu != mtu or not device.up]
        if await self._send([ipip.set_up(device, mtu) for device in wrong]):
            repaired.append("link")
        self.index = {device.tunnel: device.index for device in ours if device.tunnel}
        # A new device lacks the rest by nature.
        return repaired[:1]

    async def _remove_stale(self, there: dict[str, Device], wanted: Collection[Tunnel]) -> bool:
        stale = [d.name for d in there.values() if d.ipip and d.tunnel not in wanted]
        for name in stale:
            del there[name]
        return await self._send([ipip.delete(name) for name in stale])

    async def _create(self, there: dict[str, Device], wanted: Collection[Tunnel], mtu: int) -> bool:
        missing = sorted(
            (tunnel for tunnel in wanted if tunnel.name not in there), key=lambda each: each.name
        )
        requests = [ipip.create(tunnel, mtu) for tunnel in missing]
        answers = await self._bulk.exchange(requests)
        self.refused = {
            tunnel: f"the kernel refuses the device {tunnel.name}: {answer.reason}"
            for tunnel, answer in zip(missing, answers, strict=True)
            if answer.errno
        }
        for tunnel in wanted:
            if tunnel.name in there and there[tunnel.name].tunnel != tunnel:
                self.refused[tunnel] = f"there is a device {tunnel.name} that is no tunnel of ours"
        return any(not answer.errno for answer in answers)

    def _ensure_sysctls(self, device: Device) -> bool:
        changed = False
        for path, harm in _SYSCTLS.items():
            try:
                changed |= sysctl.ensure(path.format(device.name), "1")
            except FileNotFoundError:
                # A kernel without IPv6 has no such file, and a device may be gone already.
                continue
            except OSError as error:
                if path not in self._sysctls_refused:
                    self._sysctls_refused.add(path)
                    detail = fields(sysctl=path.format(device.name), error=error, harm=harm)
                    log.warning("a sysctl cannot be set", extra=detail)
        return changed

    async def _send(self, requests: list[Request]) -> bool:
        """Send requests of which each should be granted; True: there were any."""
        for answer in await self._bulk.exchange(requests):
            if answer.errno:
                # A device that somebody deletes meanwhile: its event brings us here again.
                log.debug("a device could not be changed: %s", answer.reason)
        return bool(requests)
