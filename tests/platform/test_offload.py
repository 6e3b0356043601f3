"""TUNSETOFFLOAD: which superpackets may pass a TUN, and which combinations the kernel refuses."""

from __future__ import annotations

import errno
import fcntl
import functools
import os
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.platform.apart import apart, ip
from tunneld.link import sysctl
from tunneld.link.tun import TunDevice, open_tun

TUNSETOFFLOAD = 0x400454D0  # linux/if_tun.h
CSUM, TSO4, TSO6, TSO_ECN, USO4, USO6 = 0x01, 0x02, 0x04, 0x08, 0x20, 0x40
UDP_SEGMENT = 103  # linux/udp.h
VNET_HDR = struct.Struct("=BBHHHH")  # flags, gso_type, hdr_len, gso_size, csum_start, csum_offset
GSO_NONE, GSO_UDP_L4 = 0, 5  # linux/virtio_net.h


def _accepts(tun: TunDevice, flags: int) -> bool:
    try:
        fcntl.ioctl(tun.fds[0], TUNSETOFFLOAD, flags)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    return True


@contextmanager
def _device() -> Iterator[Callable[[int], bool]]:
    """A TUN with vnet_hdr; gives what asks it for flags."""
    tun = open_tun("flannel0", vnet_hdr=True)
    try:
        yield functools.partial(_accepts, tun)
    finally:
        tun.close()


@apart
def test_tcp_offload_needs_the_checksum_and_goes_by_family() -> None:
    with _device() as accepts:
        assert accepts(CSUM | TSO4 | TSO6 | TSO_ECN)
        assert accepts(CSUM | TSO4)
        assert accepts(CSUM)
        assert accepts(0)
        assert not accepts(TSO4)
        assert not accepts(CSUM | TSO_ECN)


@apart
def test_udp_offload_comes_for_both_families_or_not_at_all() -> None:
    """Linux 6.2 and newer; older ones refuse the flags, which is the case to be ready for."""
    with _device() as accepts:
        if not accepts(CSUM | TSO4 | TSO6 | TSO_ECN | USO4 | USO6):
            assert not accepts(CSUM | USO4 | USO6)
            return
        assert accepts(CSUM | USO4 | USO6)
        assert not accepts(CSUM | USO4)
        assert not accepts(CSUM | USO6)
        assert not accepts(USO4 | USO6)


@pytest.mark.parametrize("granted", [False, True], ids=["not granted", "granted"])
@apart
def test_a_superpacket_passes_only_where_it_was_granted(*, granted: bool) -> None:
    tun = open_tun("flannel0", vnet_hdr=True)
    if granted and not _accepts(tun, CSUM | USO4 | USO6):
        tun.close()
        return  # a kernel before 6.2: the test above says what it does instead
    sysctl.ensure("net/ipv6/conf/flannel0/disable_ipv6", "1")
    ip("address add 100.96.1.0/32 dev flannel0")
    ip("link set flannel0 mtu 1472 up")
    ip("route add 100.96.0.0/16 dev flannel0")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_UDP, UDP_SEGMENT, 1000)
        sock.sendto(bytes(3000), ("100.96.2.3", 9))
    seen = []
    while True:
        try:
            packet = os.read(tun.fds[0], 65546)
        except BlockingIOError:
            break
        _, kind, _, size, _, _ = VNET_HDR.unpack_from(packet)
        seen.append((kind, size, len(packet) - VNET_HDR.size))
    assert seen == ([(GSO_UDP_L4, 1000, 3028)] if granted else [(GSO_NONE, 0, 1028)] * 3)
    tun.close()
