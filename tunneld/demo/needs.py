"""What a lesson needs of the machine: each missing thing is named, with what to do about it."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tunneld.errors import StartError
from tunneld.lab import Lab, process, tracing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

TUN = Path("/dev/net/tun")
SETGROUPS = Path("/proc/self/setgroups")
WITHOUT_ROOT = (
    "unshare -Urnm sh -c 'mount -t tmpfs none /run && mkdir /run/netns && tunneld demo NAME'"
)


@dataclass(frozen=True, slots=True)
class Missing:
    """What is not there.

    Attributes:
        what: in a few words.
        remedy: what to do.
    """

    what: str
    remedy: str


def _root() -> Missing | None:
    """Return what keeps the lab from making hosts: tried, since root may be without its rights."""
    if os.geteuid() != 0:
        return Missing(
            "hosts are made of network namespaces, which needs root",
            f"run it with sudo, or without: {WITHOUT_ROOT}",
        )
    try:
        with Lab() as lab:
            lab.node("probe")
    except process.CommandError as error:
        return Missing(
            f"no network namespace can be made ({error.args[0]})",
            f"in a container, start it with --privileged; in a user namespace: {WITHOUT_ROOT}",
        )
    except StartError as error:
        return Missing(error.args[0], error.remedy)
    return None


def _tun() -> Missing | None:
    try:
        with TUN.open("r+b", buffering=0):
            return None
    except OSError as error:
        remedy = "modprobe tun; in a container, start it with --device /dev/net/tun"
        return Missing(f"{TUN} cannot be opened ({error.strerror})", remedy)


def _device(kind: str) -> Callable[[], Missing | None]:
    """Return the check that this kernel can make a kind of device, tried in a scratch namespace."""

    def check() -> Missing | None:
        if lack := _root():
            return lack
        words = {"vxlan": "vxlan id 1 dstport 8472"}.get(kind, kind)
        with Lab() as lab:
            node = lab.node("probe")
            done = node.run(f"ip link add probe0 type {words}".split(), check=False)
        if done.returncode == 0:
            return None
        return Missing(
            f"this kernel makes no {kind} device ({done.stderr.strip()})",
            f"modprobe {kind}, or use a kernel with CONFIG_{kind.upper()} (Debian's has it)",
        )

    return check


def _tracer() -> Missing | None:
    if _root() is None and tracing.tool() is not None:
        return None
    return Missing(
        "neither perf nor bpftrace counts system calls here",
        "apt-get install -y linux-perf (or bpftrace), and run it as root",
    )


def _tool(name: str, package: str) -> Missing | None:
    if shutil.which(name):
        return None
    return Missing(f"{name} is not installed", f"apt-get install -y {package}")


def _tcpdump() -> Missing | None:
    """Debian's tcpdump changes to a user of its own, and ends where that is forbidden."""
    if SETGROUPS.exists() and SETGROUPS.read_text().strip() == "deny":
        return Missing(
            "tcpdump cannot change its groups in this user namespace (user_namespaces(7))",
            "run it with sudo, not in `unshare -Urnm`",
        )
    return _tool("tcpdump", "tcpdump")


CHECKS: dict[str, Callable[[], Missing | None]] = {
    "root": _root,
    "tun": _tun,
    "vxlan": _device("vxlan"),
    "bridge": _device("bridge"),
    "tracer": _tracer,
    "tcpdump": _tcpdump,
}
"""Name of a need -> its check."""


def lacking(needs: Iterable[str]) -> dict[str, Missing]:
    """Try each need once; returns those that are not met."""
    found = {}
    for need in dict.fromkeys(needs):
        name, _, package = need.partition(":")
        if lack := _tool(name, package) if package else CHECKS[name]():
            found[need] = lack
    return found


def missing(needs: Sequence[str]) -> list[Missing]:
    """Return what is not there of what a lesson needs, each thing once."""
    return list(dict.fromkeys(lacking(needs).values()))


def require(lesson: str, needs: Sequence[str]) -> None:
    """Check that a lesson can run here.

    Raises:
        StartError: it cannot; everything that is missing, each with its remedy.
    """
    lacks = missing(needs)
    if lacks:
        what = "; ".join(each.what for each in lacks)
        raise StartError(
            f"lesson {lesson} cannot run here: {what}",
            remedy="; ".join(dict.fromkeys(each.remedy for each in lacks)),
        )
