"""The steering program on a real TUN: what it sees of a packet, and that a flow keeps its queue.

Its answer is compared with the same hash in plain Python; packets come out of the kernel as they
would from containers (routed, as superpackets) and byte for byte through a packet socket.
"""

from __future__ import annotations

import os
import random
import socket
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from tests.platform.apart import apart, checksum, ip
from tunneld.dataplane.probe import set_offloads
from tunneld.errors import StartError
from tunneld.link import steering, sysctl
from tunneld.link.tun import TunDevice, open_tun

QUEUES = 3
OWN = "100.96.1.0"
TCP, UDP, ICMP = socket.IPPROTO_TCP, socket.IPPROTO_UDP, socket.IPPROTO_ICMP
DF, MF = 0x4000, 0x2000
ETH_P_IP = 0x0800
UDP_SEGMENT = 103
VNET = 10
MASK = 0xFFFFFFFF


@contextmanager
def device(*, vnet_hdr: bool = False, steered: bool = True) -> Iterator[TunDevice]:
    """A TUN of several queues that is up and has the route of the overlay."""
    tun = open_tun("flannel0", vnet_hdr=vnet_hdr, queues=QUEUES)
    if vnet_hdr:
        set_offloads(tun.fds[0])
    if steered:
        steering.attach(tun.fds[0])
    sysctl.ensure("net/ipv6/conf/flannel0/disable_ipv6", "1")
    ip(f"address add {OWN}/32 dev flannel0")
    ip("link set flannel0 up")
    ip("route add 100.96.0.0/16 dev flannel0")
    try:
        yield tun
    finally:
        tun.close()


def read_all(tun: TunDevice) -> list[list[bytes]]:
    """What waits on each queue."""
    packets: list[list[bytes]] = []
    for fd in tun.fds:
        packets.append([])
        while True:
            try:
                packets[-1].append(os.read(fd, 65546))
            except BlockingIOError:
                break
    return packets


def packet(
    destination: str,
    protocol: int,
    l4: bytes,
    *,
    source: str = "100.96.1.2",
    flags: int = 0,
    options: int = 0,
) -> bytes:
    """An IPv4 packet; `options` bytes of no-operation behind the header."""
    header = (
        struct.pack(
            "!BBHHHBBH4s4s",
            0x45 + options // 4,
            0,
            20 + options + len(l4),
            7,
            flags,
            64,
            protocol,
            0,
            IPv4Address(source).packed,
            IPv4Address(destination).packed,
        )
        + b"\x01" * options
    )
    return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + l4


def ports(source: int, destination: int) -> bytes:
    return struct.pack("!HH", source, destination) + bytes(16)


def inject(*packets: bytes) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM) as sock:
        for one in packets:
            sock.sendto(one, ("flannel0", ETH_P_IP, 0, 0, b""))


def model(one: bytes) -> int:
    """The queue that the program shall answer with."""
    source, destination = struct.unpack_from("!II", one, 12)
    words = [source, destination]
    if one[9] == TCP and struct.unpack_from("!H", one, 6)[0] & 0x7FFF == DF:
        words += struct.unpack_from("!I", one, (one[0] & 0x0F) * 4)
    value = one[9]
    for word in words:
        value = (value ^ word) * steering.GOLDEN & MASK
        value ^= value >> 15
    return (value * steering.FINAL & MASK) >> 16


def random_packets(seed: int, count: int) -> list[bytes]:
    rng = random.Random(seed)
    return [
        packet(
            str(IPv4Address(rng.getrandbits(32))),
            rng.choice([TCP, TCP, UDP, ICMP, 0, 255]),
            rng.randbytes(rng.randrange(20, 60)),
            source=str(IPv4Address(rng.getrandbits(32))),
            flags=rng.choice([0, DF, DF, MF, DF | MF, 5, DF | 5, 0x8000 | DF]),
            options=rng.choice([0, 0, 4, 40]),
        )
        for _ in range(count)
    ]


@apart
def test_the_program_answers_as_the_model_does() -> None:
    with device() as tun:
        packets = random_packets(7, 300)
        inject(*packets)
        wanted: list[list[bytes]] = [[] for _ in range(QUEUES)]
        for one in packets:
            wanted[model(one) % QUEUES].append(one)
        assert read_all(tun) == wanted


@apart
def test_it_sees_the_ip_header_with_a_vnet_header_too() -> None:
    """The virtio header is put before the packet when it is read, after the choice."""
    with device(vnet_hdr=True) as tun:
        packets = random_packets(8, 300)
        inject(*packets)
        for number, queue in enumerate(read_all(tun)):
            assert len(queue) > 50
            assert {model(one[VNET:]) % QUEUES for one in queue} == {number}


@apart
def test_what_the_kernel_sends_itself_is_seen_from_the_header_too() -> None:
    with device(vnet_hdr=True) as tun, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for last in range(1, 200):
            sock.sendto(b"x", (f"100.96.2.{last}", 9))
        for number, queue in enumerate(read_all(tun)):
            assert len(queue) > 30
            assert {model(one[VNET:]) % QUEUES for one in queue} == {number}


@apart
def test_a_superpacket_goes_where_its_flow_goes() -> None:
    with device(vnet_hdr=True) as tun, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for last in range(1, 50):
            sock.setsockopt(socket.SOL_UDP, UDP_SEGMENT, 1000)
            sock.sendto(bytes(20_000), (f"100.96.2.{last}", 9))
            sock.setsockopt(socket.SOL_UDP, UDP_SEGMENT, 0)
            sock.sendto(b"single", (f"100.96.2.{last}", 9))
        places: dict[bytes, set[int]] = {}
        for number, queue in enumerate(read_all(tun)):
            for one in queue:
                places.setdefault(one[VNET + 16 : VNET + 20], set()).add(number)
        assert len(places) == 49
        assert all(len(numbers) == 1 for numbers in places.values())
        assert set.union(*places.values()) == set(range(QUEUES))


