"""The checks of `tunneld doctor`: each tries the thing itself, in a way that leaves no trace."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tunneld.errors import StartError
from tunneld.link import steering
from tunneld.observe import status

OK, WARN, FAIL = "ok", "warn", "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor.

    Attributes:
        name: what was looked at.
        level: ok; warn: the tunnel runs, with less; fail: it cannot run.
        detail: what was found.
        remedy: what to do about it; empty when there is nothing to do.
    """

    name: str
    level: str
    detail: str
    remedy: str = ""


# linux/if_tun.h
_TUNSETIFF = 0x400454CA
_TUNSETOFFLOAD = 0x400454D0
_IFF_TUN = 0x0001
_IFF_NO_PI = 0x1000
_IFF_VNET_HDR = 0x4000
_TUN_F_TSO = 0x0F  # CSUM, TSO4, TSO6, TSO_ECN
_TUN_F_USO = 0x60  # USO4 and USO6; Linux refuses the one without the other

_UDP_SEGMENT = 103  # linux/udp.h
_UDP_GRO = 104
_SO_RCVBUFFORCE = 33
_CAP_NET_ADMIN = 12

_NO_TUN = "modprobe tun; in a container, pass the device in (--device /dev/net/tun)"
_NO_ADMIN = "run as root, or with CAP_NET_ADMIN (setcap, AmbientCapabilities=, --cap-add NET_ADMIN)"


def check_capabilities() -> Iterator[Finding]:
    """CAP_NET_ADMIN is needed for the device, routes and large buffers."""
    status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    effective = next(int(line.split()[1], 16) for line in status if line.startswith("CapEff:"))
    if effective >> _CAP_NET_ADMIN & 1:
        yield Finding("CAP_NET_ADMIN", OK, "held")
    else:
        yield Finding("CAP_NET_ADMIN", FAIL, "not held", _NO_ADMIN)


def check_tun() -> Iterator[Finding]:
    """The TUN and what offload it takes, tried on a device that goes with its descriptor."""
    try:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        yield Finding("TUN", FAIL, f"/dev/net/tun: {error.strerror}", _NO_TUN)
        return
    try:
        flags = _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR
        try:
            fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", b"tunnelddoc%d", flags))
        except OSError as error:
            denied = error.errno == errno.EPERM
            remedy = _NO_ADMIN if denied else "use a newer kernel"
            yield Finding("TUN", FAIL, f"cannot make a device: {error.strerror}", remedy)
            return
        yield Finding("TUN", OK, "/dev/net/tun makes devices")
        yield Finding("TUN vnet_hdr", OK, "superpackets can cross the TUN")
        yield _offload(fd, "TUN TSO", _TUN_F_TSO, "TCP segmentation stays with the kernel")
        yield _offload(fd, "TUN USO", _TUN_F_TSO | _TUN_F_USO, "UDP too (Linux 6.2 and newer)")
    finally:
        os.close(fd)


def _offload(fd: int, name: str, features: int, meaning: str) -> Finding:
    try:
        fcntl.ioctl(fd, _TUNSETOFFLOAD, features)
    except OSError as error:
        return Finding(
            name, WARN, f"refused: {error.strerror}", "slower for it; a newer kernel has it"
        )
    return Finding(name, OK, meaning)


def check_queues() -> Iterator[Finding]:
    """What `--queues` needs to keep each flow in order."""
    try:
        os.close(steering.load())
    except StartError as error:
        yield Finding("TUN queues", WARN, str(error.args[0]), f"for --queues: {error.remedy}")
    else:
        yield Finding("TUN queues", OK, "flows can be steered to several queues (--queues)")


