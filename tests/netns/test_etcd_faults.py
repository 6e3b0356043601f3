"""What befalls etcd costs no packet: 10,000 numbered datagrams a second go on beside each fault.

Status and metrics tell the truth meanwhile, and all is well again after the fault's end.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.netns.etcd_bed import CONFIG, HOST, PREFIX, EtcdBed, key, subnets, value
from tests.netns.test_etcd import remembered
from tests.netns.test_observe import HEALTH
from tests.netns.waiting import until
from tunneld.lab.etcd import EtcdCluster, EtcdError, EtcdServer, free_port
from tunneld.lab.etcd_http import EtcdGateway

if TYPE_CHECKING:
    from tunneld.lab import Cluster


@pytest.fixture
def etcd(cluster: Cluster) -> Iterator[EtcdServer]:
    directory = cluster.lab.directory / "etcd"
    with EtcdServer(directory, host=HOST, node=cluster.stranger()) as server:
        server.ctl("put", f"{PREFIX}/config", CONFIG)
        yield server


@pytest.fixture
def bed(cluster: Cluster, etcd: EtcdServer) -> EtcdBed:
    return EtcdBed(cluster, etcd.url)


def test_killed_and_started_again(bed: EtcdBed, etcd: EtcdServer) -> None:
    with bed.nothing_lost():
        etcd.kill()
        bed.wait_noticed()
        etcd.start()
        bed.wait_recovered()
        etcd.ctl("put", key(7), value(7))
        bed.wait_known("100.96.7.0/24")
    bed.wait_restored(0, 0)


def test_a_data_directory_that_was_wiped(bed: EtcdBed, etcd: EtcdServer) -> None:
    with bed.nothing_lost():
        etcd.wipe()
        bed.wait_noticed()
        etcd.start()
        etcd.ctl("put", f"{PREFIX}/config", CONFIG)
        until(lambda: all(etcd.ctl("get", key(number)) for number in (1, 2)), "both keys")
        bed.wait_recovered()
    bed.wait_restored(1, 1)


def test_compaction_and_a_hundred_changes_unseen(
    bed: EtcdBed, etcd: EtcdServer, cluster: Cluster
) -> None:
    etcd.ctl("put", key(7), value(7))
    bed.wait_known("100.96.7.0/24")
    node, directory = cluster.stranger(), cluster.lab.directory / "etcd"
    with bed.nothing_lost():
        etcd.kill()
        bed.wait_noticed()
        with EtcdServer(directory, host=HOST, node=node, port=free_port()) as unseen:
            gateway = EtcdGateway(unseen.url, node)
            with contextlib.closing(gateway):
                for number in range(10, 109):
                    gateway.put(key(number), value(number))
                gateway.delete(key(7))
                gateway.compact()
        etcd.start()
        bed.wait_recovered()
        # There is an answer of etcd before there is a listing.
        wanted = [f"100.96.{number}.0/24" for number in range(10, 109)]
        bed.wait_known(*wanted, without="100.96.7.0/24")
    bed.wait_restored(0, 0)


def test_a_store_that_was_wiped_while_the_daemon_ran_without_it(
    bed: EtcdBed, etcd: EtcdServer
) -> None:
    """It has never listed that store: only its cache knows that most peers vanish at once."""
    one = bed.nodes[0]
    others = {f"100.96.{number}.0-24" for number in range(10, 15)}
    for number in range(10, 15):
        etcd.ctl("put", key(number), value(number))
    until(lambda: others < set(remembered(one)), "the state of node 1")
    etcd.kill()
    one.daemon.kill()
    one.daemon.start(HEALTH)
    one.daemon.wait_ready()
    assert one.daemon.status()["state"] == "degraded"
    etcd.wipe()
    etcd.start()
    etcd.ctl("put", f"{PREFIX}/config", CONFIG)
    until(lambda: etcd.ctl("get", key(1)), "our key")
    bed.wait_recovered()
    assert others < {subnet.replace("/", "-") for subnet in subnets(one)}


def patiently(member: EtcdServer, *args: str) -> None:
    """Run etcdctl although an election may be going on."""

    def done() -> bool:
        try:
            member.ctl("--command-timeout=1s", *args)
        except EtcdError:
            return False
        return True

    until(done, f"etcdctl {args[0]}")


def test_one_of_three_members_killed_in_turn(cluster: Cluster) -> None:
    directory = cluster.lab.directory / "etcd"
    with EtcdCluster(directory, host=HOST, node=cluster.stranger()) as servers:
        patiently(servers.members[0], "put", f"{PREFIX}/config", CONFIG)
        bed = EtcdBed(cluster, servers.url)
        with bed.nothing_lost():
            for number, member in enumerate(servers.members, start=10):
                member.kill()
                other = next(each for each in servers.members if each is not member)
                patiently(other, "put", key(number), value(number))
                # There is a leader again: from here on it is for the daemons to recover.
                bed.wait_known(f"100.96.{number}.0/24")
                bed.wait_recovered()
                member.start()
        bed.wait_restored(0, 0)


@pytest.mark.soak
def test_frozen_for_30_seconds(bed: EtcdBed, etcd: EtcdServer) -> None:
    with bed.nothing_lost():
        etcd.freeze()
        began = time.monotonic()
        try:
            bed.wait_noticed(40)
            # Not a state of ours, but the length of the fault.
            time.sleep(max(0.0, began + 30 - time.monotonic()))
        finally:
            etcd.thaw()
        bed.wait_recovered()
    bed.wait_restored(0, 0)
