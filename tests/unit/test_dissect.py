"""Frames taken apart: scapy, which shares nothing with us, says what each field must be."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.compat import raw
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import ARP, Ether
from scapy.layers.vxlan import VXLAN

from tunneld.demo.dissect import Layer, changed, dissect, draw, find

MAC_1, MAC_2 = "5e:f8:4f:00:e3:36", "5e:f8:4f:00:e3:37"
OUTER = "02:00:00:00:00:01", "02:00:00:00:00:02"
echo = IP(src="100.96.1.2", dst="100.96.2.3", ttl=63, id=7, flags="DF") / ICMP(id=0x4C73, seq=1)


def vxlan_frame(vni: int = 1, port: int = 51000, payload: bytes = b"x" * 56) -> bytes:
    frame = (
        Ether(src=OUTER[0], dst=OUTER[1])
        / IP(src="10.168.0.2", dst="10.168.0.3", ttl=64)
        / UDP(sport=port, dport=8472)
        / VXLAN(vni=vni, flags="Instance")
        / Ether(src=MAC_1, dst=MAC_2)
        / echo
        / payload
    )
    return bytes(raw(frame))


def names(layers: list[Layer]) -> list[str]:
    return [layer.name for layer in layers]


def number(layer: Layer, field: str) -> int:
    return int.from_bytes(layer.row(field).data, "big")


@given(
    st.integers(0, 2**24 - 1),
    st.integers(1, 65535),
    # Without payload the frame has no data layer.
    st.binary(min_size=1, max_size=200),
)
def test_vxlan_field_by_field_against_scapy(vni: int, port: int, payload: bytes) -> None:
    frame = vxlan_frame(vni, port, payload)
    theirs = Ether(frame)
    layers = dissect(frame, names={MAC_2: "flannel.1 of node2"})
    assert names(layers) == [
        "outer Ethernet", "outer IPv4", "UDP", "VXLAN", "inner Ethernet", "inner IPv4", "ICMP",
        "data",
    ]  # fmt: skip
    assert [layer.length for layer in layers[:-1]] == [14, 20, 8, 8, 14, 20, 8]
    assert find(layers, "inner Ethernet").row("destination").offset == 50
    outer, udp, inner = find(layers, "outer IPv4"), find(layers, "UDP"), find(layers, "inner IPv4")
    for layer, packet in ((outer, theirs[IP]), (inner, theirs[VXLAN][IP])):
        assert number(layer, "total length") == packet.len
        assert number(layer, "identification") == packet.id
        assert number(layer, "TTL") == packet.ttl
        assert number(layer, "header checksum") == packet.chksum
        assert layer.row("header checksum").meaning == "right"
        assert str(IPv4Address(layer.row("source").data)) == packet.src
        assert layer.row("destination").meaning == packet.dst
    assert (number(udp, "source port"), number(udp, "length")) == (port, theirs[UDP].len)
    assert number(udp, "checksum") == theirs[UDP].chksum
    assert number(find(layers, "VXLAN"), "VNI") == theirs[VXLAN].vni == vni
    assert layers[4].row("destination").meaning == f"{MAC_2}, flannel.1 of node2"
    assert layers[4].row("source").meaning == MAC_1
    assert number(layers[6], "identifier") == theirs[VXLAN][ICMP].id
    assert layers[6].row("checksum").meaning == "right"
    assert layers[7].data == payload
    assert inner.row("flags, offset").meaning == "DF: do not fragment"
    assert outer.row("flags, offset").meaning == "may be fragmented"


@given(st.binary(max_size=120), st.booleans())
def test_any_bytes_are_kept_whole_and_in_order(data: bytes, link: bool) -> None:
    whole(dissect(data, link=link), data)


@given(st.data())
def test_a_damaged_frame_too(data: st.DataObject) -> None:
    frame = bytearray(vxlan_frame())
    for _ in range(data.draw(st.integers(0, 4))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(frame[: data.draw(st.integers(0, len(frame)))])
    whole(dissect(cut), cut)


def whole(layers: list[Layer], data: bytes) -> None:
    assert b"".join(layer.data for layer in layers) == data
    at = 0
    for layer in layers:
        for row in layer.rows:
            assert row.offset == at
            at += len(row.data)


def test_the_tunnel_of_udp_mode() -> None:
    packet = raw(IP(src="10.168.0.2", dst="10.168.0.3") / UDP(sport=8285, dport=8285) / raw(echo))
    layers = dissect(packet, link=False)
    assert names(layers) == ["outer IPv4", "UDP", "inner IPv4", "ICMP"]
    assert [layer.inner for layer in layers] == [False, False, True, True]
    # On another port it is data.
    assert names(dissect(packet, link=False, tunnel_port=9)) == ["IPv4", "UDP", "data"]


@pytest.mark.parametrize(
    ("stored", "meaning"), [(0, "none (0)"), (None, "right"), (0x1234, "wrong"), (-1, "half done")]
)
def test_what_a_udp_checksum_is(stored: int | None, meaning: str) -> None:
    udp = UDP(sport=8285, dport=8285)
    if stored == -1:
        # The pseudo header: addresses, protocol, length (RFC 768).
        total = 0x0AA8 + 0x0002 + 0x0AA8 + 0x0003 + 17 + 12
        udp.chksum = (total & 0xFFFF) + (total >> 16)
    elif stored is not None:
        udp.chksum = stored
    packet = raw(IP(src="10.168.0.2", dst="10.168.0.3") / udp / b"abcd")
    assert find(dissect(packet, link=False), "UDP").row("checksum").meaning == meaning


def test_what_routing_changes_is_ttl_and_checksum() -> None:
    before, after = (raw(IP(src="100.96.1.2", dst="100.96.2.3", ttl=ttl)) for ttl in (64, 63))
    one, other = (dissect(packet, link=False)[0] for packet in (before, after))
    found = changed(one, other)
    assert [row.field for row, _ in found] == ["TTL", "header checksum"]
    low, high = (int.from_bytes(row.data, "big") for row in found[1])
    # One less in the high byte of its word: 256 more (RFC 1624).
    assert high - low == 0x100


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (raw(Ether() / ARP()), ["Ethernet", "data"]),
        (raw(Ether() / IP() / TCP()), ["Ethernet", "IPv4", "data"]),
        (raw(Ether() / IP(frag=3) / UDP()), ["Ethernet", "IPv4", "data"]),
        (raw(Ether() / IP() / UDP(dport=53) / b"?" / b""), ["Ethernet", "IPv4", "UDP", "data"]),
        (raw(Ether() / IP() / ICMP(type=3)), ["Ethernet", "IPv4", "ICMP"]),
        (raw(Ether() / IP(options=b"\x01" * 4) / ICMP()), ["Ethernet", "IPv4", "ICMP"]),
        (raw(Ether() / IP() / ICMP()) + b"\0" * 18, ["Ethernet", "IPv4", "ICMP", "padding"]),
        (b"", []),
    ],
)
def test_other_frames(frame: bytes, expected: list[str]) -> None:
    layers = dissect(frame)
    assert names(layers) == expected
    whole(layers, frame)


def test_long_fields_are_cut_and_the_drawing_joins_data_to_its_header() -> None:
    layers = dissect(vxlan_frame())
    assert layers[-1].rows[0].hex(4) == "78 78 78 78 ..."
    assert layers[0].rows[0].hex() == "02 00 00 00 00 02"
    picture = draw(layers, "A frame", added=("VXLAN",), texts={"VXLAN": "VNI 1"})
    assert [header.length for header in picture.headers] == [14, 20, 8, 8, 14, 20, 64]
    assert [header.name for header in picture.headers if header.added] == ["VXLAN"]
    assert max(map(len, picture.text().splitlines())) <= 94


def test_what_is_not_there_is_named() -> None:
    layers = dissect(vxlan_frame())
    with pytest.raises(KeyError, match="no TCP among outer Ethernet"):
        find(layers, "TCP")
    with pytest.raises(KeyError, match="UDP has no field 'TTL'"):
        find(layers, "UDP").row("TTL")
