"""The composition root: start order and shutdown order.

config -> store -> underlay -> lease -> unreachable routes, device, address, route -> dataplane ->
masquerade and forward rules -> subnet.env -> ready; what runs after that is `tunneld.service`.
"""

from __future__ import annotations

import asyncio
import logging
import random
import signal
import time
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from pyroute2.netlink.exceptions import NetlinkError

from tunneld import __version__, allocate, host_rules, netconf, subnet_env
from tunneld.backend import BackendOptions
from tunneld.backend.registry import open_backend
from tunneld.control import ControlServer
from tunneld.errors import ConfigChangedError, TunneldError
from tunneld.lease import Lease, LeaseFormatError, parse_attrs, parse_key
from tunneld.lease_keeper import LeaseKeeper
from tunneld.link import underlay as underlays
from tunneld.link.rtnl import Rtnl, refusal
from tunneld.observe import health
from tunneld.observe.document import Draft, build
from tunneld.observe.log import fields
from tunneld.observe.notify import notify, status
from tunneld.observe.report import Reporter
from tunneld.parts import Cached, Parts
from tunneld.run_dir import RunDirLock
from tunneld.service import Service, underlay_fields
from tunneld.state_cache import StateCache
from tunneld.store import NoNetworkConfigError, StoreUnavailableError
from tunneld.store.registry import open_store
from tunneld.subnet_map import SubnetMap, readable_leases
from tunneld.supervise import Backoff, supervise

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from ipaddress import IPv4Network

    from tunneld.config import Config
    from tunneld.lease import LeaseAttrs
    from tunneld.link.underlay import Underlay
    from tunneld.netconf import NetworkConfig
    from tunneld.state_cache import Remembered
    from tunneld.store import Store

log = logging.getLogger(__name__)

T = TypeVar("T")

_CACHE_AFTER_S = 0.4
"""How long a daemon that remembers its peers waits for the store before it goes on without."""


async def main(config: Config) -> int:
    """Run one daemon until a signal; returns the exit code.

    Raises:
        TunneldError: with its exit code, when the daemon cannot start or go on.
    """
    try:
        with RunDirLock(config.run_dir):
            subnet_env.check_writable(config.subnet_file)
            return await _run(config)
    except TunneldError as error:
        # `systemctl status` shows the last words of a daemon that failed.
        notify(status(error))
        raise


async def _run(config: Config) -> int:
    try:
        return await Daemon(config).run()
    except NetlinkError as error:
        raise refusal(error) from error


