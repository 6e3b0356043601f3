"""VXLAN devices: what one is like and how it is made (ip-link(8), "VXLAN Type Support")."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any

ALIAS = "tunneld"
"""Stands on the devices that we made or took over, so that `tunneld cleanup` finds them."""


@dataclass(frozen=True, slots=True)
class VxlanSettings:
    """What cannot be changed without losing the device's tables.

    Attributes:
        vni: VXLAN network identifier.
        link: number of the interface that the outer packets leave by; 0: as routes say.
        local: source of the outer packets.
        port: UDP port.
        learning: learn MACs from packets.
        gbp: group policy extension.
        proxy: answer ARP out of the neighbour table, let none out.
        l2miss: ask user space for a MAC that the FDB lacks.
        l3miss: ask for an address that the neighbour table lacks, when proxy sees ARP for it.
        group: default destination; None as we want it: what the FDB lacks goes nowhere.
        external: each packet's metadata says VNI and destination.
    """

    vni: int
    link: int
    local: IPv4Address | None
    port: int
    learning: bool = False
    gbp: bool = False
    proxy: bool = False
    l2miss: bool = False
    l3miss: bool = False
    group: IPv4Address | None = None
    external: bool = False


@dataclass(frozen=True, slots=True)
class VxlanInfo:
    """A device as it is.

    Attributes:
        index: number of the interface.
        name: its name.
        kind: "vxlan", or what else bears the name.
        mtu: bytes.
        up: administratively up.
        mac: lower case with colons.
        alias: free text of the administrator (`ip link set alias`); ours says who made it.
        settings: None when it is no VXLAN device.
    """

    index: int
    name: str
    kind: str
    mtu: int
    up: bool
    mac: str
    alias: str
    settings: VxlanSettings | None


_IFF_UP = 0x1


def read_vxlan(message: Any) -> VxlanInfo:
    """Read an RTM_NEWLINK message."""
    kind = message.get(("linkinfo", "kind")) or ""
    data = message.get(("linkinfo", "data")) if kind == "vxlan" else None
    return VxlanInfo(
        index=message["index"],
        name=message.get("ifname") or "",
        kind=kind,
        mtu=message.get("mtu") or 0,
        up=bool(message["flags"] & _IFF_UP),
        mac=(message.get("address") or "").lower(),
        alias=message.get("ifalias") or "",
        settings=_settings(data) if data is not None else None,
    )


def _settings(data: Any) -> VxlanSettings:
    def flag(name: str) -> bool:
        # GBP is an attribute without a value: there or not.
        return name in {key for key, _ in data["attrs"]} if name == _GBP else bool(data.get(name))

    local, group = data.get("vxlan_local"), data.get("vxlan_group")
    return VxlanSettings(
        vni=data.get("vxlan_id") or 0,
        link=data.get("vxlan_link") or 0,
        local=IPv4Address(local) if local else None,
        port=data.get("vxlan_port") or 0,
        learning=flag("vxlan_learning"),
        gbp=flag(_GBP),
        proxy=flag("vxlan_proxy"),
        l2miss=flag("vxlan_l2miss"),
        l3miss=flag("vxlan_l3miss"),
        group=IPv4Address(group) if group else None,
        external=flag("vxlan_collect_metadata"),
    )


_GBP = "IFLA_VXLAN_GBP"


def creation(settings: VxlanSettings) -> dict[str, Any]:
    """Return the arguments of pyroute2's `link("add", ...)`."""
    wanted: dict[str, Any] = {
        "kind": "vxlan",
        "vxlan_id": settings.vni,
        "vxlan_link": settings.link,
        "vxlan_local": str(settings.local),
        "vxlan_port": settings.port,
        "vxlan_learning": int(settings.learning),
        "vxlan_proxy": int(settings.proxy),
        "vxlan_l2miss": int(settings.l2miss),
        "vxlan_l3miss": int(settings.l3miss),
    }
    if settings.gbp:
        wanted["vxlan_gbp"] = True
    return wanted
