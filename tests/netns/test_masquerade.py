"""Masquerading, accepted forwarding, and containers that would speak for their host's tunnel."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import TYPE_CHECKING

import pytest

from tests.dataplane.packets import ipv4
from tests.netns.firewall import (
    C1,
    C2,
    INNER_PORT,
    NO_RULES,
    WORLD,
    heard,
    peers_of,
    repairs,
    rules,
)
from tests.netns.waiting import until
from tests.netns.wire import Meter, RawPeer, Wire, send_raw, wire, written
from tunneld.lab import PORT, wait_for_ping

if TYPE_CHECKING:
    from collections.abc import Iterator

FORGED = ipv4(C2, C1)
"""Right in every way, but no tunnel sent it."""

DOCKERS = """
table ip nat {
  chain postrouting {
    type nat hook postrouting priority srcnat;
    ip saddr 100.96.2.0/24 oifname "eth0" masquerade %s
  }
}
"""


@dataclass
class Attack:
    """A container of node 2 that sends to node 1's port, with node 2 to hide it."""

    wire: Wire

    def strike(self, source_port: int) -> int:
        """Send five forged datagrams, and one more to another port; return how many got through.

        Returns:
            How many node 1 delivered to its container.
        """
        w = self.wire
        before = rules(w.two)["drop_forged_outer"] or 0
        with (
            w.capture((w.one, "flannel0"), (w.one, "eth0")) as capture,
            RawPeer(w.one.container, C1, INNER_PORT) as sink,
            RawPeer(w.two.container, C2, source_port) as container,
        ):
            meter = Meter(w.one.daemon)
            container.send(w.one.public_ip, *[FORGED] * 5)

            def through() -> int:
                return sum(f.packet[28:] == FORGED for f in capture.frames)

            def accounted() -> bool:
                return through() + (rules(w.two)["drop_forged_outer"] or 0) - before >= 5

            until(accounted, "an end of each datagram")
            assert through() in {0, 5}
            delivered = meter.after(inbound=through()).inbound["packets_written"]
            # Each of these sees a packet in its own time.
            until(lambda: len(written(capture)) == delivered, "what was written to the TUN")
            assert len(sink.payloads(delivered)) == delivered
            assert sink.waiting() == []
            return delivered

    def blocked(self) -> None:
        """Strike while the tunnel is idle, and again when it has traffic: nothing may arrive."""
        assert self.strike(PORT) == 0
        assert self.strike(0) == 0
        wait_for_ping(self.wire.two.container, self.wire.one.container.address)
        assert self.strike(PORT) == 0
        wait_for_ping(self.wire.one.container, self.wire.two.container.address)


@contextlib.contextmanager
def attack(*args: str, masquerade: str | None = None) -> Iterator[Attack]:
    with wire(*args, daemons=[1, 2]) as w:
        if masquerade is not None:
            w.two.node.run(["nft", "-f", "-"], stdin=DOCKERS % masquerade)
        yield Attack(w)


def test_without_the_guard_a_container_speaks_for_its_host() -> None:
    """The hole: an idle tunnel, masquerading that keeps the port, and no rule of ours."""
    with attack(NO_RULES, masquerade="") as a:
        assert a.strike(PORT) == 5


@pytest.mark.parametrize("args", [["--ip-masq"], ["--ip-masq", "--ip-masq-fully-random-disable"]])
def test_our_masquerading_forges_nothing(args: list[str]) -> None:
    with attack(*args) as a:
        a.blocked()


@pytest.mark.parametrize("masquerade", ["", "fully-random"])
def test_nor_does_dockers(masquerade: str) -> None:
    with attack(masquerade=masquerade) as a:
        a.blocked()


def test_a_container_cannot_pretend_to_be_another_peer() -> None:
    """No masquerading here: the container writes the outer header itself."""
    with wire(daemons=[1, 2], nodes=3) as w:
        third = w.cluster.nodes[2].public_ip
        inner = ipv4("100.96.3.4", C1)
        length = (8 + len(inner)).to_bytes(2, "big")
        udp = PORT.to_bytes(2, "big") * 2 + length + bytes(2) + inner
        outer = ipv4(str(third), str(w.one.public_ip), payload=udp)
        until(lambda: len(peers_of(w.two)) == 2, "the peers")
        before = Meter(w.one.daemon)
        send_raw(w.two.container, *[outer] * 5)
        until(lambda: rules(w.two)["drop_forged_outer"] == 5, "five dropped")
        w.peers[3].send(w.one.public_ip, inner)
        assert before.after(inbound=1).inbound["packets_read"] == 1


def test_what_a_node_forwards_between_other_peers_is_not_touched() -> None:
    """A peer that reaches another one through us comes from where it is, with its own address."""
    with wire(daemons=[1], nodes=3) as w:
        sender, receiver = w.cluster.nodes[1], w.cluster.nodes[2]
        w.one.node.sysctl("net.ipv4.conf.eth0.send_redirects", "0")
        w.one.node.sysctl("net.ipv4.conf.all.send_redirects", "0")
        sender.node.ip("route", "add", str(receiver.public_ip), "via", str(w.one.public_ip))
        w.peers[2].send(receiver.public_ip, FORGED)
        assert w.peers[3].receive() == [(FORGED, (str(sender.public_ip), PORT))]
        assert rules(w.one)["drop_forged_outer"] == 0


def test_the_guard_follows_the_peers() -> None:
    with wire(daemons=[1]) as w:
        until(lambda: peers_of(w.one) == {"10.168.0.3"}, "the peer")
        path = w.cluster.reserve(IPv4Network("100.96.9.0/24"), "10.168.0.9")
        until(lambda: peers_of(w.one) == {"10.168.0.3", "10.168.0.9"}, "the new peer")
        path.unlink()
        until(lambda: peers_of(w.one) == {"10.168.0.3"}, "that it is gone")
        assert repairs(w.one) == 0


def test_who_is_masqueraded() -> None:
    """flannel's rules, each seen from the other end."""
    with wire("--ip-masq", daemons=[1, 2]) as w:
        world = w.cluster.stranger()
        world.ip("route", "add", "100.96.2.0/24", "via", str(w.two.public_ip))
        host, public = w.two.node, str(w.two.public_ip)
        c1, c2 = (w.one.container, C1), (w.two.container, C2)
        assert w.two.daemon.environment()["FLANNEL_IPMASQ"] == "true"
        # Out of the network: as the host. Within it: as itself, both ways.
        assert heard(w.two.container, C2, (world, WORLD)) == public
        assert heard(w.two.container, C2, c1) == C2
        assert heard(w.one.container, C1, c2) == C1
        # From outside to an own container: as itself. From the host into the network: as the TUN.
        assert heard(world, WORLD, c2) == WORLD
        assert heard(host, public, c2) == public
        assert heard(host, public, c1) == "100.96.2.0"
        # What kube-proxy has marked it masquerades itself.
        assert heard(host, public, c1, mark=0x4000) == public


def test_without_ip_masq_nobody_is_masqueraded() -> None:
    with wire(daemons=[1, 2]) as w:
        assert heard(w.two.container, C2, (w.cluster.stranger(), WORLD)) == C2
        assert w.two.daemon.environment()["FLANNEL_IPMASQ"] == "false"
        assert "masquerade " not in w.two.node.run(["nft", "list", "ruleset"]).stdout
