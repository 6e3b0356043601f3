"""The wall clock jumps by a day: leases, watch and renewal go by the monotonic clock.

Only our own modules see the jump: gRPC for Python makes deadlines out of `time.time()` that its C
core compares with the true clock, so that it would meet a jump that no host can have.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from tests.etcd.following import SUBNETS, Follower, name, value
from tunneld import allocate
from tunneld.lab.etcd import EtcdServer
from tunneld.lease import Lease, LeaseAttrs
from tunneld.lease_keeper import LeaseKeeper
from tunneld.netconf import parse_network_config
from tunneld.state_cache import StateCache
from tunneld.store.etcd import EtcdStore

DAY = 86400.0
CONFIG = b'{"Network":"100.96.0.0/16"}'

Jump = Callable[[float], None]


@pytest.fixture
def jump(monkeypatch: pytest.MonkeyPatch) -> Jump:
    """Set the wall clock that tunneld's modules see."""
    real = time.time

    def do(offset: float) -> None:
        def now() -> float:
            caller = sys._getframe(1).f_globals["__name__"]
            return real() + (offset if caller.startswith("tunneld") else 0.0)

        monkeypatch.setattr(time, "time", now)

    return do


def written(etcd: EtcdServer) -> list[str]:
    """Return what etcd knows of our key's last write: its revision, its etcd lease."""
    lines = etcd.ctl("get", SUBNETS + name(1), "-w", "fields").splitlines()
    kept = [line for line in lines if line.startswith(('"ModRevision"', '"Lease"'))]
    assert len(kept) == 2
    return kept


@pytest.mark.parametrize("offset", [DAY, -DAY])
async def test_a_day_changes_nothing(
    store: EtcdStore, etcd: EtcdServer, jump: Jump, tmp_path: Path, offset: float
) -> None:
    attrs = LeaseAttrs(IPv4Address("10.168.0.2"))
    network = parse_network_config(CONFIG, "test")
    held = await allocate.acquire(
        store, network, attrs, previous=IPv4Network("100.96.1.0/24"), ttl=DAY, rng=random.Random(1)
    )
    keeper = LeaseKeeper(store, held, ttl=DAY, margin=3600)
    etcd.ctl("put", SUBNETS + name(2), value(2).decode())
    before = written(etcd)
    task = asyncio.create_task(keeper.keep())
    async with Follower(store) as follower:
        jump(offset)
        etcd.ctl("put", SUBNETS + name(3), value(3).decode())
        await follower.until(lambda: name(3) in follower.keys, "a change after the jump")
        assert follower.listings == 1
        assert store.health().state == "connected"
        assert store.health().last_sync == pytest.approx(time.monotonic(), abs=30)
    assert not task.done()
    assert keeper.announced
    assert keeper.expires_in == pytest.approx(DAY, abs=60)
    assert written(etcd) == before, "it was renewed"
    # What the cache keeps goes by the wall clock, for the next boot; written now, it is good now.
    cache = StateCache(tmp_path, store.url)
    peer = Lease(IPv4Network("100.96.2.0/24"), LeaseAttrs(IPv4Address("10.168.0.3")))
    cache.save(CONFIG, keeper.held.entry, keeper.expires_in, [peer])
    last = cache.load()
    assert last is not None
    assert last.own.expires_in == pytest.approx(DAY, abs=60)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
