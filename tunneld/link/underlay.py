"""Choose the external interface, by flannel's rules (`pkg/ipmatch`, `pkg/ip/iface.go` v0.28).

`--iface` entries in order (a name or an address), then `--iface-regex` entries in order (matched
against the addresses of all interfaces, then against their names), then `--iface-can-reach`. With
none of these given: the interface that bears `--public-ip`, else that of the default route.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv4Network
from typing import TYPE_CHECKING

from tunneld.errors import ConfigError, StartError

if TYPE_CHECKING:
    from tunneld.link.rtnl import AddressInfo, LinkInfo, Rtnl

_REMEDY = "name the external interface with --iface"


@dataclass(frozen=True, slots=True)
class Underlay:
    """The external interface.

    Attributes:
        ifname: its name.
        ifindex: its number.
        address: the address that the socket is bound to.
        mtu: bytes.
        public_ip: the address that peers send to; differs from `address` behind NAT.
    """

    ifname: str
    ifindex: int
    address: IPv4Address
    mtu: int
    public_ip: IPv4Address


@dataclass(frozen=True, slots=True)
class _Host:
    """The interfaces and addresses of this host at one moment, in the kernel's order.

    Attributes:
        links: all interfaces.
        addresses: of all interfaces.
        network: the overlay network; what lies in it is no external address.
    """

    links: list[LinkInfo]
    addresses: list[AddressInfo]
    network: IPv4Network | None

    def usable(self, ifindex: int) -> list[IPv4Address]:
        """Return the addresses that flannel would take: global ones, then link-local ones."""
        own = [
            i.address for i in self.addresses if i.ifindex == ifindex and self.outside(i.address)
        ]
        return [a for a in own if _is_global(a)] + [a for a in own if a.is_link_local]

    def outside(self, address: IPv4Address) -> bool:
        return self.network is None or address not in self.network

    def overlay_only(self, ifindex: int) -> bool:
        """Whether an interface belongs to the overlay: our device, or the containers' bridge."""
        own = [info.address for info in self.addresses if info.ifindex == ifindex]
        return bool(own) and not any(self.outside(address) for address in own)

    @property
    def where(self) -> str:
        """Return what an error message says about the addresses that do not count."""
        return f" outside the Network {self.network}" if self.network else ""

    def link(self, ifindex: int | None) -> LinkInfo | None:
        return next((link for link in self.links if link.index == ifindex), None)

    def named(self, name: str) -> LinkInfo | None:
        return next((link for link in self.links if link.name == name), None)

    def bearer(self, address: IPv4Address) -> LinkInfo | None:
        for info in self.addresses:
            if info.address == address:
                return self.link(info.ifindex)
        return None

    def first(self, found: _Found) -> IPv4Address | None:
        """Return the address to use of what a flag led to, or None when there is none."""
        own = [found.address] if found.address else self.usable(found.link.index)
        return next((address for address in own if self.outside(address)), None)

    def __str__(self) -> str:
        words = []
        for link in self.links:
            own = [str(i.address) for i in self.addresses if i.ifindex == link.index]
            words.append(f"{link.name} ({', '.join(own) or 'no IPv4 address'})")
        return ", ".join(words)


def _is_global(address: IPv4Address) -> bool:
    """Whether Go's `IP.IsGlobalUnicast` says so; private addresses are global for it."""
    return not (
        address.is_unspecified
        or address.is_loopback
        or address.is_link_local
        or address.is_multicast
        or int(address) == 0xFFFFFFFF
    )


def _parse(text: str) -> IPv4Address | None:
    try:
        return IPv4Address(text)
    except AddressValueError:
        return None


def _parse_flag(text: str, flag: str) -> IPv4Address:
    address = _parse(text)
    if address is None:
        raise ConfigError(f"{text!r} is not an IPv4 address", field=flag, remedy="give four octets")
    return address


@dataclass(frozen=True, slots=True)
class _Found:
    """An interface that a flag led to, and the address if the flag led to one as well."""

    link: LinkInfo
    address: IPv4Address | None = None