def check_udp() -> Iterator[Finding]:
    """UDP segmentation, coalescing and large buffers."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for name, option, value in (
            ("UDP GSO", _UDP_SEGMENT, 1400),
            ("UDP GRO", _UDP_GRO, 1),
        ):
            try:
                sock.setsockopt(socket.SOL_UDP, option, value)
            except OSError as error:
                remedy = "slower for it; Linux 5.0 and newer have it"
                yield Finding(name, WARN, f"refused: {error.strerror}", remedy)
            else:
                yield Finding(name, OK, "accepted")
        try:
            sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 8 << 20)
        except OSError:
            limit = _sysctl("net/core/rmem_max")
            remedy = "sysctl -w net.core.rmem_max=8388608, or CAP_NET_ADMIN outside user namespaces"
            yield Finding("socket buffers", WARN, f"limited to {limit} bytes", remedy)
        else:
            yield Finding("socket buffers", OK, "8 MiB can be forced")


def check_kernel_tunnels() -> Iterator[Finding]:
    """What the kernel can carry by itself; tried in a namespace of its own."""
    apart = ["unshare", "-n", "ip"]
    vxlan = ["type", "vxlan", "id", "1", "dstport", "8472", "local", "127.0.0.1"]
    remedy = "the vxlan backends need it, and comparisons with it"
    yield _try_command("VXLAN", [*apart, "link", "add", "doc0", *vxlan], remedy)
    remedy = "only --dataplane=kernel needs it: modprobe -a fou ipip, where the kernel has them"
    yield _try_command("fou", [*apart, "fou", "add", "port", "8285", "ipproto", "4"], remedy)


def check_nft() -> Iterator[Finding]:
    """Nftables, for the rules of later releases and the lab's counters."""
    if shutil.which("nft") is None:
        yield Finding("nft", WARN, "not installed", "apt-get install nftables")
        return
    yield _try_command("nft", ["nft", "list", "tables"], "apt-get install nftables, and be root")


def _try_command(name: str, command: list[str], remedy: str) -> Finding:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding(name, WARN, f"cannot be tried: {error}", remedy)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[0]
        return Finding(name, WARN, reason, remedy)
    return Finding(name, OK, "works")


def check_forwarding() -> Iterator[Finding]:
    """Containers need the host to forward."""
    value = _sysctl("net/ipv4/ip_forward")
    if value == "1":
        yield Finding("ip_forward", OK, "1")
    else:
        remedy = "sysctl -w net.ipv4.ip_forward=1 (Docker does it by itself)"
        yield Finding("ip_forward", WARN, f"{value}: containers reach nobody", remedy)


def check_reverse_path() -> Iterator[Finding]:
    """Strict reverse path filtering drops packets whose way back is another interface."""
    values = {name: _sysctl(f"net/ipv4/conf/{name}/rp_filter") for name in ("all", "default")}
    detail = ", ".join(f"{name} {value}" for name, value in values.items())
    if "1" in values.values():
        remedy = "fine unless an interface has routes elsewhere; then net.ipv4.conf.all.rp_filter=2"
        yield Finding("rp_filter", WARN, f"{detail}: strict", remedy)
    else:
        yield Finding("rp_filter", OK, detail)


def check_dataplane() -> Iterator[Finding]:
    """The C core."""
    with contextlib.suppress(ImportError):
        import tunneld._dataplane  # noqa: F401, PLC0415

        yield Finding("C dataplane", OK, "built")
        return
    remedy = "install gcc and python3-dev, then `pip install .` again"
    yield Finding("C dataplane", WARN, "not built: only the slow python rung runs", remedy)


def check_daemon(run_dir: Path) -> Iterator[Finding]:
    """What the kernel refused to the daemon that runs, if one does."""
    try:
        backend = status.fetch(run_dir)["backend"]
    except StartError:
        return
    if not backend["dataplane"]:
        return
    now = backend["offload"]
    if backend["dataplane"] in {"gso", "offload"} and now.get("segments") == 1:
        remedy = "ethtool -K IFACE tx on for the external interface, then start tunneld again"
        detail = "the kernel refused UDP_SEGMENT (EIO): datagrams go one by one"
        yield Finding("running: UDP GSO", WARN, detail, remedy)
    for name, what in (("udp", "joined datagrams"), ("tun", "superpackets for the TUN")):
        if times := now.get(f"downgrades_{name}", 0):
            detail = f"{times} times the kernel refused {what}; they went one by one"
            remedy = "none if the number stands still (a path became narrow); see the log"
            yield Finding(f"running: {name}", WARN, detail, remedy)
    if not now.get("downgrades_udp", 0) and not now.get("downgrades_tun", 0):
        yield Finding("running", OK, f"rung {backend['dataplane']}, the kernel refused nothing")


def _sysctl(path: str) -> str:
    try:
        return (Path("/proc/sys") / path).read_text(encoding="ascii").strip()
    except OSError:
        return "unknown"


ALL_CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    check_capabilities,
    check_tun,
    check_queues,
    check_udp,
    check_dataplane,
    check_kernel_tunnels,
    check_nft,
    check_forwarding,
    check_reverse_path,
)
