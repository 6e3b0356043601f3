"""Choose the external interface, by flannel's rules (flannel `pkg/ip/match.go`).

`--iface` entries in order (a name or an address), then `--iface-regex` entries in order (matched
against addresses and names), then `--iface-can-reach`, else the interface of the default route.
With only `--public-ip` set, the interface that bears it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address
from typing import TYPE_CHECKING

from tunneld.errors import ConfigError, StartError

if TYPE_CHECKING:
    from tunneld.link.rtnl import AddressInfo, LinkInfo, Rtnl

_SCOPE_UNIVERSE = 0
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
    """The interfaces and addresses of this host at one moment."""

    links: list[LinkInfo]
    addresses: list[AddressInfo]

    def address_of(self, ifindex: int) -> IPv4Address | None:
        """Return the first global address of an interface, as flannel takes it."""
        for info in self.addresses:
            if info.ifindex == ifindex and info.scope == _SCOPE_UNIVERSE:
                return info.address
        return None

    def link(self, ifindex: int) -> LinkInfo | None:
        return next((link for link in self.links if link.index == ifindex), None)

    def named(self, name: str) -> LinkInfo | None:
        return next((link for link in self.links if link.name == name), None)

    def bearer(self, address: IPv4Address) -> LinkInfo | None:
        for info in self.addresses:
            if info.address == address:
                return self.link(info.ifindex)
        return None

    def describe(self) -> str:
        """Return "eth0 (10.168.0.2), lo (127.0.0.1)" for error messages."""
        words = []
        for link in self.links:
            own = [str(i.address) for i in self.addresses if i.ifindex == link.index]
            words.append(f"{link.name} ({', '.join(own) or 'no IPv4 address'})")
        return ", ".join(words)


def _parse(text: str) -> IPv4Address | None:
    try:
        return IPv4Address(text)
    except AddressValueError:
        return None


def _take(
    host: _Host, link: LinkInfo, address: IPv4Address | None, public: IPv4Address | None
) -> Underlay:
    own = address or host.address_of(link.index)
    if own is None:
        raise StartError(f"interface {link.name} has no IPv4 address", remedy=_REMEDY)
    return Underlay(link.name, link.index, own, link.mtu, public or own)


def _by_name(host: _Host, iface: Sequence[str], public: IPv4Address | None) -> Underlay | None:
    for entry in iface:
        address = _parse(entry)
        link = host.bearer(address) if address else host.named(entry)
        if link is not None and (address or host.address_of(link.index)):
            return _take(host, link, address, public)
    return None


def _by_regex(host: _Host, patterns: Sequence[str], public: IPv4Address | None) -> Underlay | None:
    for pattern in patterns:
        try:
            compiled = re.compile(pattern)
        except re.error as error:
            raise ConfigError(
                f"{pattern!r} is not a regular expression: {error}",
                field="iface-regex",
                remedy="quote special characters with a backslash",
            ) from error
        # flannel tries the addresses of all interfaces first, then their names.
        for info in host.addresses:
            link = host.link(info.ifindex)
            if link is not None and compiled.search(str(info.address)):
                return _take(host, link, info.address, public)
        for link in host.links:
            if compiled.search(link.name) and host.address_of(link.index):
                return _take(host, link, None, public)
    return None


def _public(text: str | None) -> IPv4Address | None:
    if text is None:
        return None
    address = _parse(text)
    if address is None:
        raise ConfigError(
            f"{text!r} is not an IPv4 address", field="public-ip", remedy="give four octets"
        )
    return address


async def choose(
    rtnl: Rtnl,
    *,
    iface: Sequence[str] = (),
    iface_regex: Sequence[str] = (),
    can_reach: str | None = None,
    public_ip: str | None = None,
) -> Underlay:
    """Return the external interface.

    Raises:
        StartError: no interface fits; names the flag and the interfaces there are.
        ConfigError: a regex or an address cannot be parsed.
    """
    public = _public(public_ip)
    host = _Host(await rtnl.links(), await rtnl.addresses())
    if iface or iface_regex:
        found = _by_name(host, iface, public) or _by_regex(host, iface_regex, public)
        if found is None:
            flags = [f"--iface {name}" for name in iface]
            flags += [f"--iface-regex {pattern}" for pattern in iface_regex]
            raise StartError(
                f"no interface with an IPv4 address matches {', '.join(flags)};"
                f" there are: {host.describe()}",
                remedy="correct the flag, or leave it out to take the default route's interface",
            )
        return found
    if can_reach is not None:
        return await _reaching(rtnl, host, can_reach, public)
    if public is not None:
        link = host.bearer(public)
        if link is not None:
            return _take(host, link, public, public)
        raise StartError(
            f"no interface bears --public-ip {public}; there are: {host.describe()}",
            remedy=f"{_REMEDY} as well (a host behind NAT)",
        )
    return await _default(rtnl, host)


async def _reaching(rtnl: Rtnl, host: _Host, target: str, public: IPv4Address | None) -> Underlay:
    address = _parse(target)
    if address is None:
        raise ConfigError(
            f"{target!r} is not an IPv4 address",
            field="iface-can-reach",
            remedy="give four octets",
        )
    ifindex = await rtnl.route_to(address)
    link = host.link(ifindex) if ifindex is not None else None
    if link is None:
        raise StartError(f"no route to --iface-can-reach {target}", remedy=_REMEDY)
    return _take(host, link, None, public)


async def _default(rtnl: Rtnl, host: _Host) -> Underlay:
    route = await rtnl.default_route()
    link = host.link(route.ifindex) if route is not None and route.ifindex else None
    if link is None:
        raise StartError(
            f"there is no default route to take the external interface from;"
            f" there are: {host.describe()}",
            remedy=_REMEDY,
        )
    return _take(host, link, None, None)
