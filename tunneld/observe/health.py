"""Is the daemon well? One judgement for `status`, /readyz, the metrics and the service manager."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tunneld.service import Service
    from tunneld.store import StoreHealth

STATES = ("starting", "ready", "degraded", "stopping")
"""All words for the state; the `state` of the status document is one of them."""


@dataclass(frozen=True, slots=True)
class Health:
    """A judgement.

    Attributes:
        state: one of `STATES`; degraded: traffic goes on, or will soon, but something is not right.
        serving: packets are forwarded by the peers of the store, or of the last run.
        alive: no packet path of ours is dead; the event loop lives if somebody reads this.
        reasons: what is waited for or wrong, for people.
        summary: what is right, for people.
    """

    state: str
    serving: bool
    alive: bool = True
    reasons: tuple[str, ...] = ()
    summary: str = ""

    def __str__(self) -> str:
        """Return one line: what `systemctl status` and /readyz show."""
        return "; ".join(part for part in (self.summary, *self.reasons) if part) or self.state


def assess(service: Service | None, *, stopping: bool = False, waiting: str = "") -> Health:
    """Judge as of now; never blocks.

    Args:
        service: None before the start sequence is through.
        stopping: a signal or an error ends the daemon.
        waiting: what the start sequence waits for, in words.
    """
    if stopping:
        return Health("stopping", serving=False, summary="stopping")
    if service is None:
        return Health("starting", serving=False, reasons=(waiting or "starting",))
    backend = service.parts.backend.status()
    store = service.parts.store.health()
    # The kernel's own packet path has no life that a restart of ours could save.
    alive = backend.forwarding or backend.dataplane == "kernel"
    if not service.ready:
        why = [f"waiting for the store: no list of peers yet{_why_not(store)}"]
        why += [f"{what}: {error}" for what, error in _failing(service)]
        return Health("starting", serving=False, alive=alive, reasons=tuple(why))
    reasons = tuple(_troubles(service, store, forwarding=backend.forwarding))
    subnet = service.parts.keeper.held.lease.subnet
    what = f"forwarding {subnet}, {_peers(service, store)}"
    return Health(
        "degraded" if reasons else "ready",
        serving=backend.forwarding,
        alive=alive,
        reasons=reasons,
        summary=what if backend.forwarding else f"not forwarding {subnet}",
    )


def since(store: StoreHealth) -> str:
    """Return the words that say since when a store is away; none while it answers."""
    return "" if store.away_since is None else f" (since {_clock(store.away_since)})"


def _why_not(store: StoreHealth) -> str:
    return f": {store.detail}{since(store)}" if store.detail else ""


def _clock(at: float) -> str:
    """Return a moment of the monotonic clock as people write it.

    No age: that would be another status for the service manager in each second.
    """
    return _date(time.time() - (time.monotonic() - at))


def _date(at: float) -> str:
    return datetime.fromtimestamp(round(at), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _peers(service: Service, store: StoreHealth) -> str:
    count = len(service.parts.subnet_map.peers)
    peers = f"{count} {'peer' if count == 1 else 'peers'}"
    if cached := service.cached:
        saved = f", cached {_date(cached.saved_at)}" if cached.saved_at else ""
        return f"{peers} of the last run{saved}"
    if store.state != "connected" and store.last_sync is not None:
        return f"{peers} as of {_clock(store.last_sync)}"
    return peers


_TASKS = {
    "repair": "device, routes or subnet.env are not all right",
    "peers": "the newest list of peers is not in force",
}


def _failing(service: Service) -> Iterator[tuple[str, str]]:
    for task, error in service.failing.items():
        yield _TASKS[task], error


def _troubles(service: Service, store: StoreHealth, *, forwarding: bool) -> Iterator[str]:
    failing = dict(_failing(service))
    if not forwarding:
        # What the repair fails for is why.
        why = failing.pop(_TASKS["repair"], "")
        yield f"the device or the packet path is down{why and ': '}{why}"
    yield from (f"{what}: {error}" for what, error in failing.items())
    if service.no_underlay:
        yield f"waiting for the external interface: {service.no_underlay}"
    if store.state != "connected":
        yield f"waiting for the store: {store.detail or store.state}{since(store)}"
    if not service.parts.keeper.announced:
        left = service.parts.keeper.expires_in
        ended = ", where it has ended" if left is not None and left <= 0 else ""
        yield f"waiting to write our lease to the store{ended}"
    if service.guard.doubles:
        yield f"other hosts have our public IP: {', '.join(service.guard.doubles)}"
