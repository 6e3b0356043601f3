"""What the state directory remembers for a start without the store."""

from __future__ import annotations

import json
import math
import threading
import time
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tunneld.lease import Lease, LeaseAttrs, format_attrs
from tunneld.state_cache import StateCache
from tunneld.store import Entry

URL = "etcd:http://127.0.0.1:2379/coreos.com/network"
CONFIG = b'{"Network":"100.96.0.0/16"}'


def lease(number: int) -> Lease:
    return Lease(
        IPv4Network(f"100.96.{number}.0/24"), LeaseAttrs(IPv4Address(f"10.168.0.{number}"))
    )


def own() -> Entry:
    return Entry(lease(1).key, format_attrs(lease(1).attrs), 7, 9, 100.0)


@pytest.fixture
def cache(tmp_path: Path) -> StateCache:
    cache = StateCache(tmp_path / "new", URL)
    cache.save(CONFIG, own(), 100.0, [lease(2), lease(3)])
    return cache


def test_what_was_saved_is_remembered(cache: StateCache) -> None:
    last = cache.load()
    assert last is not None
    assert last.config == CONFIG
    assert (last.own.key, last.own.value) == (own().key, own().value)
    assert (last.own.create_revision, last.own.mod_revision) == (7, 9)
    assert last.own.expires_in is not None
    assert 90 < last.own.expires_in <= 101
    assert [peer.key for peer in last.peers] == ["100.96.2.0-24", "100.96.3.0-24"]
    assert last.peers[0].value == format_attrs(lease(2).attrs)
    # Whose end is not known, as the store tells it; None would be a reservation.
    assert [peer.expires_in for peer in last.peers] == [math.inf, math.inf]


async def test_the_peers_are_read_in_the_loop_that_changes_them(cache: StateCache) -> None:
    readers = []

    class Watched:
        held = SimpleNamespace(entry=own())
        expires_in = 100.0

        @property
        def peers(self) -> tuple[Lease, ...]:
            readers.append(threading.get_ident())
            return (lease(4),)

    watched: Any = Watched()
    await cache.keep(CONFIG, watched, watched)
    assert readers == [threading.get_ident()]
    last = cache.load()
    assert last is not None
    assert [peer.key for peer in last.peers] == ["100.96.4.0-24"]


def test_what_is_forgotten_is_gone(cache: StateCache) -> None:
    cache.forget()
    cache.forget()
    assert cache.load() is None


def test_a_reservation_has_no_end(cache: StateCache) -> None:
    cache.save(CONFIG, own(), None, [])
    last = cache.load()
    assert last is not None
    assert last.own.expires_in is None


def test_a_lease_that_has_ended_is_not_used(
    cache: StateCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = time.time() + 102
    monkeypatch.setattr(time, "time", lambda: later)
    assert cache.load() is None


def test_another_stores_state_is_not_used(cache: StateCache, tmp_path: Path) -> None:
    assert cache.load() is not None
    assert StateCache(tmp_path / "new", URL + "2").load() is None
    assert StateCache(tmp_path / "new", "file:/x").load() is None


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"schema":1}', "\udcff", "[" * 100_000],
)
def test_damage_is_no_state(cache: StateCache, tmp_path: Path, text: str) -> None:
    (tmp_path / "new" / "state.json").write_text(text, errors="surrogateescape")
    assert cache.load() is None


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("config", 1),
        ("lease", {"key": 1, "value": "", "ends_at": None}),
        ("lease", {"key": "k", "value": "v", "ends_at": "x"}),
        ("lease", {"key": "k", "value": "v", "ends_at": None, "mod_revision": "x"}),
        ("peers", [1]),
        ("peers", [{"key": "x"}]),
        ("peers", 1),
    ],
)
def test_wrong_shapes_are_no_state(
    cache: StateCache, tmp_path: Path, field: str, wrong: object
) -> None:
    path = tmp_path / "new" / "state.json"
    document = json.loads(path.read_text())
    document[field] = wrong
    path.write_text(json.dumps(document))
    assert cache.load() is None


def test_a_directory_that_cannot_be_written_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    cache = StateCache(tmp_path / "file", URL)
    for _ in range(3):
        cache.save(CONFIG, own(), 100.0, [])
    assert len(caplog.records) == 1
    assert cache.load() is None
