"""Packets that come in with a source of our own: when the kernel takes them (accept_local).

Two rules of the house hang on it. Our ICMP errors have the TUN's own address as their source, so
without accept_local nobody ever gets them. And with accept_local the kernel also takes a datagram
that a peer sends in the name of this host, so the packet path must look for that itself.
"""

from __future__ import annotations

import errno
import os
import socket

import pytest

from tests.platform.apart import apart, icmp_unreachable, ip, udp
from tunneld.link import sysctl
from tunneld.link.tun import TunDevice, open_tun

TUN_ADDRESS, OWN_ADDRESS, PEER = "100.96.1.0", "10.168.0.2", "100.96.2.3"
NET_UNREACHABLE = 0
IP_RECVERR = 11  # linux/in.h


def _device(*, accept_local: int, rp_filter: int) -> TunDevice:
    tun = open_tun("flannel0")
    # The effective rp_filter is the larger of `all` and the device's.
    sysctl.ensure("net/ipv4/conf/all/rp_filter", "0")
    sysctl.ensure("net/ipv4/conf/flannel0/rp_filter", str(rp_filter))
    sysctl.ensure("net/ipv4/conf/flannel0/accept_local", str(accept_local))
    sysctl.ensure("net/ipv6/conf/flannel0/disable_ipv6", "1")
    ip(f"address add {OWN_ADDRESS}/32 dev lo")
    ip(f"address add {TUN_ADDRESS}/32 dev flannel0")
    ip("link set flannel0 up")
    ip("route add 100.96.0.0/16 dev flannel0")
    return tun


@pytest.mark.parametrize("rp_filter", [0, 1, 2])
@pytest.mark.parametrize("accept_local", [0, 1])
@apart
def test_an_icmp_error_from_the_devices_own_address(accept_local: int, rp_filter: int) -> None:
    tun = _device(accept_local=accept_local, rp_filter=rp_filter)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        # Without it a UDP socket keeps quiet about a network that cannot be reached.
        sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        sock.connect((PEER, 9))
        sock.send(b"abcd")
        sent = os.read(tun.fds[0], 2048)
        os.write(tun.fds[0], icmp_unreachable(TUN_ADDRESS, sent, NET_UNREACHABLE))
        # Writing to a TUN takes the packet through the whole stack before it returns.
        told = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    assert told == (errno.ENETUNREACH if accept_local else 0)
    tun.close()


@pytest.mark.parametrize(
    ("accept_local", "rp_filter", "taken"), [(0, 0, 0), (0, 2, 0), (1, 0, 1), (1, 1, 0), (1, 2, 1)]
)
@apart
def test_a_datagram_in_the_name_of_this_host(accept_local: int, rp_filter: int, taken: int) -> None:
    """Only the strict rp_filter would stop it, and hosts have 0 or 2 as often as 1."""
    tun = _device(accept_local=accept_local, rp_filter=rp_filter)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((TUN_ADDRESS, 9))
        sock.setblocking(False)
        os.write(tun.fds[0], udp(OWN_ADDRESS, TUN_ADDRESS, 9, b"forged"))
        os.write(tun.fds[0], udp(PEER, TUN_ADDRESS, 9, b"honest"))
        received = []
        while True:
            try:
                received.append(sock.recv(64))
            except BlockingIOError:
                break
    assert received == [b"forged"] * taken + [b"honest"]
    tun.close()