def spread(packets: list[bytes], queues: int) -> list[int]:
    counted = Counter(model(one) % queues for one in packets)
    return [counted[number] for number in range(queues)]


@pytest.mark.parametrize("queues", [2, 3, 4, 8, 16])
@pytest.mark.parametrize("kind", ["hosts", "ports", "server ports"])
def test_neighbours_are_spread_evenly(kind: str, queues: int) -> None:
    """What differs in a cluster is the last octets, or a port that counts up."""
    packets = {
        "hosts": [
            packet(f"100.96.{net}.{host}", UDP, ports(9, 9), source=f"100.96.1.{own}")
            for net in range(2, 6)
            for host in range(2, 18)
            for own in range(2, 18)
        ],
        "ports": [
            packet("100.96.2.3", TCP, ports(port, 80), flags=DF) for port in range(32768, 33792)
        ],
        "server ports": [
            packet("100.96.2.3", TCP, ports(40000, port), flags=DF) for port in range(8000, 9024)
        ],
    }[kind]
    share = len(packets) / queues
    for count in spread(packets, queues):
        assert 0.7 * share < count < 1.3 * share


@apart
def test_fragments_and_datagrams_of_one_flow_keep_together() -> None:
    """Linux clears DF of the datagrams that it cuts, and sets it on the others of the flow."""
    with device() as tun, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for size in (10, 4000, 10, 1472, 1473):
            sock.sendto(bytes(size), ("100.96.2.3", 9))
        used = [queue for queue in read_all(tun) if queue]
        assert [len(queue) for queue in used] == [1 + 3 + 1 + 1 + 2]
        flags = {struct.unpack_from("!H", one, 6)[0] & (DF | MF) for one in used[0]}
        assert flags == {DF, MF, 0}


@apart
def test_tcp_without_df_keeps_together_with_its_fragments() -> None:
    whole = packet("100.96.2.3", TCP, ports(1000, 2000))
    with device() as tun:
        for port in range(1000, 1050):
            first = packet("100.96.2.3", TCP, ports(port, 2000), flags=MF)
            later = packet("100.96.2.3", TCP, bytes(20), flags=3)
            inject(packet("100.96.2.3", TCP, ports(port, 2000)), first, later, whole)
        assert sum(1 for queue in read_all(tun) if queue) == 1


@apart
def test_the_other_direction_moves_nothing() -> None:
    """Without the program this is exactly what moves a flow: see the test below."""
    assert _queues_of_a_flow_that_is_answered(steered=True) == 1


@apart
def test_left_alone_the_kernel_moves_a_flow_to_the_queue_that_its_answers_use() -> None:
    assert _queues_of_a_flow_that_is_answered(steered=False) == QUEUES


def _queues_of_a_flow_that_is_answered(*, steered: bool) -> int:
    there = packet("100.96.2.3", UDP, struct.pack("!HHHH", 9, 9, 8, 0))
    back = packet("100.96.1.2", UDP, struct.pack("!HHHH", 9, 9, 8, 0), source="100.96.2.3")
    used = set()
    with device(steered=steered) as tun:
        for fd in tun.fds:
            os.write(fd, back)
            inject(there)
            used |= {number for number, queue in enumerate(read_all(tun)) if queue}
    return len(used)


@apart
def test_what_is_cut_off_goes_to_queue_0() -> None:
    tcp = packet("100.96.2.3", TCP, b"", flags=DF)
    with device() as tun:
        inject(tcp, tcp[:19], tcp[:9])
        assert [len(queue) for queue in read_all(tun)] == [3, 0, 0]


@apart
def test_no_descriptor_is_left_and_the_program_lives_with_the_device() -> None:
    before = os.listdir("/proc/self/fd")  # noqa: PTH208 - names are all that is compared
    with device() as tun:
        inject(*(packet(f"100.96.2.{last}", UDP, ports(9, 9)) for last in range(1, 100)))
        assert all(queue for queue in read_all(tun))
    assert os.listdir("/proc/self/fd") == before  # noqa: PTH208


def sysctl_is_open() -> bool:
    """Whether everybody may load socket filters here (Debian's default: 2, nobody)."""
    return Path("/proc/sys/kernel/unprivileged_bpf_disabled").read_text().strip() == "0"


def test_without_the_right_it_is_refused_with_a_remedy() -> None:
    script = "from tunneld.link import steering; steering.load()"
    drop = "setpriv --bounding-set=-bpf,-sys_admin --inh-caps=-bpf,-sys_admin"
    done = subprocess.run(
        [*drop.split(), sys.executable, "-c", script],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    if sysctl_is_open():
        assert done.returncode == 0
        return
    assert done.returncode != 0
    assert "StartError" in done.stderr
    assert "CAP_BPF" in done.stderr
    assert "--queues=1" in done.stderr


def test_a_processor_that_we_do_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "vax")
    with pytest.raises(StartError, match=r"vax.*--queues=1"):
        steering.load()


def test_a_program_that_the_kernel_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steering, "program", lambda: bytes(8))
    with pytest.raises(StartError, match=r"this kernel does not take.*Invalid argument"):
        steering.load()
