"""Two nodes and an etcd in namespaces: flannel's bytes in the store, lives of key and daemon."""

from __future__ import annotations

import json
from collections.abc import Iterator
from ipaddress import IPv4Network
from typing import TYPE_CHECKING, Any

import pytest

from tests.netns.waiting import until
from tunneld.lab import Cluster, wait_for_ping
from tunneld.lab.etcd import EtcdServer
from tunneld.observe.status import fetch

if TYPE_CHECKING:
    from tunneld.lab.cluster import ClusterNode

PREFIX = "/coreos.com/network"
CONFIG = '{"Network":"100.96.0.0/16","SubnetMin":"100.96.1.0","SubnetMax":"100.96.2.0"}'


@pytest.fixture
def etcd(cluster: Cluster) -> Iterator[EtcdServer]:
    """An etcd at 10.168.0.66 that the daemons of the cluster are told to use."""
    directory = cluster.lab.directory / "etcd"
    with EtcdServer(directory, host="10.168.0.66", node=cluster.stranger()) as server:
        server.ctl("put", f"{PREFIX}/config", CONFIG)
        for host in cluster.nodes:
            # So that each gets the subnet that the lab has given its containers.
            host.daemon.use_etcd(server.url, host.subnet)
        yield server


def answers(host: ClusterNode) -> dict[str, Any]:
    return fetch(host.daemon.run_dir)


def subnets(host: ClusterNode) -> list[str]:
    return [peer["subnet"] for peer in answers(host)["peers"]]


def connected(cluster: Cluster) -> bool:
    one, two = cluster.nodes
    return subnets(one) == [str(two.subnet)] and subnets(two) == [str(one.subnet)]


@pytest.fixture
def running(cluster: Cluster, etcd: EtcdServer) -> Cluster:
    assert etcd.pid
    cluster.start_daemons()
    until(lambda: connected(cluster), "both to see each other")
    wait_for_ping(cluster.nodes[0].container, cluster.nodes[1].container.address)
    return cluster


def test_the_store_holds_what_flannels_would(running: Cluster, etcd: EtcdServer) -> None:
    one, two = running.nodes
    assert etcd.ctl("get", "--prefix", PREFIX) == (
        f"{PREFIX}/config\n{CONFIG}\n"
        f'{PREFIX}/subnets/100.96.1.0-24\n{{"PublicIP":"10.168.0.2","PublicIPv6":null}}\n'
        f'{PREFIX}/subnets/100.96.2.0-24\n{{"PublicIP":"10.168.0.3","PublicIPv6":null}}\n'
    )
    document = answers(one)
    assert document["state"] == "ready"
    assert document["store"]["url"] == f"etcd:{etcd.url}{PREFIX}"
    assert document["store"]["state"] == "connected"
    assert 86000 < document["lease"]["expires_in_s"] <= 86400
    wait_for_ping(two.container, one.container.address)
    # The key outlives the daemon, and the next one takes it up again.
    assert one.daemon.stop() == 0
    before = etcd.ctl("get", f"{PREFIX}/subnets/100.96.1.0-24")
    one.daemon.start()
    one.daemon.wait_ready()
    assert answers(one)["lease"]["subnet"] == "100.96.1.0/24"
    assert etcd.ctl("get", f"{PREFIX}/subnets/100.96.1.0-24") == before


def test_a_peer_that_another_program_writes(running: Cluster, etcd: EtcdServer) -> None:
    one = running.nodes[0]
    key = f"{PREFIX}/subnets/100.96.7.0-24"
    etcd.ctl("put", key, '{"PublicIP":"10.168.0.8","PublicIPv6":null}')
    until(lambda: "100.96.7.0/24" in subnets(one), "the peer")
    etcd.ctl("put", key, '{"PublicIP":"10.168.0.9"}')
    until(lambda: answers(one)["peers"][1]["public_ip"] == "10.168.0.9", "its new address")
    etcd.ctl("del", key)
    until(lambda: "100.96.7.0/24" not in subnets(one), "its end")


def test_own_key_gone_is_put_again(running: Cluster, etcd: EtcdServer) -> None:
    key = f"{PREFIX}/subnets/100.96.1.0-24"
    before = etcd.ctl("get", key)
    etcd.ctl("del", key)
    until(lambda: etcd.ctl("get", key) == before, "the key")
    assert 86000 < answers(running.nodes[0])["lease"]["expires_in_s"] <= 86400
    until(lambda: connected(running), "the peer")
    assert all(host.daemon.running for host in running.nodes)
    # The key is to be seen before the daemon has the answer to its put.
    until(lambda: answers(running.nodes[0])["lease"]["put_again"] == 1, "it to be counted")
    wait_for_ping(running.nodes[1].container, running.nodes[0].container.address)


def test_own_subnet_claimed_by_another_ends_with_3(running: Cluster, etcd: EtcdServer) -> None:
    one = running.nodes[0]
    etcd.ctl("put", f"{PREFIX}/subnets/100.96.1.0-24", '{"PublicIP":"10.168.0.99"}')
    until(lambda: not one.daemon.running, "the daemon to end")
    assert one.daemon.stop() == 3
    assert "10.168.0.99" in one.daemon.tail()
    assert "10.168.0.99" in etcd.ctl("get", f"{PREFIX}/subnets/100.96.1.0-24")


