"""What the start sequence hands to the running service."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from ipaddress import IPv4Network
    from pathlib import Path

    from tunneld.backend import Backend
    from tunneld.host_rules import HostRules
    from tunneld.lease_keeper import LeaseKeeper
    from tunneld.link.underlay import Underlay
    from tunneld.store import Entry, Store
    from tunneld.subnet_map import SubnetMap


@dataclass(frozen=True, slots=True)
class Cached:
    """What a start without the store goes by.

    Attributes:
        peers: of the last run.
        confirm: compares the network config with the store's, once that answers.
        saved_at: `time.time()` at which the last run wrote this down; 0: not known.
    """

    peers: tuple[Entry, ...]
    confirm: Callable[[], Awaitable[None]]
    saved_at: float = 0.0


@dataclass(slots=True)
class Parts:
    """What the start sequence has built.

    Attributes:
        store: connected.
        backend: started.
        keeper: holds our lease.
        subnet_map: still empty.
        underlay: as `choose_underlay` returned it.
        network: the overlay network.
        subnet_file: where subnet.env goes.
        choose_underlay: applies flannel's rules again.
        kernel_events: yields something for each change of links, addresses and routes.
        rules: those of the firewall, written.
        remember: called when peers or lease have changed, to keep them for the next start.
        cached: set when lease and config come from the last run, because the store is away.
    """

    store: Store
    backend: Backend
    keeper: LeaseKeeper
    subnet_map: SubnetMap
    underlay: Underlay
    network: IPv4Network
    subnet_file: Path
    choose_underlay: Callable[[], Awaitable[Underlay]]
    kernel_events: Callable[[], AsyncIterator[object]]
    rules: HostRules
    remember: Callable[[], Awaitable[None]] | None = None
    cached: Cached | None = None
