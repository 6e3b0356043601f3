"""The Backend options of the vxlan backends, and a VTEP's MAC where there is none yet. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address

from tunneld.backend.config import BackendConfig

OVERHEAD_BYTES = 50
"""Outer IPv4 header 20, UDP 8, VXLAN 8, inner Ethernet header 14 (RFC 7348, 5)."""

_DEFAULT_PORT = 8472
"""The kernel's from before IANA gave 4789; flannel keeps it."""

# The device is called flannel.<VNI>, and a name has at most 15 characters.
_MAX_VNI = 9_999_999
_MIN_MTU = 68 + OVERHEAD_BYTES  # RFC 791: every module forwards 68 octets
_MAX_MTU = 65535


@dataclass(frozen=True, slots=True)
class VxlanConfig:
    """What the network config says about VXLAN (flannel, Documentation/backends.md).

    Attributes:
        vni: VXLAN network identifier.
        port: UDP port of the outer packets.
        mtu: largest outer packet in bytes; None: the underlay's MTU. The device's is 50 less.
        learning: the device also learns from the packets that it gets.
        gbp: group policy extension.
        direct_routing: peers on the same link are routed without a tunnel.
    """

    vni: int = 1
    port: int = _DEFAULT_PORT
    mtu: int | None = None
    learning: bool = False
    gbp: bool = False
    direct_routing: bool = False

    @property
    def device(self) -> str:
        """Name of the VTEP."""
        return f"flannel.{self.vni}"

    def device_mtu(self, underlay_mtu: int) -> int:
        """Return the VTEP's MTU; the kernel takes none that the underlay cannot carry."""
        return min(self.mtu or underlay_mtu, underlay_mtu) - OVERHEAD_BYTES


def parse(document: Mapping[str, object], source: str) -> VxlanConfig:
    """Read the Backend object.

    Raises:
        ConfigError: with field, source and remedy.
    """
    options = BackendConfig(document, source)
    mtu = options.whole("MTU", default=0, low=0, high=_MAX_MTU)
    if 0 < mtu < _MIN_MTU:
        message = f"{mtu} bytes are too few: {OVERHEAD_BYTES} of them are VXLAN's"
        raise options.refuse("MTU", message, f"write at least {_MIN_MTU}, or leave it out")
    return VxlanConfig(
        vni=options.whole("VNI", default=1, low=0, high=_MAX_VNI),
        port=options.whole("Port", default=_DEFAULT_PORT, low=1, high=65535),
        mtu=mtu or None,
        learning=options.boolean("Learning", default=False),
        gbp=options.boolean("GBP", default=False),
        direct_routing=options.boolean("DirectRouting", default=False),
    )


def derive_mac(public_ip: IPv4Address, vni: int) -> str:
    """Return the MAC of a node that never had one: the same at every start, no two nodes' alike.

    Locally administered and of one station (IEEE 802, 8.2): x2, x6, xA or xE in front.
    """
    digest = hashlib.sha256(f"tunneld vtep {public_ip} {vni}".encode()).digest()
    return bytes([digest[0] & 0xFC | 0x02, *digest[1:6]]).hex(":")
