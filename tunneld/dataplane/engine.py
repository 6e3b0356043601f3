"""The C core behind the Dataplane protocol; the only importer of the C module.

The C side never sees a Python object: it gets borrowed file descriptors, a whole route table as
one array, and memory for its counters. A thread inside `tnl_run` holds no GIL.
"""

from __future__ import annotations

import asyncio
import errno
import os
import struct
import threading
import weakref
from typing import TYPE_CHECKING, Any

from tunneld._dataplane import ffi, lib
from tunneld.dataplane import DataplaneCounters, PeerCounters, Route, RouteSnapshot
from tunneld.dataplane.later import Later

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from ipaddress import IPv4Address, IPv4Network

# Packets per system call and features of each rung (api.h, struct tnl_options). What a rung needs
# of the descriptors is set where they are opened: UDP_GRO, IFF_VNET_HDR, TUNSETOFFLOAD.
_GSO = int(lib.TNL_UDP_SEGMENT | lib.TNL_UDP_GRO)
_RUNGS: dict[str, tuple[int, int]] = {
    "syscall": (1, 0),
    "mmsg": (64, 0),
    "gso": (64, _GSO),
    "offload": (64, _GSO | int(lib.TNL_VNET_HDR | lib.TNL_TSO)),
}
RUNGS = tuple(_RUNGS)
_THREADS = {
    "1": int(lib.TNL_THREADS_ONE),
    "2": int(lib.TNL_THREADS_TWO),
    "auto": int(lib.TNL_THREADS_AUTO),
}

_ROUTE = struct.Struct("=IIHBB")
_OUTBOUND, _INBOUND = int(lib.TNL_OUTBOUND), int(lib.TNL_INBOUND)
_MAIN, _HELPER = int(lib.TNL_MAIN), int(lib.TNL_HELPER)


def _names(direction: int) -> tuple[str, ...]:
    """Return the counter names of one direction, in the order of their words."""
    count = lib.tnl_counter_count(direction)
    return tuple(ffi.string(lib.tnl_counter_name(direction, i)).decode() for i in range(count))


OUTBOUND_COUNTERS = _names(_OUTBOUND)
INBOUND_COUNTERS = _names(_INBOUND)
_COUNTER_BYTES = 8 * (len(OUTBOUND_COUNTERS) + len(INBOUND_COUNTERS))


def new_counters() -> bytearray:
    """Return zeroed memory for the counters; hand it to one engine after the other to go on."""
    return bytearray(_COUNTER_BYTES)


def _check(result: int) -> int:
    """Turn -errno into OSError: the one place where that happens.

    Raises:
        OSError: for a negative result.
    """
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result


class _CSnapshot:
    """A `RouteSnapshot` as C arrays; keeps them alive as long as it lives."""

    def __init__(self, snapshot: RouteSnapshot) -> None:
        routes = b"".join(
            _ROUTE.pack(
                int(route.subnet.network_address),
                int(route.public_ip),
                route.path_mtu,
                route.subnet.prefixlen,
                0,
            )
            for route in snapshot.routes
        )
        own = struct.pack(
            f"={len(snapshot.own_addresses)}I", *(int(ip) for ip in snapshot.own_addresses)
        )
        allow = b"".join(
            struct.pack("=II", int(prefix.network_address), prefix.prefixlen)
            for prefix in snapshot.allow_sources
        )
        self._keep = [
            ffi.from_buffer("struct tnl_route[]", routes),
            ffi.from_buffer("uint32_t[]", own),
            ffi.from_buffer("struct tnl_prefix[]", allow),
        ]
        self.pointer: Any = ffi.new(
            "struct tnl_snapshot *",
            {
                "network": int(snapshot.network.network_address),
                "network_len": snapshot.network.prefixlen,
                "subnet": int(snapshot.subnet.network_address),
                "subnet_len": snapshot.subnet.prefixlen,
                "tun_address": int(snapshot.tun_address),
                "mtu": snapshot.mtu,
                "port": snapshot.port,
                "source_check": int(snapshot.source_check),
                "routes": self._keep[0],
                "route_count": len(snapshot.routes),
                "own_addresses": self._keep[1],
                "own_address_count": len(snapshot.own_addresses),
                "allow_sources": self._keep[2],
                "allow_source_count": len(snapshot.allow_sources),
            },
        )


