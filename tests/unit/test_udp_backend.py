"""The udp backend over a kernel of paper: the order of what it does, and what it survives."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tunneld.backend import BackendOptions, overlay_device, udp_socket
from tunneld.backend.udp import UdpBackend
from tunneld.dataplane import DataplaneCounters, ladder
from tunneld.errors import StartError
from tunneld.lease import Lease, LeaseAttrs
from tunneld.link.rtnl import Rtnl
from tunneld.link.underlay import Underlay

NETWORK, SUBNET = IPv4Network("100.96.0.0/16"), IPv4Network("100.96.1.0/24")
OWN = Lease(SUBNET, LeaseAttrs(IPv4Address("10.168.0.2")))
UNDERLAY = Underlay("eth0", 2, IPv4Address("127.0.0.1"), 1500, IPv4Address("10.168.0.2"))


@dataclass
class Paper:
    """Records what is done, in order; `state` is what the kernel would have."""

    done: list[str] = field(default_factory=list)
    state: set[str] = field(default_factory=set)
    ifindex: int = 10
    fail: dict[str, Exception] = field(default_factory=dict)

    def act(self, what: str) -> bool:
        if what in self.fail:
            raise self.fail[what]
        new = what not in self.state
        if new:
            self.done.append(what)
            self.state.add(what)
        return new

    async def link(self, _name: str) -> Any:
        return SimpleNamespace(index=self.ifindex) if "tun" in self.state else None

    async def addresses(self) -> list[Any]:
        return [SimpleNamespace(address=IPv4Address("10.168.0.2"))]

    async def ensure_unreachable(self, dst: IPv4Network) -> bool:
        return self.act(f"unreachable {dst}")

    async def our_routes(self) -> list[Any]:
        return []

    async def ensure_link(self, _name: str, *, mtu: int, **_: object) -> bool:
        return self.act(f"link mtu {mtu}")

    async def ensure_address(self, _ifindex: int, address: IPv4Interface) -> bool:
        return self.act(f"address {address}")

    async def ensure_route(self, dst: IPv4Network, **_: object) -> bool:
        return self.act(f"route {dst}")

    def open_tun(self, name: str, **_: object) -> Any:
        if name.startswith("tunneld"):
            return SimpleNamespace(close=lambda: None)
        self.ifindex += 1
        self.act("tun")
        read, write = os.pipe()
        os.close(write)

        def close() -> None:
            os.close(read)
            self.state -= {what for what in self.state if not what.startswith("unreachable")}
            self.done.append("tun closed")

        return SimpleNamespace(fds=(read,), name=name.replace("%d", "0"), close=close)


class PaperDataplane:
    rung, threads = "mmsg", 1

    def __init__(self, paper: Paper, **given: Any) -> None:
        self.paper = paper
        self.snapshot = given["snapshot"]
        self.seen: dict[str, int | bool | str] = {"segments": 128}
        self.on_exit: Any = None

    def start(self, on_exit: Any) -> None:
        self.paper.done.append("dataplane")
        self.on_exit = on_exit

    def publish(self, snapshot: Any) -> None:
        self.snapshot = snapshot
        self.paper.done.append("published")

    def counters(self) -> DataplaneCounters:
        return DataplaneCounters()

    def peer_counters(self) -> dict[Any, Any]:
        return {}

    def gauges(self) -> dict[str, int | bool | str]:
        return self.seen

    async def stop(self) -> None:
        self.paper.done.append("dataplane stopped")


class Bed:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, mtu: int | None = None) -> None:
        self.paper = Paper()
        self.planes: list[PaperDataplane] = []
        self.failures: list[BaseException] = []
        monkeypatch.setattr(overlay_device, "open_tun", self.paper.open_tun)
        monkeypatch.setattr(ladder, "open_tun", self.paper.open_tun)
        monkeypatch.setattr("tunneld.link.sysctl.ensure", lambda path, _: self.paper.act(path))
        options = BackendOptions(
            network=NETWORK,
            port=0,
            mtu=mtu,
            dataplane="python",
            threads="auto",
            source_check="strict",
            allow_sources=(IPv4Network("10.1.0.0/16"),),
            on_failure=self.failures.append,
        )
        self.backend = UdpBackend(options, cast("Rtnl", self.paper))
        self.backend._path._factory = self._plane

    def _plane(self, _rung: str, **given: Any) -> Any:
        self.planes.append(PaperDataplane(self.paper, **given))
        return self.planes[-1]

    async def start(self) -> None:
        attrs = await self.backend.prepare(UNDERLAY)
        assert attrs.public_ip == UNDERLAY.public_ip
        await self.backend.start(OWN)


@pytest.fixture
def bed(monkeypatch: pytest.MonkeyPatch) -> Bed:
    return Bed(monkeypatch)


async def test_unreachable_routes_come_first_and_traffic_last(bed: Bed) -> None:
    await bed.start()
    assert bed.paper.done == [
        "unreachable 100.96.0.0/16",
        "unreachable 100.96.1.0/24",
        "tun",
        "net/ipv4/conf/flannel0/accept_local",
        "net/ipv6/conf/flannel0/disable_ipv6",
        "link mtu 1472",
        "address 100.96.1.0/32",
        "route 100.96.0.0/16",
        "dataplane",
    ]
    await bed.backend.stop()


async def test_traffic_stops_before_the_device_goes_and_the_rest_stays(bed: Bed) -> None:
    await bed.start()
    await bed.backend.stop()
    assert bed.paper.done[-2:] == ["dataplane stopped", "tun closed"]
    assert bed.paper.state == {"unreachable 100.96.0.0/16", "unreachable 100.96.1.0/24"}
    assert not bed.backend.status().forwarding


async def test_the_snapshot_carries_the_options(bed: Bed) -> None:
    await bed.start()
    snapshot = bed.planes[0].snapshot
    assert snapshot.tun_address == IPv4Address("100.96.1.0")
    assert snapshot.own_addresses == {IPv4Address("10.168.0.2")}
    assert snapshot.source_check.name == "STRICT"
    assert snapshot.allow_sources == (IPv4Network("10.1.0.0/16"),)
    await bed.backend.stop()


async def test_mtu_of_the_network_config(monkeypatch: pytest.MonkeyPatch) -> None:
    bed = Bed(monkeypatch, mtu=1300)
    await bed.start()
    assert bed.backend.status().mtu == 1300
    assert "link mtu 1300" in bed.paper.done
    await bed.backend.stop()


async def test_repairing_nothing_does_nothing(bed: Bed) -> None:
    await bed.start()
    before = list(bed.paper.done)
    for _ in range(3):
        await bed.backend.ensure()
    assert bed.paper.done == before
    assert bed.backend.status().repairs == {}
    await bed.backend.stop()


async def test_a_deleted_device_is_made_again_in_the_same_order(bed: Bed) -> None:
    await bed.start()
    bed.paper.state -= {what for what in bed.paper.state if not what.startswith("unreachable")}
    bed.paper.done.clear()
    bed.planes[0].on_exit(OSError(errno.ENODEV, "gone"))
    await bed.backend.ensure()
    assert bed.paper.done[:3] == ["dataplane stopped", "tun closed", "tun"]
    assert bed.paper.done[-2:] == ["route 100.96.0.0/16", "dataplane"]
    assert bed.backend.status().repairs == {"device": 1}
    assert bed.backend.status().forwarding
    await bed.backend.stop()


async def test_a_deleted_device_that_is_still_shown(bed: Bed) -> None:
    await bed.start()
    bed.planes[0].on_exit(OSError(errno.ENODEV, "gone"))
    await bed.backend.ensure()
    assert bed.backend.status().repairs["device"] == 1
    assert "dataplane" not in bed.backend.status().repairs
    await bed.backend.ensure()
    assert bed.backend.status().repairs["device"] == 1
    await bed.backend.stop()


async def test_a_device_of_the_same_name_that_is_not_ours(bed: Bed) -> None:
    await bed.start()
    bed.paper.ifindex += 5
    await bed.backend.ensure()
    assert bed.backend.status().repairs["device"] == 1
    await bed.backend.stop()


async def test_a_dataplane_that_ends_by_itself_is_revived(bed: Bed) -> None:
    await bed.start()
    bed.planes[0].on_exit(OSError(errno.EIO, "io"))
    assert not bed.backend.status().forwarding
    (revival,) = [task for task in bed.backend._tasks if "_revive" in repr(task)]
    await revival
    assert bed.backend.status().forwarding
    assert bed.backend.status().repairs == {"dataplane": 1}
    assert bed.failures == []
    await bed.backend.stop()


async def test_one_that_ends_again_and_again_ends_the_daemon(bed: Bed) -> None:
    await bed.start()
    error = OSError(errno.EIO, "io")
    for _ in range(5):
        bed.planes[-1].on_exit(error)
        await bed.backend.ensure()
    assert bed.failures == [error]
    await bed.backend.stop()


async def test_deletions_however_many_do_not(bed: Bed) -> None:
    await bed.start()
    for _ in range(20):
        bed.planes[-1].on_exit(OSError(errno.ENODEV, "gone"))
        await bed.backend.ensure()
    assert bed.failures == []
    await bed.backend.stop()


async def test_a_repair_that_fails_is_tried_again(bed: Bed) -> None:
    await bed.start()
    bed.paper.fail["unreachable 100.96.0.0/16"] = OSError(errno.ENOBUFS, "busy")
    bed.planes[0].on_exit(OSError(errno.ENODEV, "gone"))
    with pytest.raises(OSError, match="busy"):
        await bed.backend.ensure()
    bed.paper.fail.clear()
    (revival,) = [task for task in bed.backend._tasks if "_revive" in repr(task)]
    await revival
    assert bed.backend.status().forwarding
    await bed.backend.stop()


async def test_read_only_sysctls_are_no_reason_to_die(
    bed: Bed, caplog: pytest.LogCaptureFixture
) -> None:
    bed.paper.fail["net/ipv4/conf/flannel0/accept_local"] = OSError(errno.EROFS, "read-only")
    await bed.start()
    await bed.backend.ensure()
    assert bed.backend.status().forwarding
    assert caplog.text.count("a sysctl cannot be set") == 1
    await bed.backend.stop()


async def test_a_new_underlay_address_gets_a_new_socket(bed: Bed) -> None:
    await bed.start()
    (old,) = bed.backend._sockets
    moved = Underlay("eth0", 2, IPv4Address("127.0.0.2"), 1500, IPv4Address("127.0.0.2"))
    await bed.backend.underlay_changed(moved)
    assert old.fileno() == -1
    assert [sock.getsockname()[0] for sock in bed.backend._sockets] == ["127.0.0.2"]
    assert bed.paper.done[-2:] == ["dataplane stopped", "dataplane"]
    assert bed.backend.status().repairs == {"underlay_address": 1}
    await bed.backend.stop()


async def test_an_underlay_that_cannot_be_bound_keeps_the_old_one(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bed.start()
    sockets = list(bed.backend._sockets)

    def refuse(address: IPv4Address, port: int) -> None:
        raise StartError(f"{address}:{port} is in use")

    monkeypatch.setattr(udp_socket, "open_socket", refuse)
    moved = Underlay("eth0", 2, IPv4Address("127.0.0.2"), 1400, IPv4Address("127.0.0.2"))
    with pytest.raises(StartError):
        await bed.backend.underlay_changed(moved)
    assert bed.backend._sockets == sockets
    assert bed.backend.status().forwarding
    assert bed.backend.status().mtu == 1472
    await bed.backend.stop()


async def test_what_the_kernel_refuses_in_the_first_second_is_told(
    bed: Bed, caplog: pytest.LogCaptureFixture
) -> None:
    await bed.start()
    bed.planes[0].seen = {"segments": 1}
    bed.backend._downgrades.look()
    assert caplog.text.count("the kernel takes no UDP_SEGMENT") == 1
    await bed.backend.stop()
