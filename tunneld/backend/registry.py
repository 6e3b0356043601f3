"""The backends by the network config's `Backend.Type`: a new one is one file and one line here."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tunneld.backend.host_gw import HostGwBackend
from tunneld.backend.udp import UdpBackend
from tunneld.backend.udp_kernel import UdpKernelBackend
from tunneld.backend.vxlan import VxlanBackend
from tunneld.backend.vxlan_miss import VxlanMissBackend
from tunneld.dataplane import ladder
from tunneld.errors import ConfigError

if TYPE_CHECKING:
    from tunneld.backend import Backend, BackendOptions
    from tunneld.link.rtnl import Rtnl


def _udp(options: BackendOptions, rtnl: Rtnl) -> Backend:
    """Return flannel's UDP format by our packet path, or on the top rung by the kernel's."""
    if options.dataplane == ladder.KERNEL:
        return UdpKernelBackend(options, rtnl)
    return UdpBackend(options, rtnl)


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
    return BACKENDS[kind](options, rtnl)
