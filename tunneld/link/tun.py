"""Open a TUN device (Linux, Documentation/networking/tuntap.rst)."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
from dataclasses import dataclass

from tunneld.errors import StartError

DEVICE = "/dev/net/tun"

# linux/if_tun.h
_TUNSETIFF = 0x400454CA
_IFF_TUN = 0x0001
_IFF_NO_PI = 0x1000
_IFF_MULTI_QUEUE = 0x0100
_IFF_VNET_HDR = 0x4000
_IFREQ = struct.Struct("16sH22x")
_NAME_MAX = 15


@dataclass(slots=True)
class TunDevice:
    """An open TUN; the device lives as long as one of its descriptors is open.

    Attributes:
        name: as the kernel gave it ("flannel%d" became "flannel0").
        fds: one non-blocking descriptor per queue.
    """

    name: str
    fds: tuple[int, ...]

    def close(self) -> None:
        """Close all queues, and with them the device; idempotent."""
        fds, self.fds = self.fds, ()
        for fd in fds:
            with contextlib.suppress(OSError):
                os.close(fd)


def _open_queue(name: str, flags: int) -> tuple[int, str]:
    fd = os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        request = _IFREQ.pack(name.encode(), flags)
        reply = fcntl.ioctl(fd, _TUNSETIFF, request)
    except OSError:
        os.close(fd)
        raise
    return fd, reply[:16].split(b"\0", 1)[0].decode()


def _explain(name: str, error: OSError) -> StartError:
    """Turn an errno of open or TUNSETIFF into words with a remedy."""
    if error.errno in {errno.ENOENT, errno.ENODEV, errno.ENXIO}:
        return StartError(
            f"{DEVICE}: {error.strerror}",
            remedy="modprobe tun, and in a container pass the device in: --device /dev/net/tun",
        )
    if error.errno in {errno.EPERM, errno.EACCES}:
        return StartError(
            f"cannot create the TUN device {name}: {error.strerror}",
            remedy="run as root or with CAP_NET_ADMIN",
        )
    if error.errno in {errno.EBUSY, errno.EEXIST}:
        return StartError(
            f"cannot create the TUN device {name}: another process holds a device of that name",
            remedy="stop that process (a flanneld or another tunneld?)",
        )
    if error.errno == errno.EINVAL:
        return StartError(
            f"cannot create the TUN device {name}: there is an interface of that name that is no"
            " TUN, or the kernel does not know the options",
            remedy=f"ip link del {name}",
        )
    return StartError(f"cannot create the TUN device {name}: {error.strerror}")


def open_tun(name: str, *, vnet_hdr: bool = False, queues: int = 1) -> TunDevice:
    """Create the device, or attach to a persistent one that nobody holds.

    Args:
        name: at most 15 characters; may hold "%d" for the first free number.
        vnet_hdr: put a virtio_net_hdr before each packet (IFF_VNET_HDR).
        queues: number of descriptors; more than one sets IFF_MULTI_QUEUE.

    Raises:
        StartError: with the remedy: no device node, no capability, name taken.
    """
    if not 0 < len(name) <= _NAME_MAX:
        raise StartError(f"device name {name!r} must have 1 to {_NAME_MAX} characters")
    flags = _IFF_TUN | _IFF_NO_PI
    flags |= _IFF_VNET_HDR if vnet_hdr else 0
    flags |= _IFF_MULTI_QUEUE if queues > 1 else 0
    fds: list[int] = []
    try:
        for _ in range(queues):
            fd, name = _open_queue(name, flags)
            fds.append(fd)
    except OSError as error:
        for fd in fds:
            os.close(fd)
        raise _explain(name, error) from error
    return TunDevice(name, tuple(fds))
