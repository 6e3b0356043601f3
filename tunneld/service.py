"""The daemon once it is up: the supervised tasks that keep it true to the store and the kernel."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, cast

from tunneld import collector, subnet_env
from tunneld.errors import TunneldError
from tunneld.host_guard import HostGuard
from tunneld.loop import breathe
from tunneld.observe.log import fields
from tunneld.observe.notify import notify
from tunneld.store import Deleted, Listed, Put, RecallingStore
from tunneld.subnet_map import Change
from tunneld.supervise import Backoff, supervise

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from tunneld.link.underlay import Underlay
    from tunneld.parts import Cached, Parts
    from tunneld.store import StoreEvent

log = logging.getLogger(__name__)

SAFETY_NET_S = 30.0
"""How often the kernel's state is compared although netlink told nothing."""

_RETRY_S = 3.0
"""Longest pause before a task that failed is started again."""

_REMEMBER_GAP_S = 1.0

_MANY = 20
"""More peers than that in one event are one line of the log."""

_DEBOUNCE_S = 0.01
_MIN_GAP_S = 0.1


class Service:
    """Runs until a task meets an error that is final.

    Args:
        parts: see `Parts`.
        rng: jitter of the restarts.

    Attributes:
        parts: as given; `underlay` is followed.
        ready: the first listing of the store is in force.
        guard: knows other live hosts that have our public IP.
        no_underlay: why the external interface cannot be had now, or empty.
        failing: task that does not get through now -> why: "repair", "peers".
    """

    def __init__(self, parts: Parts, rng: random.Random) -> None:
        self.parts = parts
        self.ready = False
        self.no_underlay = ""
        self.failing: dict[str, str] = {}
        self.guard = HostGuard(parts.store, lambda: parts.keeper.held.lease.public_ip)
        self._rng = rng
        self._kernel_changed = asyncio.Event()
        self._peers_changed = asyncio.Event()
        self._changed = asyncio.Event()
        self._confirmed = asyncio.Event()
        self._listed = False
        if parts.cached:
            self._tell(parts.subnet_map.snapshot(parts.cached.peers))
            self._listed = True
            self._peers_changed.set()
        else:
            self._confirmed.set()

    @property
    def cached(self) -> Cached | None:
        """What we go by as long as the store has not answered once; None: by the store."""
        return None if self._confirmed.is_set() else self.parts.cached

    async def run(self) -> None:
        """Supervise the tasks.

        Raises:
            LeaseLostError: another owner holds our subnet.
            ConfigChangedError: the store has another network config than the cache had.
        """
        # What was imported and built until now stays.
        collector.settle()
        tasks = [
            self._task("store watch", self._follow_store),
            self._task("peers", self._publish_peers),
            self._task("lease", self._keep_lease),
            self._task("netlink watch", self._watch_kernel),
            self._task("repair", self._repair),
            self._task("firewall rules", self.parts.rules.run),
            self._task("state cache", self._remember),
            self._task("host identity", self.guard.run),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _task(self, name: str, run: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        backoff = Backoff(ceiling=_RETRY_S, rng=self._rng)
        return asyncio.get_running_loop().create_task(supervise(name, run, backoff=backoff))

    def write_subnet_env(self) -> None:
        """Bring subnet.env up to date.

        Raises:
            StartError: it cannot be written.
        """
        parts = self.parts
        mtu = parts.backend.status().mtu
        subnet, masquerades = parts.keeper.held.lease.subnet, parts.rules.masquerades
        text = subnet_env.render(parts.network, subnet, mtu, ip_masq=masquerades)
        if subnet_env.write(parts.subnet_file, text):
            log.info("wrote subnet.env", extra=fields(path=parts.subnet_file, mtu=mtu))

    async def _keep_lease(self) -> None:
        # Nothing is written before the store has confirmed that our config is still the one.
        await self._confirmed.wait()
        await self.parts.keeper.keep()

    async def _remember(self) -> None:
        """Write the cache soon after a change, once for a burst."""
        while True:
            await self._changed.wait()
            await asyncio.sleep(_REMEMBER_GAP_S)
            self._changed.clear()
            if self.parts.remember:
                await self.parts.remember()

    async def _follow_store(self) -> None:
        if self.parts.cached and not self._confirmed.is_set():
            await self.parts.cached.confirm()
            if isinstance(self.parts.store, RecallingStore):
                self.parts.store.recall(
                    self.parts.cached.peers, self.parts.keeper.held.entry.mod_revision
                )
            self.parts.keeper.confirm()
            self._confirmed.set()
        # Closed also when we fail: a restart must not leave a second watch behind.
        async with aclosing(cast("AsyncGenerator[StoreEvent]", self.parts.store.watch())) as events:
            async for event in events:
                await self._take(event)

    async def _take(self, event: StoreEvent) -> None:
        keeper, subnet_map = self.parts.keeper, self.parts.subnet_map
        own = keeper.held.lease.key
        match event:
            case Listed(entries):
                change = Change()
                with collector.paused():
                    for part in subnet_map.snapshot_in_parts(entries):
                        change += part
                        # Thousands of new leases at once must not hold up everything else.
                        await asyncio.sleep(0)
                if len(change.added) + len(change.changed) >= collector.MANY:
                    collector.settle()
                keeper.seen(next((entry for entry in entries if entry.key == own), None))
                self._listed = True
                self._peers_changed.set()
            case Put(entry):
                change = subnet_map.put(entry)
                if entry.key == own:
                    keeper.seen(entry)
            case Deleted(key):
                change = subnet_map.delete(key)
                if key == own:
                    keeper.seen(None)
        self._tell(change)
        self._changed.set()
        if change:
            self._peers_changed.set()

    def _tell(self, change: Change) -> None:
        leases = {verb: getattr(change, verb) for verb in ("added", "changed", "removed")}
        if sum(map(len, leases.values())) > _MANY:
            counts: dict[str, object] = {verb: len(found) for verb, found in leases.items()}
            log.info("many peers", extra=fields(**counts))
            leases.clear()
        for verb, found in leases.items():
            for lease in found:
                pair = fields(subnet=lease.subnet, public_ip=lease.public_ip)
                log.info("peer %s", verb, extra=pair)
        for key, reason in change.quarantined:
            log.warning("lease skipped", extra=fields(key=key, reason=reason))
        for key in change.released:
            log.info("lease no longer skipped", extra=fields(key=key))

    async def _publish_peers(self) -> None:
        while True:
            await self._peers_changed.wait()
            self._peers_changed.clear()
            if not self._listed:
                # Before the first listing an empty list is what we do not know, not what is so:
                # published, it would take the routes that an earlier daemon has left working.
                continue
            try:
                # With thousands of peers each of these takes tens of milliseconds.
                peers = self.parts.subnet_map.peers
                await breathe(len(peers))
                await self.parts.backend.apply(peers)
                await breathe(len(peers))
                self.parts.rules.follow(peer.public_ip for peer in peers)
            except BaseException as error:
                self.failing["peers"] = str(error) or repr(error)
                self._peers_changed.set()
                raise
            self.failing.pop("peers", None)
            if not self.ready:
                self.ready = True
                log.info("ready", extra=fields(peers=len(self.parts.subnet_map.peers)))
                notify("READY=1", f"STATUS=forwarding {self.parts.keeper.held.lease.subnet}")

    async def _watch_kernel(self) -> None:
        events = self.parts.kernel_events()
        # What changed before the watch was open would else wait for the safety net.
        self._kernel_changed.set()
        async for _ in events:
            self._kernel_changed.set()

    async def _repair(self) -> None:
        """Coalesce kernel events: one comparison for a burst, a slow one for what was missed."""
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._kernel_changed.wait(), SAFETY_NET_S)
            await asyncio.sleep(_DEBOUNCE_S)
            self._kernel_changed.clear()
            try:
                try:
                    await self._follow_underlay()
                finally:
                    await self.parts.backend.ensure()
                self.write_subnet_env()
            except BaseException as error:
                self.failing["repair"] = str(error) or repr(error)
                self._kernel_changed.set()
                raise
            self.failing.pop("repair", None)
            await asyncio.sleep(_MIN_GAP_S)

    async def _follow_underlay(self) -> None:
        parts = self.parts
        try:
            underlay = await parts.choose_underlay()
        except TunneldError as error:
            # The interface is on its way back, or gone; what we have may still carry.
            self.no_underlay = str(error)
            log.debug("external interface: %s", error)
            return
        self.no_underlay = ""
        if underlay == parts.underlay:
            return
        await parts.backend.underlay_changed(underlay)
        parts.underlay = underlay
        parts.rules.moved(underlay.address)
        log.warning("external interface changed", extra=underlay_fields(underlay))
        lease = parts.keeper.held.lease
        if underlay.public_ip != lease.public_ip:
            parts.keeper.announce(underlay.public_ip)
            self._tell(parts.subnet_map.own_changed(lease.subnet, underlay.public_ip))
            self._peers_changed.set()


def underlay_fields(underlay: Underlay) -> dict[str, dict[str, object]]:
    """Return the log fields that describe the external interface."""
    return fields(
        name=underlay.ifname,
        address=underlay.address,
        public_ip=underlay.public_ip,
        mtu=underlay.mtu,
    )
