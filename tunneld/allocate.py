"""How a node comes to its subnet and keeps it, on any Store.

flannel's order (v0.28.9, pkg/subnet/etcd/local_manager.go): the lease whose PublicIP is ours, else
the subnet of the last run if it is free, else a random one of the first 100 free. Every write is a
transaction, so a race that is lost leads to the next candidate and never overwrites a claim.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING

from tunneld.errors import LeaseLostError, StartError
from tunneld.lease import (
    Lease,
    LeaseAttrs,
    LeaseFormatError,
    format_attrs,
    format_key,
    parse_attrs,
    parse_key,
)
from tunneld.store import Entry, Store, StoreUnavailableError
from tunneld.subnet_map import claim_rank, public_ip_fault

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable, Iterator, Sequence

    from tunneld.netconf import NetworkConfig

DEFAULT_TTL = 86400.0  # seconds; flannel's subnetTTL

_CANDIDATES = 100
# Each lost race means that another node got on, or that somebody edits our key; far beyond what
# either can cause, so that a store that contradicts itself ends in an error and not in a loop.
_MAX_RACES = 1000


@dataclass(frozen=True, slots=True)
class Held:
    """Our lease and the entry that we hold it by.

    Attributes:
        lease: the subnet and what we announce; change its attrs and `renew` to announce anew.
        entry: as last written or seen; `renew` compares its mod revision.
    """

    lease: Lease
    entry: Entry


@dataclass(frozen=True, slots=True)
class _Claim:
    """An entry with a readable key; `public_ip` is None when its value is not readable."""

    entry: Entry
    subnet: IPv4Network
    attrs: LeaseAttrs | None

    @property
    def public_ip(self) -> IPv4Address | None:
        return None if self.attrs is None else self.attrs.public_ip

    @property
    def permanent(self) -> bool:
        return self.entry.expires_in is None


async def acquire(
    store: Store,
    config: NetworkConfig,
    attrs: LeaseAttrs,
    *,
    previous: IPv4Network | None,
    ttl: float = DEFAULT_TTL,
    rng: random.Random,
) -> Held:
    """Get a subnet and write our claim to it.

    Args:
        store: where the leases live.
        config: the network config.
        attrs: what to announce.
        previous: the subnet of the last run (subnet.env).
        ttl: seconds that the claim lives without a renewal.
        rng: chooses among the candidates, so that nodes that start together rarely collide.

    Raises:
        StartError: no subnet is free, our public IP is none that peers would accept, or the store
            holds static peers only and none of them is this node.
        StoreUnavailableError: the store does not answer.
    """
    if fault := public_ip_fault(attrs.public_ip, config.network):
        raise StartError(
            f"peers would not accept this node: {fault}",
            remedy="choose another address with --iface or --public-ip",
        )
    lost: set[IPv4Network] = set()
    for _ in range(_MAX_RACES):
        claims = _claims(await store.list_entries())
        if ours := _ours(claims, config, attrs.public_ip, previous):
            if held := await _reuse(store, ours, attrs, ttl):
                return held
            continue
        _refuse_static_peers(store, claims, config, attrs.public_ip)
        await _drop_stale(store, claims, config, attrs.public_ip)
        subnet = _choose(config, claims, lost, previous, rng)
        key, value = format_key(subnet), format_attrs(attrs)
        if entry := await store.create(key, value, ttl):
            return Held(Lease(subnet, attrs, key=key), entry)
        lost.add(subnet)
    raise StoreUnavailableError(f"lost {_MAX_RACES} races for a subnet in {store.url}")


async def renew(store: Store, held: Held, ttl: float = DEFAULT_TTL) -> Held:
    """Prolong our claim for `ttl` seconds, announcing `held.lease.attrs`.

    A key that is merely gone (expired, removed by hand) is put again, one whose value was damaged
    is written again; a permanent reservation is only looked at.

    Raises:
        LeaseLostError: another owner claims the subnet.
        StoreUnavailableError: the store does not answer, or the key keeps changing.
    """
    lease, entry = held.lease, held.entry
    value = format_attrs(lease.attrs)
    owners = {lease.public_ip, _public_ip(entry) or lease.public_ip}
    if entry.expires_in is not None and (renewed := await store.renew(entry, value, ttl)):
        return Held(lease, renewed)
    for _ in range(_MAX_RACES):
        rivals = [claim for claim in _claims(await store.list_entries()) if _same(claim, lease)]
        found = next((claim for claim in rivals if claim.entry.key == lease.key), None)
        if found is None or found.public_ip not in owners:
            _refuse_rivals(rivals, owners, lease)
        if found is None:
            written = await store.create(lease.key, value, ttl)
        elif found.permanent and _announces(found, lease.attrs):
            return Held(lease, found.entry)
        else:
            written = await store.renew(found.entry, value, ttl)
        if written is not None:
            return Held(lease, written)
    raise StoreUnavailableError(f"the key {lease.key} in {store.url} keeps changing")


def _claims(entries: Iterable[Entry]) -> list[_Claim]:
    """Read what can be read: a key occupies its subnet even when its value is damaged."""
    claims: list[_Claim] = []
    for entry in entries:
        try:
            subnet = parse_key(entry.key).subnet
        except LeaseFormatError:
            continue
        try:
            claims.append(_Claim(entry, subnet, parse_attrs(entry.value)))
        except LeaseFormatError:
            claims.append(_Claim(entry, subnet, None))
    return claims


def _public_ip(entry: Entry) -> IPv4Address | None:
    try:
        return parse_attrs(entry.value).public_ip
    except LeaseFormatError:
        return None


def _same(claim: _Claim, lease: Lease) -> bool:
    return claim.subnet == lease.subnet


def _refuse_rivals(rivals: Iterable[_Claim], owners: set[IPv4Address], lease: Lease) -> None:
    for rival in rivals:
        if rival.public_ip is not None and rival.public_ip not in owners:
            raise LeaseLostError(
                f"the subnet {lease.subnet} is claimed by {rival.public_ip} now"
                f" (key {rival.entry.key})",
                remedy="restart to acquire another subnet",
            )


def _announces(claim: _Claim, attrs: LeaseAttrs) -> bool:
    """Tell whether a reservation says already all that peers need, so that it can stay as it is."""
    if claim.attrs is None or claim.attrs.public_ip != attrs.public_ip:
        return False
    said = (claim.attrs.backend_type, claim.attrs.backend_data)
    return said == (attrs.backend_type, attrs.backend_data)


def _ours(
    claims: Sequence[_Claim],
    config: NetworkConfig,
    public_ip: IPv4Address,
    previous: IPv4Network | None,
) -> _Claim | None:
    """Find the lease whose PublicIP is ours; of several the last run's, then a reservation."""
    best: dict[IPv4Network, _Claim] = {}
    for claim in claims:
        if claim.public_ip is None or public_ip_fault(claim.public_ip, config.network):
            continue
        rival = best.setdefault(claim.subnet, claim)
        if claim_rank(claim.entry, claim.subnet) < claim_rank(rival.entry, claim.subnet):
            best[claim.subnet] = claim
    mine = [
        claim
        for claim in best.values()
        if claim.public_ip == public_ip and config.leases_subnet(claim.subnet)
    ]
    return min(
        mine,
        key=lambda claim: (
            claim.subnet != previous,
            not claim.permanent,
            claim.entry.create_revision,
            claim.subnet,
        ),
        default=None,
    )


