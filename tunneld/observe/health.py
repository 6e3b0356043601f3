"""Is the daemon well? One judgement for `status`, /readyz, the metrics and the service manager."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tunneld.service import Service

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
    # The kernel's own packet path has no life that a restart of ours could save.
    alive = backend.forwarding or backend.dataplane == "kernel"
    if not service.ready:
        why = "waiting for the store: no list of peers yet"
        return Health("starting", serving=False, alive=alive, reasons=(why,))
    reasons = tuple(_troubles(service, forwarding=backend.forwarding))
    lease, peers = service.parts.keeper.held.lease, len(service.parts.subnet_map.peers)
    what = f"forwarding {lease.subnet}, {peers} {'peer' if peers == 1 else 'peers'}"
    return Health(
        "degraded" if reasons else "ready",
        serving=backend.forwarding,
        alive=alive,
        reasons=reasons,
        summary=what if backend.forwarding else f"not forwarding {lease.subnet}",
    )


def _troubles(service: Service, *, forwarding: bool) -> Iterator[str]:
    if not forwarding:
        yield "the device or the packet path is down"
    if service.no_underlay:
        yield f"waiting for the external interface: {service.no_underlay}"
    store = service.parts.store.health()
    if store.state != "connected":
        yield f"waiting for the store: {store.detail or store.state}"
    if not service.parts.keeper.announced:
        yield "waiting to write our lease to the store"
    if service.guard.doubles:
        yield f"other hosts have our public IP: {', '.join(service.guard.doubles)}"