class Daemon:
    """One daemon.

    Args:
        config: the checked options.
        ttl: seconds that the lease lives without a renewal.
        rng: chooses the subnet and the jitter.
    """

    def __init__(
        self, config: Config, *, ttl: float = allocate.DEFAULT_TTL, rng: random.Random | None = None
    ) -> None:
        self._config = config
        self._ttl = ttl
        self._rng = rng or random.Random()  # noqa: S311 - spreads nodes, keeps no secret
        self._began = time.monotonic()
        self._report = Reporter(lambda: self._service, self._status)
        self._store: Store | None = None
        self._service: Service | None = None

    async def run(self) -> int:
        """Start, supervise, stop; returns 0 after a signal.

        Raises:
            TunneldError: the daemon cannot start or go on.
        """
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        failure: asyncio.Future[BaseException] = loop.create_future()
        async with AsyncExitStack() as stack:
            config = self._config
            control = ControlServer(config.run_dir, self._status)
            await control.start()
            stack.push_async_callback(control.close)
            # Before the store, which may be away.
            ip, port, public = config.healthz_ip, config.healthz_port, config.metrics_public
            await self._report.serve(stack, ip, port, public=public)
            manager = loop.create_task(supervise("service manager", self._report.tell_manager))
            stack.callback(manager.cancel)
            life = loop.create_task(self._live(stack, failure))
            stopped = loop.create_task(stop.wait())
            ends: set[asyncio.Future[Any]] = {life, stopped, failure}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            self._report.stopping = True
            notify("STOPPING=1")
            for task in (stopped, life):
                task.cancel()
            with suppress(asyncio.CancelledError):
                await life
            if failure.done():
                raise TunneldError(f"the backend cannot go on: {failure.result()}")
        log.info("stopped by a signal")
        return 0

    async def _live(self, stack: AsyncExitStack, failure: asyncio.Future[BaseException]) -> None:
        def fail(error: BaseException) -> None:
            if not failure.done():
                failure.set_result(error)

        self._service = service = Service(await self._start(stack, fail), self._rng)
        service.write_subnet_env()
        await service.run()

    async def _start(self, stack: AsyncExitStack, fail: Callable[[BaseException], None]) -> Parts:
        config = self._config
        self._store = store = open_store(config.store, config.etcd)
        stack.push_async_callback(store.close)
        source = f"network config of {store.url}"
        cache = StateCache(config.state_dir, store.url)
        text, last = await self._read_config(store, cache)
        network = netconf.parse_network_config(text, source)
        rtnl = await stack.enter_async_context(Rtnl())

        async def choose_underlay() -> Underlay:
            return await _choose_underlay(rtnl, config, network.network)

        underlay = await choose_underlay()
        log.info("external interface", extra=underlay_fields(underlay))

        async def confirm() -> None:
            if netconf.parse_network_config(await store.get_config(), source) != network:
                # Else a store that answers slowly would find us with the old one again.
                cache.forget()
                raise ConfigChangedError(f"{source} has changed while the store was away")

        async def leases() -> list[Lease]:
            if last:
                return readable_leases(last.peers)
            entries = await self._until_store_answers("list the leases", store.list_entries)
            return readable_leases(entries)

        options = _backend_options(config, network, source, leases, fail)
        backend = open_backend(network.backend_type, source, options, rtnl)
        stack.push_async_callback(backend.stop)
        attrs = await backend.prepare(underlay)
        previous = subnet_env.previous_subnet(config.subnet_file)

        async def acquire() -> allocate.Held:
            return await allocate.acquire(
                store, network, attrs, previous=previous, ttl=self._ttl, rng=self._rng
            )

        held = _held_before(last, attrs) if last else None
        if held is None:
            if last:
                last = None
                await self._until_store_answers("compare the network config", confirm)
            held = await self._until_store_answers("acquire a lease", acquire)
        log.info("lease", extra=fields(subnet=held.lease.subnet, public_ip=held.lease.public_ip))
        await backend.start(held.lease)
        rules = host_rules.of(config, network, held.lease.subnet, underlay.address)
        await rules.start()
        keeper = LeaseKeeper(store, held, ttl=self._ttl, margin=config.renew_margin)
        subnet_map = SubnetMap(network.network, held.lease.subnet, held.lease.public_ip)

        return Parts(
            store=store,
            backend=backend,
            keeper=keeper,
            subnet_map=subnet_map,
            underlay=underlay,
            network=network.network,
            subnet_file=config.subnet_file,
            choose_underlay=choose_underlay,
            kernel_events=rtnl.watch,
            rules=rules,
            remember=partial(cache.keep, text, keeper, subnet_map) if cache.useful else None,
            cached=Cached(last.peers, confirm, last.saved_at) if last else None,
        )

    async def _read_config(
        self, store: Store, cache: StateCache
    ) -> tuple[bytes, Remembered | None]:
        """Return the network config, and the state of the last run when the store is away."""
        if last := cache.load():
            try:
                async with asyncio.timeout(_CACHE_AFTER_S):
                    return await store.get_config(), None
            except (StoreUnavailableError, TimeoutError) as error:
                pair = fields(error=error or "no answer", peers=len(last.peers))
                log.warning("the store is away, going on with what the last run knew", extra=pair)
                return last.config, last
            except NoNetworkConfigError:
                pass
        return await self._until_store_answers("read the network config", store.get_config), None

    async def _until_store_answers(self, doing: str, ask: Callable[[], Awaitable[T]]) -> T:
        """Wait for the store for ever: a node must come up by itself after a power cut."""
        backoff = Backoff(first=0.2, ceiling=3.0, rng=self._rng)
        told = ""
        while True:
            try:
                return await ask()
            except (StoreUnavailableError, NoNetworkConfigError) as error:
                delay = backoff.delay()
                pair = fields(to=doing, error=error, again_in_s=round(delay, 2))
                # An outage of a day is one line, not one for each attempt.
                level = logging.DEBUG if str(error) == told else logging.WARNING
                told = str(error)
                log.log(level, "waiting for the store", extra=pair)
                away = health.since(self._store.health()) if self._store else ""
                self._report.waiting(f"waiting for the store, to {doing}: {error}{away}")
                await asyncio.sleep(delay)

    def _status(self) -> Draft:
        return build(
            version=__version__,
            uptime=time.monotonic() - self._began,
            health=self._report.health(),
            store_url=self._config.store,
            store=self._store,
            parts=self._service.parts if self._service else None,
        )


def _held_before(last: Remembered, attrs: LeaseAttrs) -> allocate.Held | None:
    """Return the lease of the last run, None when it announces another public IP than ours."""
    try:
        subnet = parse_key(last.own.key)
        if parse_attrs(last.own.value).public_ip != attrs.public_ip:
            return None
    except LeaseFormatError:
        return None
    return allocate.Held(Lease(subnet.subnet, attrs, subnet.subnet6, last.own.key), last.own)


async def _choose_underlay(rtnl: Rtnl, config: Config, network: IPv4Network) -> Underlay:
    return await underlays.choose(
        rtnl,
        iface=config.iface,
        iface_regex=config.iface_regex,
        can_reach=config.iface_can_reach,
        public_ip=str(config.public_ip) if config.public_ip else None,
        network=network,
    )


def _backend_options(
    config: Config,
    network: NetworkConfig,
    source: str,
    leases: Callable[[], Awaitable[Sequence[Lease]]],
    fail: Callable[[BaseException], None],
) -> BackendOptions:
    return BackendOptions(
        network=network.network,
        port=network.port,
        mtu=network.mtu,
        dataplane=config.dataplane,
        threads=config.threads,
        queues=config.queues,
        source_check=config.source_check,
        allow_sources=config.allow_sources,
        on_failure=fail,
        backend=network.backend,
        source=source,
        leases=leases,
    )
