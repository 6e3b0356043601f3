"""Builds the status document."""

from __future__ import annotations

import time
from collections.abc import Mapping
from ipaddress import IPv4Network
from typing import TYPE_CHECKING

from tunneld.dataplane import PeerCounters
from tunneld.host_rules import NO_RULES

if TYPE_CHECKING:
    from tunneld.backend import Backend
    from tunneld.host_rules import HostRules
    from tunneld.lease import Lease
    from tunneld.lease_keeper import LeaseKeeper
    from tunneld.service import Parts
    from tunneld.store import Store


def build(
    *,
    version: str,
    uptime: float,
    state: str,
    store_url: str,
    store: Store | None,
    parts: Parts | None,
) -> dict[str, object]:
    """Return the document; every key is always there, with null or zero before its time.

    Args:
        version: of tunneld.
        uptime: seconds.
        state: starting, ready, degraded or stopping.
        store_url: as configured.
        store: None before it was opened.
        parts: None before the start sequence is through.
    """
    counters = parts.backend.counters() if parts else None
    return {
        "version": version,
        "uptime_s": round(uptime, 3),
        "state": state,
        "backend": _backend(parts.backend if parts else None, parts.rules if parts else None),
        "rules": parts.rules.status() if parts else NO_RULES,
        "lease": _lease(parts.keeper if parts else None),
        "store": _store(store_url, store),
        "peers": _peers(parts),
        "counters": {
            "outbound": counters.outbound if counters else {},
            "inbound": counters.inbound if counters else {},
            "kernel": {
                **_NO_KERNEL_COUNTERS,
                **(parts.backend.kernel_counters() if parts else {}),
            },
        },
    }


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
        return {"url": url, "state": "connecting", "last_sync_s": None}
    health = store.health()
    synced = None if health.last_sync is None else round(time.monotonic() - health.last_sync, 3)
    return {"url": store.url, "state": health.state, "last_sync_s": synced}


def _peers(parts: Parts | None) -> list[dict[str, object]]:
    if parts is None:
        return []
    counters = parts.backend.peer_counters()
    return [_peer(lease, counters) for lease in parts.subnet_map.peers]


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
