"""Builds the status document."""

from __future__ import annotations

import heapq
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from typing import TYPE_CHECKING

from tunneld import gojson
from tunneld.dataplane import DataplaneCounters, PeerCounters
from tunneld.host_rules import NO_RULES
from tunneld.observe import batches
from tunneld.store import StoreHealth

if TYPE_CHECKING:
    from tunneld.backend import Backend
    from tunneld.host_rules import HostRules
    from tunneld.lease import Lease
    from tunneld.lease_keeper import LeaseKeeper
    from tunneld.observe.health import Health
    from tunneld.parts import Parts
    from tunneld.store import Store


@dataclass(frozen=True, slots=True)
class Draft:
    """The status document as of one moment, its peers still as objects.

    With thousands of peers it takes longer to write them out than the event loop may stall: take
    the draft in the loop, finish it in a thread.

    Attributes:
        head: all but the peers.
        leases: of the peers.
        counters: of the peers, by subnet.
    """

    head: Mapping[str, object]
    leases: tuple[Lease, ...] = ()
    counters: Mapping[IPv4Network, PeerCounters] = field(default_factory=dict)

    def document(self) -> dict[str, object]:
        """Return the whole document."""
        return {**self.head, "peers": list(self._peers())}

    def encode(self) -> bytes:
        """Return the whole document as one line of JSON."""
        # Peer by peer: one call for all of them would not let any other thread run meanwhile.
        peers = ", ".join(json.dumps(peer) for peer in self._peers())
        return f'{json.dumps(self.head)[:-1]}, "peers": [{peers}]}}\n'.encode()

    def _peers(self) -> Iterator[dict[str, object]]:
        return (_peer(lease, self.counters) for lease in self.leases)


def build(
    *,
    version: str,
    uptime: float,
    health: Health,
    store_url: str,
    store: Store | None,
    parts: Parts | None,
) -> Draft:
    """Return the document; every key is always there, with null or zero before its time.

    Call it in the event loop: packet path and backends are read.

    Args:
        version: of tunneld.
        uptime: seconds.
        health: the judgement.
        store_url: as configured.
        store: None before it was opened.
        parts: None before the start sequence is through.
    """
    counters = parts.backend.counters() if parts else DataplaneCounters()
    outbound, batches_out = batches.split(counters.outbound)
    inbound, batches_in = batches.split(counters.inbound)
    head = {
        "version": version,
        "uptime_s": round(uptime, 3),
        "state": health.state,
        "summary": health.summary,
        "reasons": list(health.reasons),
        "backend": _backend(parts.backend if parts else None, parts.rules if parts else None),
        "rules": parts.rules.status() if parts else NO_RULES,
        "lease": _lease(parts.keeper if parts else None),
        "store": {
            **_store(store_url, store),
            **_skipped(parts.subnet_map.quarantined if parts else {}),
        },
        "counters": {
            "outbound": outbound,
            "inbound": inbound,
            "kernel": {
                **_NO_KERNEL_COUNTERS,
                **(parts.backend.kernel_counters() if parts else {}),
            },
        },
        "batches": {"outbound": batches_out, "inbound": batches_in},
    }
    if parts is None:
        return Draft(head)
    return Draft(head, parts.subnet_map.peers, parts.backend.peer_counters())


_MANY_SKIPPED = 20
"""So many keys that are no leases are named; all are counted."""
_LONGEST_KEY = 60

_NO_KERNEL_COUNTERS = {"tun_queue_dropped": 0, "socket_dropped": 0}


def _backend(backend: Backend | None, rules: HostRules | None) -> dict[str, object]:
    if backend is None or rules is None:
        return {
            "type": None,
            "device": None,
            "mtu": 0,
            "dataplane": None,
            "threads": 0,
            "offload": {},
            "queues": [],
            "repairs": {},
            "skipped": {},
        }
    now = backend.status()
    return {
        "type": now.type,
        "device": now.device,
        "mtu": now.mtu,
        "dataplane": now.dataplane,
        "threads": now.threads,
        "offload": dict(now.offload),
        "queues": [dict(queue) for queue in now.queues],
        "repairs": {**now.repairs, **rules.repairs},
        "skipped": dict(now.skipped),
    }


def _lease(keeper: LeaseKeeper | None) -> dict[str, object]:
    if keeper is None:
        return {"subnet": None, "public_ip": None, "expires_in_s": None, "put_again": 0}
    lease, left = keeper.held.lease, keeper.expires_in
    return {
        "subnet": str(lease.subnet),
        "public_ip": str(lease.public_ip),
        "expires_in_s": None if left is None else round(left, 3),
        "put_again": keeper.put_again,
    }


def _store(url: str, store: Store | None) -> dict[str, object]:
    if store is None:
        health = StoreHealth("connecting", None)
    else:
        url, health = store.url, store.health()
    return {
        "url": url,
        "state": health.state,
        "last_sync_s": _age(health.last_sync),
        "away_s": _age(health.away_since),
        "error": health.detail,
    }


def _skipped(quarantined: Mapping[str, str]) -> dict[str, object]:
    """Return the keys of the store that are believed to be no lease, and why.

    A reason quotes a little of a value at the most, but the key may be anybody's megabyte.
    """
    first = heapq.nsmallest(_MANY_SKIPPED, quarantined)
    return {
        "skipped": {_key(key): quarantined[key] for key in first},
        "skipped_count": len(quarantined),
    }


def _key(key: str) -> str:
    fits = len(key) <= _LONGEST_KEY and key.isascii() and key.isprintable()
    return key if fits else gojson.shown(key)


def _age(at: float | None) -> float | None:
    return None if at is None else round(time.monotonic() - at, 3)


def _peer(lease: Lease, counters: Mapping[IPv4Network, PeerCounters]) -> dict[str, object]:
    now = counters.get(lease.subnet) or PeerCounters()
    return {
        "subnet": str(lease.subnet),
        "public_ip": str(lease.public_ip),
        "tx_packets": now.tx_packets,
        "tx_bytes": now.tx_bytes,
        "rx_packets": now.rx_packets,
        "rx_bytes": now.rx_bytes,
    }