def _by_iface(host: _Host, entry: str) -> _Found | None:
    address = _parse(entry)
    link = host.bearer(address) if address else host.named(entry)
    return _Found(link, address) if link else None


def _by_regex(host: _Host, pattern: str) -> _Found | None:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ConfigError(
            f"{pattern!r} is not a regular expression: {error}",
            field="iface-regex",
            remedy="quote special characters with a backslash",
        ) from error
    for link in host.links:
        for address in host.usable(link.index):
            if compiled.search(str(address)):
                return _Found(link, address)
    for link in host.links:
        if compiled.search(link.name) and not host.overlay_only(link.index):
            return _Found(link)
    return None


async def _by_reach(rtnl: Rtnl, host: _Host, target: str) -> _Found | None:
    route = await rtnl.route_to(_parse_flag(target, "iface-can-reach"))
    link = host.link(route.ifindex) if route else None
    # The address that the kernel would send from, which need not be the interface's first.
    return _Found(link, route.source) if link and route else None


async def _candidates(
    rtnl: Rtnl,
    host: _Host,
    iface: Sequence[str],
    iface_regex: Sequence[str],
    can_reach: str | None,
) -> list[tuple[str, _Found | None]]:
    """Return what each flag leads to, in flannel's order."""
    found = [(f"--iface {entry}", _by_iface(host, entry)) for entry in iface]
    found += [(f"--iface-regex {pattern}", _by_regex(host, pattern)) for pattern in iface_regex]
    if can_reach:
        found.append((f"--iface-can-reach {can_reach}", await _by_reach(rtnl, host, can_reach)))
    return found


async def choose(
    rtnl: Rtnl,
    *,
    iface: Sequence[str] = (),
    iface_regex: Sequence[str] = (),
    can_reach: str | None = None,
    public_ip: str | None = None,
    network: IPv4Network | None = None,
) -> Underlay:
    """Return the external interface.

    Args:
        rtnl: the kernel's links, addresses and routes.
        iface: names or addresses, the first that exists is taken.
        iface_regex: tried when no `iface` fits.
        can_reach: an address; tried when no `iface_regex` fits.
        public_ip: the address to announce; alone, it chooses the interface too.
        network: the overlay network. Unlike flannel we choose again while we run, and then the
            bridge and our own device would fit many a regex.

    Raises:
        StartError: no interface fits; names the flag and the interfaces there are.
        ConfigError: a regex or an address cannot be parsed.
    """
    public = _parse_flag(public_ip, "public-ip") if public_ip else None
    host = _Host(await rtnl.links(), await rtnl.addresses(), network)
    candidates = await _candidates(rtnl, host, iface, iface_regex, can_reach)
    if not candidates:
        return _take(host, await _without_flags(rtnl, host, public), public)
    for _, found in candidates:
        # flannel passes over an interface without an address as over one that does not exist.
        if found and host.first(found):
            return _take(host, found, public)
    flags = ", ".join(flag for flag, _ in candidates)
    raise StartError(
        f"no interface with an IPv4 address{host.where} fits {flags}; there are: {host}",
        remedy="correct the flag, or leave it out to take the default route's interface",
    )


async def _without_flags(rtnl: Rtnl, host: _Host, public: IPv4Address | None) -> _Found:
    if public:
        link = host.bearer(public)
        if link and host.outside(public):
            return _Found(link, public)
        raise StartError(
            f"no interface bears --public-ip {public}{host.where}; there are: {host}",
            remedy=f"{_REMEDY} as well if this host is behind NAT",
        )
    route = await rtnl.default_route()
    link = host.link(route.ifindex) if route else None
    if link is None:
        raise StartError(
            "there is no default route to take the external interface from, and no --iface;"
            f" there are: {host}",
            remedy=_REMEDY,
        )
    return _Found(link)


def _take(host: _Host, found: _Found, public: IPv4Address | None) -> Underlay:
    link = found.link
    address = host.first(found)
    if address is None:
        raise StartError(
            f"interface {link.name} of the default route has no IPv4 address{host.where};"
            f" there are: {host}",
            remedy=_REMEDY,
        )
    return Underlay(link.name, link.index, address, link.mtu, public or address)
