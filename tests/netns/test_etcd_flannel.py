"""A flannel node beside ours: a script that writes flannel's key and sends flannel's datagrams.

What it sends and what it must get are the packets of a captured flannel cluster, never made by our
own codec.
"""

from __future__ import annotations

import contextlib

import pytest

from tests.dataplane.test_replay import NODE1, NODE2, FlannelNode, seen_by
from tests.netns.test_flannel_replay import CONFIG, LEASE, Stage, check_inbound, check_outbound
from tests.netns.waiting import until
from tests.netns.wire import RawPeer, assert_nothing_lost
from tunneld.lab import Capture, Daemon, Lab, link
from tunneld.lab.etcd import EtcdServer

PREFIX = "/coreos.com/network"


def key_of(node: FlannelNode) -> str:
    return f"{PREFIX}/subnets/{str(node.subnet).replace('/', '-')}"


@pytest.mark.parametrize(("node", "peer"), [(NODE1, NODE2), (NODE2, NODE1)], ids=["one", "two"])
def test_a_flannel_node_is_served(node: FlannelNode, peer: FlannelNode) -> None:
    with contextlib.ExitStack() as stack:
        lab = stack.enter_context(Lab())
        here, there = lab.node("node"), lab.node("flannel")
        link((here, "eth0"), (there, "eth0"))
        here.ip("address", "add", f"{node.public_ip}/24", "dev", "eth0")
        there.ip("address", "add", f"{peer.public_ip}/24", "dev", "eth0")
        here.sysctl("net.ipv4.ip_forward", "0")
        here.sysctl("net.ipv4.icmp_echo_ignore_all", "1")
        etcd = stack.enter_context(
            EtcdServer(lab.directory / "etcd", host=peer.public_ip, node=there)
        )
        etcd.ctl("put", f"{PREFIX}/config", CONFIG)
        lease = etcd.ctl("lease", "grant", "86400").split()[1]
        etcd.ctl("put", f"--lease={lease}", key_of(peer), LEASE.format(peer.public_ip))
        daemon = Daemon(here, lab.directory / "node", "etcd:")
        daemon.argv += ["--etcd-endpoints", etcd.url]
        stack.callback(daemon.close)
        daemon.subnet_file.write_text(
            f"FLANNEL_NETWORK=100.96.0.0/16\nFLANNEL_SUBNET={node.subnet[1]}/24\n"
        )
        raw = RawPeer(there, peer.public_ip)
        stack.callback(raw.close)
        daemon.start()
        daemon.wait_ready()
        until(lambda: daemon.status()["peers"], "the flannel node")
        # What a flannel node reads of us.
        shown = etcd.ctl("get", key_of(node))
        assert shown == f"{key_of(node)}\n{LEASE.format(node.public_ip)}\n"
        capture = stack.enter_context(Capture([(here, "flannel0")]))
        stage, seen = Stage(here, daemon, node.public_ip, raw, capture), seen_by(node)
        check_outbound(stage, seen, node, peer)
        check_inbound(stage, seen, node)
        assert capture.lost() == 0
        assert_nothing_lost(daemon)
