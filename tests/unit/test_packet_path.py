"""One dataplane after the other: counters go on, ends are told once."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address, IPv4Network

import pytest

from tunneld.backend.packet_path import PacketPath
from tunneld.dataplane import Dataplane, DataplaneCounters, PeerCounters, Route, RouteSnapshot
from tunneld.dataplane.ladder import Rung

NEAR, FAR = IPv4Network("100.96.2.0/24"), IPv4Network("100.96.3.0/24")


def snapshot(*subnets: IPv4Network) -> RouteSnapshot:
    return RouteSnapshot(
        network=IPv4Network("100.96.0.0/16"),
        subnet=IPv4Network("100.96.1.0/24"),
        tun_address=IPv4Address("100.96.1.0"),
        mtu=1472,
        port=8285,
        routes=tuple(Route(subnet, IPv4Address("10.168.0.3")) for subnet in subnets),
    )


class FakeDataplane:
    """Counts one packet per peer from its start on."""

    rung = "fake"
    threads = 1

    def __init__(self, routes: RouteSnapshot) -> None:
        self.routes = routes
        self.stopped = False
        self.on_exit: Callable[[OSError | None], None] | None = None
        self.seen: Mapping[str, int | bool | str] = {"batch": 64}

    def start(self, on_exit: Callable[[OSError | None], None]) -> None:
        self.on_exit = on_exit

    def publish(self, snapshot: RouteSnapshot) -> None:
        self.routes = snapshot

    def counters(self) -> DataplaneCounters:
        return DataplaneCounters(outbound={"packets_read": 1}, inbound={"packets_read": 2})

    def peer_counters(self) -> Mapping[IPv4Network, PeerCounters]:
        return {route.subnet: PeerCounters(1, 10, 2, 20) for route in self.routes.routes}

    def gauges(self) -> Mapping[str, int | bool | str]:
        return self.seen

    async def stop(self) -> None:
        self.stopped = True
        if self.on_exit:
            self.on_exit(None)

    def end(self, error: OSError) -> None:
        assert self.on_exit
        self.on_exit(error)


class Harness:
    def __init__(self) -> None:
        self.made: list[FakeDataplane] = []
        self.lost: list[OSError | None] = []
        self.path = PacketPath(Rung("mmsg"), self.lost.append, self._make)

    def _make(self, _rung: str, *, tun_fd: int, udp_fd: int, snapshot: RouteSnapshot) -> Dataplane:
        del tun_fd, udp_fd
        self.made.append(FakeDataplane(snapshot))
        return self.made[-1]


async def test_counters_go_on_over_three_dataplanes() -> None:
    harness = Harness()
    path = harness.path
    for _ in range(3):
        path.start([3], [4], snapshot(NEAR))
        await path.stop()
    assert path.counters().outbound == {"packets_read": 3}
    assert path.counters().inbound == {"packets_read": 6}
    assert path.peer_counters() == {NEAR: PeerCounters(3, 30, 6, 60)}
    path.start([3], [4], snapshot(NEAR))
    assert path.counters().outbound == {"packets_read": 4}
    assert path.peer_counters() == {NEAR: PeerCounters(4, 40, 8, 80)}


async def test_a_peer_that_left_and_came_back_counts_anew() -> None:
    harness = Harness()
    path = harness.path
    path.start([3], [4], snapshot(NEAR, FAR))
    await path.stop()
    path.start([3], [4], snapshot(NEAR, FAR))
    path.publish(snapshot(NEAR))
    path.publish(snapshot(NEAR, FAR))
    assert path.peer_counters() == {
        NEAR: PeerCounters(2, 20, 4, 40),
        FAR: PeerCounters(1, 10, 2, 20),
    }


async def test_an_end_by_itself_is_told_once_and_counters_stay() -> None:
    harness = Harness()
    path = harness.path
    path.start([3], [4], snapshot(NEAR))
    gone = OSError(errno.ENODEV, "gone")
    harness.made[0].end(gone)
    assert harness.lost == [gone]
    assert (path.running, path.threads) == (False, 0)
    assert path.counters().outbound == {"packets_read": 1}
    await path.stop()
    assert harness.made[0].stopped
    assert harness.lost == [gone]
    assert path.counters().outbound == {"packets_read": 1}


async def test_a_wanted_stop_is_no_loss() -> None:
    harness = Harness()
    harness.path.start([3], [4], snapshot())
    await harness.path.stop()
    await harness.path.stop()
    assert harness.lost == []


async def test_the_late_end_of_an_old_dataplane_does_not_count() -> None:
    harness = Harness()
    harness.path.start([3], [4], snapshot())
    await harness.path.stop()
    harness.path.start([3], [4], snapshot())
    harness.made[0].end(OSError(errno.EIO, "late"))
    assert harness.lost == []
    assert harness.path.running


async def test_nothing_is_published_to_a_dead_dataplane() -> None:
    harness = Harness()
    harness.path.start([3], [4], snapshot(NEAR))
    harness.made[0].end(OSError(errno.ENODEV, "gone"))
    harness.path.publish(snapshot(FAR))
    assert [route.subnet for route in harness.made[0].routes.routes] == [NEAR]


async def test_several_queues_are_seen_as_one() -> None:
    harness = Harness()
    path = harness.path
    path.start([3, 5, 7], [4, 6, 8], snapshot(NEAR))
    assert len(harness.made) == 3
    assert path.threads == 3
    assert path.counters().outbound == {"packets_read": 3}
    assert path.counters().inbound == {"packets_read": 6}
    assert path.peer_counters() == {NEAR: PeerCounters(3, 30, 6, 60)}
    assert path.queues() == [{"outbound": 1, "inbound": 2}] * 3
    path.publish(snapshot(NEAR, FAR))
    assert [len(plane.routes.routes) for plane in harness.made] == [2, 2, 2]
    await path.stop()
    assert all(plane.stopped for plane in harness.made)
    assert (path.threads, path.queues()) == (0, [])
    path.start([3, 5, 7], [4, 6, 8], snapshot(NEAR))
    assert path.counters().outbound == {"packets_read": 6}
    assert path.peer_counters() == {NEAR: PeerCounters(6, 60, 12, 120)}


async def test_the_end_of_one_queue_is_the_end_of_all_and_told_once() -> None:
    harness = Harness()
    path = harness.path
    path.start([3, 5], [4, 6], snapshot(NEAR))
    gone = OSError(errno.ENODEV, "gone")
    harness.made[1].end(gone)
    harness.made[0].end(gone)
    assert harness.lost == [gone]
    assert not path.running
    await path.stop()
    assert all(plane.stopped for plane in harness.made)


async def test_gauges_of_several_queues_are_the_worst_of_each() -> None:
    harness = Harness()
    path = harness.path
    assert path.gauges() == {}
    path.start([3, 5], [4, 6], snapshot(NEAR))
    harness.made[0].seen = {"segments": 128, "tcp": True, "downgrades_udp": 2, "mode": "x"}
    harness.made[1].seen = {"segments": 1, "tcp": False, "downgrades_udp": 3, "mode": "x"}
    assert path.gauges() == {"segments": 1, "tcp": False, "downgrades_udp": 5, "mode": "x"}


async def test_one_that_cannot_be_made_starts_none() -> None:
    harness = Harness()
    with pytest.raises(ValueError, match="zip"):
        harness.path.start([3, 5], [4], snapshot(NEAR))
    assert not harness.path.running
    assert [plane.on_exit for plane in harness.made] == [None]
