"""A real etcd for the tests of this directory, on loopback; each is ended by its pid.

etcd    an empty server
store   an `EtcdStore` on it whose watch retries and relists soon
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from tests.etcd.following import QUICK
from tunneld.lab.etcd import EtcdServer
from tunneld.store.etcd import EtcdStore
from tunneld.store.etcd_options import EtcdOptions, parse_endpoints
from tunneld.store.etcd_watch import Timing

MakeStore = Callable[..., EtcdStore]


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[EtcdServer]:
    with EtcdServer(tmp_path / "etcd") as server:
        yield server


@pytest.fixture
async def make_store() -> AsyncIterator[MakeStore]:
    stores: list[EtcdStore] = []

    def make(url: str, timing: Timing = QUICK, **options: str) -> EtcdStore:
        store = EtcdStore(EtcdOptions(parse_endpoints(url), **options), timing=timing)
        stores.append(store)
        return store

    yield make
    for store in stores:
        await store.close()


@pytest.fixture
def store(etcd: EtcdServer, make_store: MakeStore) -> EtcdStore:
    return make_store(etcd.url)
