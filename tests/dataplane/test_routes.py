"""Longest prefix match, of the C route table and of the python rung's, against a plain list."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.dataplane.bed import SNAPSHOT
from tunneld.dataplane import Route
from tunneld.dataplane.admission import Table
from tunneld.dataplane.engine import RouteTable

Lookup = Callable[[IPv4Address], Route | None]


def in_c(routes: tuple[Route, ...]) -> Lookup:
    return RouteTable(replace(SNAPSHOT, routes=routes)).lookup


def in_python(routes: tuple[Route, ...]) -> Lookup:
    table = Table(replace(SNAPSHOT, routes=routes))

    def lookup(address: IPv4Address) -> Route | None:
        peer = table.lookup(int(address))
        return None if peer is None else peer.route

    return lookup


def in_a_list(routes: tuple[Route, ...]) -> Lookup:
    """The model: the first of the longest prefixes that cover the address."""

    def lookup(address: IPv4Address) -> Route | None:
        covering = [route for route in routes if address in route.subnet]
        return max(covering, key=lambda route: route.subnet.prefixlen, default=None)

    return lookup


TABLES = pytest.mark.parametrize("table", [in_c, in_python])
# Addresses close to each other, so that prefixes nest, and a few from anywhere.
ADDRESSES = st.one_of(
    st.integers(0, 4095).map(lambda n: IPv4Address(0x64600000 + n * 17)),
    st.ip_addresses(v=4),
)
PREFIXES = st.builds(
    lambda address, length: IPv4Network((int(address), length), strict=False),
    ADDRESSES,
    st.integers(1, 32),
)
ROUTES = st.lists(st.builds(Route, PREFIXES, ADDRESSES), max_size=40).map(tuple)


@TABLES
@given(routes=ROUTES, addresses=st.lists(ADDRESSES, max_size=20))
def test_lookup_is_the_lists(
    table: Callable[[tuple[Route, ...]], Lookup],
    routes: tuple[Route, ...],
    addresses: list[IPv4Address],
) -> None:
    lookup, model = table(routes), in_a_list(routes)
    ends = [(int(route.subnet[0]), int(route.subnet[-1])) for route in routes]
    near = {n for first, last in ends for n in (first - 1, first, last, last + 1)}
    edges = [IPv4Address(n) for n in near if 0 <= n < 1 << 32]
    for address in addresses + edges:
        assert lookup(address) == model(address)


@TABLES
def test_ten_thousand_peers(table: Callable[[tuple[Route, ...]], Lookup]) -> None:
    routes = tuple(
        Route(IPv4Network((0x0A000000 + (n << 8), 24)), IPv4Address(0xAC100000 + n))
        for n in range(10_000)
    )
    lookup = table(routes)
    for n in range(0, 10_000, 7):
        assert lookup(IPv4Address(0x0A000000 + (n << 8) + n % 256)) == routes[n]
    assert lookup(IPv4Address(0x0A000000 + (10_000 << 8))) is None


@TABLES
def test_an_empty_table_has_no_route(table: Callable[[tuple[Route, ...]], Lookup]) -> None:
    assert table(())(IPv4Address("100.96.2.3")) is None


def test_lookup_many_counts_the_hits() -> None:
    table = RouteTable(SNAPSHOT)
    addresses = [int(IPv4Address(a)) for a in ("100.96.2.3", "100.96.3.3", "100.96.4.4")]
    assert table.lookup_many(addresses) == 2
