"""A lease, the codec of its key and its JSON, byte-exact. Pure.

A key below `<prefix>/subnets/` is `100.96.1.0-24`, or `10.12.13.0-24&fd00:12:13::-56` for dual
stack; the value is what flannel's LeaseAttrs prints, for example
`{"PublicIP":"10.168.0.11","PublicIPv6":null}` (flannel v0.28.9, pkg/subnet/subnet.go). What a
backend adds, for example `"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"be:51:..."}`, is
carried along here; `VtepData` reads what the vxlan backends write.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address, IPv6Network

from tunneld import gojson

# The whole key, no octet or length with a leading zero. flannel's own expression takes any
# character for two of the dots and ignores what stands around it.
_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_KEY = re.compile(
    rf"(?P<address>{_OCTET}(?:\.{_OCTET}){{3}})-(?P<length>0|[1-9][0-9]?)"
    r"(?:&(?P<address6>[0-9a-f:]+)-(?P<length6>0|[1-9][0-9]{0,2}))?",
    re.ASCII,
)

_MAC = re.compile(r"[0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2}){5}|[0-9A-Fa-f]{2}(?:-[0-9A-Fa-f]{2}){5}")

# flannel reads the lengths as 5 and 7 bits, so that no flannel node could follow a longer one.
_MAX_LENGTH = 31
_MAX_LENGTH6 = 127


class LeaseFormatError(ValueError):
    """A key or a value of the store that is no lease; the message says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class SubnetKey:
    """What a key says.

    Attributes:
        subnet: the IPv4 subnet, host bits masked.
        subnet6: the IPv6 half of a dual-stack key.
    """

    subnet: IPv4Network
    subnet6: IPv6Network | None = None


@dataclass(frozen=True, slots=True)
class LeaseAttrs:
    """What a node announces of itself: the value of its key.

    Attributes:
        public_ip: where the node's datagrams come from and go to.
        public_ipv6: the same for IPv6, as text; carried along, not used.
        backend_type: "vxlan", "host-gw"...; None for udp, which writes none.
        backend_data: what the backend's peers need to know, as parsed JSON.
    """

    public_ip: IPv4Address
    public_ipv6: str | None = None
    backend_type: str | None = None
    backend_data: object | None = field(default=None, hash=False)


@dataclass(frozen=True, slots=True)
class Lease:
    """A subnet and who holds it.

    Attributes:
        subnet: the IPv4 subnet, host bits masked.
        attrs: the holder's attributes.
        subnet6: the IPv6 half of a dual-stack lease; carried along, not used.
        key: the key as it stands in the store; filled in when left out.
    """

    subnet: IPv4Network
    attrs: LeaseAttrs
    subnet6: IPv6Network | None = None
    key: str = ""

    def __post_init__(self) -> None:
        if not self.key:
            object.__setattr__(self, "key", format_key(self.subnet, self.subnet6))

    @property
    def public_ip(self) -> IPv4Address:
        """The holder's public IP."""
        return self.attrs.public_ip


@dataclass(frozen=True, slots=True)
class VtepData:
    """The BackendData of a vxlan lease (flannel, pkg/backend/vxlan, vxlanLeaseAttrs).

    Attributes:
        mac: of the node's VTEP, lower case with colons.
        vni: None where an old writer left it out.
    """

    mac: str
    vni: int | None

    @property
    def document(self) -> dict[str, object]:
        """The same as JSON, in flannel's order."""
        return {"VNI": self.vni, "VtepMAC": self.mac}


def parse_vtep(backend_data: object) -> VtepData:
    """Read the BackendData of a vxlan lease.

    Raises:
        LeaseFormatError: it is no such object, or the MAC is none that a VTEP can have.
    """
    if not isinstance(backend_data, dict):
        raise LeaseFormatError(f"BackendData is a {gojson.kind(backend_data)}, not an object")
    fields = gojson.fold(backend_data)
    mac, vni = _text(fields, "VtepMAC"), fields.get("vni")
    if mac is None:
        raise LeaseFormatError("BackendData has no VtepMAC")
    # The two forms of 48 bits that Go's ParseMAC takes and that somebody may have typed.
    if not _MAC.fullmatch(mac):
        raise LeaseFormatError(f"VtepMAC {gojson.shown(mac)} is no MAC address")
    octets = bytes.fromhex(mac.replace("-", ":").replace(":", ""))
    if octets[0] & 1 or not any(octets):
        raise LeaseFormatError(f"VtepMAC {gojson.shown(mac)} is no address of one station")
    if vni is not None and (isinstance(vni, bool) or not isinstance(vni, int)):
        raise LeaseFormatError(f"VNI is a {gojson.kind(vni)}, not a whole number")
    return VtepData(octets.hex(":"), vni)


