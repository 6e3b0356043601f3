"""`tunneld run` in namespaces: start, store events, stop, crash, cleanup."""

from __future__ import annotations

import json
import os
import signal
import stat
import sys
import threading
from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING, Any

import pytest

from tests.netns.leases import put
from tests.netns.waiting import until
from tunneld.lab import wait_for_ping
from tunneld.observe.status import fetch

if TYPE_CHECKING:
    from tunneld.lab import Cluster
    from tunneld.lab.cluster import ClusterNode

UNREACHABLE = [
    "unreachable 100.96.0.0/16 proto 84 metric 4294967295",
    "unreachable 100.96.1.0/24 proto 84 metric 4294967295",
]


def our_routes(host: ClusterNode) -> list[str]:
    lines = host.node.ip("route", "show", "proto", "84").splitlines()
    return sorted(" ".join(line.split()) for line in lines)


def has_device(host: ClusterNode) -> bool:
    return "flannel" in host.node.ip("-brief", "link")


def answers(host: ClusterNode) -> dict[str, Any]:
    return fetch(host.daemon.run_dir)


def subnets(host: ClusterNode) -> list[str]:
    return [peer["subnet"] for peer in answers(host)["peers"]]


@pytest.mark.parametrize("rung", ["python", "syscall", "mmsg", "gso", "offload", "auto"])
def test_two_nodes_reach_each_other(cluster: Cluster, rung: str) -> None:
    cluster.start_daemons(["--dataplane", rung])
    one, two = cluster.nodes
    wait_for_ping(one.container, two.container.address)
    document = answers(one)
    assert document["state"] == "ready"
    # auto: the best that this kernel has.
    runs = {"mmsg", "gso", "offload"} if rung == "auto" else {rung}
    assert document["backend"]["dataplane"] in runs
    assert document["backend"]["repairs"] == {}
    assert document["lease"] == {
        "subnet": "100.96.1.0/24",
        "public_ip": "10.168.0.2",
        "expires_in_s": None,
        "put_again": 0,
    }
    (peer,) = document["peers"]
    assert (peer["subnet"], peer["public_ip"]) == ("100.96.2.0/24", "10.168.0.3")

    def counted() -> bool:
        (now,) = answers(one)["peers"]
        return bool(now["tx_packets"] and now["rx_packets"])

    # The answer may reach the container before its packet is counted.
    until(counted, "packets of the peer in both directions")


def test_what_the_kernel_shows(running_cluster: Cluster) -> None:
    (one, _) = running_cluster.nodes
    assert our_routes(one) == sorted(["100.96.0.0/16 dev flannel0", *_without_proto()])
    link = json.loads(one.node.ip("-details", "-json", "link", "show", "flannel0"))[0]
    assert {"POINTOPOINT", "NOARP", "UP"} <= set(link["flags"])
    assert (link["mtu"], link["txqlen"]) == (1472, 5000)
    (address,) = json.loads(one.node.ip("-json", "address", "show", "flannel0"))[0]["addr_info"]
    assert (address["local"], address["prefixlen"]) == ("100.96.1.0", 32)
    assert one.node.sysctl("net.ipv4.conf.flannel0.accept_local") == "1"
    assert one.node.sysctl("net.ipv6.conf.flannel0.disable_ipv6") == "1"
    sockets = one.node.run(["cat", "/proc/net/udp"]).stdout
    assert "0200A80A:205D" in sockets  # 10.168.0.2:8285, not 0.0.0.0


def _without_proto() -> list[str]:
    # `ip route show proto X` leaves the protocol out of what it prints.
    return [line.replace("proto 84 ", "") for line in UNREACHABLE]


def test_subnet_env_and_modes(running_cluster: Cluster) -> None:
    daemon = running_cluster.nodes[0].daemon
    assert daemon.subnet_file.read_text() == (
        "FLANNEL_NETWORK=100.96.0.0/16\n"
        "FLANNEL_SUBNET=100.96.1.1/24\n"
        "FLANNEL_MTU=1472\n"
        "FLANNEL_IPMASQ=false\n"
    )
    assert stat.S_IMODE(daemon.subnet_file.stat().st_mode) == 0o644
    assert stat.S_IMODE((daemon.run_dir / "tunneld.sock").stat().st_mode) == 0o600
    assert (daemon.run_dir / "lock").read_text() == f"{daemon.pid}\n"


