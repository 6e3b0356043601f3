"""The firewall rules and the tools: by nft, by iptables of both kinds; repaired, kept, removed."""

from __future__ import annotations

import pytest

from tests.netns.firewall import (
    C1,
    C2,
    NO_RULES,
    WORLD,
    cleanup,
    heard,
    only,
    peers_of,
    repairs,
    rules,
)
from tests.netns.waiting import until
from tests.netns.wire import RawPeer, wire
from tunneld.lab import PORT, Capture, Cluster, ping, wait_for_ping


@pytest.mark.parametrize("binary", ["iptables-nft", "iptables-legacy"])
def test_dockers_drop_policy_is_overruled(cluster: Cluster, binary: str) -> None:
    """By flannel's way: in the filter table's FORWARD chain itself."""
    for host in cluster.nodes:
        only(host, binary, "iptables", "nft")
        host.node.run([binary, "-P", "FORWARD", "DROP"])
    cluster.start_daemons([NO_RULES])
    one, two = cluster.containers
    assert ping(one, two.address, timeout=0.5) is None
    cluster.stop_daemons()
    cluster.start_daemons()
    wait_for_ping(one, two.address)


@pytest.mark.parametrize("binary", ["iptables-nft", "iptables-legacy"])
def test_on_a_host_without_nft_iptables_does_it_all(cluster: Cluster, binary: str) -> None:
    def chains() -> list[str]:
        tables = ("nat", "filter", "mangle")
        text = "".join(two.node.run([binary, "-t", table, "-S"]).stdout for table in tables)
        return [line for line in text.splitlines() if "TUNNELD" in line]

    one, two = cluster.nodes
    only(two, binary, "iptables")
    cluster.start_daemons(["--ip-masq", "--iptables-resync=1"])
    until(lambda: "-A TUNNELD-GUARD -d 10.168.0.2/32 -j DROP" in chains(), "the guard")
    wanted = chains()
    assert heard(two.container, C2, (cluster.stranger(), WORLD)) == str(two.public_ip)
    assert heard(two.container, C2, (one.container, C1)) == C2
    with Capture([(one.node, "eth0")]) as capture, RawPeer(two.container, C2, PORT) as container:
        container.send(one.public_ip, *[b"forged"] * 5)
        wait_for_ping(two.container, one.container.address)
        assert not [frame for frame in capture.frames if frame.packet[28:] == b"forged"]
    two.node.run([binary, "-t", "nat", "-F", "TUNNELD-POSTRTG"])
    until(lambda: chains() == wanted and repairs(two) == 1, "the rules")
    two.node.run([binary, "-D", "FORWARD", "-j", "TUNNELD-FWD"])
    until(lambda: chains() == wanted and repairs(two) == 2, "the jump to them")
    assert two.daemon.stop() == 0
    assert chains() == wanted
    assert "removed iptables chain nat TUNNELD-POSTRTG" in cleanup(two)
    assert chains() == []


REMOVALS = {
    "the table": "nft delete table ip tunneld",
    "everything": "nft flush ruleset",
    "a rule": "nft flush chain ip tunneld postrouting",
    "a peer": "nft delete element ip tunneld peers { 10.168.0.3 }",
    "the chain in FORWARD": "iptables -F TUNNELD-FWD",
    "the jump to it": "iptables -D FORWARD -j TUNNELD-FWD",
}


