"""TUN devices as this kernel makes them: names, flags, the end of a device, who may."""

from __future__ import annotations

import errno
import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

from tests.platform.apart import apart, descriptors, ip, udp
from tunneld.errors import StartError
from tunneld.link import tun
from tunneld.link.tun import open_tun

PACKET = udp("100.96.1.2", "100.96.1.0", 9, b"abcd")


def _up(name: str) -> None:
    # Without IPv6 nothing but the packets of the test comes out.
    Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1", encoding="ascii")
    ip(f"address add 100.96.1.0/32 dev {name}")
    ip(f"link set {name} up")


@apart
def test_a_template_takes_the_first_free_number() -> None:
    first, second = open_tun("flannel%d"), open_tun("flannel%d")
    assert (first.name, second.name) == ("flannel0", "flannel1")
    flags = ip("link show flannel0")
    assert "POINTOPOINT" in flags
    assert "NOARP" in flags
    first.close()
    second.close()


@apart
def test_closing_removes_the_device_and_can_be_repeated() -> None:
    device = open_tun("flannel0")
    fd = device.fds[0]
    device.close()
    device.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    assert "flannel0" not in ip("link")


@apart
def test_descriptors_never_block_and_are_not_inherited() -> None:
    device = open_tun("flannel0")
    _up("flannel0")
    with pytest.raises(BlockingIOError):
        os.read(device.fds[0], 2048)
    assert not os.get_inheritable(device.fds[0])
    device.close()


@apart
def test_two_queues_share_one_device() -> None:
    device = open_tun("flannel%d", queues=2)
    assert len(set(device.fds)) == 2
    assert ip("link").count("flannel") == 1
    device.close()


@apart
def test_a_virtio_header_goes_before_each_packet_both_ways() -> None:
    device = open_tun("flannel0", vnet_hdr=True)
    _up("flannel0")
    fd = device.fds[0]
    with pytest.raises(OSError, match="Invalid argument"):
        os.write(fd, PACKET[:9])
    assert os.write(fd, bytes(10) + PACKET) == 10 + len(PACKET)
    # The kernel answers that nobody listens on port 9, to 100.96.1.2: the way it came.
    ip("route add 100.96.0.0/16 dev flannel0")
    os.write(fd, bytes(10) + PACKET)
    answer = os.read(fd, 2048)
    assert answer[10] == 0x45
    assert answer[10 + 9] == 1  # ICMP
    device.close()


@apart
def test_a_deleted_device_is_told_by_pollerr_alone_and_ebadfd() -> None:
    """A loop that looks at POLLIN only would spin for ever (flannel does)."""
    device = open_tun("flannel0")
    _up("flannel0")
    poll = select.poll()
    poll.register(device.fds[0], select.POLLIN)
    ip("link del flannel0")
    assert poll.poll(30_000) == [(device.fds[0], select.POLLERR)]
    with pytest.raises(OSError, match="bad state") as read:
        os.read(device.fds[0], 2048)
    with pytest.raises(OSError, match="bad state") as written:
        os.write(device.fds[0], PACKET)
    assert (read.value.errno, written.value.errno) == (errno.EBADFD, errno.EBADFD)
    device.close()


@apart
def test_a_name_that_another_descriptor_holds() -> None:
    device = open_tun("flannel0")
    with pytest.raises(StartError, match=r"flannel0.*holds.*\(stop"):
        open_tun("flannel0")
    device.close()


@apart
def test_a_name_that_is_no_tun() -> None:
    ip("link add flannel0 type bridge")
    with pytest.raises(StartError, match=r"flannel0.*ip link del flannel0"):
        open_tun("flannel0")


@pytest.mark.parametrize("name", ["", "a-name-of-16-long"])
def test_a_name_that_no_device_can_have(name: str) -> None:
    with pytest.raises(StartError, match="1 to 15"):
        open_tun(name)


def test_no_device_node(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tun, "DEVICE", str(tmp_path / "tun"))
    with pytest.raises(StartError, match="modprobe tun"):
        open_tun("flannel0")


def test_no_capability() -> None:
    without = "unshare -n setpriv --bounding-set=-net_admin --inh-caps=-net_admin"
    script = "from tunneld.link.tun import open_tun; open_tun('flannel%d')"
    done = subprocess.run(
        [*without.split(), sys.executable, "-c", script],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0
    assert "StartError" in done.stderr
    assert "CAP_NET_ADMIN" in done.stderr


@apart
def test_failures_leak_no_descriptor() -> None:
    device = open_tun("flannel0")
    before = descriptors()
    for _ in range(5):
        with pytest.raises(StartError):
            open_tun("flannel0")
    assert descriptors() == before
    device.close()
