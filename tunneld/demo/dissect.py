"""A frame taken apart: every byte with its offset, its field and what it says.

    for layer in dissect(frame, names={"5e:f8:4f:00:e3:37": "flannel.1 of node2"}):
        for row in layer.rows:
            print(row.offset, row.hex(), row.field, row.meaning)

It knows Ethernet, IPv4 (RFC 791), UDP (RFC 768), ICMP (RFC 792) and the two tunnels: VXLAN
(RFC 7348) and the bare IPv4 packet in a UDP datagram of flannel's UDP mode. What it does not know,
or what is damaged, is data: all layers together always hold all bytes, in order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address

from tunneld.dataplane.packet import checksum
from tunneld.demo.drawing.frame import FrameDrawing, Header

VXLAN_PORT, TUNNEL_PORT = 8472, 8285
IPV4, ICMP, TCP, UDP = 0x0800, 1, 6, 17
TYPES = {IPV4: "IPv4", 0x0806: "ARP", 0x86DD: "IPv6"}
PROTOCOLS = {ICMP: "ICMP", TCP: "TCP", UDP: "UDP"}
ICMP_TYPES = {0: "echo reply", 3: "unreachable", 8: "echo request", 11: "time exceeded"}
ECHO = (0, 8)


@dataclass(frozen=True, slots=True)
class Row:
    """A field.

    Attributes:
        offset: of its first byte in the frame.
        data: its bytes.
        field: its name.
        meaning: what it says.
    """

    offset: int
    data: bytes
    field: str
    meaning: str

    def hex(self, most: int = 8) -> str:
        """Return its bytes in hex; of more than `most`, the first ones."""
        shown = self.data[:most].hex(" ")
        return shown if len(self.data) <= most else f"{shown} ..."


@dataclass(frozen=True, slots=True)
class Layer:
    """A header, or the data behind the last one.

    Attributes:
        name: "IPv4", "UDP", ...; what occurs outside and inside a tunnel: "outer IPv4" and so on.
        rows: its fields.
        inner: whether it travels inside a tunnel.
    """

    name: str
    rows: tuple[Row, ...]
    inner: bool = False

    @property
    def data(self) -> bytes:
        """Its bytes."""
        return b"".join(row.data for row in self.rows)

    @property
    def length(self) -> int:
        """How many bytes it has."""
        return sum(len(row.data) for row in self.rows)

    def cells(self) -> list[list[str]]:
        """Return its fields as the rows of a table: offset, bytes, field, meaning."""
        return [[str(row.offset), row.hex(), row.field, row.meaning] for row in self.rows]

    def row(self, name: str) -> Row:
        """Return a field by its name.

        Raises:
            KeyError: it has no such field.
        """
        for row in self.rows:
            if row.field == name:
                return row
        raise KeyError(f"{self.name} has no field {name!r}")


@dataclass(frozen=True, slots=True)
class _Knowledge:
    """What a reader of bytes is told besides the bytes."""

    names: Mapping[str, str] = field(default_factory=dict)
    vxlan_port: int = VXLAN_PORT
    tunnel_port: int = TUNNEL_PORT

    def named(self, text: str) -> str:
        owner = self.names.get(text)
        return f"{text}, {owner}" if owner else text


def dissect(
    data: bytes,
    *,
    link: bool = True,
    names: Mapping[str, str] | None = None,
    vxlan_port: int = VXLAN_PORT,
    tunnel_port: int = TUNNEL_PORT,
) -> list[Layer]:
    """Take a frame apart, outermost header first.

    Args:
        data: the frame.
        link: whether it begins with an Ethernet header; a TUN device's packets have none.
        names: MAC or IPv4 address -> whose it is; told beside it.
        vxlan_port: UDP destination port of VXLAN.
        tunnel_port: UDP destination port of flannel's UDP mode.
    """
    known = _Knowledge(names or {}, vxlan_port, tunnel_port)
    layers = _ethernet(data, 0, known) if link else _ipv4(data, 0, known)
    outside = {layer.name for layer in layers if not layer.inner}
    twice = outside & {layer.name for layer in layers if layer.inner}
    return [
        replace(layer, name=f"{'inner' if layer.inner else 'outer'} {layer.name}")
        if layer.name in twice
        else layer
        for layer in layers
    ]


def find(layers: Sequence[Layer], name: str) -> Layer:
    """Return the first layer of that name.

    Raises:
        KeyError: there is none.
    """
    for layer in layers:
        if layer.name == name:
            return layer
    raise KeyError(f"no {name} among {', '.join(layer.name for layer in layers)}")


def changed(before: Layer, after: Layer) -> list[tuple[Row, Row]]:
    """Return the fields that differ between two layers of the same kind."""
    pairs = zip(before.rows, after.rows, strict=True)
    return [(one, other) for one, other in pairs if one.data != other.data]


def draw(
    layers: Sequence[Layer], title: str, *, added: Sequence[str] = (), texts: Mapping[str, str]
) -> FrameDrawing:
    """Return the frame as a row of boxes; what follows ICMP belongs to its box.

    Args:
        layers: of `dissect`.
        title: which frame.
        added: names of the layers that the tunnel has put there.
        texts: name of a layer -> a few words on it.
    """
    boxes: list[Header] = []
    for layer in layers:
        if layer.name == "data" and boxes:
            boxes[-1] = replace(boxes[-1], length=boxes[-1].length + layer.length)
        else:
            text = texts.get(layer.name, "")
            boxes.append(Header(layer.name, layer.length, text, added=layer.name in added))
    return FrameDrawing(boxes, title)


def _cut(data: bytes, at: int, fields: Sequence[tuple[int, str, str]]) -> tuple[Row, ...]:
    """Cut fields of given lengths from the beginning of `data`, which lies at offset `at`."""
    rows, start = [], 0
    for length, name, meaning in fields:
        rows.append(Row(at + start, data[start : start + length], name, meaning))
        start += length
    return tuple(rows)


def _data(data: bytes, at: int, meaning: str = "", name: str = "data") -> list[Layer]:
    return [Layer(name, (Row(at, data, f"{len(data)} bytes", meaning),))] if data else []


def _ethernet(data: bytes, at: int, known: _Knowledge) -> list[Layer]:
    if len(data) < 14:
        return _data(data, at, "too short for an Ethernet header")
    kind = int.from_bytes(data[12:14], "big")
    fields = (
        (6, "destination", known.named(data[:6].hex(":"))),
        (6, "source", known.named(data[6:12].hex(":"))),
        (2, "type", TYPES.get(kind, f"{kind:#06x}")),
    )
    head = Layer("Ethernet", _cut(data, at, fields))
    rest, at = data[14:], at + 14
    return [head, *(_ipv4(rest, at, known) if kind == IPV4 else _data(rest, at))]


def _ipv4(data: bytes, at: int, known: _Knowledge) -> list[Layer]:
    """RFC 791, 3.1."""
    header = (data[0] & 15) * 4 if data else 0
    total = int.from_bytes(data[2:4], "big")
    if len(data) < 20 or data[0] >> 4 != 4 or not 20 <= header <= total <= len(data):
        return _data(data, at, "no IPv4 header")
    flags = int.from_bytes(data[6:8], "big")
    fields = [
        (1, "version, length", f"IPv4, header of {header} bytes"),
        (1, "TOS", "no special wish" if data[1] == 0 else f"{data[1]:#04x}"),
        (2, "total length", f"{total} bytes, this header included"),
        (2, "identification", "number of the packet, for its fragments"),
        (2, "flags, offset", _flags(flags)),
        (1, "TTL", f"at most {data[8]} more hops"),
        (1, "protocol", PROTOCOLS.get(data[9], str(data[9]))),
        (2, "header checksum", "right" if checksum(data[:header]) == 0 else "wrong"),
        (4, "source", known.named(str(IPv4Address(data[12:16])))),
        (4, "destination", known.named(str(IPv4Address(data[16:20])))),
    ]
    if header > 20:
        fields.append((header - 20, "options", ""))
    rest, behind = data[header:total], at + header
    if flags & 0x3FFF:
        inside = _data(rest, behind, "a part of a packet")
    elif data[9] == UDP:
        inside = _udp(rest, behind, data[12:20], known)
    elif data[9] == ICMP:
        inside = _icmp(rest, behind)
    else:
        inside = _data(rest, behind)
    padding = _data(data[total:], at + total, "behind the packet", name="padding")
    return [Layer("IPv4", _cut(data, at, fields)), *inside, *padding]


def _flags(flags: int) -> str:
    words = ["DF: do not fragment" if flags & 0x4000 else "may be fragmented"]
    if flags & 0x2000:
        words.append("more fragments follow")
    if flags & 0x1FFF:
        words.append(f"at byte {(flags & 0x1FFF) * 8}")
    return ", ".join(words)


def _udp(data: bytes, at: int, addresses: bytes, known: _Knowledge) -> list[Layer]:
    """RFC 768."""
    length = int.from_bytes(data[4:6], "big")
    if not 8 <= length <= len(data):
        return _data(data, at, "no UDP header")
    source, destination = (int.from_bytes(data[i : i + 2], "big") for i in (0, 2))
    fields = (
        (2, "source port", str(source)),
        (2, "destination port", str(destination)),
        (2, "length", f"{length} bytes, this header included"),
        (2, "checksum", _udp_checksum(data[:length], addresses)),
    )
    inside, behind = data[8:length], at + 8
    if destination == known.vxlan_port:
        payload = _vxlan(inside, behind, known)
    elif destination == known.tunnel_port:
        payload = [replace(layer, inner=True) for layer in _ipv4(inside, behind, known)]
    else:
        payload = _data(inside, behind)
    rest = _data(data[length:], at + length, "behind the datagram", name="padding")
    return [Layer("UDP", _cut(data, at, fields)), *payload, *rest]


def _udp_checksum(datagram: bytes, addresses: bytes) -> str:
    """Return what the checksum is; a capture sees a half one where the card is to finish it.

    The kernel leaves the sum of the pseudo header there (skbuff.h, CHECKSUM_PARTIAL).
    """
    stored = datagram[6:8]
    if stored == b"\0\0":
        return "none (0)"
    pseudo = addresses + bytes((0, UDP)) + len(datagram).to_bytes(2, "big")
    if checksum(pseudo + datagram) == 0:
        return "right"
    half = checksum(pseudo) ^ 0xFFFF
    return "half done" if int.from_bytes(stored, "big") == half else "wrong"


def _vxlan(data: bytes, at: int, known: _Knowledge) -> list[Layer]:
    """RFC 7348, 5."""
    if len(data) < 8:
        return _data(data, at, "no VXLAN header")
    valid = "I: the VNI is valid" if data[0] & 8 else "no VNI"
    vni = int.from_bytes(data[4:7], "big")
    fields = (
        (1, "flags", valid),
        (3, "reserved", ""),
        (3, "VNI", f"network {vni}"),
        (1, "reserved", ""),
    )
    inside = _ethernet(data[8:], at + 8, known)
    return [
        Layer("VXLAN", _cut(data, at, fields)),
        *(replace(layer, inner=True) for layer in inside),
    ]


def _icmp(data: bytes, at: int) -> list[Layer]:
    """RFC 792."""
    if len(data) < 8:
        return _data(data, at, "no ICMP header")
    fields = [
        (1, "type", ICMP_TYPES.get(data[0], str(data[0]))),
        (1, "code", str(data[1])),
        (2, "checksum", "right" if checksum(data) == 0 else "wrong"),
    ]
    if data[0] in ECHO:
        fields.append((2, "identifier", str(int.from_bytes(data[4:6], "big"))))
        fields.append((2, "sequence", str(int.from_bytes(data[6:8], "big"))))
    else:
        fields.append((4, "rest of header", ""))
    return [Layer("ICMP", _cut(data, at, fields)), *_data(data[8:], at + 8)]
