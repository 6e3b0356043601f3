"""Real daemons that want the same: more of them than there are subnets, or one public IP twice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.netns.etcd_bed import HOST, PREFIX
from tests.netns.test_observe import HEALTH, ask, metrics
from tests.netns.waiting import until
from tunneld.lab import Cluster
from tunneld.lab.etcd import EtcdServer

if TYPE_CHECKING:
    from tunneld.lab.cluster import ClusterNode

CONFIG = '{"Network":"100.96.0.0/16","SubnetMin":"100.96.1.0","SubnetMax":"100.96.16.0"}'


@contextmanager
def etcd_of(cluster: Cluster) -> Iterator[EtcdServer]:
    directory = cluster.lab.directory / "etcd"
    with EtcdServer(directory, host=HOST, node=cluster.stranger()) as server:
        server.ctl("put", f"{PREFIX}/config", CONFIG)
        for host in cluster.nodes:
            host.daemon.use_etcd(server.url, host.subnet)
        yield server


def test_two_hosts_with_one_public_ip_are_named(cluster: Cluster) -> None:
    one, two = cluster.nodes
    with etcd_of(cluster) as etcd:
        one.daemon.start(HEALTH)
        two.daemon.start([*HEALTH, f"--public-ip={one.public_ip}"])
        for host in cluster.nodes:
            host.daemon.wait_ready()
        until(lambda: all(conflicts(host) for host in cluster.nodes), "both to know", 60)
        for host in cluster.nodes:
            assert host.daemon.status()["state"] == "degraded"
            assert "another host has our public IP" in host.daemon.log.read_text()
            status, words = ask(host.node, "readyz")
            assert status == 200, "they forward: nobody can tell which of them is right"
            assert "other hosts have our public IP: " in words
        # Named by what tells network stacks apart, and nothing of it lies where flannel looks.
        names = etcd.ctl("get", "--prefix", "--keys-only", "/tunneld").split()
        assert len(names) == 2
        assert all(name.startswith(f"/tunneld{PREFIX}/hosts/{one.public_ip}/") for name in names)
        log = one.daemon.log.read_text()
        assert any(name.rpartition("/")[2] in log for name in names)


def conflicts(host: ClusterNode) -> float:
    return metrics(host)["tunneld_public_ip_conflicts"]


@pytest.mark.timeout(300)
def test_twenty_daemons_race_for_sixteen_subnets() -> None:
    with Cluster(nodes=20) as cluster, etcd_of(cluster) as etcd:
        for host in cluster.nodes:
            # Nobody has been here before: all choose from the same sixteen.
            host.daemon.subnet_file.unlink()
            host.daemon.start(["-v=5"])
        until(lambda: settled(cluster), "16 to be ready and 4 to give up", 120)
        losers = [host for host in cluster.nodes if not host.daemon.running]
        winners = [host for host in cluster.nodes if host.daemon.running]
        assert len(losers) == 4
        for host in losers:
            said = host.daemon.tail()
            assert host.daemon.stop() == 1
            assert "no free subnet of length /24 between 100.96.1.0 and 100.96.16.0" in said
            assert "widen" in said, "the remedy"
            assert "Traceback" not in said
        held = {host.daemon.status()["lease"]["subnet"]: str(host.public_ip) for host in winners}
        assert len(held) == 16
        lines = etcd.ctl("get", "--prefix", f"{PREFIX}/subnets/").split()
        claims = dict(zip(lines[::2], lines[1::2], strict=True))
        assert claims == {
            f"{PREFIX}/subnets/{subnet.replace('/', '-')}": (
                f'{{"PublicIP":"{public_ip}","PublicIPv6":null}}'
            )
            for subnet, public_ip in held.items()
        }
        # Those that lost a race have given their etcd leases back; the hosts' own are the others.
        # But where no answer came in time, on a crowded machine, the etcd lease is left alone.
        logs = [host.daemon.log.read_text() for host in cluster.nodes]
        silent = sum(log.count("waiting for the store") for log in logs)
        until(lambda: 0 <= leases_of_a_day(etcd) - 16 <= silent, "leases to be given back", 60)


def leases_of_a_day(etcd: EtcdServer) -> int:
    leases = [line for line in etcd.ctl("lease", "list").split("\n")[1:] if line]
    lives = [etcd.ctl("lease", "timetolive", lease) for lease in leases]
    return sum("TTL(86400s)" in life for life in lives)


def settled(cluster: Cluster) -> bool:
    alive = [host for host in cluster.nodes if host.daemon.running]
    return len(alive) == 16 and all(is_ready(host) for host in alive)


def is_ready(host: ClusterNode) -> bool:
    if not (host.daemon.run_dir / "tunneld.sock").exists():
        return False
    document = host.daemon.status()
    return document["state"] == "ready" and len(document["peers"]) == 15
