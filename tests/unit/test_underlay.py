"""flannel's rules of choosing the external interface, on hosts of paper."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from typing import Any, cast

import pytest

from tunneld.errors import ConfigError, StartError
from tunneld.link.rtnl import AddressInfo, LinkInfo, RouteInfo, Rtnl
from tunneld.link.underlay import Underlay, choose

HOST, LINK, GLOBAL = 254, 253, 0


@dataclass
class PaperHost:
    """Interfaces in the kernel's order: name -> addresses with their scope."""

    interfaces: dict[str, list[tuple[str, int]]]
    default: str | None = None
    routes: dict[str, tuple[str, str | None]] = field(default_factory=dict)

    async def links(self) -> list[LinkInfo]:
        return [
            LinkInfo(number, name, 1500 - number, up=True, kind="", txqlen=1000, tx_dropped=0)
            for number, name in enumerate(self.interfaces, 1)
        ]

    async def addresses(self) -> list[AddressInfo]:
        return [
            AddressInfo(number, IPv4Address(address), 24, scope)
            for number, addresses in enumerate(self.interfaces.values(), 1)
            for address, scope in addresses
        ]

    def _route(self, name: str, source: str | None) -> RouteInfo:
        return RouteInfo(
            IPv4Network("0.0.0.0/0"),
            list(self.interfaces).index(name) + 1,
            None,
            0,
            3,
            GLOBAL,
            unreachable=False,
            source=IPv4Address(source) if source else None,
        )

    async def default_route(self) -> RouteInfo | None:
        return self._route(self.default, None) if self.default else None

    async def route_to(self, address: IPv4Address) -> RouteInfo | None:
        found = self.routes.get(str(address))
        return self._route(*found) if found else None

    async def choose(self, **flags: Any) -> Underlay:
        return await choose(cast("Rtnl", self), **flags)


@pytest.fixture
def host() -> PaperHost:
    """lo, a bare management port, eth0 with the default route, net1 with three addresses."""
    return PaperHost(
        {
            "lo": [("127.0.0.1", HOST)],
            "mgmt": [],
            "eth0": [("10.168.0.2", GLOBAL)],
            "net1": [("169.254.3.4", LINK), ("10.169.0.2", GLOBAL), ("10.169.0.9", GLOBAL)],
        },
        default="eth0",
        routes={"192.0.2.7": ("net1", "10.169.0.9"), "198.51.100.7": ("mgmt", None)},
    )


def _of(underlay: Underlay) -> tuple[str, str]:
    return underlay.ifname, str(underlay.address)


async def test_the_interface_of_the_default_route(host: PaperHost) -> None:
    public = IPv4Address("10.168.0.2")
    assert await host.choose() == Underlay("eth0", 3, public, 1497, public)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        # A name, an address, the second entry when the first one does not exist.
        ({"iface": ["net1"]}, ("net1", "10.169.0.2")),
        ({"iface": ["10.169.0.9"]}, ("net1", "10.169.0.9")),
        ({"iface": ["169.254.3.4"]}, ("net1", "169.254.3.4")),
        ({"iface": ["eth7", "10.9.9.9", "net1", "eth0"]}, ("net1", "10.169.0.2")),
        # An interface without an address is passed over.
        ({"iface": ["mgmt", "lo", "net1"]}, ("net1", "10.169.0.2")),
        # Regexes come after all of iface, whatever the order of the flags.
        ({"iface": ["eth0"], "iface_regex": ["net1"]}, ("eth0", "10.168.0.2")),
        ({"iface": ["eth7"], "iface_regex": ["nope", "^net"]}, ("net1", "10.169.0.2")),
        # A regex is searched in addresses, global ones before link-local ones, then in names.
        ({"iface_regex": [r"10\.169\..*\.9$"]}, ("net1", "10.169.0.9")),
        ({"iface_regex": [r"^1\d+\.(169|254)\."]}, ("net1", "10.169.0.2")),
        ({"iface_regex": ["1"]}, ("eth0", "10.168.0.2")),  # not 127.0.0.1, not the name net1
        ({"iface_regex": ["^169"]}, ("net1", "169.254.3.4")),
        # The first name that matches is the match of that regex, even if it has no address.
        ({"iface_regex": ["mgmt|net", "eth"]}, ("eth0", "10.168.0.2")),
        # can-reach comes last, and takes the address that the kernel would send from.
        ({"can_reach": "192.0.2.7"}, ("net1", "10.169.0.9")),
        ({"iface": ["eth0"], "can_reach": "192.0.2.7"}, ("eth0", "10.168.0.2")),
        ({"iface": ["eth7"], "can_reach": "192.0.2.7"}, ("net1", "10.169.0.9")),
        ({"iface_regex": ["nope"], "can_reach": "192.0.2.7"}, ("net1", "10.169.0.9")),
        # public-ip alone finds its bearer.
        ({"public_ip": "10.169.0.9"}, ("net1", "10.169.0.9")),
        ({"public_ip": ""}, ("eth0", "10.168.0.2")),
    ],
)
async def test_flannels_order(
    host: PaperHost, flags: dict[str, Any], expected: tuple[str, str]
) -> None:
    chosen = await host.choose(**flags)
    assert _of(chosen) == expected
    assert chosen.public_ip == chosen.address


