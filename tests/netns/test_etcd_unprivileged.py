"""Two daemons on etcd as uid 65534 with CAP_NET_ADMIN alone: lease, peers, a key put again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.netns.etcd_bed import CONFIG, HOST, PREFIX, key, subnets
from tests.netns.test_unprivileged import CAP_NET_ADMIN, NOBODY, of_process, start
from tests.netns.waiting import until
from tunneld.lab import wait_for_ping
from tunneld.lab.etcd import EtcdServer

if TYPE_CHECKING:
    from tunneld.lab import Cluster


def test_two_nodes_on_etcd_without_root(cluster: Cluster) -> None:
    directory = cluster.lab.directory / "etcd"
    with EtcdServer(directory, host=HOST, node=cluster.stranger()) as etcd:
        etcd.ctl("put", f"{PREFIX}/config", CONFIG)
        for host in cluster.nodes:
            host.daemon.use_etcd(etcd.url, host.subnet)
        start(cluster, "--ip-masq")
        one, two = cluster.nodes
        facts = of_process(one.daemon.pid)
        assert facts["Uid"].split() == [str(NOBODY)] * 4
        assert facts["CapEff"] == CAP_NET_ADMIN
        until(lambda: subnets(one) == [str(two.subnet)], "the peer")
        until(lambda: subnets(two) == [str(one.subnet)], "the other peer")
        wait_for_ping(one.container, two.container.address)
        etcd.ctl("del", key(1))
        until(lambda: etcd.ctl("get", key(1)), "our key")
        until((one.daemon.state_dir / "state.json").exists, "the cache")
        log = one.daemon.log.read_text().splitlines()
        complaints = [line for line in log if "level=info" not in line]
        assert len(complaints) == 1, complaints
        assert "our key is gone" in complaints[0]