def parse_key(key: str) -> SubnetKey:
    """Parse the last component of a lease's key; host bits are masked.

    Raises:
        LeaseFormatError: the text is not wholly such a key.
    """
    match = _KEY.fullmatch(key)
    if match is None:
        raise LeaseFormatError(f"malformed key {gojson.shown(key)}: not like 100.96.1.0-24")
    length = int(match["length"])
    if length > _MAX_LENGTH:
        raise LeaseFormatError(f"malformed key {gojson.shown(key)}: prefix longer than /31")
    subnet = IPv4Network((match["address"], length), strict=False)
    if match["address6"] is None:
        return SubnetKey(subnet)
    length6 = int(match["length6"])
    if length6 > _MAX_LENGTH6:
        raise LeaseFormatError(f"malformed key {gojson.shown(key)}: IPv6 prefix longer than /127")
    try:
        subnet6 = IPv6Network((match["address6"], length6), strict=False)
    except AddressValueError:
        message = f"malformed key {gojson.shown(key)}: the part after & is no IPv6 address"
        raise LeaseFormatError(message) from None
    return SubnetKey(subnet, subnet6)


def format_key(subnet: IPv4Network, subnet6: IPv6Network | None = None) -> str:
    """Return the key of a subnet as flannel writes it."""
    key = f"{subnet.network_address}-{subnet.prefixlen}"
    if subnet6 is None:
        return key
    return f"{key}&{subnet6.network_address}-{subnet6.prefixlen}"


def parse_attrs(value: bytes) -> LeaseAttrs:
    """Parse the value of a lease.

    Unknown fields are ignored; `PublicIPv6` may be missing (old writers leave it out).

    Raises:
        LeaseFormatError: it is not JSON, not an object, or a field is wrong.
    """
    try:
        document = gojson.loads(value)
    except ValueError as error:
        raise LeaseFormatError(f"malformed value: not JSON: {error}") from None
    if not isinstance(document, dict):
        raise LeaseFormatError(f"malformed value: not a JSON object but a {gojson.kind(document)}")
    fields = gojson.fold(document)
    public_ip = _text(fields, "PublicIP")
    if public_ip is None:
        raise LeaseFormatError("malformed value: no PublicIP")
    try:
        address = IPv4Address(public_ip)
    except AddressValueError:
        message = f"malformed value: PublicIP {gojson.shown(public_ip)} is no IPv4 address"
        raise LeaseFormatError(message) from None
    return LeaseAttrs(
        public_ip=address,
        public_ipv6=_public_ipv6(fields),
        backend_type=_text(fields, "BackendType") or None,
        backend_data=fields.get("backenddata"),
    )


def format_attrs(attrs: LeaseAttrs) -> bytes:
    """Print the value of a lease byte for byte as flannel does, empty fields left out."""
    document: dict[str, object] = {
        "PublicIP": str(attrs.public_ip),
        "PublicIPv6": attrs.public_ipv6,
    }
    if attrs.backend_type:
        document["BackendType"] = attrs.backend_type
    if attrs.backend_data is not None:
        document["BackendData"] = attrs.backend_data
    return gojson.dumps(document)


def _public_ipv6(fields: dict[str, object]) -> str | None:
    text = _text(fields, "PublicIPv6")
    if text is None:
        return None
    try:
        IPv6Address(text)
    except AddressValueError:
        message = f"malformed value: PublicIPv6 {gojson.shown(text)} is no IPv6 address"
        raise LeaseFormatError(message) from None
    return text


def _text(fields: dict[str, object], name: str) -> str | None:
    value = fields.get(name.casefold())
    if value is not None and not isinstance(value, str):
        raise LeaseFormatError(f"malformed value: {name} is a {gojson.kind(value)}, not a string")
    return value