@pytest.mark.parametrize(
    "flags",
    [{"iface": ["eth0"]}, {"iface_regex": ["eth0"]}, {"iface": ["x"], "iface_regex": ["eth"]}],
)
async def test_behind_nat_the_public_ip_is_announced_only(
    host: PaperHost, flags: dict[str, Any]
) -> None:
    chosen = await host.choose(public_ip="203.0.113.5", **flags)
    assert _of(chosen) == ("eth0", "10.168.0.2")
    assert chosen.public_ip == IPv4Address("203.0.113.5")


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ({"iface": ["eth7"]}, "--iface eth7"),
        ({"iface": ["lo"]}, "--iface lo"),
        ({"iface": ["mgmt", "10.9.9.9"]}, "--iface mgmt, --iface 10.9.9.9"),
        ({"iface": ["eth7"], "iface_regex": ["^wl"]}, "--iface eth7, --iface-regex ^wl"),
        ({"iface_regex": ["mgmt|net"]}, "--iface-regex mgmt|net"),
        ({"can_reach": "203.0.113.9"}, "--iface-can-reach 203.0.113.9"),
        ({"can_reach": "198.51.100.7"}, "--iface-can-reach 198.51.100.7"),
        ({"public_ip": "203.0.113.5"}, "--public-ip 203.0.113.5"),
    ],
)
async def test_nothing_fits(host: PaperHost, flags: dict[str, Any], named: str) -> None:
    with pytest.raises(StartError) as caught:
        await host.choose(**flags)
    message = str(caught.value)
    assert named in message
    assert "lo (127.0.0.1), mgmt (no IPv4 address), eth0 (10.168.0.2), net1 (" in message
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"iface_regex": [r"^10\."]}, ("eth0", "10.168.0.2")),
        ({"iface_regex": ["^fl|eth"]}, ("eth0", "10.168.0.2")),
        ({"iface": ["flannel0", "10.96.1.1", "eth0"]}, ("eth0", "10.168.0.2")),
        ({"can_reach": "10.96.7.7"}, None),
        ({"iface": ["10.96.1.1"]}, None),
        ({"public_ip": "10.96.1.1"}, None),
    ],
)
async def test_what_lies_in_the_overlay_is_no_underlay(
    flags: dict[str, Any], expected: tuple[str, str] | None
) -> None:
    """The choice is made again while we run; eth0 comes last here, as after a hot-plug."""
    host = PaperHost(
        {
            "flannel0": [("10.96.1.0", GLOBAL)],
            "docker0": [("10.96.1.1", GLOBAL)],
            "eth0": [("10.96.1.77", GLOBAL), ("10.168.0.2", GLOBAL)],
        },
        default="eth0",
        routes={"10.96.7.7": ("flannel0", "10.96.1.0")},
    )
    network = IPv4Network("10.96.0.0/16")
    if expected:
        assert _of(await host.choose(network=network, **flags)) == expected
    else:
        with pytest.raises(
            StartError, match=r"^no interface .*outside the Network 10\.96\.0\.0/16"
        ):
            await host.choose(network=network, **flags)


async def test_no_default_route(host: PaperHost) -> None:
    host.default = None
    with pytest.raises(StartError, match=r"no default route.*there are: lo .*--iface"):
        await host.choose()


async def test_a_default_route_without_an_address(host: PaperHost) -> None:
    host.default = "mgmt"
    with pytest.raises(StartError, match=r"mgmt of the default route has no IPv4 address.*--iface"):
        await host.choose()


@pytest.mark.parametrize(
    ("flags", "field_name"),
    [
        ({"iface_regex": ["eth("]}, "iface-regex"),
        ({"can_reach": "example.org"}, "iface-can-reach"),
        ({"can_reach": "fd00::1"}, "iface-can-reach"),
        ({"public_ip": "10.168.0.256"}, "public-ip"),
    ],
)
async def test_what_cannot_be_parsed(
    host: PaperHost, flags: dict[str, Any], field_name: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        await host.choose(**flags)
    assert caught.value.field == field_name
