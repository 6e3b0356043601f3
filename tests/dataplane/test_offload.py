"""Rungs among each other, what a packet costs on the upper ones, and the oracle of their tests.

The oracle is superpackets.py; scapy, which shares nothing with it, checks it.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

import pytest
from scapy.layers import inet

from tests.dataplane.bed import HOST, PEER2, RUNGS, SNAPSHOT, Bed, drain, open_sockets, total
from tests.dataplane.offload_bed import (
    OFFLOAD,
    SUBNET2,
    THREADS,
    TIMESTAMPS,
    UPPER,
    by_flow,
    deepen,
    fresh,
    run_backlog,
    send_all,
    stream,
    stream_back,
    write,
)
from tests.dataplane.packets import DF, TCP, UDP, hop
from tests.dataplane.superpackets import ACK, FIN, PSH, Segment, cut_frame
from tunneld.dataplane import Route


def scapy_checksums(packet: bytes) -> bytes:
    """The packet as scapy builds it again from its fields, all lengths and checksums its own."""
    dissected = inet.IP(packet)
    del dissected.chksum, dissected.len, dissected.ihl
    l4 = dissected.getlayer(inet.TCP) or dissected.getlayer(inet.UDP)
    if packet[9] == TCP:
        del l4.chksum, l4.dataofs
    else:
        del l4.len, l4.chksum
    return bytes(dissected)


def test_the_oracle_agrees_with_scapy() -> None:
    whole = bytes(range(256)) * 6
    segments = [
        Segment(payload=whole, flags=ACK | PSH | FIN, options=TIMESTAMPS, fragment=DF),
        Segment(payload=whole[:1501], sequence=2**32 - 700, ident=65535, tos=2),
        Segment(payload=whole, proto=UDP, ip_options=b"\1\1\1\0"),
    ]
    for segment in segments:
        packets = segment.cut(500)
        assert [scapy_checksums(packet) for packet in packets] == packets
        assert (
            b"".join(bytes(inet.IP(packet).payload.payload) for packet in packets)
            == segment.payload
        )
        assert cut_frame(segment.super(500)) == packets
        if segment.proto == TCP:
            numbers = [inet.IP(packet)[inet.TCP].seq for packet in packets]
            assert numbers == [(segment.sequence + 500 * n) % 2**32 for n in range(len(packets))]
            assert str(inet.IP(packets[0])[inet.TCP].flags) == "A"


@pytest.mark.parametrize("there", RUNGS)
@UPPER
async def test_rungs_understand_each_other(rung: str, there: str) -> None:
    """The wire is the same on each rung: a cluster may run all of them at once."""
    sockets = open_sockets(HOST, (PEER2,))
    mirror = replace(
        SNAPSHOT,
        subnet=SUBNET2,
        tun_address=SUBNET2[0],
        routes=(Route(SNAPSHOT.subnet, IPv4Address(HOST)),),
        own_addresses=frozenset((IPv4Address(PEER2), SUBNET2[0])),
    )
    here = Bed(rung, sockets={HOST: sockets[HOST]})
    far = Bed(there, sockets={PEER2: sockets[PEER2]}, snapshot=mirror)
    for bed in (here, far):
        deepen(bed)
    out, back = stream(0, 40_000), stream_back(0, 30_000)
    udp = stream(0, 20_000, UDP)
    to_far = write(here, out, 1300) + write(here, udp, 700)
    to_here = write(far, back, 1300) + write(far, stream_back(0, 20_000, UDP), 700)
    here.fed["inbound"], far.fed["inbound"] = len(to_here), len(to_far)
    here.start()
    far.start()
    for bed in (here, far):
        await bed.wait_for(bed.at_rest, "all is moved")
    assert by_flow(far.drain_tun()) == by_flow(map(hop, to_far))
    assert by_flow(here.drain_tun()) == by_flow(map(hop, to_here))
    await here.close()
    await far.close()


@OFFLOAD
@THREADS
async def test_ten_packets_and_more_for_each_system_call(rung: str, threads: str) -> None:
    bed = fresh(rung, threads)
    packets = [p for n in range(4) for p in write(bed, stream(n * 34_000, 34_000), 536)]
    back = send_all(bed, (stream_back(n * 536, 536) for n in range(256)))
    await run_backlog(bed)
    assert drain(bed.sockets[PEER2]) == packets
    assert bed.drain_tun() == back
    counters = bed.engine.counters()
    for values in (counters.outbound, counters.inbound):
        assert values["packets_written"] == 256
        assert total(values, "syscalls_") <= 0.1 * values["packets_written"]
    await bed.close()


@UPPER
async def test_many_packets_for_each_system_call_on_the_underlay(rung: str) -> None:
    """Without superpackets on the TUN the socket's side is as cheap; the TUN's is one for one."""
    bed = fresh(rung)
    packets = [p for n in range(4) for p in write(bed, stream(n * 34_000, 34_000), 536)]
    back = send_all(bed, (stream_back(n * 536, 536) for n in range(256)))
    await run_backlog(bed)
    assert drain(bed.sockets[PEER2]) == packets
    assert bed.drain_tun() == back
    counters = bed.engine.counters()
    assert counters.outbound["syscalls_written"] <= 0.1 * 256
    assert counters.inbound["syscalls_read"] <= 0.1 * 256
    await bed.close()
