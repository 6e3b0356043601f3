"""Path MTUs: asked for active peers only, published on change, absurd figures ignored."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network

import pytest

from tunneld.backend.path_mtu import PathMtus
from tunneld.dataplane import DataplaneCounters, PeerCounters
from tunneld.dataplane.later import Later
from tunneld.lease import Lease, LeaseAttrs

NEAR, FAR = IPv4Address("10.168.0.3"), IPv4Address("10.168.0.4")
LEASES = (
    Lease(IPv4Network("100.96.2.0/24"), LeaseAttrs(NEAR)),
    Lease(IPv4Network("100.96.3.0/24"), LeaseAttrs(FAR)),
)


class Harness:
    def __init__(self) -> None:
        self.too_big = 0
        self.threads: set[int] = set()
        self.sent = {lease.subnet: 0 for lease in LEASES}
        self.kernel: dict[IPv4Address, int | None] = {NEAR: 1500, FAR: 1500}
        self.asked: list[IPv4Address] = []
        self.published = 0
        self.mtus = PathMtus(8285, self.total, self.counters, self.publish, self.ask)
        self.mtus.limit = 1500
        self.mtus.keep_only(LEASES)

    def total(self) -> DataplaneCounters:
        sent = sum(self.sent.values())
        return DataplaneCounters(outbound={"packets_written": sent, "drop_too_big": self.too_big})

    def counters(self) -> Mapping[IPv4Network, PeerCounters]:
        def make() -> dict[IPv4Network, PeerCounters]:
            self.threads.add(threading.get_ident())
            return {subnet: PeerCounters(tx_packets=sent) for subnet, sent in self.sent.items()}

        return Later(make)

    def publish(self) -> None:
        self.published += 1

    def ask(self, peer: IPv4Address, port: int) -> int | None:
        assert port == 8285
        self.asked.append(peer)
        return self.kernel[peer]

    async def round(self, *active: Lease) -> None:
        for lease in active:
            self.sent[lease.subnet] += 1
        self.asked.clear()
        await self.mtus.ask_active()


async def test_only_peers_that_we_sent_to_are_asked() -> None:
    harness = Harness()
    await harness.round()
    assert harness.asked == []
    await harness.round(LEASES[0])
    assert harness.asked == [NEAR]
    await harness.round()
    assert harness.asked == []


async def test_published_when_it_changes_and_only_then() -> None:
    harness = Harness()
    await harness.round(*LEASES)
    assert (harness.published, harness.mtus.of(NEAR)) == (0, 0)
    harness.kernel[NEAR] = 1400
    await harness.round(*LEASES)
    await harness.round(*LEASES)
    assert (harness.published, harness.mtus.of(NEAR), harness.mtus.of(FAR)) == (1, 1400, 0)
    harness.kernel[NEAR] = 1500
    await harness.round(*LEASES)
    assert (harness.published, harness.mtus.of(NEAR)) == (2, 0)


@pytest.mark.parametrize("figure", [None, 0, 68, 575])
async def test_not_believed(figure: int | None) -> None:
    harness = Harness()
    harness.kernel[NEAR] = figure
    await harness.round(LEASES[0])
    assert (harness.published, harness.mtus.of(NEAR)) == (0, 0)


async def test_the_smallest_that_is_believed() -> None:
    harness = Harness()
    harness.kernel[NEAR] = 576
    await harness.round(LEASES[0])
    assert harness.mtus.of(NEAR) == 576


async def test_who_left_is_forgotten() -> None:
    harness = Harness()
    harness.kernel[NEAR] = 1400
    await harness.round(*LEASES)
    harness.mtus.keep_only(LEASES[1:])
    assert harness.mtus.of(NEAR) == 0
    await harness.round(*LEASES)
    assert harness.asked == [FAR]


async def test_a_narrow_path_is_asked_for_when_nothing_but_too_big_comes() -> None:
    harness = Harness()
    harness.kernel[NEAR] = 1400
    await harness.round(*LEASES)
    harness.too_big += 1
    await harness.round()
    assert harness.asked == [NEAR]
    await harness.round()
    assert harness.asked == []
    harness.kernel[NEAR] = 1500
    harness.too_big += 1
    await harness.round()
    assert (harness.published, harness.mtus.of(NEAR)) == (2, 0)


async def test_counters_of_many_peers_are_looked_at_beside_the_loop() -> None:
    harness = Harness()
    await harness.round(*LEASES)
    assert len(harness.threads) == 1
    assert threading.get_ident() not in harness.threads
