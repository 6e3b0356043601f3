"""Start, publish, stop, and what the counters say about the rung that ran."""

from __future__ import annotations

import asyncio
import errno
from collections import Counter
from dataclasses import replace
from ipaddress import IPv4Address
from socket import SO_SNDBUF, SOL_SOCKET
from typing import TYPE_CHECKING

import uvloop

from tests.dataplane.bed import PEER2, PEER3, PEER4, SNAPSHOT, Bed, open_sockets_apart
from tests.dataplane.packets import GOLDEN_TTL_63, GOLDEN_TTL_64, hop, ipv4
from tunneld.dataplane import PeerCounters, Route
from tunneld.dataplane.engine import INBOUND_COUNTERS, OUTBOUND_COUNTERS
from tunneld.dataplane.reference import INBOUND_COUNTERS as INBOUND_IN_PYTHON
from tunneld.dataplane.reference import OUTBOUND_COUNTERS as OUTBOUND_IN_PYTHON

if TYPE_CHECKING:
    from tests.dataplane.conftest import OpenBed

TO_PEER2 = ipv4("100.96.1.2", "100.96.2.3")
FROM_PEER2 = ipv4("100.96.2.3", "100.96.1.2")
BACKLOG = 64
SUBNET2 = SNAPSHOT.routes[0].subnet
# Packets per call when a backlog waits: what tells the rungs apart.
CALLS_FOR_BACKLOG = {"python": BACKLOG, "syscall": BACKLOG, "mmsg": 1, "gso": 1, "offload": 1}


def test_counters_have_the_same_names_in_python_and_in_c() -> None:
    assert OUTBOUND_IN_PYTHON == OUTBOUND_COUNTERS
    assert INBOUND_IN_PYTHON == INBOUND_COUNTERS


async def test_packets_per_send_show_the_rung(open_bed: OpenBed, rung: str) -> None:
    bed = open_bed(start=False)
    for _ in range(BACKLOG):
        bed.feed(TO_PEER2)
    bed.fed["outbound"] += BACKLOG
    bed.start()
    await bed.wait_for(bed.at_rest, "the backlog is sent")
    counters = bed.engine.counters().outbound
    assert counters["packets_written"] == BACKLOG
    assert counters["syscalls_written"] == CALLS_FOR_BACKLOG[rung]


async def test_packets_per_receive_show_the_rung(open_bed: OpenBed, rung: str) -> None:
    bed = open_bed(start=False)
    for _ in range(BACKLOG):
        bed.sockets[PEER2].sendto(FROM_PEER2, bed.engine_socket.getsockname())
    bed.fed["inbound"] += BACKLOG
    bed.start()
    await bed.wait_for(bed.at_rest, "the backlog is delivered")
    counters = bed.engine.counters().inbound
    assert counters["packets_written"] == BACKLOG
    # One more than the packets need: the call that finds the socket empty.
    assert 0 <= counters["syscalls_read"] - CALLS_FOR_BACKLOG[rung] <= 2


async def test_a_lone_packet_does_not_wait_for_a_batch(bed: Bed) -> None:
    for _ in range(3):
        outcome = await bed.send_tun(TO_PEER2)
        assert outcome.outbound["syscalls_written"] == 1


async def test_the_rung_says_what_runs(bed: Bed, rung: str) -> None:
    assert bed.engine.rung == rung
    assert bed.engine.threads == (0 if rung == "python" else 1)
    assert bed.engine.gauges()["batch"] == BACKLOG // CALLS_FOR_BACKLOG[rung]


async def test_two_engines_in_one_process(open_bed: OpenBed) -> None:
    one, two = open_bed(), open_bed()
    await asyncio.gather(one.send_tun(*[TO_PEER2] * 500), two.send_udp(PEER2, *[FROM_PEER2] * 300))
    assert one.engine.counters().outbound["packets_written"] == 500
    assert one.engine.counters().inbound["packets_read"] == 0
    assert two.engine.counters().inbound["packets_written"] == 300


async def test_packets_to_one_peer_keep_their_order(bed: Bed) -> None:
    packets = [ipv4("100.96.1.2", f"100.96.{2 + n % 2}.3", ident=n) for n in range(3000)]
    outcome = await bed.send_tun(*packets)
    assert outcome.datagrams[PEER2] == [hop(packet) for packet in packets[::2]]
    assert outcome.datagrams[PEER3] == [hop(packet) for packet in packets[1::2]]


