"""Tell people when the kernel refused an offload while running: one log line for each episode.

The C core never logs: it sends again packet by packet and counts (ARCHITECTURE.md, "Downgrades are
sticky and visible"). Here the gauges are compared with those of a second ago.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from tunneld.observe.log import fields

log = logging.getLogger(__name__)

_FOR_GOOD = {
    "segments": "the kernel takes no UDP_SEGMENT on the way out: datagrams go one by one from now"
    " on (the external interface lacks tx checksum offload: ethtool -K IFACE tx on)",
    "coalesce_tcp": "the TUN refuses TCP superpackets: received segments are not joined any more",
    "coalesce_udp": "the TUN refuses UDP superpackets: received datagrams are not joined any more",
}
"""Gauge that fell -> what it means; it stays so until the packet path is made again."""

_EVENTS = {
    "downgrades_udp": "the kernel refused joined datagrams: those were sent one by one",
    "downgrades_tun": "the TUN refused superpackets: those were written one by one",
}
"""Gauge that rises -> what it means; the next ones may pass."""


class Downgrades:
    """Watches the gauges of a packet path.

    Args:
        gauges: returns those of now (`PacketPath.gauges`).
    """

    def __init__(self, gauges: Callable[[], Mapping[str, int | bool | str]]) -> None:
        self._gauges = gauges
        self._before: dict[str, int] = {}
        self._rising: set[str] = set()

    def look(self) -> None:
        """Compare with the last time; call it about once a second."""
        now = {
            name: int(value) for name, value in self._gauges().items() if not isinstance(value, str)
        }
        fell = [name for name in _FOR_GOOD if now.get(name, 0) < self._before.get(name, 0)]
        # A path that ended has no gauges, which is no downgrade; a new one begins from zero.
        if now:
            for name in fell:
                log.warning(_FOR_GOOD[name], extra=fields(was=self._before[name], now=now[name]))
            self._look_at_events(now, explained=bool(fell))
        self._before = now

    def _look_at_events(self, now: Mapping[str, int], *, explained: bool) -> None:
        for name, meaning in _EVENTS.items():
            more = now.get(name, 0) - self._before.get(name, 0)
            # While it goes on second after second it is one episode.
            if more > 0 and name not in self._rising and not explained:
                log.warning(meaning, extra=fields(times=more, in_all=now[name]))
            (self._rising.add if more > 0 else self._rising.discard)(name)
