"""A flood of hostile packets: none passes, each is counted by its reason, the engine lives on.

The generator knows the reason of each packet by construction; the oracle is asked as well, so a
rule that is wrong in the same way in engine and oracle is still seen.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from ipaddress import IPv4Network
from typing import TYPE_CHECKING, NamedTuple

from tests.dataplane.bed import PEER2, PEER3, SNAPSHOT, STRANGER, resident_bytes
from tests.dataplane.packets import hop, icmp, ipv4, with_checksum
from tunneld.dataplane.admission import Table, decide_inbound, decide_outbound

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.dataplane.conftest import OpenBed

SEED = 20261121
HOSTILE_DATAGRAMS = {
    "python": 20_000,
    "syscall": 100_000,
    "mmsg": 100_000,
    "gso": 50_000,
    "offload": 50_000,
}
BURST = 2_000
RSS_GROWTH_BYTES = 4 << 20
US, PEER = "100.96.1.2", "100.96.2.3"


class Hostile(NamedTuple):
    """A packet with the counter that it must end in, and who sends it (inbound only)."""

    reason: str
    packet: bytes
    sender: str = PEER2


def _payload(rng: random.Random) -> bytes:
    return rng.randbytes(rng.choice((0, 1, 8, 64, 500, 1400)))


def _legal(rng: random.Random, source: str = PEER, destination: str = US, ttl: int = 9) -> bytes:
    fragment = rng.choice((0, 0, 0x4000, 0x2000, 0x2040, 77))
    proto = rng.choice((1, 6, 17, 4, 132))
    return ipv4(source, destination, _payload(rng), ttl=ttl, proto=proto, fragment=fragment)


def _host(rng: random.Random, *networks: str) -> str:
    net = IPv4Network(rng.choice(networks))
    return str(net.network_address + rng.randrange(net.num_addresses))


def _not_ipv4(rng: random.Random, good: bytes) -> Hostile:
    version = rng.choice([v for v in range(16) if v != 4])
    return Hostile("drop_not_ipv4", with_checksum(bytes([version << 4 | 5]) + good[1:]))


def _ipv6(rng: random.Random, _good: bytes) -> Hostile:
    fixed = bytes([0x60, 0, 0, 0, 0, 8, rng.choice((6, 17, 58)), 64])
    return Hostile("drop_not_ipv4", fixed + rng.randbytes(40))


def _header_short(rng: random.Random, good: bytes) -> Hostile:
    first = bytes([0x40 | rng.randrange(5)])
    return Hostile("drop_bad_header_length", with_checksum(first + good[1:]))


def _header_beyond(rng: random.Random, good: bytes) -> Hostile:
    return Hostile("drop_bad_header_length", b"\x4f" + good[1 : rng.randrange(20, 60)])


def _bad_length(rng: random.Random, good: bytes) -> Hostile:
    wrong = rng.choice((rng.randrange(20), rng.randrange(len(good) + 1, 65536)))
    spoilt = with_checksum(good[:2] + wrong.to_bytes(2, "big") + good[4:])
    return Hostile("drop_bad_length", spoilt)


def _bad_checksum(rng: random.Random, good: bytes) -> Hostile:
    flip = bytes([good[11] ^ 1 << rng.randrange(8)])
    return Hostile("drop_bad_checksum", good[:11] + flip + good[12:])


MALFORMED: tuple[Callable[[random.Random, bytes], Hostile], ...] = (
    lambda rng, good: Hostile("drop_too_short", good[: rng.randrange(1, 20)]),
    _not_ipv4,
    _ipv6,
    _header_short,
    _header_beyond,
    _bad_length,
    _bad_checksum,
)
MARTIANS = ("0.0.0.0/8", "127.128.0.0/9", "169.254.0.0/16", "224.0.0.0/3")
FOREIGN = ("100.96.2.0/24", "100.96.200.0/24", "192.0.2.0/24", "224.0.0.0/4", "10.0.0.0/8")
UNLEASED = ("100.96.4.0/22", "100.96.128.0/17", "100.96.1.128/25")
OWN = sorted(map(str, SNAPSHOT.own_addresses))

INBOUND: tuple[Callable[[random.Random], Hostile], ...] = (
    lambda rng: rng.choice(MALFORMED)(rng, _legal(rng)),
    lambda rng: Hostile("drop_outer_source", _legal(rng), STRANGER),
    lambda rng: Hostile("drop_outer_port", _legal(rng), "masqueraded"),
    lambda rng: Hostile("drop_own_source", _legal(rng, rng.choice(OWN))),
    lambda rng: Hostile("drop_spoofed_source", _legal(rng), PEER3),
    lambda rng: Hostile("drop_spoofed_source", _legal(rng, _host(rng, *UNLEASED))),
    lambda rng: Hostile("drop_martian_source", _legal(rng, _host(rng, *MARTIANS))),
    lambda rng: Hostile("drop_foreign_destination", _legal(rng, PEER, _host(rng, *FOREIGN))),
    lambda rng: Hostile("drop_ttl_expired", _legal(rng, ttl=rng.randrange(2))),
)
OUTBOUND: tuple[Callable[[random.Random], Hostile], ...] = (
    lambda rng: rng.choice(MALFORMED)(rng, _legal(rng, US, PEER)),
    lambda rng: Hostile("drop_own_subnet", _legal(rng, US, _host(rng, "100.96.1.0/24"))),
    lambda rng: Hostile("drop_no_route", _legal(rng, US, _host(rng, "100.96.4.0/22", *MARTIANS))),
    lambda rng: Hostile("drop_ttl_expired", _legal(rng, US, PEER, ttl=rng.randrange(2))),
)


def burst(
    rng: random.Random, makers: tuple[Callable[[random.Random], Hostile], ...]
) -> list[Hostile]:
    """Packets of all kinds, mixed; each breaks exactly the rule that it names."""
    return [rng.choice(makers)(rng) for _ in range(BURST)]


async def test_a_flood_of_hostile_datagrams(open_bed: OpenBed, rung: str) -> None:
    bed = open_bed(icmp_rate=100)
    table = Table(bed.snapshot)
    rng = random.Random(SEED)
    expected, oracle, seen = Counter[str](), Counter[str](), Counter[str]()
    errors_sent, resident, began = 0, 0, time.monotonic()
    for round_ in range(HOSTILE_DATAGRAMS[rung] // BURST):
        hostiles = burst(rng, INBOUND)
        for sender in {hostile.sender for hostile in hostiles}:
            own = [hostile for hostile in hostiles if hostile.sender == sender]
            address = bed.sockets[sender].getsockname()
            expected.update(hostile.reason for hostile in own)
            oracle.update(decide_inbound(h.packet, address, table).drop for h in own)
            outcome = await bed.send_udp(sender, *(hostile.packet for hostile in own))
            seen.update({k: n for k, n in outcome.inbound.items() if k.startswith("drop_")})
            assert outcome.tun == []
            assert outcome.inbound["packets_written"] == 0
            errors_sent += outcome.inbound["icmp_sent_time_exceeded"]
        if round_ == 1:
            resident = resident_bytes()
    assert seen == expected == oracle
    assert sum(seen.values()) == HOSTILE_DATAGRAMS[rung]
    assert errors_sent <= 100 + 100 * (time.monotonic() - began) + 1
    assert resident_bytes() - resident < RSS_GROWTH_BYTES
    good = ipv4(PEER, US)
    assert (await bed.send_udp(PEER2, good)).tun == [hop(good)]


async def test_a_flood_of_hostile_packets_from_the_tun(open_bed: OpenBed) -> None:
    bed = open_bed(icmp_rate=100)
    table = Table(bed.snapshot)
    rng = random.Random(SEED)
    expected, oracle, seen = Counter[str](), Counter[str](), Counter[str]()
    for _ in range(5):
        packets = burst(rng, OUTBOUND)
        expected.update(hostile.reason for hostile in packets)
        oracle.update(decide_outbound(hostile.packet, table).drop for hostile in packets)
        outcome = await bed.send_tun(*(hostile.packet for hostile in packets))
        seen.update({k: n for k, n in outcome.outbound.items() if k.startswith("drop_")})
        assert not any(outcome.datagrams.values())
    assert seen == expected == oracle
    good = ipv4(US, PEER)
    assert (await bed.send_tun(good)).datagrams[PEER2] == [hop(good)]


async def test_neither_errors_about_errors_nor_relaying(open_bed: OpenBed) -> None:
    """With either, two engines that lease each other's subnet would send for ever."""
    bed = open_bed()
    error = icmp(PEER, US, 11, ttl=1)
    outcome = await bed.send_udp(PEER2, error, ipv4(PEER, PEER, ttl=200))
    assert outcome.inbound["drop_ttl_expired"] == outcome.inbound["icmp_suppressed"] == 1
    assert outcome.inbound["drop_foreign_destination"] == 1
    assert not any(outcome.datagrams.values())