def test_etcd_absent_at_the_first_start_is_waited_for(cluster: Cluster, etcd: EtcdServer) -> None:
    etcd.kill()
    one = cluster.nodes[0]
    one.daemon.start()
    until(lambda: "waiting for the store" in one.daemon.log.read_text(), "the log line")
    assert answers(one)["state"] == "starting"
    etcd.start()
    one.daemon.wait_ready()
    assert answers(one)["state"] == "ready"


def remembered(host: ClusterNode) -> list[str]:
    path = host.daemon.state_dir / "state.json"
    if not path.exists():
        return []
    return [peer["key"] for peer in json.loads(path.read_text())["peers"]]


def written_at(etcd: EtcdServer, key: str) -> int:
    fields = etcd.ctl("get", f"{PREFIX}/subnets/{key}", "-w", "fields").splitlines()
    return next(int(line.split()[-1]) for line in fields if "ModRevision" in line)


def test_a_start_without_etcd_forwards_at_once(running: Cluster, etcd: EtcdServer) -> None:
    one, two = running.nodes
    until(lambda: remembered(one) == ["100.96.2.0-24"], "the state of node 1")
    before = written_at(etcd, "100.96.1.0-24")
    etcd.kill()
    one.daemon.kill()
    one.daemon.start()
    one.daemon.wait_ready()
    document = answers(one)
    assert document["state"] == "degraded"
    assert document["lease"]["subnet"] == "100.96.1.0/24"
    assert subnets(one) == ["100.96.2.0/24"]
    assert document["uptime_s"] < 20, "1 s on a quiet machine"
    wait_for_ping(one.container, two.container.address)
    # It catches up with what it has missed, and its lease is written anew.
    etcd.start()
    etcd.ctl("put", f"{PREFIX}/subnets/100.96.7.0-24", '{"PublicIP":"10.168.0.8"}')
    until(lambda: "100.96.7.0/24" in subnets(one), "the new peer")
    until(lambda: answers(one)["state"] == "ready", "ready")
    until(lambda: written_at(etcd, "100.96.1.0-24") > before, "the lease")


def test_a_config_that_changed_meanwhile_ends_the_daemon(
    running: Cluster, etcd: EtcdServer
) -> None:
    one = running.nodes[0]
    until(lambda: remembered(one) == ["100.96.2.0-24"], "the state of node 1")
    etcd.ctl("put", f"{PREFIX}/config", '{"Network":"100.80.0.0/16"}')
    etcd.kill()
    one.daemon.kill()
    one.daemon.start()
    one.daemon.wait_ready()
    etcd.start()
    until(lambda: not one.daemon.running, "the daemon to end")
    assert one.daemon.stop() == 1
    assert "has changed" in one.daemon.tail()
    one.daemon.start()
    one.daemon.wait_ready()
    assert answers(one)["lease"]["subnet"].startswith("100.80.")


def test_the_claim_of_another_meanwhile_ends_with_3(running: Cluster, etcd: EtcdServer) -> None:
    one = running.nodes[0]
    until(lambda: remembered(one) == ["100.96.2.0-24"], "the state of node 1")
    one.daemon.kill()
    etcd.ctl("put", f"{PREFIX}/subnets/100.96.1.0-24", '{"PublicIP":"10.168.0.99"}')
    etcd.kill()
    one.daemon.start()
    one.daemon.wait_ready()
    etcd.start()
    until(lambda: not one.daemon.running, "the daemon to end")
    assert one.daemon.stop() == 3


def test_flannels_command_line(cluster: Cluster, etcd: EtcdServer) -> None:
    """From flannel's documentation, single dashes and all, and as environment."""
    one, two = cluster.nodes
    for host in cluster.nodes:
        argv = host.daemon.argv
        del argv[argv.index("--store") : argv.index("--store") + 2]
        del argv[argv.index("--etcd-endpoints") :]
    one.daemon.argv += [f"-etcd-endpoints={etcd.url}", "-etcd-prefix=/coreos.com/network", "-v=0"]
    one.daemon.start()
    one.daemon.wait_ready()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLANNELD_ETCD_ENDPOINTS", f"http://127.0.0.1:4001,{etcd.url}")
        patch.setenv("FLANNELD_ETCD_PREFIX", PREFIX)
        two.daemon.start()
    two.daemon.wait_ready()
    until(lambda: connected(cluster), "both to see each other")
    assert IPv4Network(answers(two)["lease"]["subnet"]) == two.subnet


def test_the_password_is_nowhere(running: Cluster, etcd: EtcdServer) -> None:
    one = running.nodes[0]
    one.daemon.stop()
    etcd.enable_auth("rootsecret", [("node", "correct horse", PREFIX)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLANNELD_ETCD_PASSWORD", "a wrong one")
        one.daemon.start(["--etcd-username=node", "-v=5"])
    until(lambda: "check --etcd-username" in one.daemon.log.read_text(), "the refusal")
    one.daemon.stop()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLANNELD_ETCD_PASSWORD", "correct horse")
        one.daemon.start(["--etcd-username=node", "-v=5"])
    one.daemon.wait_ready()
    until(lambda: answers(one)["state"] == "ready", "ready")
    until((one.daemon.state_dir / "state.json").exists, "the cache")
    text = one.daemon.log.read_text() + json.dumps(answers(one))
    text += (one.daemon.state_dir / "state.json").read_text()
    assert "a wrong one" not in text
    assert "correct horse" not in text