def test_rules_that_others_remove_come_back() -> None:
    with wire("--ip-masq", "--iptables-resync=1", daemons=[1]) as w:

        def listing() -> str:
            return w.one.node.run(["nft", "-s", "list", "ruleset"]).stdout

        until(lambda: peers_of(w.one), "the peer")
        wanted = sorted(listing().splitlines())
        for what, command in REMOVALS.items():
            before = repairs(w.one)
            w.one.node.run(command.split())
            # This tells that something was missing: it may be back before anybody looks.
            until(lambda before=before: repairs(w.one) > before, f"the repair of {what}")  # type: ignore[misc]
            until(lambda: sorted(listing().splitlines()) == wanted, what)
        # Once each, or twice when it befell the middle of a comparison.
        count = repairs(w.one)
        assert len(REMOVALS) <= count <= 2 * len(REMOVALS)
        # What others do elsewhere is looked at, and is no repair.
        w.one.node.run(["nft", "add", "table", "ip", "theirs"])
        w.one.node.run(["nft", "delete", "table", "ip", "tunneld"])
        until(lambda: repairs(w.one) > count, "one more")
        assert repairs(w.one) == count + 1


def test_the_rules_outlive_the_daemon_until_cleanup() -> None:
    """Containers reach the world while it restarts, and none of them takes the tunnel's port."""
    with wire("--ip-masq", daemons=[1, 2]) as w:
        host, world = w.two, w.cluster.stranger()
        until(lambda: peers_of(host), "the peer")

        def handles() -> str:
            return host.node.run(["nft", "-a", "-t", "list", "table", "ip", "tunneld"]).stdout

        before = handles()
        assert host.daemon.stop() == 0
        assert handles() == before
        assert heard(host.container, C2, (world, WORLD)) == str(host.public_ip)
        host.daemon.start(["--ip-masq"])
        host.daemon.wait_ready()
        # A start that finds everything right writes nothing.
        assert handles() == before
        assert host.daemon.stop() == 0
        host.daemon.start()
        host.daemon.wait_ready()
        assert "masquerade " not in handles()
        assert heard(host.container, C2, (world, WORLD)) == C2
        assert host.daemon.stop() == 0
        said = cleanup(host)
        assert "removed nft table tunneld\n" in said
        assert "removed iptables chain filter TUNNELD-FWD\n" in said
        left = host.node.run(["nft", "list", "ruleset"]).stdout
        assert "tunneld" not in left.lower()


def test_with_both_flags_off_there_is_no_rule_of_ours(cluster: Cluster) -> None:
    one, two = cluster.nodes
    cluster.start_daemons(["--ip-masq"])
    cluster.stop_daemons()
    cluster.start_daemons([NO_RULES])
    for host in (one, two):
        assert "tunneld" not in host.node.run(["nft", "list", "ruleset"]).stdout.lower()
    assert rules(one)["tools"] == []


def test_without_any_tool_masquerading_is_refused_and_the_rest_goes_on(cluster: Cluster) -> None:
    one = cluster.nodes[0]
    only(one, "none")
    one.daemon.start(["--ip-masq"])
    until(lambda: not one.daemon.running, "its end")
    assert one.daemon.stop() == 1
    reason = "neither nft nor iptables is installed (apt-get install nftables)"
    assert one.daemon.tail(1) == f"tunneld: {reason}"
    one.daemon.start()
    one.daemon.wait_ready()
    assert rules(one)["error"] == reason
    assert "cannot write firewall rules" in one.daemon.tail()


def test_a_host_without_iptables_uses_its_table_alone(cluster: Cluster) -> None:
    one = cluster.nodes[0]
    only(one, "none", "nft")
    one.daemon.start()
    one.daemon.wait_ready()
    text = one.node.run(["nft", "list", "ruleset"]).stdout
    assert "ip saddr 100.96.0.0/16 accept" in text
    assert "TUNNELD-FWD" not in text
    assert rules(one)["tools"] == ["nft"]


def test_a_vxlan_network_needs_no_guard() -> None:
    """Its kernel asks nobody where a packet comes from, so there is nothing to guard."""
    with Cluster(nodes=1, backend={"Type": "vxlan"}) as cluster:
        (one,) = cluster.nodes
        cluster.start_daemons(["--ip-masq"])
        assert rules(one)["drop_forged_outer"] is None
        assert "postrouting" in one.node.run(["nft", "list", "table", "ip", "tunneld"]).stdout
