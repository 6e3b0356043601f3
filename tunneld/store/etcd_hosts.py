"""Who has a public IP: two hosts with the same one share a lease and take each other's packets.

Each host keeps a key of its own below `/tunneld<prefix>/hosts/<public ip>/`, far from flannel's
keys, on a short etcd lease that it prolongs. Another host's key counts once its lease was prolonged
while we looked: what a dead host, or our own last boot, has left is not prolonged.
"""

from __future__ import annotations

import hashlib
import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tunneld.store.etcd_client import Connection

_TTL_S = 60
# etcd tells the time left in whole seconds; prolonging adds about as much as lies between calls.
_GROWTH_S = 1.5


def host_identity() -> str:
    """Return a name for this network stack since this boot, the same for each daemon in it.

    The machine id alone does not do: cloned machines have the same, and it is confidential
    (machine-id(5)), so that only a hash of it leaves the host.
    """
    parts = []
    for path in ("/etc/machine-id", "/proc/sys/kernel/random/boot_id"):
        try:
            parts.append(Path(path).read_text(encoding="ascii").strip())
        except (OSError, UnicodeDecodeError):
            parts.append("")
    parts.append(str(Path("/proc/self/ns/net").stat().st_ino))
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]


class Hosts:
    """The keys of the hosts below one prefix; blocking.

    Args:
        prefix: of flannel's keys.
        identity: of this host.
        now: monotonic clock, seconds.
    """

    def __init__(
        self,
        prefix: str,
        identity: str | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._prefix = f"/tunneld{prefix}/hosts/"
        self._identity = identity or host_identity()
        self._value = json.dumps({"Host": socket.gethostname()}).encode()
        self._now = now
        self._lease = 0
        self._ends: dict[bytes, float] = {}
        self._alive: set[bytes] = set()

    def claim(self, connection: Connection, public_ip: str) -> tuple[str, ...]:
        """Say that this host has the public IP; returns the names of others that say so too."""
        rpc = connection.rpc
        start = f"{self._prefix}{public_ip}/".encode()
        own = start + self._identity.encode()
        if not self._lease or connection.keep_alive(self._lease) <= 0:
            self._lease = connection.grant(_TTL_S).ID
        hangs = rpc.Compare(
            key=own, target=rpc.Compare.LEASE, result=rpc.Compare.EQUAL, lease=self._lease
        )
        put = rpc.PutRequest(key=own, value=self._value, lease=self._lease)
        find = rpc.RequestOp(
            request_range=rpc.RangeRequest(key=start, range_end=start[:-1] + b"0", limit=10)
        )
        answer = connection.txn(
            rpc.TxnRequest(
                compare=[hangs], success=[find], failure=[rpc.RequestOp(request_put=put), find]
            )
        )
        others = {kv.key: kv for kv in answer.responses[-1].response_range.kvs if kv.key != own}
        self._alive &= others.keys()
        self._ends = {key: end for key, end in self._ends.items() if key in others}
        return tuple(sorted(_name(kv) for kv in others.values() if self._is_alive(connection, kv)))

    def _is_alive(self, connection: Connection, kv: Any) -> bool:
        if kv.key not in self._alive:
            # Without a lease it is nobody's that lives.
            left = connection.time_to_live(kv.lease) if kv.lease else 0
            ends = self._now() + left
            if ends > self._ends.setdefault(kv.key, ends) + _GROWTH_S and left > 0:
                self._alive.add(kv.key)
        return kv.key in self._alive


def _name(kv: Any) -> str:
    """Return what the other host calls itself, as far as that can be printed."""
    try:
        name = json.loads(kv.value)["Host"]
    except (ValueError, TypeError, KeyError, RecursionError):
        name = None
    shown = name if isinstance(name, str) and name.isprintable() and name else "unknown"
    return f"{shown[:64]} ({kv.key.rpartition(b'/')[2].decode('ascii', 'replace')[:16]})"
