"""What this kernel can do for the upper rungs, tried out and not guessed from its version.

Debian 12's own 6.1 refuses USO on a TUN, 6.12 takes it. A message of 128 segments came with Linux
6.9, and with an update to 6.1. A kernel says so nowhere but in the answer to the attempt.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import socket
import struct
from dataclasses import dataclass

from tunneld.link.tun import open_tun

# linux/if_tun.h; Debian 12's headers lack the USO flags.
_TUNSETOFFLOAD = 0x400454D0
_TUN_F_CSUM = 0x01
_TUN_F_TSO4 = 0x02
_TUN_F_TSO6 = 0x04
_TUN_F_TSO_ECN = 0x08
_TUN_F_USO4 = 0x20
_TUN_F_USO6 = 0x40
# The kernel takes USO4 only together with USO6 and CSUM, and TSO only with CSUM.
OFFLOADS_TSO = _TUN_F_CSUM | _TUN_F_TSO4 | _TUN_F_TSO6 | _TUN_F_TSO_ECN
OFFLOADS_USO = OFFLOADS_TSO | _TUN_F_USO4 | _TUN_F_USO6

# linux/udp.h
_SOL_UDP = 17
_UDP_SEGMENT = 103
_UDP_GRO = 104
_SEGMENTS_NEW = 128
_SEGMENTS_OLD = 63
"""Before Linux 6.9 and its backports: 64 with the UDP header counted."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What the kernel granted.

    Attributes:
        tso: a TUN with vnet header passes TCP superpackets.
        uso: and UDP superpackets.
        gro: a UDP socket joins received datagrams (UDP_GRO).
        segments: datagrams of one UDP_SEGMENT message; 0: the kernel has no UDP_SEGMENT.
    """

    tso: bool
    uso: bool
    gro: bool
    segments: int

    def best_rung(self) -> str:
        """Return the highest userspace rung that these allow."""
        if self.tso and self.gro and self.segments:
            return "offload"
        return "gso" if self.gro and self.segments else "mmsg"

    def missing(self, rung: str) -> str:
        """Return what `rung` lacks, in words; an empty string: nothing."""
        needed = {"gso": ("gro", "segments"), "offload": ("gro", "segments", "tso")}
        words = {
            "gro": "UDP_GRO on sockets (Linux 5.0)",
            "segments": "UDP_SEGMENT on sockets (Linux 4.18)",
            "tso": "TUN offloads (IFF_VNET_HDR with TUN_F_TSO4)",
        }
        lacking = [words[name] for name in needed.get(rung, ()) if not getattr(self, name)]
        return " and ".join(lacking)


def set_offloads(fd: int) -> tuple[bool, bool]:
    """Tell the kernel that superpackets may pass a TUN, as many kinds as it knows.

    Returns:
        Whether TCP and whether UDP superpackets will pass.
    """
    for flags, granted in ((OFFLOADS_USO, (True, True)), (OFFLOADS_TSO, (True, False))):
        with contextlib.suppress(OSError):
            fcntl.ioctl(fd, _TUNSETOFFLOAD, flags)
            return granted
    return False, False


def set_gro(sock: socket.socket) -> bool:
    """Let a UDP socket join received datagrams; False: this kernel cannot."""
    try:
        sock.setsockopt(_SOL_UDP, _UDP_GRO, 1)
    except OSError:
        return False
    return True


def segment_limit() -> int:
    """Return how many datagrams one UDP_SEGMENT message may carry; 0: none.

    Tried on loopback with datagrams of one byte to a socket of our own.
    """
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
    ):
        control = [(_SOL_UDP, _UDP_SEGMENT, struct.pack("=H", 1))]
        try:
            sender.setsockopt(_SOL_UDP, _UDP_SEGMENT, 0)
        except OSError:
            return 0
        try:
            receiver.bind(("127.0.0.1", 0))
            sender.sendmsg([bytes(_SEGMENTS_NEW)], control, 0, receiver.getsockname())
        except OSError as error:
            # EINVAL is the old limit; anything else (loopback down) leaves the safe figure.
            return _SEGMENTS_OLD if error.errno != errno.ENOPROTOOPT else 0
    return _SEGMENTS_NEW


def probe() -> Capabilities:
    """Try everything on a TUN and on sockets that live for a moment.

    Raises:
        StartError: no TUN can be made at all.
    """
    tun = open_tun("tunneld%d", vnet_hdr=True)
    try:
        tso, uso = set_offloads(tun.fds[0])
    finally:
        tun.close()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        gro = set_gro(sock)
    return Capabilities(tso=tso, uso=uso, gro=gro, segments=segment_limit())
