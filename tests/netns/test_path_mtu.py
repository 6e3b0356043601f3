"""A path that is narrower than the own link: who is told, and that TCP goes on.

container-1 - node1 --- 1500 --- router --- 1400 --- node2 - container-2
"""

from __future__ import annotations

import errno
import json
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from tests.netns.waiting import until
from tests.netns.wire import UDP_SEGMENT, Meter, at_rest, wire
from tunneld.lab import ping, wait_for_ping

if TYPE_CHECKING:
    from tunneld.lab import Answer, Container

IP_MTU_DISCOVER, IP_PMTUDISC_DO = 10, 2
FRAGMENTATION_NEEDED = (3, 4, 1372)
MEGABYTES, MEGABYTE = 4, 1_000_000


def known_mtu(container: Container, destination: object) -> int | None:
    """Return the path MTU that the container's kernel has learnt."""
    (route,) = json.loads(container.ip("-json", "route", "get", str(destination)))
    found: dict[str, int] = route.get("metrics", [{}])[0]
    return found.get("mtu")


def transfer(sender: Container, receiver: Container, megabytes: int) -> int:
    """Send over one TCP connection; returns how many bytes arrived."""
    with (
        receiver.socket(socket.AF_INET, socket.SOCK_STREAM) as listener,
        sender.socket(socket.AF_INET, socket.SOCK_STREAM) as client,
    ):
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((str(receiver.address), 5000))
        listener.listen()
        client.settimeout(30)
        client.connect((str(receiver.address), 5000))
        connection, _ = listener.accept()
        connection.settimeout(30)
        child = threading.Thread(target=send, args=(client, megabytes))
        child.start()
        received = 0
        with connection:
            while chunk := connection.recv(1 << 20):
                received += len(chunk)
        child.join()
    return received


def send(client: socket.socket, megabytes: int) -> None:
    for _ in range(megabytes):
        client.sendall(bytes(MEGABYTE))
    client.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("rung", ["mmsg", "offload"])
def test_the_container_is_told_and_tcp_goes_on(rung: str) -> None:
    with wire("--dataplane", rung, daemons=[1, 2], shape="router") as w:
        one, two = w.one.container, w.two.container
        # As if node 2 had started on a wide link: TCP does not agree on small segments by itself.
        w.two.set_mtu(1472)
        wait_for_ping(one, two.address)
        assert known_mtu(one, two.address) is None
        meter = Meter(w.one.daemon)

        def told() -> Answer | None:
            # The first one is lost: it teaches the kernel of node 1, which tells the daemon.
            answer = ping(one, two.address, size=1444, dont_fragment=True, timeout=0.5)
            return answer if answer and answer.type == 3 else None

        answer = until(told, "Fragmentation Needed")
        assert (answer.type, answer.code, answer.mtu) == FRAGMENTATION_NEEDED
        assert answer.source == w.one.subnet.network_address
        until(lambda: meter.after().outbound["icmp_sent_fragmentation_needed"], "its count")
        until(lambda: known_mtu(one, two.address) == 1372, "the container's kernel to learn it")
        # A packet that fits is not hindered, one byte more is told.
        assert getattr(ping(one, two.address, size=1344, dont_fragment=True), "type", None) == 0
        assert getattr(ping(one, two.address, size=1345, dont_fragment=True), "mtu", None) == 1372
        # DF clear: sent, and the kernel fragments the outer packet.
        assert getattr(ping(one, two.address, size=1444), "type", None) == 0
        assert transfer(one, two, MEGABYTES) == MEGABYTES * MEGABYTE


def test_a_path_that_has_become_wide_is_found_by_packets_too_big_for_the_narrow_one() -> None:
    """They are all dropped before they are sent, so that nothing is sent to that peer."""
    with wire(daemons=[1, 2], shape="router", second_mtu=1500) as w:
        one, two = w.one.container, w.two.container
        router = w.cluster.underlay.switch
        assert router is not None

        def answered_with(kind: int) -> bool:
            # The container's own kernel must not be the one that refuses.
            one.ip("route", "flush", "cache")
            answer = ping(one, two.address, size=1444, dont_fragment=True, timeout=0.5)
            return answer is not None and answer.type == kind

        router.ip("link", "set", "br1", "mtu", "1400")
        until(lambda: answered_with(3), "Fragmentation Needed")
        router.ip("link", "set", "br1", "mtu", "1500")
        # What else ends after ten minutes (net.ipv4.route.mtu_expires).
        w.one.node.ip("route", "flush", "cache")
        until(lambda: answered_with(0), "the path to be wide again")


@pytest.mark.parametrize("rung", ["mmsg", "offload"])
def test_tcp_alone_finds_the_path_mtu(rung: str) -> None:
    """No ping before: the connection starts with segments too big for the path."""
    with wire("--dataplane", rung, daemons=[1, 2], shape="router") as w:
        one, two = w.one.container, w.two.container
        w.two.set_mtu(1472)
        assert transfer(one, two, MEGABYTES) == MEGABYTES * MEGABYTE
        until(lambda: transfer(one, two, 1) and known_mtu(one, two.address), "the path MTU")
        assert known_mtu(one, two.address) == 1372
        assert at_rest(w.one.daemon)["outbound"]["drop_too_big"] >= 1


def send_superpackets(container: Container, destination: object) -> bool:
    """Send 20 datagrams of 1472 bytes in one call; False once the kernel knows better."""
    with container.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
        sock.setsockopt(socket.SOL_UDP, UDP_SEGMENT, 1444)
        try:
            sock.sendto(bytes(20 * 1444), (str(destination), 2000))
        except OSError as error:
            if error.errno in (errno.EMSGSIZE, errno.EINVAL):
                return False
            raise
    return True


def superpackets_learn(sender: Container, receiver: Container, timeout: float) -> None:
    """Send nothing but superpackets until the sender's kernel knows the path MTU."""

    def learnt() -> bool:
        return (
            not send_superpackets(sender, receiver.address)
            or known_mtu(sender, receiver.address) is not None
        )

    until(learnt, "the path MTU", timeout=timeout)
    assert known_mtu(sender, receiver.address) == 1372


def test_superpackets_alone_find_the_path_mtu() -> None:
    """Datagrams of UDP_SEGMENT leave without DF and teach nothing, so the first go plain."""
    with wire("--dataplane", "offload", daemons=[1, 2], shape="router") as w:
        w.two.set_mtu(1472)
        superpackets_learn(w.one.container, w.two.container, 8)
        until(lambda: at_rest(w.one.daemon)["outbound"]["superpackets_read"], "superpackets")


@pytest.mark.soak
def test_superpackets_find_that_a_path_became_narrow() -> None:
    """They are sent plain again every 10 s."""
    with wire("--dataplane", "offload", daemons=[1, 2], shape="router", second_mtu=1500) as w:
        one, two = w.one.container, w.two.container
        meter = Meter(w.one.daemon)
        assert send_superpackets(one, two.address)
        assert meter.after(outbound=20).outbound["superpackets_read"] >= 1
        router = w.cluster.underlay.switch
        assert router is not None
        router.ip("link", "set", "br1", "mtu", "1400")
        superpackets_learn(one, two, 15)
