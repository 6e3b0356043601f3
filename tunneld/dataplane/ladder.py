"""The ladder: which dataplane runs for `--dataplane RUNG`."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tunneld.errors import ConfigError, StartError
from tunneld.link import steering
from tunneld.link.tun import open_tun
from tunneld.observe.log import fields

if TYPE_CHECKING:
    from tunneld.dataplane import Dataplane, RouteSnapshot

log = logging.getLogger(__name__)

ICMP_PER_SECOND = 100
"""ICMP errors of one host, per direction (ARCHITECTURE.md, Admission)."""

KERNEL = "kernel"
"""The top rung, which no dataplane of ours runs: `backend/udp_kernel.py` has the kernel do it."""

SPIN_US = 100
"""Longer than a quick answer, or the gaps of a load, take; shorter than anybody notices."""

CORES_FOR_TWO = 3
"""Cores that a queue needs to itself before a second thread may pay: with two, the other is busy
with the containers and the kernel's share of the path. Measured on two cores, one thread moves as
much or more than two in each setting, with 10 % less CPU (README.md, "One thread or two")."""

_DESCRIPTORS_AS_EVER = ("python", "syscall", "mmsg")
"""Rungs that need nothing of the TUN and the socket beyond what flannel uses."""


@dataclass(frozen=True, slots=True)
class Rung:
    """A rung of the ladder and what it needs of the descriptors.

    Attributes:
        name: python, syscall, mmsg, gso or offload.
        threads: "1", "2" or "auto".
        vnet_hdr: the TUN is opened with a vnet header and told to pass superpackets.
        uso: the kernel passes UDP superpackets too.
        gro: the socket joins received datagrams.
        segments: datagrams of one message to the socket.
        queues: of the TUN, each with a socket and a dataplane of its own.
    """

    name: str
    threads: str = "1"
    vnet_hdr: bool = False
    uso: bool = False
    gro: bool = False
    segments: int = 1
    queues: int = 1


def choose(rung: str) -> str:
    """Return the rung that is wanted: as asked for, or python where the C core was not built.

    Args:
        rung: as given with `--dataplane`.

    Raises:
        ConfigError: this installation or this release does not have that rung.
    """
    if rung in {"python", KERNEL}:
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
    return rung


def fit(rung: str, threads: str, queues: int = 1) -> Rung:
    """Return the rung that this kernel allows, with what it needs of the descriptors.

    Args:
        rung: a result of `choose`; "auto" takes the best.
        threads: of each queue: "1", "2", or "auto" (`choose_threads`).
        queues: of the TUN.

    Raises:
        StartError: the kernel lacks what `rung` needs, no TUN can be made, or with several queues
            flows could not be kept in order.
    """
    if queues > 1:
        _check_queues(rung, queues)
    fitted = _fit_one(rung)
    chosen = choose_threads(fitted.name, threads, len(os.sched_getaffinity(0)) // queues)
    return replace(fitted, queues=queues, threads=chosen)


def choose_threads(rung: str, asked: str, cores: int) -> str:
    """Return how many threads one queue gets: "1", "2", or "auto", which follows the load.

    Args:
        rung: name of the rung.
        asked: the `--threads` choice.
        cores: that this queue has to itself.
    """
    if asked != "auto":
        return asked
    # Up to mmsg it is flannel's class: one thread, as there.
    return "1" if rung in _DESCRIPTORS_AS_EVER or cores < CORES_FOR_TWO else "auto"


def _check_queues(rung: str, queues: int) -> None:
    if rung == "python":
        raise StartError(
            f"--queues={queues}: rung 'python' runs on one core whatever is asked for",
            remedy="use --queues=1, or a rung of the C core (--dataplane=auto)",
        )
    os.close(steering.load())
    if queues > (cores := len(os.sched_getaffinity(0))):
        log.warning(
            "more queues than cores: slower than fewer", extra=fields(queues=queues, cores=cores)
        )


def _fit_one(rung: str) -> Rung:
    if rung in _DESCRIPTORS_AS_EVER:
        open_tun("tunneld%d").close()
        return Rung(rung)
    from tunneld.dataplane.probe import probe  # noqa: PLC0415 - not for the lower rungs

    able = probe()
    name = able.best_rung() if rung == "auto" else rung
    if missing := able.missing(name):
        raise StartError(
            f"rung {name!r} needs {missing}, which this kernel lacks",
            remedy="use --dataplane=auto, which takes the best rung that the kernel allows",
        )
    if name == "mmsg":
        log.warning("this kernel has no UDP_SEGMENT or UDP_GRO: rung mmsg")
        return Rung(name)
    if rung == "auto" and not (able.tso and able.uso):
        log.warning(
            "this kernel does not pass all superpackets",
            extra=fields(rung=name, tso=able.tso, uso=able.uso),
        )
    offload = name == "offload"
    return Rung(
        name,
        vnet_hdr=offload,
        uso=offload and able.uso,
        gro=True,
        segments=able.segments,
    )


def open_dataplane(rung: Rung, *, tun_fd: int, udp_fd: int, snapshot: RouteSnapshot) -> Dataplane:
    """Return a dataplane, not yet started, on borrowed descriptors.

    Args:
        rung: a result of `fit`.
        tun_fd: the non-blocking TUN.
        udp_fd: the bound, non-blocking UDP socket.
        snapshot: the first routes.

    Raises:
        OSError: the C core refused.
    """
    if rung.name == "python":
        from tunneld.dataplane.reference import Reference  # noqa: PLC0415

        return Reference(tun_fd=tun_fd, udp_fd=udp_fd, snapshot=snapshot)
    from tunneld.dataplane.engine import Engine  # noqa: PLC0415

    return Engine(
        tun_fd=tun_fd,
        udp_fd=udp_fd,
        snapshot=snapshot,
        rung=rung.name,
        threads=rung.threads,
        uso=rung.uso,
        max_segments=rung.segments,
        spin_us=0 if rung.name in _DESCRIPTORS_AS_EVER else SPIN_US,
        # The promised limit is the host's.
        icmp_rate=max(1, ICMP_PER_SECOND // rung.queues),
    )
