"""Two nodes with daemons on an etcd, a stream of datagrams, and what the daemons tell meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from bench.common import require_udp_tools
from bench.stream import UdpStream
from tests.netns.test_observe import HEALTH, metrics
from tests.netns.waiting import until
from tunneld.lab import wait_for_ping

if TYPE_CHECKING:
    from tunneld.lab import Cluster
    from tunneld.lab.cluster import ClusterNode

PREFIX = "/coreos.com/network"
CONFIG = '{"Network":"100.96.0.0/16"}'
HOST = "10.168.0.66"


def key(number: int) -> str:
    return f"{PREFIX}/subnets/100.96.{number}.0-24"


def value(number: int) -> str:
    return f'{{"PublicIP":"10.168.1.{number % 250 + 1}","PublicIPv6":null}}'


def subnets(host: ClusterNode) -> list[str]:
    return [peer["subnet"] for peer in host.daemon.status()["peers"]]


class EtcdBed:
    """The cluster of a test once its daemons run.

    Args:
        cluster: two nodes.
        url: of the etcd servers; the network config is there.
    """

    def __init__(self, cluster: Cluster, url: str) -> None:
        self.nodes = cluster.nodes
        for host in cluster.nodes:
            host.daemon.use_etcd(url, host.subnet)
        cluster.start_daemons(HEALTH)
        one, two = cluster.nodes
        until(lambda: subnets(one) == [str(two.subnet)], "node 1 to see node 2")
        until(lambda: subnets(two) == [str(one.subnet)], "node 2 to see node 1")
        wait_for_ping(one.container, two.container.address)

    def states(self) -> set[str]:
        return {host.daemon.status()["state"] for host in self.nodes}

    def wait_noticed(self, timeout: float = 30.0) -> None:
        """Wait until every daemon says, wherever it is asked, that it is cut off."""
        until(lambda: self.states() == {"degraded"}, "the fault to be noticed", timeout)
        for host in self.nodes:
            assert host.daemon.status()["store"]["state"] == "disconnected"
            told = metrics(host)
            assert told["tunneld_state,degraded"] == told["tunneld_store_state,disconnected"] == 1
            # Packets are forwarded all the same.
            assert told["tunneld_ready"] == 1

    def wait_recovered(self, timeout: float = 60.0) -> None:
        """Wait until every daemon is well again; a quiet machine takes less than 5 s."""

        def well() -> bool:
            told = [metrics(host) for host in self.nodes]
            names = ("tunneld_state,ready", "tunneld_store_state,connected")
            return self.states() == {"ready"} and all(each[n] == 1 for each in told for n in names)

        until(well, "the recovery", timeout)

    def wait_restored(self, *wanted: float) -> None:
        """Wait until each node has counted so many puts of its own key, by status and metrics.

        A key is to be seen in etcd before its daemon has the answer.
        """

        for host, count in zip(self.nodes, wanted, strict=True):
            until(
                lambda host=host, count=count: (  # type: ignore[misc]
                    host.daemon.status()["lease"]["put_again"] == count
                    and metrics(host)["tunneld_lease_restored_total"] == count
                ),
                f"{count:g} puts by {host.name}",
            )

    def wait_known(self, *wanted: str, without: str = "") -> None:
        """Wait until each node knows these subnets, and not that one."""

        def known() -> bool:
            found = [set(subnets(host)) for host in self.nodes]
            return all(each.issuperset(wanted) and without not in each for each in found)

        until(known, f"{len(wanted)} peers on each node")

    @contextmanager
    def nothing_lost(self) -> Iterator[None]:
        """Send 10,000 datagrams a second from node 1 to node 2 meanwhile, and lose none."""
        require_udp_tools()
        one, two = self.nodes
        before = self._received(two)
        with UdpStream(one.container, two.container) as stream:
            until(lambda: self._received(two) > before + 100, "the stream")
            yield
        result = stream.result
        assert result.sent > 1000, result
        assert (result.received, result.duplicates) == (result.sent, 0), self._drops()
        for host in self.nodes:
            assert "Traceback" not in host.daemon.log.read_text()

    def _received(self, host: ClusterNode) -> int:
        return int(host.daemon.status()["counters"]["inbound"]["packets_written"])

    def _drops(self) -> dict[str, Any]:
        found = {}
        for host in self.nodes:
            for way, counters in host.daemon.status()["counters"].items():
                found.update({f"{host.name} {way} {k}": v for k, v in counters.items() if v})
        return found
