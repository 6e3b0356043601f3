"""Sends larger than the path, plain and segmented by the kernel (UDP_SEGMENT); a TUN is the wire.

What the kernel sends can be read from the TUN's descriptor, and ICMP errors be written into it.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from ipaddress import IPv4Address

import pytest

from tests.platform.apart import apart, icmp_unreachable, ip
from tunneld.backend import udp_socket
from tunneld.link import sysctl
from tunneld.link.tun import TunDevice, open_tun

HERE, ROUTER, NEAR, FAR = "10.168.0.2", "10.168.0.1", "10.168.0.3", "192.0.2.3"
PORT = 8285
FRAGMENTATION_NEEDED = 4
DONT_FRAGMENT, MORE_FRAGMENTS = 0x4000, 0x2000

SO_RCVBUFFORCE = 33  # asm-generic/socket.h
IP_MTU_DISCOVER = 10  # linux/in.h
UDP_SEGMENT = 103  # linux/udp.h


def _underlay() -> TunDevice:
    tun = open_tun("eth0")
    sysctl.ensure("net/ipv6/conf/eth0/disable_ipv6", "1")
    ip("link set eth0 mtu 1500 up")
    ip(f"address add {HERE}/24 dev eth0")
    ip(f"route add default via {ROUTER} dev eth0")
    return tun


def _sent(tun: TunDevice) -> list[bytes]:
    packets = []
    while True:
        try:
            packets.append(os.read(tun.fds[0], 65536))
        except BlockingIOError:
            return packets


def _fragment_word(packet: bytes) -> int:
    (word,) = struct.unpack_from("!H", packet, 6)
    return int(word)


def _narrow(tun: TunDevice, packet: bytes, mtu: int) -> None:
    os.write(tun.fds[0], icmp_unreachable(ROUTER, packet, FRAGMENTATION_NEEDED, mtu))


@pytest.mark.parametrize("mode", [1, 2, 3], ids=["want", "do", "probe"])
@apart
def test_what_each_pmtu_mode_does_with_a_packet_too_large(mode: int) -> None:
    """All lose the first; then WANT fragments, DO refuses, PROBE goes on losing."""
    tun = _underlay()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, mode)
        sock.sendto(bytes(1472), (FAR, PORT))
        (whole,) = _sent(tun)
        _narrow(tun, whole, 1400)
        if mode == 2:
            with pytest.raises(OSError, match="too long") as refused:
                sock.sendto(bytes(1472), (FAR, PORT))
            assert refused.value.errno == errno.EMSGSIZE
            assert _sent(tun) == []
        else:
            sock.sendto(bytes(1472), (FAR, PORT))
            words = [_fragment_word(packet) for packet in _sent(tun)]
            want = [MORE_FRAGMENTS, 1376 // 8]  # 1376: the most that fits 1400 and divides by 8
            assert words == (want if mode == 1 else [DONT_FRAGMENT])
    tun.close()


def test_a_forced_buffer_passes_the_sysctls_limit() -> None:
    limit = int(sysctl.read("net/core/rmem_max"))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2 * limit)
        # The kernel reports twice what it grants.
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 2 * limit
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 2 * limit)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 4 * limit


def _send_segments(sock: socket.socket, payload: bytes, size: int, to: str = NEAR) -> None:
    control = [(socket.SOL_UDP, UDP_SEGMENT, struct.pack("=H", size))]
    sock.sendmsg([payload], control, 0, (to, PORT))


def _open() -> socket.socket:
    return udp_socket.open_socket(IPv4Address(HERE), PORT)


@apart
def test_udp_gso_sends_equal_datagrams_and_a_shorter_last_one() -> None:
    tun = _underlay()
    with _open() as sock:
        _send_segments(sock, bytes(2 * 1000 + 7), 1000)
        assert [len(packet) - 28 for packet in _sent(tun)] == [1000, 1000, 7]
    tun.close()


@apart
def test_udp_gso_leaves_without_df_where_a_plain_send_has_it() -> None:
    """So GSO learns no path MTU by itself: routers on the way fragment it and say nothing."""
    tun = _underlay()
    with _open() as sock:
        _send_segments(sock, bytes(2 * 1472), 1472)
        assert [_fragment_word(packet) for packet in _sent(tun)] == [0, 0]
        sock.sendto(bytes(1472), (NEAR, PORT))
        assert [_fragment_word(packet) for packet in _sent(tun)] == [DONT_FRAGMENT]
    tun.close()


@apart
def test_udp_gso_has_a_limit_of_segments_and_of_bytes() -> None:
    """The number of segments depends on the kernel (64, later 128): never take it for granted."""
    tun = _underlay()
    with _open() as sock:
        _send_segments(sock, bytes(64), 1)
        with pytest.raises(OSError, match="Invalid argument"):
            _send_segments(sock, bytes(129), 1)
        _send_segments(sock, bytes(65507), 1472)
        with pytest.raises(OSError, match="too long"):
            _send_segments(sock, bytes(65508), 1472)
    tun.close()


@apart
def test_udp_gso_fails_whole_where_the_path_became_narrower() -> None:
    """A plain send to the same peer still goes, in fragments: each peer needs that way out."""
    tun = _underlay()
    with _open() as sock:
        sock.sendto(bytes(1472), (FAR, PORT))
        _narrow(tun, _sent(tun)[0], 1400)
        for _ in range(2):
            with pytest.raises(OSError, match="too long") as refused:
                _send_segments(sock, bytes(2 * 1472), 1472, FAR)
            assert refused.value.errno == errno.EMSGSIZE
        assert _sent(tun) == []
        _send_segments(sock, bytes(2 * 1372), 1372, FAR)
        sock.sendto(bytes(1472), (FAR, PORT))
        assert [len(packet) for packet in _sent(tun)] == [1400, 1400, 1396, 124]
    tun.close()