def test_sigterm_takes_the_device_and_leaves_the_rest(running_cluster: Cluster) -> None:
    one = running_cluster.nodes[0]
    assert one.daemon.stop() == 0
    assert not has_device(one)
    assert our_routes(one) == sorted(_without_proto())
    assert not (one.daemon.run_dir / "tunneld.sock").exists()
    assert (running_cluster.store_dir / "subnets" / "100.96.1.0-24").exists()
    # Fail closed: the container is told, nothing leaves by the default route.
    said = one.container.run(["ping", "-c1", "-W2", "100.96.2.3"], check=False).stdout
    assert "Unreachable" in said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_with_0(running_cluster: Cluster, number: signal.Signals) -> None:
    daemon = running_cluster.nodes[0].daemon
    os.kill(daemon.pid, number)
    until(lambda: not daemon.running, "the end")
    assert daemon.stop() == 0
    assert "Traceback" not in daemon.log.read_text()


def test_sigkill_leaves_nothing_open_and_a_restart_works(running_cluster: Cluster) -> None:
    one, two = running_cluster.nodes
    one.daemon.kill()
    assert our_routes(one) == sorted(_without_proto())
    one.daemon.start()
    one.daemon.wait_ready()
    wait_for_ping(one.container, two.container.address)


def test_cleanup_is_refused_while_a_daemon_runs_and_idempotent_after(
    running_cluster: Cluster,
) -> None:
    one = running_cluster.nodes[0]
    argv = [sys.executable, "-m", "tunneld", "cleanup", "--run-dir", str(one.daemon.run_dir)]
    refused = one.node.run(argv, check=False)
    assert refused.returncode == 1
    assert f"pid {one.daemon.pid}" in refused.stderr
    one.daemon.kill()
    first, second = one.node.run(argv), one.node.run(argv)
    assert "removed route unreachable 100.96.0.0/16" in first.stdout
    assert second.stdout == "nothing of tunneld is here\n"
    assert our_routes(one) == []
    # Not ours, so untouched.
    assert "100.96.1.0/24 dev docker0" in one.node.ip("route")
    # A device that outlived its daemon (someone made it persistent) goes as well.
    one.node.ip("tuntap", "add", "flannel0", "mode", "tun")
    one.node.ip("link", "set", "flannel0", "up")
    one.node.ip("route", "add", "100.96.0.0/16", "dev", "flannel0", "proto", "84")
    assert "removed device flannel0" in one.node.run(argv).stdout
    assert not has_device(one)


def test_a_second_daemon_with_the_same_run_dir(running_cluster: Cluster) -> None:
    one = running_cluster.nodes[0]
    argv = [sys.executable, "-m", "tunneld", *one.daemon.argv]
    second = one.node.run(argv, check=False)
    assert second.returncode == 1
    assert f"pid {one.daemon.pid}" in second.stderr
    assert answers(one)["state"] == "ready"


def test_status_and_its_exit_code(running_cluster: Cluster) -> None:
    one = running_cluster.nodes[0]
    argv = [sys.executable, "-m", "tunneld", "status", "--run-dir", str(one.daemon.run_dir)]
    assert "ready, up" in one.node.run(argv).stdout
    assert json.loads(one.node.run([*argv, "--json"]).stdout).keys() == answers(one).keys()
    one.daemon.stop()
    assert one.node.run(argv, check=False).returncode == 1


def test_peers_come_change_and_go(running_cluster: Cluster) -> None:
    one = running_cluster.nodes[0]
    path = running_cluster.reserve(IPv4Network("100.96.7.0/24"), "10.168.0.8")
    until(lambda: subnets(one) == ["100.96.2.0/24", "100.96.7.0/24"], "the peer to come")
    running_cluster.reserve(IPv4Network("100.96.7.0/24"), "10.168.0.9")
    until(lambda: answers(one)["peers"][1]["public_ip"] == "10.168.0.9", "its address to change")
    path.unlink()
    until(lambda: subnets(one) == ["100.96.2.0/24"], "the peer to go")


