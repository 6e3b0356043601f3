"""Captures of a real flannel cluster, replayed through the daemon with their own addresses.

    [flannel0] node [eth0] ---- eth0 peer (a raw UDP socket)

The daemon takes the place of one flanneld: it gets from its TUN and from its socket what that one
got. What it gives must be what that one gave, and beside it exactly our ICMP errors.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

import pytest

from tests.dataplane.packets import destination_of, error_about
from tests.dataplane.test_replay import (
    NODE1,
    NODE2,
    FlannelNode,
    Seen,
    is_net_unreachable,
    seen_by,
    unanswered_by_flannel,
)
from tests.netns.waiting import until
from tests.netns.wire import RUNGS, Change, Meter, RawPeer, assert_nothing_lost, inject, written
from tunneld.lab import Capture, Daemon, Lab, Node, link

if TYPE_CHECKING:
    from collections.abc import Iterator

CONFIG = '{"Network":"100.96.0.0/16","Backend":{"Type":"udp","Port":8285}}'
LEASE = '{{"PublicIP":"{}","PublicIPv6":null}}'


@dataclass(frozen=True)
class Stage:
    """The node under test, its daemon, and the other node's socket."""

    node: Node
    daemon: Daemon
    address: str
    peer: RawPeer
    capture: Capture

    def from_tun(self, packets: list[bytes]) -> tuple[Change, list[bytes]]:
        """Put packets into the TUN; what was counted, and what the daemon wrote to the TUN."""
        before, meter = len(written(self.capture)), Meter(self.daemon)
        inject(self.node, packets)
        change = meter.after(outbound=len(packets))
        return change, self._written(before, change.icmp_sent())

    def from_peer(self, payloads: list[bytes]) -> tuple[Change, list[bytes]]:
        """Send datagrams one by one: nothing is joined, so the TUN shows single packets."""
        before, start = len(written(self.capture)), Meter(self.daemon)
        for count, payload in enumerate(payloads, start=1):
            self.peer.send(self.address, payload)
            change = start.after(inbound=count)
        return change, self._written(before, change.inbound["packets_written"])

    def _written(self, before: int, count: int) -> list[bytes]:
        until(lambda: len(written(self.capture)) >= before + count, "what was written to the TUN")
        return written(self.capture)[before:]


@contextlib.contextmanager
def replaying(node: FlannelNode, peer: FlannelNode, rung: str) -> Iterator[Stage]:
    """Build one node of the captured cluster; its kernel adds nothing to what was captured."""
    with contextlib.ExitStack() as stack:
        lab = stack.enter_context(Lab())
        here, there = lab.node("node"), lab.node("peer")
        link((here, "eth0"), (there, "eth0"))
        here.ip("address", "add", f"{node.public_ip}/24", "dev", "eth0")
        there.ip("address", "add", f"{peer.public_ip}/24", "dev", "eth0")
        here.sysctl("net.ipv4.ip_forward", "0")
        here.sysctl("net.ipv4.icmp_echo_ignore_all", "1")
        store = lab.directory / "store"
        (store / "subnets").mkdir(parents=True)
        (store / "config").write_text(CONFIG)
        for one in (node, peer):
            key = str(one.subnet).replace("/", "-")
            (store / "subnets" / key).write_text(LEASE.format(one.public_ip))
        daemon = Daemon(here, lab.directory / "node", f"file:{store}")
        stack.callback(daemon.close)
        raw = RawPeer(there, peer.public_ip)
        stack.callback(raw.close)
        daemon.start(["--dataplane", rung])
        daemon.wait_ready()
        until(lambda: daemon.status()["peers"], "the peer")
        capture = stack.enter_context(Capture([(here, "flannel0")]))
        yield Stage(here, daemon, node.public_ip, raw, capture)
        assert capture.lost() == 0
        assert_nothing_lost(daemon)


def check_outbound(stage: Stage, seen: Seen, node: FlannelNode, peer: FlannelNode) -> None:
    """What flannel forwarded leaves byte-equal; the senders of the rest are told."""
    change, answers = stage.from_tun(seen.tun_in)
    sent = change.outbound["packets_written"]
    assert stage.peer.payloads(sent) == seen.udp_out
    # TTL 2 as the container sent it: we tell; destinations of nobody: also about echo requests.
    silent = unanswered_by_flannel(seen, peer)
    ours = [
        error_about(packet, 11, 0, node.tun_address)
        if destination_of(packet) in peer.subnet
        else error_about(packet, 3, 0, node.tun_address, ttl=8)
        for packet in silent
    ]
    flannels = [packet for packet in seen.tun_out if is_net_unreachable(packet)]
    assert sorted(answers) == sorted(flannels + ours)
    assert [answer for answer in answers if answer in flannels] == flannels
    assert stage.peer.waiting() == []


def check_inbound(stage: Stage, seen: Seen, node: FlannelNode) -> None:
    """What flannel delivered is delivered byte-equal; TTL 3 is told, straight to the peer."""
    _, delivered = stage.from_peer(seen.udp_in)
    assert delivered == [packet for packet in seen.tun_out if not is_net_unreachable(packet)]
    expired = [packet for packet in seen.udp_in if packet[8] <= 1]
    assert stage.peer.payloads(len(expired)) == [
        error_about(packet, 11, 0, node.tun_address) for packet in expired
    ]
    assert stage.peer.waiting() == []


@pytest.mark.parametrize("rung", RUNGS)
@pytest.mark.parametrize(("node", "peer"), [(NODE1, NODE2), (NODE2, NODE1)], ids=["one", "two"])
def test_the_captured_packets(node: FlannelNode, peer: FlannelNode, rung: str) -> None:
    seen = seen_by(node)
    with replaying(node, peer, rung) as stage:
        check_outbound(stage, seen, node, peer)
        check_inbound(stage, seen, node)


def test_the_errors_of_each_node_pass_the_other_ones_admission() -> None:
    """What node 2's daemon says about TTL 3 is delivered on node 1, from node 2's TUN address."""
    about = [packet for packet in seen_by(NODE2).udp_in if packet[8] <= 1]
    assert len(about) == 3
    errors = [error_about(packet, 11, 0, NODE2.tun_address) for packet in about]
    with replaying(NODE1, NODE2, "auto") as stage:
        change, delivered = stage.from_peer(errors)
        assert change.inbound["packets_written"] == 3
        assert [packet[12:16] for packet in delivered] == [
            IPv4Address(NODE2.tun_address).packed
        ] * 3
