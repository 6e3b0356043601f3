"""`--dataplane kernel` where no kernel is needed: refusals, messages, names.

What it does to a kernel that has fou is tested in `tests/kernels/test_fou.py`.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunneld.backend import BackendOptions
from tunneld.backend.registry import open_backend
from tunneld.backend.udp import UdpBackend
from tunneld.backend.udp_kernel import UdpKernelBackend
from tunneld.dataplane import ladder
from tunneld.errors import ConfigError, StartError
from tunneld.link import fou, ipip
from tunneld.link.fou import Fou, FouPort
from tunneld.link.ipip import Tunnel
from tunneld.link.rtnl_bulk import Answer, BulkSocket, attribute
from tunneld.link.underlay import Underlay

OPTIONS = BackendOptions(
    network=IPv4Network("100.96.0.0/16"),
    port=8285,
    mtu=None,
    dataplane="kernel",
    threads="auto",
    source_check="peer",
    allow_sources=(),
    on_failure=lambda _error: None,
)
UNDERLAY = Underlay("eth0", 2, IPv4Address("127.0.0.1"), 1500, IPv4Address("10.168.0.2"))
TUNNEL = Tunnel(IPv4Address("10.168.0.2"), IPv4Address("10.168.0.3"), 8285)


def backend(options: BackendOptions = OPTIONS) -> Any:
    return open_backend("udp", "config", options, cast("Any", None))


def test_the_rung_chooses_the_backend() -> None:
    assert isinstance(backend(), UdpKernelBackend)
    assert isinstance(backend(replace(OPTIONS, dataplane="python")), UdpBackend)
    assert ladder.choose("kernel") == ladder.KERNEL


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"source_check": "off"}, "source-check"),
        ({"allow_sources": (IPv4Network("10.0.0.0/8"),)}, "allow-source"),
        ({"queues": 2}, "queues"),
    ],
)
def test_options_that_it_cannot_follow(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        backend(replace(OPTIONS, **changes))
    assert caught.value.field == field
    assert "--dataplane=auto" in caught.value.remedy
    assert caught.value.exit_code == 2


async def test_strict_is_what_it_is_anyway() -> None:
    assert backend(replace(OPTIONS, source_check="strict")).status().dataplane == "kernel"


async def test_a_kernel_without_fou(monkeypatch: pytest.MonkeyPatch) -> None:
    async def available(_self: Fou, *, load: bool = False) -> bool:
        assert load
        return False

    monkeypatch.setattr(Fou, "available", available)
    with pytest.raises(StartError, match="rung 'kernel' needs fou, which this kernel lacks") as e:
        await backend().prepare(UNDERLAY)
    assert "modprobe -a fou ipip" in e.value.remedy
    assert "--dataplane=auto" in e.value.remedy


async def test_a_kernel_without_ipip(monkeypatch: pytest.MonkeyPatch) -> None:
    async def available(_self: Fou, *, load: bool = False) -> bool:
        return load

    async def exchange(_self: BulkSocket, requests: Any) -> list[Answer]:
        return [Answer(95, "Unknown device type") for _ in requests]

    monkeypatch.setattr(Fou, "available", available)
    monkeypatch.setattr(BulkSocket, "exchange", exchange)
    tried = backend()
    with pytest.raises(StartError, match=r"ipip devices in UDP \(Unknown device type\)"):
        await tried.prepare(UNDERLAY)
    await tried.stop()


@given(st.integers(0, 2**32 - 1))
def test_names_are_short_stable_and_tell_the_public_ip(number: int) -> None:
    name = Tunnel(TUNNEL.local, IPv4Address(number), 8285).name
    assert len(name) == 15
    assert int(name.removeprefix("tunneld"), 16) == number


def seen(tunnel: Tunnel, *changes: tuple[bytes, bytes], name: str = "") -> ipip.Device:
    """What is read of the device that a request makes, with some bytes of it changed."""
    body = ipip.create(tunnel, 1472).body
    for old, new in changes:
        assert body.count(old) == 1
        body = body.replace(old, new)
    body = struct.pack("=BxHiII", 0, 768, 7, 1, 0) + body[16:]
    if name:
        body = body.replace(tunnel.name.encode(), name.encode())
    return ipip.read(body)


def test_a_device_is_recognised_by_what_made_it() -> None:
    device = seen(TUNNEL)
    assert device == ipip.Device(7, "tunneld0aa80003", 1472, True, True, TUNNEL, 8285)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ((attribute(4, b"\x40"), attribute(4, b"\x41")), "another TTL"),
        ((attribute(10, b"\x01"), attribute(10, b"\x00")), "no DF"),
        ((attribute(15, b"\x01\x00"), attribute(15, b"\x02\x00")), "gue"),
        ((attribute(16, b"\x01\x00"), attribute(16, b"\x00\x00")), "no checksum"),
        ((attribute(17, b"\x20\x5d"), attribute(17, b"\x00\x00")), "any source port"),
    ],
)
def test_a_device_with_other_settings_is_none_of_ours(
    change: tuple[bytes, bytes], why: str
) -> None:
    device = seen(TUNNEL, change)
    assert device.ipip
    assert device.tunnel is None, why


def test_a_device_with_the_name_of_another_public_ip_is_none_of_ours() -> None:
    assert seen(TUNNEL, name="tunneld0aa80004").tunnel is None


def test_a_device_of_another_kind() -> None:
    device = seen(TUNNEL, (b"ipip\0", b"sit\0\0"))
    assert (device.ipip, device.tunnel, device.port) == (False, None, 0)


def test_fou_ports_are_read() -> None:
    head = struct.pack("=BBH", 1, 1, 0)
    body = head + attribute(1, b"\x20\x5d") + attribute(2, b"\x02")
    body += attribute(3, b"\x04") + attribute(4, b"\x01")
    assert fou.read(body) == FouPort(8285)
    assert fou.read(body + attribute(6, bytes(4))) == FouPort(8285)
    assert fou.read(body + attribute(6, b"\x0a\xa8\x00\x02")) != FouPort(8285)
    gue = fou.read(body[:-8] + attribute(4, b"\x02"))
    assert gue == FouPort(8285, direct=False)
    assert "another gue of this host" in str(fou.taken(gue))
