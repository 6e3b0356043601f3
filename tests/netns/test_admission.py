"""What comes over the wire and must not come in: 0 delivered, counted by reason, nobody told."""

from __future__ import annotations

import contextlib
import socket
import time
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import TYPE_CHECKING

import pytest

from tests.dataplane.packets import hop, icmp, ipv4
from tests.netns.waiting import until
from tests.netns.wire import Meter, RawPeer, Wire, wire, written
from tunneld.lab import PORT, wait_for_ping

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tunneld.lab import Capture

C1, C2, C3 = "100.96.1.2", "100.96.2.3", "100.96.3.4"
BRIDGE1 = "100.96.1.1"
INNER_PORT = 2000
GOOD = ipv4(C2, C1)

MASQUERADE = """
table ip nat {
  chain postrouting {
    type nat hook postrouting priority srcnat;
    ip saddr 100.96.2.0/24 oifname "eth0" masquerade
  }
}
"""


@dataclass
class Gate:
    """Node 1 under attack: what its daemon lets through, and what it says to anybody."""

    wire: Wire
    capture: Capture

    def refuses(self, sender: RawPeer, reason: str, *payloads: bytes) -> None:
        """Send; each one must be dropped for `reason`, and the next good packet be delivered."""
        w = self.wire
        delivered, said = len(self._delivered()), len(self._said())
        meter = Meter(w.one.daemon)
        sender.send(w.one.public_ip, *payloads)
        change = meter.after(inbound=len(payloads))
        assert change.inbound[reason] == len(payloads), dict(change.inbound)
        assert change.inbound["packets_written"] == 0
        assert change.icmp_sent() == change.inbound["icmp_suppressed"] == 0
        # The queue is in order: once the good one is through, the bad ones would be too.
        w.peers[2].send(w.one.public_ip, GOOD)
        until(lambda: len(self._delivered()) > delivered, "the good one")
        assert self._delivered()[delivered:] == [hop(GOOD)]
        assert len(self._said()) == said

    def _delivered(self) -> list[bytes]:
        """Return what was written to the TUN."""
        return written(self.capture)

    def _said(self) -> list[bytes]:
        """Return what left node 1's eth0, but for ARP: a storm would be here."""
        frames = self.capture.frames
        return [f.packet for f in frames if f.interface == "eth0" and f.outgoing and f.packet]


@contextlib.contextmanager
def gate(*args: str) -> Iterator[Gate]:
    """Node 1 has a daemon, nodes 2 and 3 are raw peers; nothing on node 1 answers by itself."""
    # What is delivered ends in a socket: no ICMP of the kernel's muddies the picture.
    with (
        wire(*args, nodes=3) as w,
        RawPeer(w.one.container, C1, INNER_PORT) as sink,
        w.capture((w.one, "flannel0"), (w.one, "eth0")) as capture,
    ):
        yield Gate(w, capture)
        assert set(sink.waiting()) <= {b"abcd"}


INVALID = {
    "drop_too_short": [b"", GOOD[:19]],
    "drop_not_ipv4": [b"\x65" + GOOD[1:], b"\x60" + bytes(39)],
    "drop_bad_header_length": [b"\x44" + GOOD[1:], b"\x4f" + GOOD[1:]],
    "drop_bad_length": [GOOD[:-1]],
    "drop_bad_checksum": [GOOD[:10] + b"\0\0" + GOOD[12:]],
}
INNER = {
    # A peer's subnet from another peer, our own subnet, a part of the network that nobody holds.
    "drop_spoofed_source": [ipv4(C3, C1), ipv4("100.96.1.77", C1), ipv4("100.96.9.9", C1)],
    "drop_martian_source": [
        ipv4(source, C1)
        for source in ("0.1.2.3", "127.9.9.9", "169.254.1.1", "224.0.0.1", "255.255.255.255")
    ],
    # To another peer (relaying), to nobody, to the host's own underlay address, and out.
    "drop_foreign_destination": [
        *(ipv4(C2, to) for to in (C3, "100.96.9.9", "10.168.0.2", "8.8.8.8", "224.0.0.1")),
        # Also what other rules would tell about: an expired TTL of a stranger's packet.
        icmp(C2, C3, 8, ttl=1),
    ],
}


@pytest.mark.parametrize("rung", ["python", "mmsg", "offload"])
def test_who_may_send_and_what(rung: str) -> None:
    with gate("--dataplane", rung) as g:
        w = g.wire
        stranger = w.cluster.stranger()
        with (
            RawPeer(stranger, "10.168.0.66") as other,
            RawPeer(w.two.node, w.two.public_ip, PORT + 1) as wrong_port,
        ):
            g.refuses(other, "drop_outer_source", GOOD, ipv4("8.8.8.8", C1), ipv4(C2, "1.1.1.1"))
            g.refuses(other, "drop_outer_source", icmp(C2, C1, 8, ttl=1))
            g.refuses(other, "drop_too_short", b"", b"x")
            g.refuses(other, "drop_not_ipv4", b"x" * 1400)
            g.refuses(wrong_port, "drop_outer_port", *[GOOD] * 3)
        for reason, payloads in {**INVALID, **INNER}.items():
            g.refuses(w.peers[2], reason, *payloads)


