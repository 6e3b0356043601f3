"""Leases of the store -> admitted peers: a reducer over snapshots and events. Pure.

Each entry is judged by itself, by the other entries of the same subnet and by what this node holds,
never by anything else, so that a bad entry can cost no peer its route. Judgements depend on what
is in the store, not on the order in which it came: a snapshot and any sequence of events that ends
in the same content give the same peers.

The rules are those of admission: the key is wholly a key, its subnet lies in the Network and is
longer than it, the public IP is one that a peer can have, one key per subnet, nothing over the own
subnet. Overlaps of different lengths are legal; the packet path lets the longest prefix win.
"""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from types import MappingProxyType
from typing import TYPE_CHECKING

from tunneld.lease import Lease, LeaseFormatError, format_key, parse_attrs, parse_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from tunneld.store import Entry


@dataclass(frozen=True, slots=True)
class Change:
    """What one snapshot or event did; truthy when forwarding must be published again.

    Attributes:
        added: peers that were not there.
        removed: peers that are gone, as they were.
        changed: peers of which any part of the value differs, as they are now.
        quarantined: (key, reason) of entries skipped for a reason not yet told: log these.
        released: keys that were quarantined and are no longer.
    """

    added: tuple[Lease, ...] = ()
    removed: tuple[Lease, ...] = ()
    changed: tuple[Lease, ...] = ()
    quarantined: tuple[tuple[str, str], ...] = ()
    released: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)

    def __add__(self, later: Change) -> Change:
        return Change(
            self.added + later.added,
            self.removed + later.removed,
            self.changed + later.changed,
            self.quarantined + later.quarantined,
            self.released + later.released,
        )


@dataclass(slots=True)
class _Slot:
    """All readable claims of one subnet, by key, and the one that is a peer now."""

    claims: dict[str, Lease] = field(default_factory=dict)
    peer: Lease | None = None


class SubnetMap:
    """The peers of one node.

    Args:
        network: the overlay network.
        own_subnet: the subnet that this node holds.
        own_public_ip: this node's public IP.
    """

    def __init__(
        self, network: IPv4Network, own_subnet: IPv4Network, own_public_ip: IPv4Address
    ) -> None:
        self._network = network
        self._own_subnet = own_subnet
        self._own_public_ip = own_public_ip
        self._entries: dict[str, Entry] = {}
        self._subnet_of: dict[str, IPv4Network] = {}
        self._slots: dict[IPv4Network, _Slot] = {}
        self._quarantined: dict[str, str] = {}
        self._peers: tuple[Lease, ...] | None = ()

    @property
    def peers(self) -> tuple[Lease, ...]:
        """The admitted leases without our own, in order of address and length."""
        if self._peers is None:
            peers = [slot.peer for slot in self._slots.values() if slot.peer is not None]
            self._peers = tuple(sorted(peers, key=_position))
        return self._peers

    @property
    def quarantined(self) -> Mapping[str, str]:
        """Key -> reason of each entry that is skipped now."""
        return MappingProxyType(self._quarantined)

    def snapshot(self, entries: Iterable[Entry]) -> Change:
        """Take the whole content of the store."""
        return self._apply(self._edits(entries))

    def snapshot_in_parts(self, entries: Iterable[Entry], size: int = 50) -> Iterator[Change]:
        """Take the whole content of the store, some 2 ms at a time at the most.

        What is new comes before what is gone, so that no peer is missing in between.
        """
        edits = iter(self._edits(entries).items())
        while part := dict(itertools.islice(edits, size)):
            yield self._apply(part)

    def _edits(self, entries: Iterable[Entry]) -> dict[str, Entry | None]:
        now = {entry.key: entry for entry in entries}
        edits: dict[str, Entry | None] = dict(now)
        edits.update(dict.fromkeys(self._entries.keys() - now.keys()))
        return edits

    def put(self, entry: Entry) -> Change:
        """Take one new or changed entry."""
        return self._apply({entry.key: entry})

    def delete(self, key: str) -> Change:
        """Forget one entry; unknown keys are none of our business."""
        return self._apply({key: None})

    def own_changed(self, own_subnet: IPv4Network, own_public_ip: IPv4Address) -> Change:
        """Judge everything again after this node's subnet or public IP changed."""
        self._own_subnet, self._own_public_ip = own_subnet, own_public_ip
        entries, self._entries = self._entries, {}
        return self._apply(dict(entries))

    def _apply(self, edits: Mapping[str, Entry | None]) -> Change:
        faults: dict[str, str | None] = {}
        touched: set[IPv4Network] = set()
        for key, entry in edits.items():
            if entry is not None and _same(self._entries.get(key), entry):
                self._entries[key] = entry
                continue
            touched |= self._forget(key)
            faults[key] = None
            if entry is not None:
                self._entries[key] = entry
                faults[key] = self._admit(entry)
            touched |= self._subnets(key)
        added: list[Lease] = []
        removed: list[Lease] = []
        changed: list[Lease] = []
        for subnet in touched:
            before, after = self._settle(subnet, faults)
            if before is None and after is not None:
                added.append(after)
            elif before is not None and after is None:
                removed.append(before)
            elif before is not None and after is not None and before != after:
                changed.append(after)
        if added or removed or changed:
            self._peers = None
        quarantined, released = self._tell(faults)
        return Change(_sorted(added), _sorted(removed), _sorted(changed), quarantined, released)

    def _subnets(self, key: str) -> set[IPv4Network]:
        subnet = self._subnet_of.get(key)
        return set() if subnet is None else {subnet}

    def _forget(self, key: str) -> set[IPv4Network]:
        """Take the key's entry out and return the subnet that must be settled again, if any."""
        touched = self._subnets(key)
        self._entries.pop(key, None)
        for subnet in touched:
            del self._subnet_of[key]
            del self._slots[subnet].claims[key]
        return touched

    def _admit(self, entry: Entry) -> str | None:
        """File the entry under its subnet, or return the reason why it is skipped."""
        try:
            name = parse_key(entry.key)
            if reason := subnet_fault(name.subnet, self._network):
                return reason
            lease = Lease(name.subnet, parse_attrs(entry.value), name.subnet6, entry.key)
        except LeaseFormatError as error:
            return str(error)
        reason = public_ip_fault(lease.public_ip, self._network) or self._own_fault(lease)
        if reason is None:
            self._subnet_of[entry.key] = lease.subnet
            self._slots.setdefault(lease.subnet, _Slot()).claims[entry.key] = lease
        return reason

    def _own_fault(self, lease: Lease) -> str | None:
        ours = lease.public_ip == self._own_public_ip
        if lease.subnet == self._own_subnet:
            if ours:
                return None
            return f"{lease.subnet} is our own subnet, claimed by {lease.public_ip}"
        if ours:
            return f"public IP {lease.public_ip} is our own, but {lease.subnet} is not our subnet"
        # A longer prefix would beat ours: the packet path could neither deliver nor refuse it.
        if lease.subnet.subnet_of(self._own_subnet):
            return f"{lease.subnet} lies inside our own subnet {self._own_subnet}"
        return None

    def _settle(
        self, subnet: IPv4Network, faults: dict[str, str | None]
    ) -> tuple[Lease | None, Lease | None]:
        """Choose the peer of a subnet anew; return the one before and the one after."""
        slot = self._slots[subnet]
        before, slot.peer = slot.peer, None
        ranked = sorted(slot.claims, key=lambda key: claim_rank(self._entries[key], subnet))
        if not ranked:
            del self._slots[subnet]
            return before, None
        for key in ranked:
            faults[key] = None
        if subnet != self._own_subnet:
            slot.peer = slot.claims[ranked[0]]
            for key in ranked[1:]:
                faults[key] = f"{subnet} is held already by the key {ranked[0]}"
        return before, slot.peer

    def _tell(
        self, faults: Mapping[str, str | None]
    ) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...]]:
        quarantined: list[tuple[str, str]] = []
        released: list[str] = []
        for key, reason in sorted(faults.items()):
            before = self._quarantined.get(key)
            if reason is None:
                if self._quarantined.pop(key, None) is not None:
                    released.append(key)
            elif reason != before:
                self._quarantined[key] = reason
                quarantined.append((key, reason))
        return tuple(quarantined), tuple(released)


