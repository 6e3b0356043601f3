"""allocate: which subnet a node takes, and that it never overwrites another node's claim."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.memory_store import MemoryStore
from tunneld.allocate import DEFAULT_TTL, Held, acquire, renew
from tunneld.errors import LeaseLostError, StartError
from tunneld.lease import LeaseAttrs, format_attrs, format_key, parse_attrs, parse_key
from tunneld.netconf import NetworkConfig, parse_network_config
from tunneld.store import Entry, StoreUnavailableError

CONFIG = parse_network_config('{"Network":"100.96.0.0/16"}', "test")
OUR_IP = IPv4Address("10.168.0.11")
US = LeaseAttrs(OUR_IP)
THEM = LeaseAttrs(IPv4Address("10.168.0.12"))
OURS, THEIRS = format_attrs(US), format_attrs(THEM)
FIRST_100 = {f"100.96.{third}.0-24" for third in range(1, 101)}


def config_of(**fields: object) -> NetworkConfig:
    pairs = ",".join(f'"{key}":{value!r}' for key, value in fields.items()).replace("'", '"')
    return parse_network_config(f"{{{pairs}}}", "test")


async def take(
    store: MemoryStore,
    *,
    config: NetworkConfig = CONFIG,
    attrs: LeaseAttrs = US,
    previous: str | None = None,
    seed: int = 1,
) -> Held:
    return await acquire(
        store,
        config,
        attrs,
        previous=None if previous is None else IPv4Network(previous),
        rng=random.Random(seed),
    )


def consistent(store: MemoryStore, held: Held) -> bool:
    """Tell whether the store holds exactly what `held` says."""
    entry = store.entries[held.lease.key]
    named = parse_key(entry.key).subnet == held.lease.subnet
    return entry == held.entry and named and parse_attrs(entry.value) == held.lease.attrs


async def test_a_fresh_node_takes_one_of_the_first_100_free() -> None:
    taken = set()
    for seed in range(400):
        store = MemoryStore()
        held = await take(store, seed=seed)
        assert consistent(store, held)
        assert (
            store.entries[held.lease.key].value == b'{"PublicIP":"10.168.0.11","PublicIPv6":null}'
        )
        assert store.writes == [("create", held.lease.key, 86400.0)]
        taken.add(held.lease.key)
    assert taken <= FIRST_100
    assert len(taken) > 80


async def test_the_first_100_free_lie_behind_what_is_taken() -> None:
    store = MemoryStore()
    for third in range(1, 156):
        store.set(f"100.96.{third}.0-24", THEIRS, 10.0)
    keys = set()
    for seed in range(300):
        keys.add((await take(store, seed=seed)).lease.key)
        store.entries = {key: item for key, item in store.entries.items() if item.value == THEIRS}
    assert keys <= {f"100.96.{third}.0-24" for third in range(156, 256)}
    assert len(keys) > 80


async def test_our_own_lease_is_reused_and_prolonged() -> None:
    store = MemoryStore()
    store.set("100.96.2.0-24", THEIRS, 10.0)
    before = store.set("100.96.77.0-24", OURS, 10.0)
    held = await take(store, previous="100.96.5.0/24")
    assert held.lease.subnet == IPv4Network("100.96.77.0/24")
    assert store.writes == [("renew", "100.96.77.0-24", DEFAULT_TTL)]
    assert held.entry.mod_revision > before.mod_revision
    assert consistent(store, held)


async def test_an_old_writers_value_is_ours_too() -> None:
    store = MemoryStore()
    store.set("100.96.77.0-24", b'{"PublicIP":"10.168.0.11"}', 10.0)
    assert (await take(store)).entry.value == OURS


async def test_our_dual_stack_lease_keeps_its_key() -> None:
    store = MemoryStore()
    store.set("100.96.7.0-24&fd00:7::-64", OURS, 10.0)
    held = await take(store)
    assert held.lease.key == "100.96.7.0-24&fd00:7::-64"
    assert held.lease.subnet6 == IPv6Network("fd00:7::/64")


async def test_of_several_leases_of_ours_the_last_runs_then_the_reservation() -> None:
    store = MemoryStore()
    for third in (3, 4, 5):
        store.set(f"100.96.{third}.0-24", OURS, 10.0)
    store.set("100.96.6.0-24", OURS, None)
    assert (await take(store, previous="100.96.4.0/24")).lease.key == "100.96.4.0-24"
    assert (await take(store)).lease.key == "100.96.6.0-24"
    store.expire("100.96.6.0-24")
    assert (await take(store)).lease.key == "100.96.3.0-24"


async def test_a_claim_of_ours_that_peers_would_not_follow_is_not_reused() -> None:
    store = MemoryStore()
    store.set("100.96.3.0-24", THEIRS, 10.0)
    store.set("100.96.3.7-24", OURS, 10.0)
    assert (await take(store)).lease.subnet != IPv4Network("100.96.3.0/24")


async def test_a_reservation_is_used_and_never_written() -> None:
    store = MemoryStore("file:/x")
    store.set("100.96.9.0-24", OURS, None)
    store.set("100.96.2.0-24", THEIRS, None)
    held = await take(store, previous="100.96.5.0/24")
    assert held.lease.key == "100.96.9.0-24"
    held = await renew(store, held)
    assert (held.entry.expires_in, store.writes) == (None, [])


async def test_a_reservation_that_says_something_else_is_written() -> None:
    store = MemoryStore()
    store.set("100.96.9.0-24", OURS, None)
    attrs = replace(US, backend_type="host-gw")
    held = await take(store, attrs=attrs)
    assert held.entry.value == format_attrs(attrs)
    assert consistent(store, held)


async def test_static_peers_without_us_are_refused() -> None:
    store = MemoryStore("file:/x")
    store.set("100.96.2.0-24", THEIRS, None)
    with pytest.raises(StartError, match=r"none of them has our public IP 10\.168\.0\.11"):
        await take(store)
    store.set("100.96.3.0-25", OURS, None)
    with pytest.raises(StartError, match=r"gives us the key 100\.96\.3\.0-25: not a /24"):
        await take(store)
    assert store.writes == []


async def test_a_shared_file_store_is_not_mistaken_for_static_peers() -> None:
    store = MemoryStore("file:/x")
    first = await take(store)
    store.set("100.96.200.0-24", format_attrs(LeaseAttrs(IPv4Address("10.168.0.13"))), None)
    second = await take(store, attrs=THEM)
    assert first.lease.subnet != second.lease.subnet


async def test_reservations_in_etcd_do_not_keep_us_out() -> None:
    store = MemoryStore("etcd:")
    store.set("100.96.2.0-24", THEIRS, None)
    assert (await take(store)).lease.key in FIRST_100 - {"100.96.2.0-24"}


async def test_the_last_runs_subnet_is_taken_if_free() -> None:
    store = MemoryStore()
    store.set("100.96.2.0-24", THEIRS, 10.0)
    assert (await take(store, previous="100.96.200.0/24")).lease.key == "100.96.200.0-24"


@pytest.mark.parametrize(
    ("previous", "taken"),
    [
        ("100.96.2.0/24", "100.96.2.0-24"),
        ("100.96.2.0/24", "100.96.2.9-24"),
        ("100.96.2.0/24", "100.96.2.0-24&fd00::-64"),
        ("100.96.2.0/24", "100.96.2.128-25"),
        ("100.96.2.0/24", "100.96.2.0-23"),
        ("100.96.200.0/25", None),
        ("100.96.0.0/24", None),
        ("100.97.2.0/24", None),
        ("10.0.0.0/24", None),
    ],
)
async def test_the_last_runs_subnet_is_not_taken_when_it_does_not_fit(
    previous: str, taken: str | None
) -> None:
    store = MemoryStore()
    if taken is not None:
        store.set(taken, THEIRS, 10.0)
    held = await take(store, previous=previous)
    assert held.lease.subnet != IPv4Network(previous)
    assert held.lease.subnet.prefixlen == 24
    assert all(
        key == held.lease.key or not held.lease.subnet.overlaps(parse_key(key).subnet)
        for key in store.entries
    )


async def test_a_damaged_value_still_occupies_its_subnet() -> None:
    store = MemoryStore()
    config = config_of(Network="100.96.0.0/22")
    store.set("100.96.1.0-24", b"garbage", 10.0)
    store.set("100.96.2.0-24", b"", None)
    store.set("nonsense", THEIRS, None)
    assert (await take(store, config=config)).lease.key == "100.96.3.0-24"
    with pytest.raises(StartError, match=r"no free subnet of length /24"):
        await take(store, config=config, attrs=THEM)


async def test_subnet_min_and_max_bound_the_choice() -> None:
    config = config_of(Network="100.96.0.0/16", SubnetMin="100.96.7.0", SubnetMax="100.96.8.0")
    store = MemoryStore()
    first = await take(store, config=config)
    second = await take(store, config=config, attrs=THEM, previous="100.96.9.0/24")
    keys = {first.lease.key, second.lease.key}
    assert keys == {"100.96.7.0-24", "100.96.8.0-24"}
    with pytest.raises(StartError, match=r"between 100\.96\.7\.0 and 100\.96\.8\.0"):
        await take(store, config=config, attrs=LeaseAttrs(IPv4Address("10.168.0.13")))


async def test_a_lease_of_ours_that_the_config_no_longer_allows_is_given_back() -> None:
    store = MemoryStore()
    store.set("100.96.3.0-25", OURS, 10.0)
    store.set("100.96.4.0-25", OURS, None)
    store.set("100.96.5.0-25", THEIRS, 10.0)
    held = await take(store)
    assert set(store.entries) == {"100.96.4.0-25", "100.96.5.0-25", held.lease.key}


@pytest.mark.parametrize("public_ip", ["127.0.0.1", "224.0.0.1", "100.96.4.4", "255.255.255.255"])
async def test_a_public_ip_that_peers_would_refuse_is_not_announced(public_ip: str) -> None:
    store = MemoryStore()
    with pytest.raises(StartError, match=r"peers would not accept this node.*--public-ip"):
        await take(store, attrs=LeaseAttrs(IPv4Address(public_ip)))
    assert store.entries == {}


async def test_a_lost_race_leads_to_the_next_candidate() -> None:
    store = MemoryStore()
    lost: list[str] = []

    def rival(key: str) -> None:
        if len(lost) < 5:
            lost.append(key)
            store.set(key, THEIRS, 10.0)

    store.before_write = rival
    held = await take(store, previous="100.96.50.0/24")
    assert lost[0] == "100.96.50.0-24"
    assert len(set(lost)) == 5
    assert held.lease.key not in lost
    assert all(store.entries[key].value == THEIRS for key in lost)


async def test_a_key_that_exists_but_is_not_listed_is_not_tried_twice() -> None:
    class Hiding(MemoryStore):
        tried: tuple[str, ...] = ()

        async def create(self, key: str, value: bytes, ttl: float) -> Entry | None:
            self.tried += (key,)
            return await super().create(key, value, ttl) if len(self.tried) == 3 else None

    store = Hiding()
    held = await take(store, config=config_of(Network="100.96.0.0/22"), previous="100.96.2.0/24")
    assert sorted(store.tried) == ["100.96.1.0-24", "100.96.2.0-24", "100.96.3.0-24"]
    assert held.lease.key == store.tried[-1]


async def test_races_lost_to_the_last_subnet_end_in_an_error() -> None:
    store = MemoryStore()
    store.before_write = lambda key: store.set(key, THEIRS, 10.0)
    with pytest.raises(StartError, match="no free subnet"):
        await take(store, config=config_of(Network="100.96.0.0/22"))
    assert {item.value for item in store.entries.values()} == {THEIRS}


async def test_a_store_that_contradicts_itself_is_an_error_not_a_loop() -> None:
    class Liar(MemoryStore):
        async def renew(self, entry: Entry, value: bytes, ttl: float) -> Entry | None:
            del entry, value, ttl
            return None

    store = Liar()
    held = await take(store)
    with pytest.raises(StoreUnavailableError, match="races"):
        await take(store)
    with pytest.raises(StoreUnavailableError, match=f"{held.lease.key} in memory: keeps changing"):
        await renew(store, held)


async def test_a_lease_of_ours_that_goes_while_we_reuse_it_is_taken_anew() -> None:
    store = MemoryStore()
    store.set("100.96.2.0-24", OURS, 10.0)

    def once(key: str) -> None:
        store.before_write = None
        store.set(key, THEIRS, 10.0)

    store.before_write = once
    held = await take(store, previous="100.96.9.0/24")
    assert held.lease.key == "100.96.9.0-24"
    assert store.entries["100.96.2.0-24"].value == THEIRS


async def test_nodes_that_start_together_get_different_subnets() -> None:
    store = MemoryStore()
    nodes = [LeaseAttrs(IPv4Address("10.168.1.0") + number) for number in range(120)]
    held = await asyncio.gather(
        *(take(store, attrs=attrs, seed=seed) for seed, attrs in enumerate(nodes))
    )
    assert len({one.lease.subnet for one in held}) == 120
    assert all(consistent(store, one) for one in held)


async def test_renewing_prolongs_the_same_key() -> None:
    store = MemoryStore()
    held = await take(store)
    store.writes.clear()
    again = await renew(store, held, 100.0)
    assert store.writes == [("renew", held.lease.key, 100.0)]
    assert again.lease == held.lease
    assert again.entry.create_revision == held.entry.create_revision
    assert consistent(store, again)


async def test_a_key_that_is_merely_gone_is_put_again() -> None:
    store = MemoryStore()
    held = await take(store)
    store.expire(held.lease.key)
    again = await renew(store, held)
    assert again.lease == held.lease
    assert consistent(store, again)
    assert store.writes[-1] == ("create", held.lease.key, DEFAULT_TTL)


async def test_a_reservation_of_ours_that_is_gone_is_put_again() -> None:
    store = MemoryStore()
    store.set("100.96.9.0-24", OURS, None)
    held = await take(store)
    store.expire("100.96.9.0-24")
    assert consistent(store, await renew(store, held))


@pytest.mark.parametrize("form", ["{}", "{}&fd00::-64"])
async def test_another_owners_claim_means_the_lease_is_lost(form: str) -> None:
    store = MemoryStore()
    held = await take(store)
    store.expire(held.lease.key)
    claim = store.set(form.format(held.lease.key), THEIRS, 10.0)
    with pytest.raises(LeaseLostError, match=r"claimed by 10\.168\.0\.12 now") as caught:
        await renew(store, held)
    assert caught.value.exit_code == 3
    assert claim.key in str(caught.value)
    assert store.entries == {claim.key: claim}


async def test_a_claim_written_over_our_key_is_never_overwritten() -> None:
    store = MemoryStore()
    held = await take(store)
    claim = store.set(held.lease.key, THEIRS, 10.0)
    with pytest.raises(LeaseLostError):
        await renew(store, held)
    assert store.entries[held.lease.key] == claim


async def test_a_claim_that_appears_between_look_and_write_is_never_overwritten() -> None:
    store = MemoryStore()
    held = await take(store)
    store.expire(held.lease.key)
    calls: list[str] = []

    def rival(key: str) -> None:
        calls.append(key)
        if len(calls) == 2:
            store.set(key, THEIRS, 10.0)

    store.before_write = rival
    with pytest.raises(LeaseLostError):
        await renew(store, held)
    assert store.entries[held.lease.key].value == THEIRS


async def test_our_own_value_written_by_somebody_else_is_still_ours() -> None:
    store = MemoryStore()
    held = await take(store)
    store.set(held.lease.key, OURS, 5.0)
    assert consistent(store, await renew(store, held))


async def test_our_key_made_a_reservation_by_hand_stays_one() -> None:
    store = MemoryStore()
    held = await take(store)
    by_hand = store.set(held.lease.key, b'{"PublicIP": "10.168.0.11"}\n', None)
    again = await renew(store, held)
    assert again.entry == by_hand
    assert store.entries[held.lease.key] == by_hand


async def test_a_damaged_value_under_our_key_is_repaired() -> None:
    store = MemoryStore()
    held = await take(store)
    store.set(held.lease.key, b'{"PublicIP":', None)
    assert consistent(store, await renew(store, held))
    assert store.entries[held.lease.key].value == OURS


async def test_a_new_public_ip_is_announced_under_the_same_key() -> None:
    store = MemoryStore()
    held = await take(store)
    moved = replace(held, lease=replace(held.lease, attrs=LeaseAttrs(IPv4Address("10.168.0.99"))))
    again = await renew(store, moved)
    assert consistent(store, again)
    assert again.lease.key == held.lease.key


async def test_a_new_public_ip_after_a_missed_write_does_not_lose_the_lease() -> None:
    store = MemoryStore()
    held = await take(store)
    store.set(held.lease.key, OURS, 50.0)
    moved = replace(held, lease=replace(held.lease, attrs=LeaseAttrs(IPv4Address("10.168.0.99"))))
    again = await renew(store, moved)
    assert str(parse_attrs(store.entries[held.lease.key].value).public_ip) == "10.168.0.99"
    assert consistent(store, again)


SMALL = config_of(Network="10.0.0.0/24", SubnetLen=28, SubnetMin="10.0.0.32")
TAKEN = st.builds(
    lambda low, length: IPv4Network((0x0A000000 + low, length), strict=False),
    st.integers(0, 255),
    st.integers(25, 31),
)


@given(st.sets(TAKEN, max_size=12), st.integers(0, 1000))
def test_the_choice_against_a_naive_model(taken: set[IPv4Network], seed: int) -> None:
    store = MemoryStore()
    for subnet in taken:
        store.set(format_key(subnet), THEIRS, 10.0)
    free = [
        subnet
        for subnet in SMALL.network.subnets(new_prefix=28)
        if subnet.network_address >= SMALL.subnet_min
        and not any(subnet.overlaps(other) for other in taken)
    ]
    chosen: set[IPv4Network] = set()
    try:
        chosen.add(asyncio.run(take(store, config=SMALL, seed=seed)).lease.subnet)
    except StartError:
        assert free == []
    else:
        assert chosen <= set(free)