async def test_stop_reports_once_and_leaves_the_descriptors_open(bed: Bed) -> None:
    await bed.send_tun(TO_PEER2)
    await bed.engine.stop()
    await bed.engine.stop()
    assert bed.exits == [None]
    assert bed.tun_fd.send(b"x") == 1
    assert bed.tun.recv(10) == b"x"
    assert bed.engine_socket.getsockname()[1] == bed.port
    bed.tun.send(TO_PEER2)
    assert bed.tun_fd.recv(100) == TO_PEER2
    assert bed.engine.counters().outbound["packets_read"] == 1


async def test_stop_before_start_does_nothing(open_bed: OpenBed) -> None:
    bed = open_bed(start=False)
    await bed.engine.stop()
    assert bed.exits == []
    bed.start()
    assert (await bed.send_tun(GOLDEN_TTL_64)).datagrams[PEER2] == [GOLDEN_TTL_63]


async def test_a_device_that_is_gone_ends_the_path(bed: Bed) -> None:
    await bed.send_tun(TO_PEER2)
    bed.tun.close()
    await bed.wait_for(lambda: bool(bed.exits), "the path ended")
    polls = bed.engine.counters().outbound["syscalls_poll"]
    (error,) = bed.exits
    assert error is not None
    assert error.errno == errno.ENODEV
    bed.sockets[PEER2].sendto(FROM_PEER2, bed.engine_socket.getsockname())
    await bed.engine.stop()
    assert len(bed.exits) == 1
    assert bed.engine.counters().outbound["syscalls_poll"] == polls


def test_on_the_daemons_event_loop(rung: str) -> None:
    """uvloop reports a dead descriptor in another way than asyncio's own loop."""

    async def path() -> None:
        bed = Bed(rung)
        bed.start()
        assert (await bed.send_tun(GOLDEN_TTL_64)).datagrams[PEER2] == [GOLDEN_TTL_63]
        assert (await bed.send_udp(PEER2, FROM_PEER2)).tun == [hop(FROM_PEER2)]
        bed.tun.close()
        await bed.wait_for(lambda: bool(bed.exits), "the path ended")
        assert bed.exits[0] is not None
        assert bed.exits[0].errno == errno.ENODEV
        await bed.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(path())


async def test_a_full_socket_delays_and_loses_nothing(open_bed: OpenBed, rung: str) -> None:
    """The underlay takes less than comes: the engine waits for it, the TUN's queue fills.

    Growing sizes, because equal ones would be one send of rung gso.
    """
    sockets = open_sockets_apart("127.0.0.1", (PEER2,), rate="4mbit")
    bed = open_bed(sockets=sockets)
    bed.engine_socket.setsockopt(SOL_SOCKET, SO_SNDBUF, 1)
    packets = [ipv4("100.96.1.2", "100.96.2.3", bytes(1000 + n), ident=n) for n in range(60)]
    outcome = await bed.send_tun(*packets)
    assert outcome.datagrams[PEER2] == [hop(packet) for packet in packets]
    # More calls than the packets need: some of them were told to wait.
    needed = len(packets) if CALLS_FOR_BACKLOG[rung] > 1 else 1
    assert outcome.outbound["syscalls_written"] > needed


async def test_what_waits_at_a_stop_is_counted(open_bed: OpenBed) -> None:
    sockets = open_sockets_apart("127.0.0.1", (PEER2,), rate="8kbit")
    bed = open_bed(sockets=sockets)
    bed.engine_socket.setsockopt(SOL_SOCKET, SO_SNDBUF, 1)
    for n in range(20):
        bed.feed(ipv4("100.96.1.2", "100.96.2.3", bytes(1000 + n)))
    readings: Counter[tuple[int, int]] = Counter()

    def stuck() -> bool:
        now = bed.engine.counters().outbound
        reading = now["packets_read"], now["packets_written"]
        readings[reading] += 1
        return reading[0] > reading[1] > 0 and readings[reading] > 150

    await bed.wait_for(stuck, "a packet waits for the socket")
    await bed.engine.stop()
    counters = bed.engine.counters().outbound
    assert counters["drop_stopped"] >= 1
    assert counters["packets_read"] == counters["packets_written"] + counters["drop_stopped"]


