"""A kernel that refuses a joined send while the daemon runs: traffic goes on, and people are told.

container-1 - node1 --- 1500 --- router -+- 1400 --- node2 - container-2
                                         +- 1500 --- node3 - container-3

The kernel of node 1 learns of the narrow path from a ping of the host itself; the daemon asks once
a second and finds out later. What it sends meanwhile is refused (EMSGSIZE; EINVAL before Linux
6.14). The other refusal, EIO, needs a kernel up to 6.10: tests/kernels.
"""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, Any

import pytest

from tests.netns.test_path_mtu import known_mtu, transfer
from tests.netns.test_rungs import gathering
from tests.netns.waiting import until
from tests.netns.wire import SO_RCVBUFFORCE, UDP_SEGMENT, at_rest, wire
from tunneld.lab import ping
from tunneld.observe.checks import check_daemon

if TYPE_CHECKING:
    from tests.netns.wire import Wire
    from tunneld.lab import Container

    Meanwhile = contextlib.AbstractContextManager[None] | None

PORT = 2000
COUNT = 20
WIDE, NARROW = 1472 - 28, 1372 - 28
REFUSED = "the kernel refused joined datagrams"


def narrow_the_path(w: Wire) -> None:
    """Towards node 2 only, behind the daemon's back; node 1's kernel learns it at once."""
    router = w.cluster.underlay.switch
    assert router is not None
    # Routers forward by the device's MTU unless the route's is locked.
    router.ip("route", "add", f"{w.two.public_ip}/32", "dev", "br1", "mtu", "lock", "1400")
    full = ["ping", "-c1", "-W5", "-M", "do", "-s", "1472", str(w.two.public_ip)]
    w.one.node.run(full, check=False)
    assert "mtu 1400" in w.one.node.ip("route", "get", str(w.two.public_ip))


def superpackets(
    sender: Container, receiver: Container, size: int, times: int = 1, meanwhile: Meanwhile = None
) -> list[bytes]:
    """Send 20 datagrams with each call; returns what arrives, which must be all of them."""
    with (
        receiver.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink,
        sender.socket(socket.AF_INET, socket.SOCK_DGRAM) as source,
    ):
        sink.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)
        sink.settimeout(30)
        sink.bind((str(receiver.address), PORT))
        source.setsockopt(socket.SOL_UDP, UDP_SEGMENT, size)
        with meanwhile or contextlib.nullcontext():
            for _ in range(times):
                source.sendto(b"".join(expected(size)), (str(receiver.address), PORT))
        return [sink.recv(65535) for _ in range(times * COUNT)]


def expected(size: int) -> list[bytes]:
    return [bytes([number]) * size for number in range(COUNT)]


def sends_joined(w: Wire, receiver: Container, size: int) -> None:
    """All arrive, and some went as one message; the first after a change goes alone, to probe."""
    before = joined(w)

    def went() -> bool:
        assert superpackets(w.one.container, receiver, size) == expected(size)
        return joined(w) > before

    until(went, "a message of several datagrams")


def offload(w: Wire) -> dict[str, Any]:
    found: dict[str, Any] = w.one.daemon.status()["backend"]["offload"]
    return found


def joined(w: Wire) -> int:
    """Messages of several datagrams that the kernel took."""
    return at_rest(w.one.daemon)["outbound"]["superpackets_written"]


def log_lines(w: Wire, text: str) -> list[str]:
    return [line for line in w.one.daemon.log.read_text().splitlines() if text in line]


@pytest.mark.parametrize("queues", [1, 3])
@pytest.mark.parametrize("rung", ["offload", "gso"])
def test_a_path_that_became_narrow_behind_our_back(rung: str, queues: int) -> None:
    args = ("--dataplane", rung, "--queues", str(queues))
    with wire(*args, nodes=3, daemons=[1, 2, 3], shape="router", second_mtu=1500) as w:
        one, two, three = w.cluster.containers
        sends_joined(w, three, WIDE)
        before, segments = joined(w), offload(w)["segments"]
        assert segments > 1
        assert offload(w)["downgrades_udp"] == 0

        # No traffic to node 2 until now, so the daemon does not ask for it; and what the daemon
        # finds at once goes out before it asks.
        w.two.node.run(["ping", "-c1", str(two.address)])
        narrow_the_path(w)
        arrived = superpackets(one, two, WIDE, 2, meanwhile=gathering(w))
        assert arrived == 2 * expected(WIDE)
        assert joined(w) == before
        refused = offload(w)["downgrades_udp"]
        assert refused >= 1

        # Neither the other peer nor the same one suffers from it.
        sends_joined(w, three, WIDE)
        assert offload(w)["segments"] == segments
        (line,) = until(lambda: log_lines(w, "the path to a peer is narrow"), "the path MTU")
        assert str(w.two.public_ip) in line
        assert "1400" in line
        sends_joined(w, two, NARROW)
        assert offload(w)["downgrades_udp"] == refused
        assert transfer(one, two, 4) == 4_000_000

        # Everybody is told: the container, the log, the doctor.
        answer = ping(one, two.address, size=WIDE, dont_fragment=True)
        assert answer is not None
        assert (answer.type, answer.mtu) == (3, 1372)
        until(lambda: known_mtu(one, two.address) == 1372, "the container's kernel to learn it")
        assert known_mtu(one, three.address) is None
        assert len(until(lambda: log_lines(w, REFUSED), "the log line")) == 1
        (finding,) = check_daemon(w.one.daemon.run_dir)
        assert (finding.name, finding.level) == ("running: udp", "warn")
        assert str(refused) in finding.detail


def test_nothing_was_refused() -> None:
    with wire("--dataplane", "offload") as w:
        (finding,) = check_daemon(w.one.daemon.run_dir)
        assert (finding.name, finding.level) == ("running", "ok")
        assert log_lines(w, "refused") == []
