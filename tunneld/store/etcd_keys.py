"""The keys of the store and what is read and written there, in etcd's messages. Blocking."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from tunneld.store import Entry
from tunneld.store.etcd_client import Connection
from tunneld.store.etcd_errors import Cure, is_foreign, understand
from tunneld.store.file_layout import VALUE_LIMIT

_PAGE = 500


@dataclass(frozen=True, slots=True)
class Listing:
    """All entries at one revision.

    Attributes:
        entries: ordered by key.
        revision: of the whole store; a watch goes on from the next one.
        cluster: etcd's id of the cluster.
    """

    entries: tuple[Entry, ...]
    revision: int
    cluster: int


@dataclass(slots=True)
class Grants:
    """What we know of etcd leases: those that we were granted, and the keys that are ours.

    etcd tells the time left only lease by lease, so of others' keys we know just that they expire.

    Attributes:
        now: monotonic clock, seconds.
        leases: key -> the etcd lease that it hangs on; only our own keys.
    """

    now: Callable[[], float] = time.monotonic
    leases: dict[str, int] = field(default_factory=dict)
    _deadlines: dict[int, float] = field(default_factory=dict)

    def granted(self, key: str, lease: int, deadline: float) -> None:
        """Note that our `key` hangs on `lease` until `deadline`."""
        self.leases[key] = lease
        self._deadlines[lease] = deadline

    def is_ours(self, lease: int) -> bool:
        """Tell whether this process was granted the lease."""
        return lease in self._deadlines

    def forget(self, lease: int) -> None:
        """Drop a lease that was revoked."""
        self._deadlines.pop(lease, None)

    def left(self, connection: Connection, key: str, lease: int) -> float | None:
        """Return `Entry.expires_in` of a key that hangs on `lease`."""
        if lease == 0:
            return None
        deadline = self._deadlines.get(lease)
        if deadline is not None:
            return deadline - self.now()
        if key in self.leases:
            # Somebody else wrote our key; that lease's end is the one that counts now.
            return float(max(connection.time_to_live(lease), 0))
        return math.inf


class Keys:
    """Reads and writes below one prefix.

    Args:
        prefix: normal form, see `parse_prefix`.
        grants: shared with the store.
    """

    def __init__(self, prefix: str, grants: Grants) -> None:
        self.config = f"{prefix}/config".encode()
        self.subnets = f"{prefix}/subnets/".encode()
        # The first key behind all those that begin with the prefix; "/" is not the last byte.
        self.subnets_end = self.subnets[:-1] + b"0"
        self.grants = grants

    def key(self, name: str) -> bytes:
        """Return the whole key of an entry."""
        return self.subnets + name.encode("utf-8", "surrogateescape")

    def name(self, key: bytes) -> str:
        """Return what stands behind the prefix, whatever bytes it has."""
        return key.removeprefix(self.subnets).decode("utf-8", "surrogateescape")

    def entry(self, connection: Connection, kv: Any, *, unread: bool = False) -> Entry:
        """Turn a KeyValue into an entry; a value that is far too long is taken as empty."""
        name = self.name(kv.key)
        value = b"" if unread or len(kv.value) > VALUE_LIMIT else kv.value
        left = self.grants.left(connection, name, kv.lease)
        return Entry(name, value, kv.create_revision, kv.mod_revision, left)

    def read_config(self, connection: Connection) -> bytes | None:
        """Return the network config, None if there is none."""
        answer = connection.range(connection.rpc.RangeRequest(key=self.config))
        return answer.kvs[0].value if answer.kvs else None

    def state(self, connection: Connection) -> tuple[int, int]:
        """Return (cluster, revision) as the whole cluster agrees on it: a linearizable read."""
        request = connection.rpc.RangeRequest(key=self.config, keys_only=True)
        header = connection.range(request).header
        return header.cluster_id, header.revision

    def list(self, connection: Connection) -> Listing:
        """Return all entries, read in pages of one revision."""
        entries: list[Entry] = []
        page, start, header = _PAGE, self.subnets, None
        while True:
            request = connection.rpc.RangeRequest(
                key=start,
                range_end=self.subnets_end,
                limit=page,
                revision=header.revision if header else 0,
            )
            try:
                answer = connection.range(request)
            except Exception as error:
                if not is_foreign(error) or understand(error).cure is not Cure.SMALLER:
                    raise
                if page > 1:
                    page = max(1, page // 8)
                    continue
                # One value alone is more than we take; its key counts all the same.
                request.keys_only = True
                answer = connection.range(request)
            header = header or answer.header
            unread = request.keys_only
            entries += [self.entry(connection, kv, unread=unread) for kv in answer.kvs]
            if not answer.more or not answer.kvs:
                return Listing(tuple(entries), header.revision, header.cluster_id)
            start = answer.kvs[-1].key + b"\0"

    def create(self, connection: Connection, name: str, value: bytes, ttl: float) -> Entry | None:
        """Put the key if it does not exist; None: it does."""
        rpc = connection.rpc
        missing = rpc.Compare(
            key=self.key(name), target=rpc.Compare.VERSION, result=rpc.Compare.EQUAL, version=0
        )
        lease, deadline = self._grant(connection, ttl)
        revision = self._put(connection, [missing], name, value, lease)
        if revision is None:
            return None
        self.grants.granted(name, lease, deadline)
        return Entry(name, value, revision, revision, deadline - self.grants.now())

    def renew(self, connection: Connection, entry: Entry, value: bytes, ttl: float) -> Entry | None:
        """Put the key again if its mod revision is the entry's; None: it is not.

        A permanent reservation stays one.
        """
        lease, deadline = 0, None
        if entry.expires_in is not None:
            lease, deadline = self._grant(connection, ttl)
        unchanged = _unchanged(connection.rpc, self.key(entry.key), entry)
        revision = self._put(connection, unchanged, entry.key, value, lease)
        if revision is None:
            return None
        left = None
        before = self.grants.leases.get(entry.key, 0)
        if deadline is not None:
            self.grants.granted(entry.key, lease, deadline)
            left = deadline - self.grants.now()
        if before != lease and self.grants.is_ours(before):
            self._revoke(connection, before)
        return Entry(entry.key, value, entry.create_revision, revision, left)

    def remove(self, connection: Connection, entry: Entry) -> bool:
        """Delete the key if its mod revision is the entry's."""
        rpc, key = connection.rpc, self.key(entry.key)
        delete = rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=key))
        unchanged = _unchanged(rpc, key, entry)
        return bool(connection.txn(rpc.TxnRequest(compare=unchanged, success=[delete])).succeeded)

    def _put(
        self, connection: Connection, compare: Iterable[Any], name: str, value: bytes, lease: int
    ) -> int | None:
        """Put on conditions; returns the new revision, or None when they did not hold.

        A transaction without an answer may have been done; its lease is left alone then, because
        to revoke it would take the key.
        """
        rpc = connection.rpc
        put = rpc.PutRequest(key=self.key(name), value=value, lease=lease)
        request = rpc.TxnRequest(compare=compare, success=[rpc.RequestOp(request_put=put)])
        answer = connection.txn(request)
        if answer.succeeded:
            return int(answer.header.revision)
        if lease:
            self._revoke(connection, lease)
        return None

    def _grant(self, connection: Connection, ttl: float) -> tuple[int, float]:
        """Return a new lease and when it ends at the earliest, by our clock."""
        began = self.grants.now()
        answer = connection.grant(math.ceil(ttl))
        return answer.ID, began + answer.TTL

    def _revoke(self, connection: Connection, lease: int) -> None:
        """Give a lease back that no key hangs on; it would end by itself, a day later."""
        try:
            connection.revoke(lease)
        except Exception as error:
            if not is_foreign(error):
                raise
        self.grants.forget(lease)


def _unchanged(rpc: Any, key: bytes, entry: Entry) -> list[Any]:
    """Return what holds while nobody else has written the key.

    The mod revision alone would do, if the store were never wiped: a new history may use the same
    number again, for another node's claim.
    """
    same = {"key": key, "result": rpc.Compare.EQUAL}
    unchanged = [
        rpc.Compare(**same, target=rpc.Compare.MOD, mod_revision=entry.mod_revision),
        rpc.Compare(**same, target=rpc.Compare.CREATE, create_revision=entry.create_revision),
    ]
    if entry.value:  # else it may have been left unread
        unchanged.append(rpc.Compare(**same, target=rpc.Compare.VALUE, value=entry.value))
    return unchanged
