"""The ladder: which dataplane runs for `--dataplane RUNG`."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from tunneld.errors import ConfigError

if TYPE_CHECKING:
    from tunneld.dataplane import Dataplane, RouteSnapshot

log = logging.getLogger(__name__)

IN_C = ("syscall", "mmsg")
BEST = "mmsg"
"""What `auto` takes where the C core was built."""

_LATER = ("gso", "offload", "kernel")


def choose(rung: str) -> str:
    """Return the rung that will run.

    Args:
        rung: as given with `--dataplane`.

    Raises:
        ConfigError: this installation or this release does not have that rung.
    """
    if rung in _LATER:
        raise ConfigError(
            f"rung {rung!r} comes with a later release",
            field="dataplane",
            remedy=f"use auto, python, {' or '.join(IN_C)}",
        )
    if rung == "python":
        return rung
    try:
        import tunneld.dataplane.engine  # noqa: F401, PLC0415 - only where the C core is wanted
    except ImportError as error:
        if rung == "auto":
            log.warning("the C core is not built, the python rung is slow: %s", error)
            return "python"
        raise ConfigError(
            f"rung {rung!r} needs the C core, which is not built: {error}",
            field="dataplane",
            remedy="install with a C compiler (`pip install .`), or use --dataplane=python",
        ) from error
    return BEST if rung == "auto" else rung


def open_dataplane(rung: str, *, tun_fd: int, udp_fd: int, snapshot: RouteSnapshot) -> Dataplane:
    """Return a dataplane, not yet started, on borrowed descriptors.

    Args:
        rung: a result of `choose`.
        tun_fd: the non-blocking TUN.
        udp_fd: the bound, non-blocking UDP socket.
        snapshot: the first routes.

    Raises:
        OSError: the C core refused.
    """
    if rung == "python":
        from tunneld.dataplane.reference import Reference  # noqa: PLC0415

        return Reference(tun_fd=tun_fd, udp_fd=udp_fd, snapshot=snapshot)
    from tunneld.dataplane.engine import Engine  # noqa: PLC0415

    return Engine(tun_fd=tun_fd, udp_fd=udp_fd, snapshot=snapshot, rung=rung)