async def test_a_full_tun_costs_the_packet(open_bed: OpenBed) -> None:
    bed = open_bed()
    datagrams = [ipv4("100.96.2.3", "100.96.1.2", bytes(1000), ident=n) for n in range(2000)]
    for datagram in datagrams:
        bed.sockets[PEER2].sendto(datagram, bed.engine_socket.getsockname())
        bed.fed["inbound"] += 1
        await bed.wait_for(bed.at_rest, "the datagram is counted")
    counters = bed.engine.counters().inbound
    assert counters["drop_write_failed"] > 0
    assert counters["packets_written"] + counters["drop_write_failed"] == len(datagrams)


async def test_publish_takes_effect_before_the_next_packet(bed: Bed) -> None:
    assert (await bed.send_tun(TO_PEER2)).datagrams[PEER2] == [hop(TO_PEER2)]
    bed.publish(routes=(Route(SUBNET2, IPv4Address(PEER4)),))
    outcome = await bed.send_tun(TO_PEER2)
    assert outcome.datagrams[PEER4] == [hop(TO_PEER2)]
    assert outcome.datagrams[PEER2] == []
    bed.publish(routes=())
    assert (await bed.send_tun(TO_PEER2)).outbound["drop_no_route"] == 1


async def test_publish_under_traffic_loses_nothing(bed: Bed) -> None:
    """The peer that stays gets every packet, in order, and its counters go on."""
    packets = [ipv4("100.96.1.2", "100.96.2.3", bytes(n % 100), ident=n) for n in range(5000)]
    sending = asyncio.ensure_future(bed.send_tun(*packets))
    published = 0
    while not sending.done():
        variants = (SNAPSHOT.routes, SNAPSHOT.routes[:1], SNAPSHOT.routes[::-1])
        bed.publish(routes=variants[published % 3])
        published += 1
        await asyncio.sleep(0)
    outcome = sending.result()
    assert outcome.datagrams[PEER2] == [hop(packet) for packet in packets]
    assert published > 10
    expected = PeerCounters(tx_packets=len(packets), tx_bytes=sum(map(len, packets)))
    await bed.wait_for(
        lambda: bed.engine.peer_counters()[SUBNET2] == expected, "the peer's counters"
    )


async def test_publish_under_inbound_traffic_loses_nothing(bed: Bed) -> None:
    datagrams = [ipv4("100.96.2.3", "100.96.1.2", ident=n) for n in range(5000)]
    sending = asyncio.ensure_future(bed.send_udp(PEER2, *datagrams))
    published = 0
    while not sending.done():
        bed.publish(routes=SNAPSHOT.routes[: 1 + published % 2])
        published += 1
        await asyncio.sleep(0)
    assert sending.result().tun == [hop(datagram) for datagram in datagrams]
    expected = PeerCounters(rx_packets=len(datagrams), rx_bytes=sum(map(len, datagrams)))
    await bed.wait_for(
        lambda: bed.engine.peer_counters()[SUBNET2] == expected, "the peer's counters"
    )


async def test_peer_counters_count_each_peer_alone(bed: Bed) -> None:
    subnet3 = SNAPSHOT.routes[1].subnet
    to_peer3 = ipv4("100.96.1.2", "100.96.3.3", bytes(80))
    await bed.send_tun(TO_PEER2, to_peer3, TO_PEER2, ipv4("100.96.1.2", "100.96.9.9"))
    await bed.send_udp(PEER2, FROM_PEER2, FROM_PEER2[:-1])
    await bed.send_udp(PEER3, ipv4("192.0.2.1", "100.96.1.2"), FROM_PEER2)
    size = len(TO_PEER2)
    expected = {
        SUBNET2: PeerCounters(2, 2 * size, 1, size),
        subnet3: PeerCounters(1, 100, 1, size),
    }
    await bed.wait_for(lambda: bed.engine.peer_counters() == expected, f"{expected}")


async def test_counters_of_a_peer_that_moved_begin_anew(bed: Bed) -> None:
    """Another public IP is another node: its traffic is not the old one's."""
    await bed.send_tun(TO_PEER2)
    stays = replace(SNAPSHOT.routes[0], path_mtu=1400)
    bed.publish(routes=(stays,))
    assert bed.engine.peer_counters() == {SUBNET2: PeerCounters(1, len(TO_PEER2))}
    bed.publish(routes=(Route(SUBNET2, IPv4Address(PEER4)),))
    assert bed.engine.peer_counters() == {SUBNET2: PeerCounters()}