def test_a_bad_lease_costs_only_itself(running_cluster: Cluster) -> None:
    one, two = running_cluster.nodes
    for key, value in (
        ("100.96.300.0-24", '{"PublicIP":"10.168.0.8"}'),
        ("100.96.8.0-24", "{nonsense"),
        ("10.9.8.0-24", '{"PublicIP":"10.168.0.8"}'),
        ("100.96.9.0-24", '{"PublicIP":"127.0.0.1"}'),
        ("100.96.10.0-24", '{"PublicIP":"10.168.0.2"}'),
    ):
        put(running_cluster, key, value)
    running_cluster.reserve(IPv4Network("100.96.7.0/24"), "10.168.0.8")
    until(lambda: subnets(one) == ["100.96.2.0/24", "100.96.7.0/24"], "the good peer")
    wait_for_ping(one.container, two.container.address)
    for key in ("100.96.8.0-24", "10.9.8.0-24", "100.96.9.0-24", "100.96.10.0-24"):
        until(lambda key=key: f"key={key}" in one.daemon.log.read_text(), key)  # type: ignore[misc]
        assert one.daemon.log.read_text().count(f"key={key}") == 1, key


def test_a_missing_config_is_waited_for(cluster: Cluster) -> None:
    one = cluster.nodes[0]
    config = cluster.store_dir / "config"
    text = config.read_text()
    config.unlink()
    one.daemon.start()
    until(lambda: "waiting for the store" in one.daemon.log.read_text(), "the log line")
    assert answers(one)["state"] == "starting"
    config.write_text(text)
    one.daemon.wait_ready()


def test_sigterm_while_waiting_for_the_store(cluster: Cluster) -> None:
    one = cluster.nodes[0]
    (cluster.store_dir / "config").unlink()
    one.daemon.start()
    until(lambda: "waiting for the store" in one.daemon.log.read_text(), "the log line")
    assert one.daemon.stop() == 0


def own_key(cluster: Cluster) -> Any:
    return cluster.store_dir / "subnets" / "100.96.1.0-24"


def test_own_key_gone_is_put_again_and_traffic_goes_on(running_cluster: Cluster) -> None:
    one, two = running_cluster.nodes
    before = own_key(running_cluster).read_bytes()
    own_key(running_cluster).unlink()
    until(own_key(running_cluster).exists, "the key")
    assert own_key(running_cluster).read_bytes() == before
    assert two.daemon.running
    wait_for_ping(one.container, two.container.address)
    assert answers(one)["backend"]["repairs"] == {}


def test_own_subnet_claimed_by_another_ends_with_3(running_cluster: Cluster) -> None:
    one = running_cluster.nodes[0]
    running_cluster.reserve(one.subnet, "10.168.0.99")
    until(lambda: not one.daemon.running, "the daemon to end")
    assert one.daemon.stop() == 3
    assert "10.168.0.99" in one.daemon.tail()
    assert not has_device(one)
    assert our_routes(one) == sorted(_without_proto())


def test_leases_with_a_ttl_are_acquired_and_kept(cluster: Cluster) -> None:
    for key in (cluster.store_dir / "subnets").iterdir():
        key.unlink()
    cluster.start_daemons()
    until(lambda: all(len(subnets(host)) == 1 for host in cluster.nodes), "each other's lease")
    documents = [answers(host) for host in cluster.nodes]
    own = [document["lease"]["subnet"] for document in documents]
    assert own == [documents[1]["peers"][0]["subnet"], documents[0]["peers"][0]["subnet"]]
    assert own[0] != own[1]
    assert all(86000 < document["lease"]["expires_in_s"] <= 86400 for document in documents)
    # The lease outlives the daemon and is taken up again.
    assert cluster.nodes[0].daemon.stop() == 0
    cluster.nodes[0].daemon.start()
    cluster.nodes[0].daemon.wait_ready()
    assert answers(cluster.nodes[0])["lease"]["subnet"] == own[0]


def test_options_from_the_environment_of_flannel(cluster: Cluster) -> None:
    one = cluster.nodes[0]
    argv = one.daemon.argv
    where = argv.index("--iface")
    del argv[where : where + 2]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLANNELD_IFACE", str(IPv4Address("10.168.0.2")))
        one.daemon.start()
    one.daemon.wait_ready()
    assert answers(one)["lease"]["public_ip"] == "10.168.0.2"


def test_many_readers_of_the_status(running_cluster: Cluster) -> None:
    one = running_cluster.nodes[0]
    states: list[str] = []
    threads = [
        threading.Thread(target=lambda: states.append(answers(one)["state"])) for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert states == ["ready"] * 20
