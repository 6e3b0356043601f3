"""The network config: the JSON document at `<prefix>/config` and its rules. Pure.

Rules, their order and the error texts are flannel's (v0.28.9, pkg/subnet/config.go), so that an
operator who knows flannel knows these messages; what flannel leaves to chance (ports, wrong types)
is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import AddressValueError, IPv4Address, IPv4Network
from types import MappingProxyType

from tunneld import gojson
from tunneld.errors import ConfigError

# Every type that flannel v0.28.9 knows; which of them run here, the registry of backends says.
FLANNEL_BACKENDS = frozenset(
    ("alloc", "extension", "host-gw", "ipip", "ipsec", "tencent-vpc", "udp", "vxlan", "wireguard")
)

# Ours: VXLAN as flannel had it before v0.9, with the daemon answering the kernel's misses.
OWN_BACKENDS = frozenset(("vxlan-miss",))

_DEFAULT_PORTS = {"udp": 8285, "vxlan": 8472, "vxlan-miss": 8472}
_MIN_NETWORK_LEN = 28
_MAX_SUBNET_LEN = 30
_WIDE_NETWORK_LEN = 22
_DEFAULT_SUBNET_LEN = 24
_MIN_MTU = 68  # RFC 791: every module forwards 68 octets
_MAX_MTU = 65507  # the largest payload of a UDP datagram over IPv4

_CIDR = re.compile(r"([0-9.]+)/([0-9]{1,2})", re.ASCII)
_UNSET = IPv4Address(0)

_Refuse = Callable[[str, str], ConfigError]


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """The network config with all defaults filled in.

    Attributes:
        network: the overlay network.
        subnet_len: prefix length of the subnets to lease.
        subnet_min: base address of the first subnet that may be leased.
        subnet_max: base address of the last one.
        backend_type: one of `FLANNEL_BACKENDS` or `OWN_BACKENDS`, in lower case.
        port: UDP port of the backend; 0 for backends without one.
        mtu: MTU of the overlay device in bytes; None: derived from the underlay.
        backend: the Backend object as it stands in the document; read it through `option`.
    """

    network: IPv4Network
    subnet_len: int
    subnet_min: IPv4Address
    subnet_max: IPv4Address
    backend_type: str = "udp"
    port: int = 8285
    mtu: int | None = None
    backend: Mapping[str, object] = field(default_factory=dict, hash=False)

    def option(self, name: str) -> object:
        """Return one Backend option, its name matched in any case; None when it is not given."""
        return gojson.fold(dict(self.backend)).get(name.casefold())

    def leases_subnet(self, subnet: IPv4Network) -> bool:
        """Tell whether `subnet` is one that a node may lease: length, SubnetMin and SubnetMax."""
        in_range = self.subnet_min <= subnet.network_address <= self.subnet_max
        return in_range and subnet.prefixlen == self.subnet_len


def parse_network_config(text: bytes | str, source: str) -> NetworkConfig:
    """Parse and check the network config.

    Args:
        text: the JSON document.
        source: where it was read, for messages ("/coreos.com/network/config").

    Raises:
        ConfigError: with the field and the source.
    """
    fields = _fields(text, source)

    def refuse(name: str, message: str) -> ConfigError:
        return ConfigError(message, field=name, source=source)

    _check_families(fields, refuse)
    network = _network(fields, refuse)
    subnet_len = _subnet_len(fields, network, refuse)
    subnet_min, subnet_max = _subnet_range(fields, network, subnet_len, refuse)
    backend = _backend(fields, refuse)
    options = gojson.fold(backend)
    backend_type = _backend_type(backend, options, refuse)
    return NetworkConfig(
        network=network,
        subnet_len=subnet_len,
        subnet_min=subnet_min,
        subnet_max=subnet_max,
        backend_type=backend_type,
        port=_port(options, backend_type, refuse),
        mtu=_mtu(options, refuse),
        backend=MappingProxyType(backend),
    )


def _fields(text: bytes | str, source: str) -> dict[str, object]:
    try:
        document = gojson.loads(text)
    except ValueError as error:
        raise ConfigError(f"the network config is not JSON: {error}", source=source) from None
    if not isinstance(document, dict):
        found = gojson.kind(document)
        raise ConfigError(f"the network config is not a JSON object but a {found}", source=source)
    # To Go a null leaves the field as it was.
    return {key: value for key, value in gojson.fold(document).items() if value is not None}


def _check_families(fields: Mapping[str, object], refuse: _Refuse) -> None:
    for name in ("EnableIPv4", "EnableIPv6", "EnableNFTables"):
        value = fields.get(name.casefold())
        if value is not None and not isinstance(value, bool):
            raise refuse(name, f"must be true or false, not a {gojson.kind(value)}")
    if fields.get("enableipv4") is False:
        message = "tunneld carries IPv4 only for now, so EnableIPv4 cannot be false"
        raise refuse("EnableIPv4", message)
    if fields.get("enableipv6") is True:
        message = "tunneld carries IPv4 only for now, so EnableIPv6 cannot be true"
        raise refuse("EnableIPv6", message)


def _network(fields: Mapping[str, object], refuse: _Refuse) -> IPv4Network:
    value = fields.get("network", "")
    if not isinstance(value, str):
        raise refuse("Network", f'must be a string like "10.5.0.0/16", not a {gojson.kind(value)}')
    network = IPv4Network((0, 0)) if value == "" else _cidr(value)
    if network is None:
        raise refuse("Network", f"invalid CIDR address: {gojson.shown(value)}")
    if network == IPv4Network((0, 0)):
        message = "please define a correct Network parameter in the flannel config"
        raise refuse("Network", message)
    return network


def _cidr(text: str) -> IPv4Network | None:
    """Parse `a.b.c.d/len`; IPv4Network alone would take netmasks and single addresses too."""
    match = _CIDR.fullmatch(text)
    try:
        return IPv4Network((match[1], int(match[2])), strict=False) if match else None
    except ValueError:
        return None


def _subnet_len(fields: Mapping[str, object], network: IPv4Network, refuse: _Refuse) -> int:
    length = _whole_number(fields, "SubnetLen", 0, refuse)
    if length < 0:
        raise refuse("SubnetLen", f"must not be negative: {length}")
    if length > _MAX_SUBNET_LEN:
        raise refuse("SubnetLen", "SubnetLen must be less than /31")
    if length > 0:
        if length < network.prefixlen + 2:
            message = "network must be able to accommodate at least four subnets"
            raise refuse("SubnetLen", message)
        return length
    if network.prefixlen > _MIN_NETWORK_LEN:
        message = "network is too small. Minimum useful network prefix is /28"
        raise refuse("Network", message)
    if network.prefixlen <= _WIDE_NETWORK_LEN:
        return _DEFAULT_SUBNET_LEN
    return network.prefixlen + 2


def _subnet_range(
    fields: Mapping[str, object], network: IPv4Network, subnet_len: int, refuse: _Refuse
) -> tuple[IPv4Address, IPv4Address]:
    size = 1 << (32 - subnet_len)
    first, last = network.network_address + size, network.broadcast_address - size + 1
    bounds = {"SubnetMin": first, "SubnetMax": last}
    for name in bounds:
        given = _address(fields, name, refuse)
        if given == _UNSET:
            continue
        if given not in network:
            raise refuse(name, f"{name} is not in the range of the Network")
        bounds[name] = given
    for name, address in bounds.items():
        if int(address) % size:
            raise refuse(name, f"{name} is not on a SubnetLen boundary: {address}")
    subnet_min, subnet_max = bounds["SubnetMin"], bounds["SubnetMax"]
    if subnet_min > subnet_max:
        message = f"SubnetMin {subnet_min} lies above SubnetMax {subnet_max}"
        raise refuse("SubnetMin", message)
    return subnet_min, subnet_max


def _address(fields: Mapping[str, object], name: str, refuse: _Refuse) -> IPv4Address:
    value = fields.get(name.casefold())
    if value is None:
        return _UNSET
    if not isinstance(value, str):
        raise refuse(name, f"must be a string like 10.5.16.0, not a {gojson.kind(value)}")
    try:
        return IPv4Address(value)
    except AddressValueError:
        raise refuse(name, f"is not an IPv4 address: {gojson.shown(value)}") from None


def _backend(fields: Mapping[str, object], refuse: _Refuse) -> dict[str, object]:
    value = fields.get("backend", {"Type": "udp"})
    if not isinstance(value, dict):
        raise refuse("Backend", f"must be a JSON object, not a {gojson.kind(value)}")
    return value


def _backend_type(
    backend: Mapping[str, object], options: Mapping[str, object], refuse: _Refuse
) -> str:
    value = options.get("type")
    if value is None:
        value = ""
    if not isinstance(value, str):
        raise refuse("Backend.Type", f"must be a string, not a {gojson.kind(value)}")
    backend_type = value.lower()
    if backend_type == "":
        # flannel's default holds only while there is no Backend object at all.
        message = f'unknown backend type: "" (add "Type" beside {gojson.shown(", ".join(backend))})'
        raise refuse("Backend.Type", message)
    if backend_type not in FLANNEL_BACKENDS | OWN_BACKENDS:
        name = backend_type if backend_type.isascii() and backend_type.isprintable() else ""
        raise refuse(
            "Backend.Type", f"unknown backend type: {name[:60] or gojson.shown(backend_type)}"
        )
    return backend_type


def _port(options: Mapping[str, object], backend_type: str, refuse: _Refuse) -> int:
    if backend_type not in _DEFAULT_PORTS:
        return 0
    port = _whole_number(options, "Port", _DEFAULT_PORTS[backend_type], refuse, "Backend.")
    if not 1 <= port <= 65535:
        raise refuse("Backend.Port", f"must lie between 1 and 65535: {port}")
    return port


def _mtu(options: Mapping[str, object], refuse: _Refuse) -> int | None:
    mtu = _whole_number(options, "MTU", 0, refuse, "Backend.")
    if mtu == 0:
        return None
    if not _MIN_MTU <= mtu <= _MAX_MTU:
        raise refuse("Backend.MTU", f"must lie between {_MIN_MTU} and {_MAX_MTU} bytes: {mtu}")
    return mtu


def _whole_number(
    fields: Mapping[str, object], name: str, default: int, refuse: _Refuse, prefix: str = ""
) -> int:
    value = fields.get(name.casefold())
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int):
        found = str(value) if isinstance(value, float) else f"a {gojson.kind(value)}"
        raise refuse(prefix + name, f"must be a whole number, not {found}")
    return value