async def _reuse(store: Store, claim: _Claim, attrs: LeaseAttrs, ttl: float) -> Held | None:
    """Take over a lease that names us; None: somebody changed it meanwhile."""
    entry: Entry | None = claim.entry
    # To write a reservation would turn it into a lease that expires.
    if not (claim.permanent and _announces(claim, attrs)):
        entry = await store.renew(claim.entry, format_attrs(attrs), ttl)
    if entry is None:
        return None
    key = parse_key(entry.key)
    return Held(Lease(key.subnet, attrs, key.subnet6, entry.key), entry)


def _refuse_static_peers(
    store: Store, claims: Sequence[_Claim], config: NetworkConfig, public_ip: IPv4Address
) -> None:
    """Refuse to invent a subnet where each host has its own copy of a list made by hand."""
    if not store.url.startswith("file:") or not claims:
        return
    if not all(claim.permanent for claim in claims):
        return
    if mine := next((claim for claim in claims if claim.public_ip == public_ip), None):
        raise StartError(
            f"{store.url} gives us the key {mine.entry.key}: not a /{config.subnet_len} between"
            f" {config.subnet_min} and {config.subnet_max}, or another key claims the same subnet",
            remedy="correct the key, or SubnetLen, SubnetMin and SubnetMax in the network config",
        )
    raise StartError(
        f"{store.url} holds static peers and none of them has our public IP {public_ip}",
        remedy=f'add subnets/<our subnet> with {{"PublicIP":"{public_ip}"}},'
        " or choose the address with --public-ip",
    )


async def _drop_stale(
    store: Store, claims: Sequence[_Claim], config: NetworkConfig, public_ip: IPv4Address
) -> None:
    """Remove leases of ours that the network config no longer allows, as flannel does."""
    for claim in claims:
        mine = claim.public_ip == public_ip and not claim.permanent
        if mine and not config.leases_subnet(claim.subnet):
            await store.remove(claim.entry)


def _choose(
    config: NetworkConfig,
    claims: Sequence[_Claim],
    lost: Iterable[IPv4Network],
    previous: IPv4Network | None,
    rng: random.Random,
) -> IPv4Network:
    taken = [claim.subnet for claim in claims]
    taken += lost
    wanted = previous is not None and config.leases_subnet(previous)
    if previous and wanted and not any(previous.overlaps(subnet) for subnet in taken):
        return previous
    free = list(itertools.islice(_free(config, taken), _CANDIDATES))
    if not free:
        raise StartError(
            f"no free subnet of length /{config.subnet_len} between {config.subnet_min}"
            f" and {config.subnet_max}",
            remedy="remove stale keys, or widen Network, SubnetMin or SubnetMax in the config",
        )
    return rng.choice(free)


def _free(config: NetworkConfig, taken: Iterable[IPv4Network]) -> Iterator[IPv4Network]:
    """Yield the subnets that overlap nothing taken, from SubnetMin up.

    Walks both sorted sequences once: a /8 has 65,536 subnets and as many leases.
    """
    size = 1 << (32 - config.subnet_len)
    spans = sorted((int(net.network_address), int(net.broadcast_address)) for net in taken)
    base, last, index = int(config.subnet_min), int(config.subnet_max), 0
    while base <= last:
        while index < len(spans) and spans[index][1] < base:
            index += 1
        if index == len(spans) or spans[index][0] >= base + size:
            yield IPv4Network((base, config.subnet_len))
            base += size
        else:
            base = -(-(spans[index][1] + 1) // size) * size
