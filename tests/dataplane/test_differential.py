"""The engine against the oracle: same packet and same snapshot, so same bytes and same counters.

The `python` rung runs the oracle itself; there the test holds the machinery around the decisions.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.dataplane.bed import PEER2, PEER3, PEER4, SNAPSHOT, STRANGER
from tests.dataplane.packets import ipv4, with_checksum
from tunneld.dataplane import Route, RouteSnapshot, SourceCheck
from tunneld.dataplane.admission import Table, Verdict, decide_inbound, decide_outbound
from tunneld.dataplane.reference import OUTBOUND_COUNTERS

if TYPE_CHECKING:
    from tests.dataplane.bed import Bed, Outcome

# System calls and what each of them moves depend on the rung; all else must be equal.
RUNG_DEPENDENT = (
    *("syscalls_read", "syscalls_written", "syscalls_poll"),
    *("superpackets_read", "superpackets_written"),
    *(name for name in OUTBOUND_COUNTERS if name.startswith("batch_")),
)
SENDERS = (PEER2, PEER3, PEER4, STRANGER, "masqueraded")
# Few addresses, so that packets meet the prefixes of the snapshots.
ADDRESSES = st.one_of(
    st.builds("100.96.{}.{}".format, st.integers(0, 9), st.sampled_from((0, 1, 2, 127, 128, 255))),
    st.sampled_from(("10.168.0.2", "192.0.2.1", "127.0.0.1", "169.254.1.1", "224.0.0.1")),
    st.sampled_from(("255.255.255.255", "240.1.1.1", "0.0.0.1", "128.0.0.1", "223.255.255.255")),
    st.ip_addresses(v=4).map(str),
)
PREFIXES = st.builds(
    lambda third, length: IPv4Network(f"100.96.{third}.64/{length}", strict=False),
    st.integers(0, 9),
    st.sampled_from((16, 20, 22, 23, 24, 24, 24, 25, 26, 32)),
)
ROUTES = st.builds(
    Route,
    PREFIXES,
    st.sampled_from((PEER2, PEER3, PEER4)).map(IPv4Address),
    st.sampled_from((0, 68, 575, 576, 577, 1000, 1400, 1500, 9000, 65535)),
)


@st.composite
def snapshots(draw: st.DrawFn) -> RouteSnapshot:
    routes = draw(st.lists(ROUTES, max_size=8, unique_by=lambda route: route.subnet))
    own = draw(st.frozensets(ADDRESSES.map(IPv4Address), max_size=4))
    if draw(st.booleans()):
        own |= {IPv4Address(PEER3)}
    return replace(
        SNAPSHOT,
        network=IPv4Network(draw(st.sampled_from(("100.96.0.0/16", "100.96.0.0/21")))),
        subnet=IPv4Network(draw(st.sampled_from(("100.96.1.0/24", "100.96.2.0/25")))),
        mtu=draw(st.sampled_from((1472, 1372, 600))),
        routes=tuple(routes),
        own_addresses=own,
        allow_sources=draw(
            st.sampled_from(
                ((), (IPv4Network("127.0.0.9/32"),), (IPv4Network("127.0.0.2/31"),), (ANYWHERE,))
            )
        ),
        source_check=draw(st.sampled_from(SourceCheck)),
    )


ANYWHERE = IPv4Network("0.0.0.0/0")


@st.composite
def packets(draw: st.DrawFn) -> bytes:
    """A packet that is legal, or nearly so: spoilt in one byte, cut short or padded."""
    payload = draw(
        st.one_of(
            st.binary(max_size=40),
            st.builds(bytes, st.sampled_from((520, 528, 529, 972, 1352, 1372, 1452, 1453, 1600))),
            st.integers(0, 20).map(lambda kind: bytes([kind]) + bytes(15)),
        )
    )
    packet = ipv4(
        draw(ADDRESSES),
        draw(ADDRESSES),
        payload,
        ttl=draw(st.sampled_from((0, 1, 2, 3, 64, 255))),
        proto=draw(st.sampled_from((1, 1, 6, 17, 47))),
        fragment=draw(st.sampled_from((0, 0, 0x4000, 0x4000, 0x2000, 0x6000, 1, 0x3FFF))),
        options=bytes(4 * draw(st.sampled_from((0, 0, 0, 1, 10)))),
        ident=draw(st.integers(0, 65535)),
    )
    match draw(st.sampled_from(("legal", "legal", "legal", "spoil", "forge", "cut", "pad"))):
        case "spoil" | "forge" as how:
            at = draw(st.integers(0, min(len(packet), 28) - 1))
            packet = packet[:at] + bytes([draw(st.integers(0, 255))]) + packet[at + 1 :]
            # Forged: the checksum is right, the field is not.
            packet = with_checksum(packet) if how == "forge" else packet
        case "cut":
            packet = packet[: draw(st.integers(1, len(packet)))]
        case "pad":
            packet += draw(st.binary(min_size=1, max_size=20))
    return packet


def counted(verdicts: list[Verdict], packets_: list[bytes]) -> Counter[str]:
    """The counters that these verdicts ask for, where no rate limit is reached."""
    counters = Counter[str](packets_read=len(packets_))
    for verdict in verdicts:
        counters["bytes_read"] += verdict.length
        if verdict.drop:
            counters[verdict.drop] += 1
        else:
            counters["packets_written"] += 1
            counters["bytes_written"] += verdict.length
        if verdict.answer is not None:
            counters[verdict.answer.counter] += 1
    return +counters


def without_volume(counters: Counter[str]) -> Counter[str]:
    return Counter({name: n for name, n in counters.items() if name not in RUNG_DEPENDENT})


def answers(verdicts: list[Verdict]) -> list[bytes]:
    return [v.answer.packet for v in verdicts if v.answer is not None and v.answer.packet]


async def check_outbound(bed: Bed, sent: list[bytes]) -> None:
    verdicts = [decide_outbound(packet, Table(bed.snapshot)) for packet in sent]
    outcome = await bed.send_tun(*sent)
    assert without_volume(outcome.outbound) == counted(verdicts, sent)
    assert outcome.inbound.keys() <= set(RUNG_DEPENDENT)
    assert outcome.tun == answers(verdicts)
    for address in (PEER2, PEER3, PEER4):
        assert outcome.datagrams[address] == [
            v.packet for v in verdicts if v.peer and str(v.peer.route.public_ip) == address
        ]
    assert outcome.datagrams[STRANGER] == outcome.datagrams["masqueraded"] == []


async def check_inbound(bed: Bed, sender: str, sent: list[bytes]) -> Outcome:
    source = bed.sockets[sender].getsockname()
    verdicts = [decide_inbound(datagram, source, Table(bed.snapshot)) for datagram in sent]
    outcome = await bed.send_udp(sender, *sent)
    assert without_volume(outcome.inbound) == counted(verdicts, sent)
    assert outcome.outbound.keys() <= set(RUNG_DEPENDENT)
    assert outcome.tun == [verdict.packet for verdict in verdicts if not verdict.drop]
    assert outcome.datagrams.pop(sender) == answers(verdicts)
    assert not any(outcome.datagrams.values())
    return outcome


@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data(), snapshot=snapshots())
async def test_engine_and_oracle_agree(
    bed: Bed, data: st.DataObject, snapshot: RouteSnapshot
) -> None:
    """One bed for all examples: publish() between them is part of the test."""
    bed.publish(**{f: getattr(snapshot, f) for f in FIELDS})
    await check_outbound(bed, data.draw(st.lists(packets(), min_size=1, max_size=6), "outbound"))
    sender = data.draw(st.sampled_from(SENDERS), "sender")
    await check_inbound(bed, sender, data.draw(st.lists(packets(), max_size=6), "inbound"))


FIELDS = ("network", "subnet", "mtu", "routes", "own_addresses", "allow_sources", "source_check")