def readable_leases(entries: Iterable[Entry]) -> list[Lease]:
    """Return every entry that is wholly a lease; admission is not asked, our own is among them."""
    leases = []
    for entry in entries:
        with contextlib.suppress(LeaseFormatError):
            name = parse_key(entry.key)
            leases.append(Lease(name.subnet, parse_attrs(entry.value), name.subnet6, entry.key))
    return leases


def claim_rank(entry: Entry, subnet: IPv4Network) -> tuple[int, bool, bool, str]:
    """Order two keys of one subnet, the better claim first.

    The lower create revision wins; where the store gives no such order (equal revisions), the plain
    IPv4 key does, then the one without host bits.
    """
    dual_stack = "&" in entry.key
    host_bits = entry.key.partition("&")[0] != format_key(subnet)
    return entry.create_revision, dual_stack, host_bits, entry.key


def subnet_fault(subnet: IPv4Network, network: IPv4Network) -> str | None:
    """Say why a subnet cannot be a lease in this Network; None: it can."""
    if not subnet.subnet_of(network):
        return f"{subnet} does not lie in the Network {network}"
    if subnet == network:
        return f"{subnet} is the whole Network, not a subnet of it"
    return None


def public_ip_fault(public_ip: IPv4Address, network: IPv4Network) -> str | None:
    """Say why an address cannot be a node's public IP; None: it can."""
    if public_ip.is_multicast:
        return f"public IP {public_ip} is multicast"
    if public_ip.is_loopback:
        return f"public IP {public_ip} is loopback"
    # 0/8 and 240/4 with the broadcast address (RFC 1122, 3.2.1.3; RFC 1112).
    if public_ip in _THIS_NETWORK or public_ip.is_reserved:
        return f"public IP {public_ip} is not unicast"
    if public_ip in network:
        return f"public IP {public_ip} lies inside the Network {network}"
    return None


_THIS_NETWORK = IPv4Network("0.0.0.0/8")


def _same(before: Entry | None, now: Entry) -> bool:
    """Tell whether nothing that admission looks at differs: renewals only change the rest."""
    if before is None:
        return False
    return (before.value, before.create_revision) == (now.value, now.create_revision)


def _position(lease: Lease) -> tuple[int, int]:
    return int(lease.subnet.network_address), lease.subnet.prefixlen


def _sorted(leases: list[Lease]) -> tuple[Lease, ...]:
    return tuple(sorted(leases, key=_position))
