"""Who is told what: the TTL table and unassigned destinations, between two real daemons."""

from __future__ import annotations

import errno
import select
import socket
from ipaddress import IPv4Address

import pytest

from tests.netns.wire import Change, Meter, Wire, wire
from tunneld.lab import Answer, Node, ping

NOWHERE = IPv4Address("100.96.9.9")
IP_RECVERR = 11
MSG_ERRQUEUE = 0x2000
ECHO_REPLY, UNREACHABLE, TIME_EXCEEDED = 0, 3, 11


def answer_and_counts(w: Wire, ttl: int) -> tuple[Answer, Change, Change]:
    """Ping container 2 from container 1; what both daemons counted for it."""
    one, two = Meter(w.one.daemon), Meter(w.two.daemon)
    answer = ping(w.one.container, w.two.container.address, ttl=ttl)
    assert answer is not None
    return answer, one.after(), two.after()


@pytest.mark.parametrize("rung", ["python", "mmsg", "offload"])
def test_the_ttl_table(rung: str) -> None:
    with wire("--dataplane", rung, daemons=[1, 2]) as w:
        # 1: node 1's kernel, from its bridge; neither daemon sees anything.
        answer, one, two = answer_and_counts(w, 1)
        assert (answer.type, str(answer.source), answer.ttl) == (TIME_EXCEEDED, "100.96.1.1", 64)
        assert not one.outbound["packets_read"] + two.inbound["packets_read"]

        # 2: the daemon of node 1, from its TUN's address; node 1 forwards the error: 64 -> 63.
        answer, one, two = answer_and_counts(w, 2)
        assert (answer.type, str(answer.source), answer.ttl) == (TIME_EXCEEDED, "100.96.1.0", 63)
        assert one.outbound["drop_ttl_expired"] == one.outbound["icmp_sent_time_exceeded"] == 1
        assert two.inbound["packets_read"] == 0

        # 3: the daemon of node 2, straight back: node 1's daemon and kernel take one each.
        answer, one, two = answer_and_counts(w, 3)
        assert (answer.type, str(answer.source), answer.ttl) == (TIME_EXCEEDED, "100.96.2.0", 62)
        assert two.inbound["drop_ttl_expired"] == two.inbound["icmp_sent_time_exceeded"] == 1
        assert two.outbound["packets_read"] == 0

        # 4: node 2's kernel, from flannel0's address: two daemons and node 1's kernel take one.
        answer, one, two = answer_and_counts(w, 4)
        assert (answer.type, str(answer.source), answer.ttl) == (TIME_EXCEEDED, "100.96.2.0", 61)
        assert two.inbound["packets_written"] == two.outbound["packets_written"] == 1
        assert one.icmp_sent() + two.icmp_sent() == 0

        # 5: delivered; the reply meets four hops.
        answer, one, two = answer_and_counts(w, 5)
        assert (answer.type, str(answer.source), answer.ttl) == (ECHO_REPLY, "100.96.2.3", 60)
        assert one.icmp_sent() + two.icmp_sent() == 0


def udp_error(node: Node, destination: IPv4Address) -> int:
    """Send a datagram and return the errno that the program gets for it."""
    with node.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        sock.connect((str(destination), 2000))
        sock.send(b"abcd")
        poll = select.poll()
        poll.register(sock, 0)
        assert poll.poll(30_000), f"no error reached {node.name}"
        return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


@pytest.mark.parametrize("rung", ["python", "mmsg", "offload"])
def test_an_unassigned_destination_is_told_to_container_and_host(rung: str) -> None:
    with wire("--dataplane", rung) as w:
        for node, ttl in ((w.one.container, 7), (w.one.node, 8)):
            meter = Meter(w.one.daemon)
            # Echo requests are told about too (flannel never does).
            answer = ping(node, NOWHERE)
            assert answer is not None
            assert (answer.type, answer.code, str(answer.source)) == (UNREACHABLE, 0, "100.96.1.0")
            assert answer.ttl == ttl
            assert udp_error(node, NOWHERE) == errno.ENETUNREACH
            said = node.run(["ping", "-c1", "-W5", str(NOWHERE)], check=False).stdout
            assert "Destination Net Unreachable" in said
            change = meter.after(outbound=3)
            assert change.outbound["icmp_sent_net_unreachable"] == 3
            assert change.outbound["drop_no_route"] == change.outbound["packets_read"] == 3
        assert w.peers[2].waiting() == []
