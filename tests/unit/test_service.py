"""The running daemon over a store in memory and a backend of paper."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any, cast

import pytest

from tests.unit.memory_store import MemoryStore
from tunneld.allocate import Held
from tunneld.errors import LeaseLostError, StartError
from tunneld.host_rules import HostRules
from tunneld.lease import Lease, LeaseAttrs, format_attrs
from tunneld.lease_keeper import LeaseKeeper
from tunneld.link.masquerade import Wanted
from tunneld.link.underlay import Underlay
from tunneld.parts import Parts
from tunneld.service import Service
from tunneld.store import StoreEvent
from tunneld.subnet_map import SubnetMap

NETWORK, SUBNET = IPv4Network("100.96.0.0/16"), IPv4Network("100.96.1.0/24")
PUBLIC_IP = IPv4Address("10.168.0.2")
UNDERLAY = Underlay("eth0", 2, PUBLIC_IP, 1500, PUBLIC_IP)


@dataclass
class Paper:
    """A backend that notes what it is told, and fails on request."""

    mtu: int = 1472
    applied: list[list[str]] = field(default_factory=list)
    ensured: int = 0
    underlays: list[Underlay] = field(default_factory=list)
    fail: dict[str, int] = field(default_factory=dict)

    def _maybe_fail(self, what: str) -> None:
        if self.fail.get(what, 0):
            self.fail[what] -= 1
            raise StartError(f"{what} fails")

    def status(self) -> Any:
        return self

    async def apply(self, peers: Sequence[Lease]) -> None:
        self._maybe_fail("apply")
        self.applied.append([str(peer.subnet) for peer in peers])

    async def ensure(self) -> None:
        self._maybe_fail("ensure")
        self.ensured += 1

    async def underlay_changed(self, underlay: Underlay) -> None:
        self._maybe_fail("underlay")
        self.underlays.append(underlay)
        self.mtu = underlay.mtu - 28


class Bed:
    def __init__(self, directory: Path) -> None:
        self.store = MemoryStore()
        self.backend = Paper()
        self.underlay = UNDERLAY
        self.kernel: asyncio.Queue[str] = asyncio.Queue()
        # None at all: unit tests leave the firewall of this machine alone.
        self.rules = Wanted(NETWORK, SUBNET, port=None, masquerade="", forward=False)
        self.subnet_file = directory / "subnet.env"
        lease = Lease(SUBNET, LeaseAttrs(PUBLIC_IP))
        entry = self.store.set(lease.key, format_attrs(lease.attrs), 86400)
        self.service = Service(
            Parts(
                store=self.store,
                backend=cast("Any", self.backend),
                keeper=LeaseKeeper(self.store, Held(lease, entry), ttl=86400, margin=3600),
                subnet_map=SubnetMap(NETWORK, SUBNET, PUBLIC_IP),
                underlay=UNDERLAY,
                network=NETWORK,
                subnet_file=self.subnet_file,
                choose_underlay=self._choose,
                kernel_events=self._events,
                rules=HostRules(self.rules, resync=5.0, own=PUBLIC_IP),
            ),
            random.Random(1),
        )

    async def _choose(self) -> Underlay:
        return self.underlay

    async def _events(self) -> AsyncIterator[object]:
        while True:
            yield await self.kernel.get()

    def peer(self, number: int) -> None:
        value = format_attrs(LeaseAttrs(IPv4Address(f"10.168.1.{number % 250 + 1}")))
        self.store.set(f"100.96.{number}.0-24", value)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[None]]:
        task = asyncio.create_task(self.service.run())
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def until(state: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not state():  # noqa: ASYNC110 - a state of the code under test, not of ours
            await asyncio.sleep(0.001)


@pytest.fixture
def bed(tmp_path: Path) -> Bed:
    return Bed(tmp_path)


async def test_ready_after_the_first_listing(bed: Bed) -> None:
    bed.peer(2)
    async with bed.running():
        await until(lambda: bed.service.ready)
        assert bed.backend.applied == [["100.96.2.0/24"]]
        bed.peer(3)
        await until(lambda: bed.backend.applied[-1] == ["100.96.2.0/24", "100.96.3.0/24"])
        bed.store.expire("100.96.2.0-24")
        await until(lambda: bed.backend.applied[-1] == ["100.96.3.0/24"])


async def test_a_failed_publication_is_made_up_for(bed: Bed) -> None:
    bed.backend.fail["apply"] = 1
    bed.peer(2)
    async with bed.running():
        await until(lambda: bed.service.ready)
        assert bed.backend.applied == [["100.96.2.0/24"]]


async def test_many_peers_are_one_line(bed: Bed, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    for number in range(2, 102):
        bed.peer(number)
    async with bed.running():
        await until(lambda: bed.service.ready)
        bed.peer(200)
        await until(lambda: "peer added" in caplog.text)
    assert [record.msg for record in caplog.records].count("many peers") == 1
    assert caplog.text.count("peer added") == 1


async def test_a_burst_of_kernel_events_is_one_comparison(bed: Bed) -> None:
    async with bed.running():
        await until(lambda: bed.backend.ensured == 1)
        for _ in range(1000):
            bed.kernel.put_nowait("link")
        await until(lambda: bed.backend.ensured >= 2)
        assert bed.backend.ensured == 2


async def test_the_kernel_is_repaired_even_when_the_underlay_cannot_be_followed(bed: Bed) -> None:
    bed.underlay = replace(UNDERLAY, address=IPv4Address("10.168.0.9"))
    bed.backend.fail["underlay"] = 1_000_000
    async with bed.running():
        await until(lambda: bed.backend.ensured)


async def test_a_failed_repair_is_tried_again_without_a_new_event(bed: Bed) -> None:
    bed.backend.fail["ensure"] = 1
    async with bed.running():
        await until(lambda: bed.backend.ensured)


async def test_a_new_mtu_reaches_subnet_env(bed: Bed) -> None:
    async with bed.running():
        await until(bed.subnet_file.exists)
        bed.underlay = replace(UNDERLAY, mtu=1400)
        bed.kernel.put_nowait("link")
        await until(lambda: "FLANNEL_MTU=1372" in bed.subnet_file.read_text())
    assert bed.backend.underlays == [bed.underlay]


async def test_a_new_public_ip_is_announced(bed: Bed) -> None:
    moved = IPv4Address("10.168.0.9")
    async with bed.running():
        await until(lambda: bed.service.ready)
        bed.underlay = replace(UNDERLAY, address=moved, public_ip=moved)
        bed.kernel.put_nowait("link")
        await until(lambda: b"10.168.0.9" in bed.store.entries["100.96.1.0-24"].value)
        await until(lambda: bed.service.parts.keeper.announced)


async def test_nothing_is_published_before_the_first_listing(bed: Bed) -> None:
    """An empty list would take the routes that the daemon before us has left in the kernel."""
    listing = asyncio.Event()

    async def late() -> AsyncIterator[StoreEvent]:
        await listing.wait()
        async for event in watch():
            yield event

    watch = bed.store.watch
    bed.store.watch = late  # type: ignore[method-assign]
    bed.peer(2)
    moved = IPv4Address("10.168.0.9")
    bed.underlay = replace(UNDERLAY, address=moved, public_ip=moved)
    async with bed.running():
        await until(lambda: bed.backend.ensured and not bed.service.no_underlay)
        assert bed.service.parts.keeper.held.lease.public_ip == moved
        for _ in range(20):
            await asyncio.sleep(0)
        assert bed.backend.applied == []
        assert not bed.service.ready
        listing.set()
        await until(lambda: bed.service.ready)
        assert bed.backend.applied == [["100.96.2.0/24"]]


async def test_a_lost_lease_ends_the_service(bed: Bed) -> None:
    async with bed.running() as task:
        await until(lambda: bed.service.ready)
        bed.store.set("100.96.1.0-24", format_attrs(LeaseAttrs(IPv4Address("10.168.0.9"))), 86400)
        with pytest.raises(LeaseLostError, match=r"10\.168\.0\.9"):
            await asyncio.wait_for(task, 30)
