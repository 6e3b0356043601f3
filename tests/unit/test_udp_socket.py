"""The tunnel's socket on loopback: options, owners of busy ports, drops."""

from __future__ import annotations

import socket
import subprocess
import sys
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from tunneld.backend import udp_socket
from tunneld.errors import StartError

LOOPBACK = IPv4Address("127.0.0.1")


def test_bound_as_flannel_binds() -> None:
    with udp_socket.open_socket(LOOPBACK, 0) as sock:
        assert sock.getsockname()[0] == "127.0.0.1"
        assert not sock.getblocking()
        assert sock.getsockopt(socket.IPPROTO_IP, socket.IP_TTL) == 64
        assert sock.getsockopt(socket.IPPROTO_IP, 10) == 1  # IP_MTU_DISCOVER: WANT


def test_a_busy_port_names_its_owner() -> None:
    script = (
        "import socket, sys; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM);"
        "s.bind(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        port = int(child.stdout.readline())
        with pytest.raises(StartError, match=rf"in use by .*\(pid {child.pid}\)"):
            udp_socket.open_socket(LOOPBACK, port)
        child.kill()


def test_an_owner_that_proc_hides(tmp_path: Path) -> None:
    table = tmp_path / "self" / "net"
    table.mkdir(parents=True)
    row = "  1: 0100007F:205D 00000000:0000 07 0:0 0:0 0 0 0 4711 2 0 0"
    (table / "udp").write_text(f"header\n{row}\n")
    assert "may not see" in udp_socket.port_owner(8285, tmp_path)
    fds = tmp_path / "99" / "fd"
    fds.mkdir(parents=True)
    (tmp_path / "99" / "comm").write_text("flanneld\n")
    (fds / "5").symlink_to("socket:[4711]")
    assert udp_socket.port_owner(8285, tmp_path) == "flanneld (pid 99)"
    assert "may not see" in udp_socket.port_owner(8286, tmp_path)


def test_an_address_that_is_not_ours() -> None:
    with pytest.raises(StartError, match=r"cannot bind 203\.0\.113\.1:8285.*--iface"):
        udp_socket.open_socket(IPv4Address("203.0.113.1"), 8285)


def test_drops_are_counted() -> None:
    with (
        udp_socket.open_socket(LOOPBACK, 0) as sock,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        assert udp_socket.dropped(sock) == 0
        for _ in range(100):
            sender.sendto(b"x" * 1000, sock.getsockname())
        received = 0
        while True:
            try:
                sock.recv(2000)
            except BlockingIOError:
                break
            received += 1
        assert udp_socket.dropped(sock) == 100 - received > 0


def test_path_mtu_of_loopback() -> None:
    # A datagram cannot be longer than 65535, whatever the device (65536) would take.
    assert udp_socket.path_mtu(LOOPBACK, 9) == 65535


def test_a_group_shares_one_port_and_takes_in_nobody_else() -> None:
    sockets = udp_socket.open_group(LOOPBACK, 0, 3)
    try:
        (port,) = {sock.getsockname()[1] for sock in sockets}
        # A second daemon with several queues would take half of the traffic.
        with pytest.raises(StartError, match="in use"):
            udp_socket.open_group(LOOPBACK, port, 2)
        with pytest.raises(StartError, match="in use"):
            udp_socket.open_group(LOOPBACK, port, 1)
    finally:
        for sock in sockets:
            sock.close()


def test_what_one_sender_sends_comes_to_one_socket_of_a_group() -> None:
    sockets = udp_socket.open_group(LOOPBACK, 0, 4)
    used = set()
    try:
        for _ in range(32):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                for number in range(10):
                    sender.sendto(bytes([number]), sockets[0].getsockname())
            found = [_waiting(sock) for sock in sockets]
            assert sorted(found) == [[], [], [], list(range(10))]
            used.add(found.index(list(range(10))))
    finally:
        for sock in sockets:
            sock.close()
    assert len(used) > 1


def _waiting(sock: socket.socket) -> list[int]:
    found = []
    while True:
        try:
            found.append(sock.recv(16)[0])
        except BlockingIOError:
            return found


def test_a_group_that_fails_half_way_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[socket.socket] = []

    def open_two(address: IPv4Address, port: int, *, shared: bool = False) -> socket.socket:
        if len(opened) == 2:
            raise StartError("no more")
        opened.append(real(address, port, shared=shared))
        return opened[-1]

    real = udp_socket.open_socket
    monkeypatch.setattr(udp_socket, "open_socket", open_two)
    with pytest.raises(StartError, match="no more"):
        udp_socket.open_group(LOOPBACK, 0, 3)
    assert [sock.fileno() for sock in opened] == [-1, -1]