class RouteTable:
    """The compiled route table alone, for tests and the lookup benchmark."""

    def __init__(self, snapshot: RouteSnapshot) -> None:
        out = ffi.new("struct tnl_routes **")
        compiled = _CSnapshot(snapshot)  # a name: its arrays must live until they are copied
        _check(lib.tnl_routes_new(compiled.pointer, out))
        self._table: Any = ffi.gc(out[0], lib.tnl_routes_free)
        self._routes = snapshot.routes

    def lookup(self, address: IPv4Address) -> Route | None:
        """Return the route with the longest prefix that covers `address`, or None."""
        index = lib.tnl_routes_lookup(self._table, int(address))
        return None if index < 0 else self._routes[index]

    def lookup_many(self, addresses: Sequence[int]) -> int:
        """Look up addresses (as integers) in one call; return how many have a route."""
        array = ffi.from_buffer("uint32_t[]", struct.pack(f"={len(addresses)}I", *addresses))
        return int(lib.tnl_routes_lookup_many(self._table, array, len(addresses)))


class Engine:
    """One packet path in C, on borrowed descriptors.

    Args:
        tun_fd: a non-blocking TUN (or any descriptor that keeps packets apart).
        udp_fd: a bound, non-blocking UDP socket.
        snapshot: the first routes.
        rung: a key of `RUNGS`.
        counters: memory of `new_counters`; several engines, one after the other, may use it.
        icmp_rate: ICMP errors per second and direction.
        threads: "1", "2", or "auto": one when idle or for latency, two under load.
        uso: the TUN accepts UDP superpackets (TUN_F_USO4); rung offload only.
        max_segments: packets per UDP_SEGMENT message that the kernel takes; rungs gso and offload.
        spin_us: how long a thread that serves both directions looks for the next packet before it
            sleeps, where it may expect one soon (csrc/wait.h); 0 is never.

    Raises:
        OSError: the C core refused (EINVAL, ENOMEM).
    """

    def __init__(
        self,
        *,
        tun_fd: int,
        udp_fd: int,
        snapshot: RouteSnapshot,
        rung: str = "mmsg",
        counters: bytearray | None = None,
        icmp_rate: int = 100,
        threads: str = "1",
        uso: bool = False,
        max_segments: int = 63,
        spin_us: int = 0,
    ) -> None:
        batch, features = _RUNGS[rung]
        self._rung = rung
        self._snapshot = snapshot
        self._counters = new_counters() if counters is None else counters
        self._threads: list[threading.Thread] = []
        self._roles = (_MAIN,) if threads == "1" else (_MAIN, _HELPER)
        self._ended = asyncio.Event()
        # One stops both threads, the others wake one each.
        self._events = [os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for _ in range(3)]
        options = {
            "tun_fd": tun_fd,
            "udp_fd": udp_fd,
            "stop_fd": self._events[0],
            "main_fd": self._events[1],
            "helper_fd": self._events[2],
            "threads": _THREADS[threads],
            "batch": batch,
            "features": features | (int(lib.TNL_USO) if uso and rung == "offload" else 0),
            "max_segments": max_segments,
            "icmp_rate": icmp_rate,
            "spin_us": spin_us,
        }
        out = ffi.new("struct tnl_engine **")
        words = ffi.from_buffer("uint64_t[]", self._counters)
        compiled = _CSnapshot(snapshot)  # a name: its arrays must live until they are copied
        try:
            _check(
                lib.tnl_create(
                    ffi.new("struct tnl_options *", options),
                    compiled.pointer,
                    words,
                    out,
                )
            )
        except OSError:
            self._close_events()
            raise
        # An engine that is never run is never stopped either.
        weakref.finalize(self, _close_all, self._events)
        self._words: Any = words
        self._engine: Any = ffi.gc(out[0], lib.tnl_free)

    def _close_events(self) -> None:
        _close_all(self._events)

    @property
    def rung(self) -> str:
        """The rung that runs."""
        return self._rung

    @property
    def threads(self) -> int:
        """How many threads move packets."""
        return self._gauges().threads if self._threads else 0

    def start(self, on_exit: Callable[[OSError | None], None]) -> None:
        """Begin to forward; see `Dataplane.start`."""
        loop = asyncio.get_running_loop()
        left = len(self._roles)
        worst = 0

        def finish(result: int) -> None:
            nonlocal left, worst
            left -= 1
            worst = min(worst, result)
            if left == 0:
                self._ended.set()
                on_exit(OSError(-worst, os.strerror(-worst)) if worst < 0 else None)

        def run(role: int) -> None:
            result = lib.tnl_run(self._engine, role)
            # Whatever ends one thread ends the other.
            os.eventfd_write(self._events[0], 1)
            if not loop.is_closed():
                loop.call_soon_threadsafe(finish, result)

        for role in self._roles:
            thread = threading.Thread(
                target=run, args=(role,), name=f"tunneld-packets-{role}", daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def publish(self, snapshot: RouteSnapshot) -> None:
        """Swap the whole snapshot between two turns.

        Raises:
            OSError: the snapshot was refused; the old one stays in force.
        """
        compiled = _CSnapshot(snapshot)  # a name: its arrays must live until they are copied
        _check(lib.tnl_publish(self._engine, compiled.pointer))
        self._snapshot = snapshot

    def counters(self) -> DataplaneCounters:
        """Read all counters."""
        words = struct.unpack(f"={len(self._counters) // 8}Q", self._counters)
        split = len(OUTBOUND_COUNTERS)
        return DataplaneCounters(
            outbound=dict(zip(OUTBOUND_COUNTERS, words[:split], strict=True)),
            inbound=dict(zip(INBOUND_COUNTERS, words[split:], strict=True)),
        )

    def peer_counters(self) -> Mapping[IPv4Network, PeerCounters]:
        """Read the counters of each route of the current snapshot; from the publishing thread."""
        routes = self._snapshot.routes
        out = ffi.new("struct tnl_peer_counters[]", len(routes))
        _check(lib.tnl_peer_counters(self._engine, out, len(routes)))
        found = bytes(ffi.buffer(out))
        return Later(
            lambda: {
                route.subnet: PeerCounters(*words)
                for route, words in zip(routes, struct.iter_unpack("=4Q", found), strict=True)
            }
        )

    def _gauges(self) -> Any:
        out = ffi.new("struct tnl_gauges *")
        lib.tnl_gauges(self._engine, out)
        return out

    def gauges(self) -> Mapping[str, int | bool | str]:
        """Return what is effective now; a downgrade shows here."""
        out = self._gauges()
        return {
            "batch": _RUNGS[self._rung][0],
            "segments": int(out.segments),
            "coalesce_tcp": bool(out.tcp),
            "coalesce_udp": bool(out.udp),
            "downgrades_udp": int(out.downgrades_udp),
            "downgrades_tun": int(out.downgrades_tun),
        }

    async def stop(self) -> None:
        """End the threads; afterwards nobody touches the descriptors. Idempotent."""
        if not self._threads:
            return
        os.eventfd_write(self._events[0], 1)
        await self._ended.wait()
        for thread in self._threads:
            thread.join()
        self._threads.clear()
        self._close_events()


def _close_all(fds: list[int]) -> None:
    while fds:
        os.close(fds.pop())


def is_device_gone(error: OSError | None) -> bool:
    """Whether `on_exit` reported that the TUN was deleted."""
    return error is not None and error.errno == errno.ENODEV
