"""Talk to a cluster of etcd servers: one connection at a time, the next server when it fails.

python-etcd3 knows one host, and its client is of no use any more once its token has expired. So
everything that goes wrong drops the whole client, and what comes next makes a new one, with the
next server where that may help. All of it blocks and runs in threads of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from tunneld.store import StoreUnavailableError
from tunneld.store.etcd_compat import load
from tunneld.store.etcd_errors import Cure, Fault, is_foreign, understand
from tunneld.store.etcd_options import Endpoint, EtcdOptions

_T = TypeVar("_T")

CALL_TIMEOUT = 5.0
"""Seconds until a server that does not answer a call is left."""

_THREADS = 4
# The largest value that etcd takes by default has 1.5 MB; a server must not fill our memory.
_MAX_MESSAGE = 16 << 20

GRPC_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # Without this one a frozen server is not noticed within 45 s, with it after 14 s.
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.max_receive_message_length", _MAX_MESSAGE),
    # A new client must mean a new connection, not the one that just failed.
    ("grpc.use_local_subchannel_pool", 1),
    # The store is reached directly; a proxy of the environment is meant for the world outside.
    ("grpc.enable_http_proxy", 0),
)


class Connection:
    """One client of one server.

    Args:
        endpoint: the server.
        options: TLS and user.
        timeout: seconds for each call.

    Attributes:
        endpoint: as given.
        rpc: python-etcd3's messages.
    """

    def __init__(self, endpoint: Endpoint, options: EtcdOptions, timeout: float) -> None:
        self.endpoint = endpoint
        self._options = options
        self._timeout = timeout
        etcd3 = load()
        self.rpc: Any = etcd3.etcdrpc
        # Made in two steps, so that `close` ends a log-in that is under way.
        self._client: Any = etcd3.Etcd3Client.__new__(etcd3.Etcd3Client)

    def open(self) -> None:
        """Make the channel and log in.

        Raises:
            Exception: see `understand`.
        """
        options = self._options
        user: dict[str, str] = {}
        if options.username:
            user = {"user": options.username, "password": options.password}
        try:
            self._init(user)
        except Exception as error:
            # As etcd's own client: a user is no harm where no authentication is asked for.
            if "authentication is not enabled" not in understand(error).text:
                raise
            self.close()
            self._init({})

    def _init(self, user: dict[str, str]) -> None:
        options = self._options
        tls: dict[str, str | None] = {}
        if self.endpoint.tls:
            tls = {
                "ca_cert": options.cafile or system_authorities(),
                "cert_key": options.keyfile or None,
                "cert_cert": options.certfile or None,
            }
        self._client.__init__(
            host=self.endpoint.authority,
            port=self.endpoint.port,
            timeout=self._timeout,
            grpc_options=list(GRPC_OPTIONS),
            **tls,
            **user,
        )
        self._lease = self._client.leasestub
        self._kv = self._client.kvstub

    def range(self, request: Any) -> Any:
        """KV.Range."""
        return self._kv.Range(request, self._timeout, metadata=self._client.metadata)

    def txn(self, request: Any) -> Any:
        """KV.Txn."""
        return self._kv.Txn(request, self._timeout, metadata=self._client.metadata)

    def grant(self, ttl: int) -> Any:
        """Lease.LeaseGrant for `ttl` seconds."""
        request = self.rpc.LeaseGrantRequest(TTL=ttl)
        return self._lease.LeaseGrant(request, self._timeout, metadata=self._client.metadata)

    def revoke(self, lease: int) -> None:
        """Lease.LeaseRevoke: all keys that hang on it vanish."""
        request = self.rpc.LeaseRevokeRequest(ID=lease)
        self._lease.LeaseRevoke(request, self._timeout, metadata=self._client.metadata)

    def time_to_live(self, lease: int) -> int:
        """Lease.LeaseTimeToLive: seconds that the lease has left, -1 when it is over."""
        request = self.rpc.LeaseTimeToLiveRequest(ID=lease)
        metadata = self._client.metadata
        answer = self._lease.LeaseTimeToLive(request, self._timeout, metadata=metadata)
        return int(answer.TTL)

    def keep_alive(self, lease: int) -> int:
        """Lease.LeaseKeepAlive, once: the seconds granted anew, 0 when the lease is over."""
        request = self.rpc.LeaseKeepAliveRequest(ID=lease)
        metadata = self._client.metadata
        answers = self._lease.LeaseKeepAlive(iter([request]), self._timeout, metadata=metadata)
        return next((int(answer.TTL) for answer in answers), 0)

    def watch(self, requests: Iterator[Any]) -> Any:
        """Watch.Watch without a time limit; ended by a server that has lost its cluster."""
        stub = self.rpc.WatchStub(self._client.channel)
        metadata = (*(self._client.metadata or ()), ("hasleader", "true"))
        return stub.Watch(requests, metadata=metadata)

    def close(self) -> None:
        """End every call; idempotent."""
        self._client.close()


class EtcdClient:
    """The cluster.

    Args:
        options: servers, TLS, user.
        timeout: seconds for each call to one server.
    """

    def __init__(self, options: EtcdOptions, *, timeout: float = CALL_TIMEOUT) -> None:
        self._options = options
        self._timeout = timeout
        self._pool = ThreadPoolExecutor(max_workers=_THREADS, thread_name_prefix="etcd")
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._dialing: Connection | None = None
        self._next = 0
        self._closed = False

    async def call(self, function: Callable[[Connection], _T]) -> _T:
        """Run `function` in a thread with a connection; it may run again on another server.

        Raises:
            StoreUnavailableError: no server gave an answer.
        """
        if self._closed:
            raise StoreUnavailableError("the etcd store is closed")
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._try, function)

    def _try(self, function: Callable[[Connection], _T]) -> _T:
        faults: dict[Endpoint, Fault] = {}
        logged_in_again = False
        while not self._closed:
            endpoint, connection, fresh = self._options.endpoints[self._next], None, True
            try:
                connection, fresh = self._current()
                endpoint = connection.endpoint
                return function(connection)
            except Exception as error:
                if not is_foreign(error):
                    raise
                fault = understand(error)
                if fault.cure is Cure.NONE and connection is not None:
                    # The server is well and means it; another one would say the same.
                    raise fault.error(endpoint) from None
                self.drop(connection)
                # One more try where it failed, with a new token; a fresh one will be no better.
                if fault.cure is Cure.LOG_IN and not fresh and not logged_in_again:
                    logged_in_again = True
                    continue
                faults[endpoint] = fault
                self._rotate(endpoint)
                if fault.cure is Cure.NONE or len(faults) == len(self._options.endpoints):
                    raise self._summary(faults) from None
        raise StoreUnavailableError("the etcd store is closed")

    def _current(self) -> tuple[Connection, bool]:
        """Return the connection, and whether it was made just now."""
        with self._lock:
            if self._connection is not None:
                return self._connection, False
            endpoint = self._options.endpoints[self._next]
            connection = Connection(endpoint, self._options, self._timeout)
            self._dialing = connection
            try:
                connection.open()
            except BaseException:
                connection.close()
                raise
            finally:
                self._dialing = None
            if self._closed:
                connection.close()
            self._connection = connection
            return connection, True

    def _rotate(self, failed: Endpoint) -> None:
        with self._lock:
            if self._options.endpoints[self._next] == failed:
                self._next = (self._next + 1) % len(self._options.endpoints)

    def drop(self, connection: Connection | None) -> None:
        """Close a connection that failed; the next call makes a new one."""
        if connection is None:
            return
        with self._lock:
            if self._connection is connection:
                self._connection = None
        connection.close()

    def abandon(self, connection: Connection) -> None:
        """Drop a connection and go on with the next server."""
        self.drop(connection)
        self._rotate(connection.endpoint)

    def _summary(self, faults: dict[Endpoint, Fault]) -> StoreUnavailableError:
        # Always in one order: the same outage must read the same each time.
        told = [(at, faults[at]) for at in self._options.endpoints if at in faults]
        text = "; ".join(f"{endpoint}: {fault.text}" for endpoint, fault in told)
        remedy = next((fault.remedy for _, fault in told if fault.remedy), "")
        return StoreUnavailableError(text, remedy=remedy)

    def close(self) -> None:
        """End every call and the threads; idempotent."""
        self._closed = True
        for connection in (self._dialing, self._connection):
            if connection is not None:
                with contextlib.suppress(Exception):
                    connection.close()
        self._pool.shutdown(wait=False, cancel_futures=True)


def system_authorities() -> str | None:
    """Return the file of the system's certificate authorities.

    gRPC would take a list of its own instead of the one that the administrator keeps.
    """
    known = ssl.get_default_verify_paths()
    paths = (known.cafile, known.openssl_cafile, "/etc/ssl/certs/ca-certificates.crt")
    return next((path for path in paths if path and Path(path).is_file()), None)