def test_a_wider_lease_of_a_peer_does_not_reach_into_our_subnet() -> None:
    """Overlapping leases are legal; our own containers' addresses are never a peer's."""
    with gate() as g:
        w = g.wire
        w.cluster.reserve(IPv4Network("100.96.0.0/20"), w.cluster.nodes[2].public_ip)
        until(lambda: len(w.one.daemon.status()["peers"]) == 3, "the wide lease")
        beside = ipv4("100.96.4.4", C1)
        w.peers[3].send(w.one.public_ip, beside)
        until(lambda: written(g.capture) == [hop(beside)], "what the wide lease does cover")
        g.refuses(w.peers[3], "drop_spoofed_source", ipv4("100.96.1.77", C1))


@pytest.mark.parametrize("rp_filter", [0, 1, 2])
def test_own_addresses_as_a_source(rp_filter: int) -> None:
    """With accept_local the kernel would deliver them, whatever rp_filter says (but 1)."""
    with gate() as g:
        w = g.wire
        for scope in ("all", "default", "flannel0", "eth0", "docker0"):
            w.one.node.sysctl(f"net.ipv4.conf.{scope}.rp_filter", str(rp_filter))
        own = ["100.96.1.0", BRIDGE1, str(w.one.public_ip)]
        with RawPeer(w.one.node, BRIDGE1, INNER_PORT) as host_program:
            for destination in (C1, BRIDGE1):
                packets = [ipv4(source, destination) for source in own]
                g.refuses(w.peers[2], "drop_own_source", *packets)
            assert host_program.waiting() == []


def test_an_address_that_the_host_gets_later_is_its_own_too() -> None:
    with gate() as g:
        w, late = g.wire, ipv4("192.0.2.1", C1)
        w.peers[2].send(w.one.public_ip, late)
        g.capture.wait(lambda frames: any(frame.packet == hop(late) for frame in frames))
        w.one.node.ip("address", "add", "192.0.2.1/32", "dev", "lo")
        meter = Meter(w.one.daemon)
        count = 0
        while not meter.after(inbound=count).inbound["drop_own_source"]:
            w.peers[2].send(w.one.public_ip, late)
            count += 1
            assert count < 1000


@pytest.mark.parametrize("source_port", [PORT, 0])
def test_a_masqueraded_container_of_a_peers_host(source_port: int) -> None:
    """It has the peer's address and its own idea of an inner packet; only the port tells.

    Its own node does nothing against it, like one of flannel; in test_masquerade.py it does.
    """
    with wire("--iptables-forward-rules=false", daemons=[1, 2]) as w:
        w.two.node.run(["nft", "-f", "-"], stdin=MASQUERADE)
        # The tunnel's own flow holds port 8285 of node 2 in its connection tracking.
        wait_for_ping(w.two.container, w.one.container.address)
        with (
            w.capture((w.one, "flannel0"), (w.one, "eth0")) as capture,
            RawPeer(w.one.container, C1, INNER_PORT) as sink,
            RawPeer(w.two.container, C2, source_port) as container,
        ):
            meter = Meter(w.one.daemon)
            container.send(w.one.public_ip, *[GOOD] * 5)
            change = meter.after(inbound=5)
            frames = capture.wait(lambda frames: sum(f.packet[28:] == GOOD for f in frames) >= 5)
            outer = [frame.packet for frame in frames if frame.packet[28:] == GOOD]
            # It really came from the peer's address, masqueraded.
            assert {packet[12:16] for packet in outer} == {w.two.public_ip.packed}
            assert len(outer) == change.inbound["drop_outer_port"] == 5
            assert change.inbound["packets_written"] == change.icmp_sent() == 0
            assert written(capture) == []
            assert sink.waiting() == []
        wait_for_ping(w.two.container, w.one.container.address)


def test_ten_thousand_hostile_datagrams_make_no_storm() -> None:
    """Expired ones of a peer are told about, at most 100 a second; the rest is silence."""
    with gate() as g:
        w = g.wire
        expiring = ipv4(C2, C1, ttl=1)
        meter, began = Meter(w.one.daemon), time.monotonic()
        for count in range(1, 51):
            w.peers[2].send(w.one.public_ip, *[expiring] * 100, *[ipv4(C3, C1)] * 100)
            meter.after(inbound=count * 200)
        change = meter.after(inbound=10_000)
        assert change.inbound["drop_ttl_expired"] == change.inbound["drop_spoofed_source"] == 5000
        assert change.inbound["packets_written"] == 0
        sent = change.inbound["icmp_sent_time_exceeded"]
        assert sent + change.inbound["icmp_suppressed"] == 5000
        assert 100 <= sent <= 100 + 100 * (time.monotonic() - began) + 1
        assert len(w.peers[2].payloads(sent)) == sent
        assert w.peers[2].waiting() == []
        g.refuses(w.peers[2], "drop_spoofed_source", ipv4(C3, C1))


def test_a_looping_pair_of_leases_does_not_bounce() -> None:
    """A datagram of ours that comes back is for somebody else's subnet: it ends here."""
    with gate() as g:
        w = g.wire
        meter = Meter(w.one.daemon)
        with w.one.container.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"abcd", (C2, INNER_PORT))
        (payload,) = w.peers[2].payloads(1)
        w.peers[2].send(w.one.public_ip, payload)
        change = meter.after(outbound=1, inbound=1)
        assert change.inbound["drop_spoofed_source"] == 1
        assert change.outbound["packets_read"] == 1
