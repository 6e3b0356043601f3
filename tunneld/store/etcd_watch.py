"""Follow an etcd store: list, watch from the next revision, and list again after any error.

python-etcd3's own watcher spins while etcd is away, resumes nothing and keeps silent about a watch
that was refused, so the stream is read here, by one thread for each.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from tunneld.store import Deleted, Entry, Put, StoreEvent, StoreUnavailableError
from tunneld.store.etcd_client import Connection, EtcdClient
from tunneld.store.etcd_errors import understand
from tunneld.store.etcd_keys import Keys, Listing
from tunneld.store.etcd_mirror import GRACE_S, LINGER_S, Mirror
from tunneld.supervise import Backoff

_DELETE = 1  # mvccpb.Event.DELETE

_TURN = 50
"""Events that are handed out before others on the event loop have their turn."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds; tests give their own.

    Attributes:
        probe: of silence, until the server is asked whether it lives.
        relist: between two listings although nothing seems missed.
        retry_first: before the first new attempt after an error.
        retry_ceiling: between later attempts.
        grace: see `etcd_mirror.GRACE_S`.
        linger: see `etcd_mirror.LINGER_S`.
    """

    probe: float = 30.0
    relist: float = 300.0
    retry_first: float = 0.1
    retry_ceiling: float = 3.0
    grace: float = GRACE_S
    linger: float = LINGER_S


@dataclass(frozen=True, slots=True)
class _Batch:
    events: tuple[Put | Deleted, ...]
    revision: int


class _Stream:
    """One watch on one connection; `next` waits for its answers on the running loop."""

    def __init__(self, connection: Connection, keys: Keys, revision: int) -> None:
        self._connection = connection
        self._keys = keys
        self._revision = revision
        self._loop = asyncio.get_running_loop()
        self._answers: asyncio.Queue[_Batch | StoreUnavailableError] = asyncio.Queue()
        self._done = threading.Event()
        self._call: Any = None
        self._thread = threading.Thread(target=self._run, name="etcd-watch", daemon=True)
        self._thread.start()

    async def next(self) -> _Batch:
        """Return the next answer.

        Raises:
            StoreUnavailableError: the stream has ended.
        """
        answer = await self._answers.get()
        if isinstance(answer, StoreUnavailableError):
            raise answer
        return answer

    def close(self) -> None:
        """End the stream and its thread, soon."""
        self._done.set()
        if self._call is not None:
            self._call.cancel()

    def _requests(self) -> Iterator[Any]:
        rpc = self._connection.rpc
        create = rpc.WatchCreateRequest(
            key=self._keys.subnets,
            range_end=self._keys.subnets_end,
            start_revision=self._revision,
            progress_notify=True,
        )
        yield rpc.WatchRequest(create_request=create)
        # To return would end the stream.
        self._done.wait()

    def _run(self) -> None:
        failure = StoreUnavailableError(f"{self._connection.endpoint}: the watch ended")
        try:
            self._call = self._connection.watch(self._requests())
            if self._done.is_set():
                self._call.cancel()
            for answer in self._call:
                _refuse(answer)
                self._post(_Batch(self._events(answer), answer.header.revision))
        except StoreUnavailableError as error:
            failure = error
        except Exception as error:  # noqa: BLE001 - whatever it is, the reader must not wait for ever
            failure = understand(error).error(self._connection.endpoint)
        finally:
            self._done.set()
            self._post(failure)

    def _events(self, answer: Any) -> tuple[Put | Deleted, ...]:
        keys, connection = self._keys, self._connection
        return tuple(
            Deleted(keys.name(event.kv.key))
            if event.type == _DELETE
            else Put(keys.entry(connection, event.kv))
            for event in answer.events
        )

    def _post(self, answer: _Batch | StoreUnavailableError) -> None:
        # The loop may be gone already when the process ends.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._answers.put_nowait, answer)


def _refuse(answer: Any) -> None:
    """Raise what a cancelled watch means; a refused one has the id -1 and no other sign."""
    if answer.compact_revision:
        raise StoreUnavailableError(f"revision {answer.compact_revision} was compacted")
    if answer.canceled or answer.watch_id < 0:
        reason = answer.cancel_reason or "the token has expired, or the user may not read"
        raise StoreUnavailableError(f"the watch was refused: {reason}")


class Watch:
    """One `Store.watch`.

    Args:
        client: the cluster.
        keys: what to follow.
        reached: called after each answer.
        failed: called with each error.
        timing: see `Timing`.
    """

    def __init__(
        self,
        client: EtcdClient,
        keys: Keys,
        *,
        reached: Callable[[], None],
        failed: Callable[[StoreUnavailableError], None],
        timing: Timing,
    ) -> None:
        self._client = client
        self._keys = keys
        self._reached = reached
        self._failed = failed
        self._timing = timing
        self._mirror = Mirror(keys.grants.leases, timing.grace, timing.linger)
        self._stopped = asyncio.Event()

    def recall(self, entries: Iterable[Entry], revision: int) -> None:
        """Guard entries that an earlier daemon has seen; before `events`."""
        self._mirror.recall(entries, revision)

    def stop(self) -> None:
        """End `events` soon; idempotent."""
        self._stopped.set()

    async def events(self) -> AsyncGenerator[StoreEvent, None]:
        """Yield `Listed`, then changes; after any gap `Listed` again."""
        timing = self._timing
        rng = random.Random()  # noqa: S311 - jitter, not a secret
        backoff = Backoff(timing.retry_first, timing.retry_ceiling, rng)
        while not self._stopped.is_set():
            try:
                async with contextlib.aclosing(self._until_gap()) as events:
                    async for event in events:
                        backoff.reset()
                        yield event
            except StoreUnavailableError as error:
                if self._stopped.is_set():
                    return
                self._failed(error)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(backoff.delay()):
                        await self._stopped.wait()

    async def _until_gap(self) -> AsyncGenerator[StoreEvent, None]:
        listing, connection = await self._client.call(self._list)
        self._reached()
        yield self._mirror.listed(listing, time.monotonic())
        stream = _Stream(connection, self._keys, listing.revision + 1)
        relist_at = time.monotonic() + self._timing.relist
        try:
            while not self._stopped.is_set():
                if self._is_due(relist_at):
                    return
                try:
                    async with asyncio.timeout(self._wait(relist_at)):
                        batch = await stream.next()
                except TimeoutError:
                    batch = None
                except StoreUnavailableError:
                    self._client.abandon(connection)
                    raise
                now, events = time.monotonic(), list[StoreEvent]()
                if batch:
                    self._reached()
                    events += self._mirror.changed(batch.events, batch.revision, now)
                events += self._mirror.left(now)
                for start in range(0, len(events), _TURN):
                    for event in events[start : start + _TURN]:
                        yield event
                    # The next answer may be there already: to wait for it would be no pause.
                    await asyncio.sleep(0)
                silent = not batch and not events
                if silent and not self._is_due(relist_at) and await self._is_other_store():
                    return
        finally:
            stream.close()

    def _list(self, connection: Connection) -> tuple[Listing, Connection]:
        return self._keys.list(connection), connection

    def _wait(self, relist_at: float) -> float:
        now = time.monotonic()
        dues = self._mirror.due(now), self._mirror.leaving(now)
        left = min(self._timing.probe, relist_at - now)
        return max(min([left, *(due for due in dues if due is not None)]), 0.0)

    def _is_due(self, relist_at: float) -> bool:
        now = time.monotonic()
        due = self._mirror.due(now)
        return now >= relist_at or (due is not None and due <= 0)

    async def _is_other_store(self) -> bool:
        """Ask the server for its state: a frozen one fails here, a wiped one has gone back."""
        cluster, revision = await self._client.call(self._keys.state)
        self._reached()
        return self._mirror.is_other(cluster, revision)
