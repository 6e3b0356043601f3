"""The status document and the control socket that serves it."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import stat
import threading
import time
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tunneld.backend import BackendStatus
from tunneld.control import ControlServer
from tunneld.dataplane import DataplaneCounters, PeerCounters
from tunneld.dataplane.later import Later
from tunneld.errors import StartError
from tunneld.host_rules import NO_RULES
from tunneld.lease import Lease, LeaseAttrs
from tunneld.observe import batches
from tunneld.observe.document import Draft, build
from tunneld.observe.health import Health
from tunneld.observe.status import fetch, ratios, render
from tunneld.parts import Parts
from tunneld.store import Entry, StoreHealth
from tunneld.subnet_map import SubnetMap

OWN = Lease(IPv4Network("100.96.1.0/24"), LeaseAttrs(IPv4Address("10.168.0.2")))
RULES = {
    "tools": ["nft", "iptables"],
    "masquerade": "masquerade",
    "forward": True,
    "error": "",
    "drop_forged_outer": 7,
}
READY = Health("ready", serving=True, summary="forwarding 100.96.1.0/24, 1 peer")
STARTING = Health("starting", serving=False, reasons=("waiting for the store: why", "and more"))
PEER = Lease(IPv4Network("100.96.2.0/24"), LeaseAttrs(IPv4Address("10.168.0.3")))


@dataclass
class FakeBackend:
    outbound: dict[str, int] = field(
        default_factory=lambda: {
            "packets_read": 3,
            "drop_x": 0,
            "syscalls_read": 4,
            "batch_read_0": 2,
            "batch_read_1": 1,
            "batch_read_2": 1,
            "batch_read_more": 0,
        }
    )

    def status(self) -> BackendStatus:
        values = ("udp", "flannel0", 1472, "mmsg", 1, {"batch": 64}, {"device": 2})
        return BackendStatus(*values, skipped={"100.96.9.0/24": "no common link"})

    def counters(self) -> DataplaneCounters:
        return DataplaneCounters(outbound=self.outbound, inbound={"packets_read": 4})

    def kernel_counters(self) -> dict[str, int]:
        return {"tun_queue_dropped": 5, "socket_dropped": 6}

    def peer_counters(self) -> dict[IPv4Network, PeerCounters]:
        return {PEER.subnet: PeerCounters(1, 100, 2, 200)}


def parts(subnet_map: SubnetMap | None = None) -> Parts:
    fake = SimpleNamespace(
        backend=FakeBackend(),
        keeper=SimpleNamespace(held=SimpleNamespace(lease=OWN), expires_in=86399.9996, put_again=0),
        subnet_map=subnet_map or SimpleNamespace(peers=(PEER,), quarantined={}),
        rules=SimpleNamespace(status=lambda: RULES, repairs={"firewall_rules": 1}),
    )
    return cast("Parts", fake)


def store() -> Any:
    health = StoreHealth("connected", time.monotonic() - 2)
    return SimpleNamespace(url="file:/s", health=lambda: health)


def draft(*, started: bool = True, subnet_map: SubnetMap | None = None) -> Draft:
    return build(
        version="0.1.0",
        uptime=3723.0,
        health=READY if started else STARTING,
        store_url="file:/s",
        store=store() if started else None,
        parts=parts(subnet_map) if started else None,
    )


def document(*, started: bool = True) -> dict[str, Any]:
    return draft(started=started).document()


def shape(value: object) -> object:
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    return [shape(item) for item in value] if isinstance(value, list) else None


def test_the_document_has_exactly_the_contracts_keys() -> None:
    found = document()
    assert shape(found) == {
        "version": None,
        "uptime_s": None,
        "state": None,
        "summary": None,
        "reasons": [],
        "backend": {
            "type": None,
            "device": None,
            "mtu": None,
            "dataplane": None,
            "threads": None,
            "offload": {"batch": None},
            "queues": [],
            "repairs": {"device": None, "firewall_rules": None},
            "skipped": {"100.96.9.0/24": None},
        },
        "lease": dict.fromkeys(("subnet", "public_ip", "expires_in_s", "put_again")),
        "store": {
            **dict.fromkeys(("url", "state", "last_sync_s", "away_s", "error", "skipped_count")),
            "skipped": {},
        },
        "rules": dict.fromkeys(NO_RULES) | {"tools": [None, None]},
        "peers": [
            {
                "subnet": None,
                "public_ip": None,
                "tx_packets": None,
                "tx_bytes": None,
                "rx_packets": None,
                "rx_bytes": None,
            }
        ],
        "counters": {
            "outbound": {"packets_read": None, "drop_x": None, "syscalls_read": None},
            "inbound": {"packets_read": None},
            "kernel": {"tun_queue_dropped": None, "socket_dropped": None},
        },
        "batches": {
            "outbound": {"read": dict.fromkeys(("0", "1", "2", "more"))},
            "inbound": {},
        },
    }
    assert found["lease"] == {
        "subnet": "100.96.1.0/24",
        "public_ip": "10.168.0.2",
        "expires_in_s": 86400.0,
        "put_again": 0,
    }
    assert found["peers"][0]["rx_bytes"] == 200
    assert found["store"]["last_sync_s"] == pytest.approx(2, abs=1)


def test_before_the_start_the_same_keys_are_there() -> None:
    before, after = document(started=False), document()
    assert before["state"] == "starting"
    for name in ("backend", "lease", "store", "rules", "counters"):
        assert before[name].keys() == after[name].keys()
    assert json.loads(json.dumps(before)) == before
    assert before["reasons"] == ["waiting for the store: why", "and more"]


def test_rendered_for_people() -> None:
    text = render(document())
    assert "ready, up 1h 2m" in text
    assert "100.96.1.0/24 as 10.168.0.2, expires in 1d" in text
    assert re.search(r"100\.96\.2\.0/24 +10\.168\.0\.3 +1 +100 +2 +200", text)
    assert "repairs  device 2, firewall_rules 1" in text
    assert "rules    masquerade, forward accepted, 7 forged" in text
    assert "(by nft and iptables)" in text
    assert "skipped  100.96.9.0/24: no common link" in text
    assert "drop_x" not in text
    assert "tun_queue_dropped" in text
    assert "now      forwarding 100.96.1.0/24, 1 peer\n" in text
    assert "because" not in text
    assert re.search(r"reading calls by packets +0: 50%, 1: 25%, 2: 25%\n", text)
    assert "batch_" not in text


def test_rendered_before_the_start() -> None:
    text = render(document(started=False))
    assert "starting" in text
    assert "because  waiting for the store: why\nbecause  and more\n" in text
    assert "lease    none yet" in text


def skipping(*entries: Entry) -> dict[str, Any]:
    subnet_map = SubnetMap(IPv4Network("100.96.0.0/16"), OWN.subnet, OWN.public_ip)
    subnet_map.snapshot(entries)
    return draft(subnet_map=subnet_map).document()


def test_keys_of_the_store_that_are_no_leases_are_named() -> None:
    good = b'{"PublicIP":"10.168.0.9"}'
    found = skipping(
        Entry("100.96.9.0-24", b'{"PublicIP":"10.168.0.300"}', 1, 1),
        Entry("100.96.8.0-24x", good, 1, 1),
        Entry("100.97.1.0-24", good, 1, 1),
        Entry("100.96.7.0-24", good, 1, 1),
    )
    assert found["store"]["skipped_count"] == 3
    assert found["store"]["skipped"] == {
        "100.96.8.0-24x": 'malformed key "100.96.8.0-24x": not like 100.96.1.0-24',
        "100.96.9.0-24": 'malformed value: PublicIP "10.168.0.300" is no IPv4 address',
        "100.97.1.0-24": "100.97.1.0/24 does not lie in the Network 100.96.0.0/16",
    }
    text = render(found)
    skipped = 'skipped  100.96.9.0-24: malformed value: PublicIP "10.168.0.300" is no IPv4 address'
    assert f"\n{skipped}\n" in text[text.index("peers  ") :]
    assert "more" not in text


def test_of_what_is_skipped_only_so_much_is_shown() -> None:
    megabyte = "x" * 1_000_000
    values = (
        b'{"PublicIP":"%s"}',
        b'{"PublicIP":"10.168.0.9","PublicIPv6":"%s"}',
        b'{"Password":"%s"}',
        b'["%s"]',
        b"password %s",
    )
    bad = [
        Entry(f"100.96.{i}.0-24", value % megabyte.encode(), 1, 1)
        for i, value in enumerate(values, start=2)
    ]
    bad += [Entry(f"{i}\x1b\n{megabyte}", b"", 1, 1) for i in range(1000)]
    found = skipping(*bad)
    skipped = found["store"]["skipped"]
    assert (len(skipped), found["store"]["skipped_count"]) == (20, 1005)
    assert len(json.dumps(found)) < 8000
    lines = [line for line in render(found).splitlines() if line.startswith("skipped  ")]
    # The first is of the backend.
    assert len(lines) == 1 + 20 + 1
    assert lines[-1] == "skipped  and 985 more; the log has named each"
    assert all(line.isprintable() for line in lines)
    only_values = skipping(*bad[:5])
    assert only_values["store"]["skipped"].keys() == {entry.key for entry in bad[:5]}
    assert "assword" not in json.dumps(only_values)
    assert max(map(len, only_values["store"]["skipped"].values())) < 150


async def test_served_with_mode_0600_and_removed(tmp_path: Path) -> None:
    server = ControlServer(tmp_path, lambda: Draft({"state": "ready"}))
    await server.start()
    path = tmp_path / "tunneld.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert await asyncio.to_thread(fetch, tmp_path) == {"state": "ready", "peers": []}
    await server.close()
    assert not path.exists()
    await server.close()


async def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / "tunneld.sock"))
    with pytest.raises(StartError, match="no tunneld answers"):
        fetch(tmp_path)
    server = ControlServer(tmp_path, lambda: Draft({"a": 1}))
    await server.start()
    assert await asyncio.to_thread(fetch, tmp_path) == {"a": 1, "peers": []}
    await server.close()


async def test_a_reader_that_leaves_hurts_nobody(tmp_path: Path) -> None:
    server = ControlServer(tmp_path, lambda: Draft({"fill": "x" * 1_000_000}))
    await server.start()
    with socket.socket(socket.AF_UNIX) as rude:
        rude.setblocking(False)
        await asyncio.get_running_loop().sock_connect(rude, str(tmp_path / "tunneld.sock"))
    found = await asyncio.to_thread(fetch, tmp_path)
    assert len(found["fill"]) == 1_000_000
    await server.close()


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="start it with `tunneld run`") as caught:
        fetch(tmp_path)
    assert caught.value.exit_code == 1


def test_ratios_tell_packets_per_system_call() -> None:
    moved = {"packets_read": 640, "syscalls_read": 10, "packets_written": 0, "syscalls_written": 0}
    assert ratios(moved) == {"packets per reading call": 64.0}
    assert ratios({}) == {}


def test_what_is_written_peer_by_peer_is_the_document() -> None:
    for started in (True, False):
        made = draft(started=started)
        found = json.loads(made.encode())
        assert found == made.document()
        assert found.keys() == document(started=started).keys()


@dataclass
class Peers:
    """Peers and their counters, which note in which thread they are made objects of."""

    count: int
    threads: set[int] = field(default_factory=set)

    def draft(self) -> Draft:
        first = int(IPv4Address("100.64.0.0"))
        leases = tuple(
            Lease(IPv4Network((first + (i << 8), 24)), LeaseAttrs(IPv4Address(first + i)))
            for i in range(self.count)
        )

        def make() -> dict[IPv4Network, PeerCounters]:
            self.threads.add(threading.get_ident())
            return {lease.subnet: PeerCounters(1, 2, 3, 4) for lease in leases}

        return Draft({"state": "ready"}, leases, Later(make))


async def test_many_peers_are_written_out_beside_the_loop(tmp_path: Path) -> None:
    peers = Peers(10_000)
    server = ControlServer(tmp_path, peers.draft)
    await server.start()
    found = await asyncio.gather(*(asyncio.to_thread(fetch, tmp_path) for _ in range(2)))
    assert [len(each["peers"]) for each in found] == [10_000, 10_000]
    assert found[0]["peers"][9_999]["rx_bytes"] == 4
    assert peers.threads
    assert threading.get_ident() not in peers.threads
    await server.close()


def test_later_is_made_once_and_by_who_looks() -> None:
    made: list[int] = []

    def make() -> dict[str, int]:
        made.append(1)
        return {"a": 1}

    later = Later(make)
    assert not made
    assert (dict(later), len(later), later.get("b"), later == {"a": 1}) == ({"a": 1}, 1, None, True)
    assert made == [1]


def test_shares_of_the_batches() -> None:
    calls = dict.fromkeys(("0", "1", "2", "4", "8", "more"), 0)
    shown = batches.words({"read": calls | {"1": 999, "8": 1}, "written": calls})
    assert shown == {"reading calls by packets": "1: 100%, 5-8: <1%"}
    shown = batches.words({"written": calls | {"4": 1, "more": 1}})
    assert shown == {"writing calls by packets": "3-4: 50%, >8: 50%"}
    assert batches.split({"a": 1}) == ({"a": 1}, {})
