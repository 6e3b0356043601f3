"""What the watch has shown so far, and the guard against losing most peers at once. Pure.

A store that comes back empty (its data directory was wiped, a backup was restored) and a hand that
slipped (`etcdctl del --prefix`) would take nearly every route away in one moment, although the
peers live on and put their keys again within seconds. So when more than half of the peers vanish
at once, or the whole history is another one, what vanished is kept for a grace time, and goes when
a listing made after that does not have it either.

A key that vanishes alone lingers too, but a moment only: its node, if it lives, puts it again
within tenths of a second, and meanwhile its packets are no stranger's. Not so a permanent
reservation: that was taken away by hand.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from tunneld.store import Deleted, Entry, Listed, Put, StoreEvent

if TYPE_CHECKING:
    from tunneld.store.etcd_keys import Listing

log = logging.getLogger(__name__)

GRACE_S = 10.0
"""How long peers that vanished together are kept."""

LINGER_S = 2.0
"""How long a peer that vanished alone is kept."""

_AT_LEAST = 4
_TOGETHER_S = 1.0


class Mirror:
    """The content of the store as its consumer knows it.

    Args:
        own: names of the keys that this node holds: their loss is told at once.
        grace: seconds, see `GRACE_S`.
        linger: seconds, see `LINGER_S`.
    """

    def __init__(
        self, own: Collection[str], grace: float = GRACE_S, linger: float = LINGER_S
    ) -> None:
        self._own = own
        self._grace = grace
        self._linger = linger
        self._known: dict[str, Entry] = {}
        self._held: dict[str, float] = {}
        # Ordered by time: all of them wait equally long.
        self._lingering: dict[str, float] = {}
        self._recent: deque[float] = deque()
        self._cluster = 0
        self._revision = 0

    @property
    def held(self) -> int:
        """How many entries are kept although the store has them no longer."""
        return len(self._held)

    def is_other(self, cluster: int, revision: int) -> bool:
        """Tell whether a store in this state has another history than the one we followed."""
        return self._cluster not in (0, cluster) or revision < self._revision

    def recall(self, entries: Iterable[Entry], revision: int) -> None:
        """Take what an earlier daemon has seen for known; before the first listing.

        Args:
            entries: its peers.
            revision: of the store, which it has reached at least.
        """
        self._known = {entry.key: entry for entry in entries}
        self._revision = revision

    def due(self, now: float) -> float | None:
        """Return the seconds until kept entries must be looked at again; None: there are none."""
        return min(self._held.values()) - now if self._held else None

    def leaving(self, now: float) -> float | None:
        """Return the seconds until `left` has something to tell; None: nobody lingers."""
        return next(iter(self._lingering.values())) - now if self._lingering else None

    def left(self, now: float) -> list[Deleted]:
        """Return those whose time to linger is over; the consumer shall forget them."""
        over = [key for key, end in self._lingering.items() if end <= now]
        for key in over:
            del self._lingering[key], self._known[key]
        return [Deleted(key) for key in over]

    def listed(self, listing: Listing, now: float) -> Listed:
        """Take a listing; returns what the consumer shall take for the content."""
        found = {entry.key: entry for entry in listing.entries}
        gone = [key for key in self._known if key not in found and key not in self._own]
        vanished = [key for key in gone if key not in self._held and key not in self._lingering]
        if self.is_other(listing.cluster, listing.revision):
            log.warning("the store has lost its history: it was wiped or restored")
            self._hold(vanished, now)
        elif self._is_mass(len(vanished)):
            self._hold(vanished, now)
        else:
            self._let_linger(vanished, now)
        self._held = {key: self._held[key] for key in gone if self._held.get(key, now) > now}
        self._lingering = {
            key: end for key, end in self._lingering.items() if key not in found and end > now
        }
        self._known = found | {key: self._known[key] for key in (*self._held, *self._lingering)}
        self._cluster, self._revision = listing.cluster, listing.revision
        self._recent.clear()
        return Listed(tuple(self._known[key] for key in sorted(self._known)))

    def changed(
        self, batch: Iterable[Put | Deleted], revision: int, now: float
    ) -> list[StoreEvent]:
        """Take one answer of the watch; returns what the consumer shall see of it."""
        events: list[StoreEvent] = []
        self._revision = max(self._revision, revision)
        last = {_name(event): event for event in batch}
        deleted = [key for key, event in last.items() if isinstance(event, Deleted)]
        vanished = [key for key in deleted if key in self._known and key not in self._own]
        vanished = [key for key in vanished if key not in self._held and key not in self._lingering]
        while self._recent and self._recent[0] < now - _TOGETHER_S:
            self._recent.popleft()
        if self._is_mass(len(vanished)):
            self._hold(vanished, now)
        else:
            self._recent.extend(now for _ in vanished)
            self._let_linger(vanished, now)
        for key, event in last.items():
            if isinstance(event, Put):
                self._held.pop(key, None)
                self._lingering.pop(key, None)
                self._known[key] = event.entry
                events.append(event)
            elif key not in self._held and key not in self._lingering:
                self._known.pop(key, None)
                events.append(event)
        return events

    def _is_mass(self, vanished: int) -> bool:
        together = vanished + len(self._recent)
        if not vanished or together < _AT_LEAST:
            return False
        # By the sizes alone: this is asked at each event, and peers are thousands.
        own = sum(key in self._known for key in self._own)
        peers = len(self._known) - own - len(self._held) - len(self._lingering)
        return 2 * together > peers + len(self._recent)

    def _let_linger(self, keys: Iterable[str], now: float) -> None:
        leased = [key for key in keys if self._known[key].expires_in is not None]
        self._lingering.update(dict.fromkeys(leased, now + self._linger))

    def _hold(self, keys: list[str], now: float) -> None:
        if not keys:
            return
        # Those that went a moment before, one by one, belong to them.
        keys = [*keys, *self._lingering]
        self._lingering.clear()
        self._held.update(dict.fromkeys(keys, now + self._grace))
        log.warning(
            "%d leases vanished at once; they are kept for %g s, then looked at again",
            len(keys),
            self._grace,
        )


def _name(event: Put | Deleted) -> str:
    return event.entry.key if isinstance(event, Put) else event.key
