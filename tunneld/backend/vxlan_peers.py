"""What the vxlan backends read out of the peers' leases. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from tunneld.lease import Lease, LeaseFormatError, parse_vtep


@dataclass(frozen=True, slots=True)
class Vtep:
    """A peer as the tables see it.

    Attributes:
        subnet: its lease.
        public_ip: where outer packets go.
        mac: of its VTEP.
    """

    subnet: IPv4Network
    public_ip: IPv4Address
    mac: str

    @property
    def base(self) -> IPv4Address:
        """The next hop of its subnet: the address of its VTEP."""
        return self.subnet.network_address


def read_peers(
    peers: Iterable[Lease], *, backend_type: str, vni: int, own_mac: str
) -> tuple[tuple[Vtep, ...], dict[IPv4Network, str]]:
    """Take from the peers those that our VTEP can reach. Pure.

    Args:
        peers: admitted leases; of two that cannot both be right the first wins.
        backend_type: the type of our own lease.
        vni: our VNI.
        own_mac: of our VTEP.

    Returns:
        The peers, and the reason of each that is left out.
    """
    taken: dict[IPv4Network, Vtep] = {}
    skipped: dict[IPv4Network, str] = {}
    bearers: dict[str, Vtep] = {}
    for lease in peers:
        kind = lease.attrs.backend_type or "udp"
        if kind != backend_type:
            skipped[lease.subnet] = f"its lease is of type {kind}, not {backend_type}"
            continue
        try:
            data = parse_vtep(lease.attrs.backend_data)
        except LeaseFormatError as error:
            skipped[lease.subnet] = str(error)
            continue
        vtep = Vtep(lease.subnet, lease.public_ip, data.mac)
        if data.vni not in {None, vni}:
            skipped[lease.subnet] = f"its VNI is {data.vni}, ours {vni}"
        elif vtep.mac == own_mac:
            skipped[lease.subnet] = f"its VtepMAC {vtep.mac} is our own"
        elif (other := bearers.setdefault(vtep.mac, vtep)).public_ip != vtep.public_ip:
            # One FDB entry cannot lead to two hosts: the later one would take the other's packets.
            skipped[lease.subnet] = f"its VtepMAC {vtep.mac} is that of {other.subnet} too"
        else:
            taken[lease.subnet] = vtep
    return tuple(taken.values()), skipped
