"""The backends by the network config's `Backend.Type`: a new one is one file and one line here."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from tunneld.backend.host_gw import HostGwBackend
from tunneld.backend.udp import UdpBackend
from tunneld.backend.udp_kernel import UdpKernelBackend
from tunneld.backend.vxlan import VxlanBackend
from tunneld.backend.vxlan_miss import VxlanMissBackend
from tunneld.dataplane import ladder
from tunneld.errors import ConfigError
from tunneld.observe.log import fields

if TYPE_CHECKING:
    from tunneld.backend import Backend, BackendOptions
    from tunneld.link.rtnl import Rtnl


log = logging.getLogger(__name__)


def _udp(options: BackendOptions, rtnl: Rtnl) -> Backend:
    """Return flannel's UDP format by our packet path, or on the top rung by the kernel's."""
    if options.dataplane == ladder.KERNEL:
        return UdpKernelBackend(options, rtnl)
    return UdpBackend(options, rtnl)


_OF_UDP = (
    ("--dataplane", "dataplane", "auto"),
    ("--threads", "threads", "auto"),
    ("--queues", "queues", 1),
    ("--source-check", "source_check", "peer"),
    ("--allow-source", "allow_sources", ()),
)
"""Flag, field of BackendOptions, default: what kernel backends cannot follow."""

BACKENDS: dict[str, Callable[[BackendOptions, Rtnl], Backend]] = {
    "udp": _udp,
    "host-gw": HostGwBackend,
    "vxlan": VxlanBackend,
    "vxlan-miss": VxlanMissBackend,
}


def open_backend(kind: str, source: str, options: BackendOptions, rtnl: Rtnl) -> Backend:
    """Return the backend of a type.

    Args:
        kind: `Backend.Type` in lower case, one that flannel knows.
        source: where the network config came from, for the error.
        options: see `BackendOptions`.
        rtnl: the kernel's links, addresses and routes.

    Raises:
        ConfigError: this release does not have it.
    """
    if kind not in BACKENDS:
        raise ConfigError(
            f"this release has no backend {kind}, only {', '.join(BACKENDS)}",
            field="Backend.Type",
            source=source,
        )
    if kind != "udp":
        idle = [flag for flag, name, default in _OF_UDP if getattr(options, name) != default]
        if idle:
            # Not refused: one unit file may serve clusters of several types. But nobody shall
            # believe that the kernel's VXLAN or plain routes check any source.
            pair = fields(backend=kind, options=" ".join(idle))
            log.warning("options that only the backend udp follows have no effect", extra=pair)
    return BACKENDS[kind](options, rtnl)
