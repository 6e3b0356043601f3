"""The VTEP of the vxlan backends: `flannel.<VNI>`, wanted and compared with what is there.

flannel's device (pkg/backend/vxlan/device.go): dev and local of the external interface, the base
address of the lease as /32, so that no broadcast route appears. One that is right is used as it is:
its tables carry traffic. One that differs in what cannot be changed is made anew.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Mapping
from ipaddress import IPv4Interface, IPv4Network
from typing import TYPE_CHECKING

from pyroute2.netlink.exceptions import NetlinkError

from tunneld.backend.udp_socket import port_owner
from tunneld.errors import StartError
from tunneld.link import sysctl
from tunneld.link.rtnl_vxlan import ALIAS
from tunneld.observe.log import fields

if TYPE_CHECKING:
    from tunneld.link.rtnl import Rtnl
    from tunneld.link.rtnl_vxlan import VxlanInfo, VxlanSettings

log = logging.getLogger(__name__)

_NO_IPV6 = {"net/ipv6/conf/{}/disable_ipv6": "1"}


class VxlanDevice:
    """The device, in whatever namespace `rtnl` is.

    Args:
        rtnl: the kernel's links and addresses.
        name: of the device.
        network: the overlay network; other addresses in it are of an earlier lease.
        sysctls: path with {} for the name -> value, beside ours.

    Attributes:
        name: as given.
        index: number of the interface; 0 before `ensure`.
        fresh: it was made since the last look, so its tables are empty.
    """

    def __init__(
        self, rtnl: Rtnl, name: str, network: IPv4Network, sysctls: Mapping[str, str]
    ) -> None:
        self._rtnl = rtnl
        self._network = network
        self._sysctls = _NO_IPV6 | dict(sysctls)
        self._refused: set[str] = set()
        self.name = name
        self.index = 0
        self.fresh = False

    async def existing_mac(self) -> str | None:
        """Return the MAC of the device of an earlier life, or None."""
        info = await self._rtnl.vxlan(self.name)
        return info.mac if info and info.settings else None

    async def ensure(
        self, settings: VxlanSettings, *, mac: str, mtu: int, subnet: IPv4Network | None
    ) -> list[str]:
        """Make or repair device, sysctls, MTU, MAC, state and address, in this order.

        Args:
            settings: what cannot be changed in place.
            mac: of the VTEP.
            mtu: bytes.
            subnet: the own lease; None while there is none: the device has no address.

        Returns:
            The kinds of what was not right.

        Raises:
            StartError: the kernel does not let us have such a device; with the remedy.
        """
        try:
            return await self._ensure(settings, mac, mtu, subnet)
        except NetlinkError as error:
            raise await self._explain(error, settings) from error

    async def _ensure(
        self, settings: VxlanSettings, mac: str, mtu: int, subnet: IPv4Network | None
    ) -> list[str]:
        repaired = []
        info = await self._rtnl.vxlan(self.name)
        if info is None or info.settings != settings:
            info = await self._make_anew(info, settings, mac, mtu)
            repaired.append("device")
        # Same name and settings, but not the one whose tables we filled.
        self.fresh |= info.index != self.index
        self.index = info.index
        if self._ensure_sysctls():
            repaired.append("sysctl")
        wanted: dict[str, object] = {}
        if info.mtu != mtu:
            wanted["mtu"] = mtu
        if info.mac != mac:
            wanted["address"] = mac
        if not info.up:
            wanted["state"] = "up"
        if wanted:
            await self._rtnl.set_link(info.index, **wanted)
            repaired.append("link")
        if info.alias != ALIAS:
            await self._rtnl.set_link(info.index, ifalias=ALIAS)
        if subnet is not None and await self._ensure_address(subnet):
            repaired.append("address")
        # What a new device lacks was not taken from it.
        return ["device"] if "device" in repaired else repaired

    async def _make_anew(
        self, info: VxlanInfo | None, settings: VxlanSettings, mac: str, mtu: int
    ) -> VxlanInfo:
        if info is not None:
            if info.settings is None:
                raise StartError(
                    f"there is an interface {self.name} that is no VXLAN device"
                    f" ({info.kind or 'hardware'})",
                    remedy=f"ip link del {self.name}, or another VNI in the network config",
                )
            pair = fields(device=self.name, there=info.settings, wanted=settings)
            log.warning("the device is another one than we need, made anew", extra=pair)
            await self._rtnl.remove_link(self.name)
        await self._rtnl.add_vxlan(self.name, settings, mac=mac, mtu=mtu)
        made = await self._rtnl.vxlan(self.name)
        if made is None:
            raise StartError(f"{self.name} was deleted as soon as it was made")
        return made

    def _ensure_sysctls(self) -> bool:
        changed = False
        for path, value in self._sysctls.items():
            try:
                changed |= sysctl.ensure(path.format(self.name), value)
            except FileNotFoundError:
                continue  # a kernel without IPv6
            except OSError as error:
                if path not in self._refused:
                    self._refused.add(path)
                    detail = fields(sysctl=path.format(self.name), error=error)
                    log.warning("a sysctl cannot be set", extra=detail)
        return changed

    async def _ensure_address(self, subnet: IPv4Network) -> bool:
        base = IPv4Interface((subnet.network_address, 32))
        for info in await self._rtnl.addresses(self.index):
            right = (info.address, info.prefix_len) == (base.ip, 32)
            if info.address in self._network and not right:
                await self._rtnl.remove_address(info)
        return await self._rtnl.ensure_address(self.index, base)

    async def _explain(self, error: NetlinkError, settings: VxlanSettings) -> StartError:
        said = f"cannot make the VXLAN device {self.name}: "
        if error.code in {errno.EPERM, errno.EACCES}:
            return StartError(said + "not permitted", remedy="run as root or with CAP_NET_ADMIN")
        if error.code == errno.EOPNOTSUPP:
            return StartError(
                said + "this kernel has no VXLAN",
                remedy='modprobe vxlan, or "Type": "udp" in the network config of all nodes',
            )
        if error.code == errno.EEXIST:
            others = [
                info.name
                for info in await self._rtnl.vxlans()
                if info.settings and (info.settings.vni, info.settings.port) == _key(settings)
            ]
            return StartError(
                f"{said}VNI {settings.vni} on UDP port {settings.port} belongs to"
                f" {', '.join(others) or 'another device'}",
                remedy="delete that device, or choose another VNI in the network config",
            )
        if error.code == errno.EADDRINUSE:
            return StartError(
                f"{said}UDP port {settings.port} is in use by {port_owner(settings.port)}",
                remedy="stop it, or change Port in the network config of all nodes",
            )
        if error.code == errno.ENODEV:
            return StartError(f"{said}the external interface or the device went away")
        return StartError(f"{said}{error}")


def _key(settings: VxlanSettings) -> tuple[int, int]:
    return settings.vni, settings.port
