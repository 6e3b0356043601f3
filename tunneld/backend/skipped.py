"""Peers that a backend cannot reach: each named once in the log, and in the status as long.

The store admitted them (`subnet_map`), so they are peers; what is wrong with them depends on this
host, for example that host-gw finds no common link. They never cost another peer its route.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from ipaddress import IPv4Network
from types import MappingProxyType

from tunneld.observe.log import fields

log = logging.getLogger(__name__)

_MANY = 20
"""More peers than that at once are one line of the log."""


class Skipped:
    """The skipped peers of one backend and why."""

    def __init__(self) -> None:
        self._reasons: dict[IPv4Network, str] = {}

    @property
    def reasons(self) -> Mapping[IPv4Network, str]:
        """Subnet -> reason of each peer that is skipped now."""
        return MappingProxyType(self._reasons)

    def shown(self) -> dict[str, str]:
        """Return the same as the status shows it, in order of address."""
        return {str(subnet): self._reasons[subnet] for subnet in sorted(self._reasons)}

    def update(self, reasons: Mapping[IPv4Network, str]) -> None:
        """Take what is skipped now and tell the log what differs from before."""
        before, self._reasons = self._reasons, dict(reasons)
        told = {net: why for net, why in reasons.items() if before.get(net) != why}
        if len(told) > _MANY:
            first = min(told)
            pair = fields(peers=len(told), first=first, reason=told[first])
            log.warning("many peers skipped", extra=pair)
        else:
            for subnet, reason in sorted(told.items()):
                log.warning("peer skipped", extra=fields(subnet=subnet, reason=reason))
        released = sorted(before.keys() - reasons.keys())
        if released:
            pair = fields(peers=len(released), first=released[0])
            log.info("peers no longer skipped", extra=pair)
