"""subnet_map: each admission rule by itself, and the reducer against a naive model."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunneld.lease import Lease, LeaseFormatError, parse_attrs, parse_key
from tunneld.store import Entry
from tunneld.subnet_map import Change, SubnetMap

NETWORK = IPv4Network("100.96.0.0/16")
OWN_SUBNET = IPv4Network("100.96.1.0/24")
OWN_IP = IPv4Address("10.168.0.11")
OWN_KEY = "100.96.1.0-24"


def value(public_ip: str) -> bytes:
    return f'{{"PublicIP":"{public_ip}","PublicIPv6":null}}'.encode()


def entry(key: str, public_ip: str = "10.168.0.12", create: int = 1, mod: int = 1) -> Entry:
    return Entry(key, value(public_ip), create, mod, 86400.0)


def own_entry() -> Entry:
    return entry(OWN_KEY, str(OWN_IP))


def new_map() -> SubnetMap:
    return SubnetMap(NETWORK, OWN_SUBNET, OWN_IP)


def routes(subnets: SubnetMap) -> dict[str, str]:
    return {str(peer.subnet): str(peer.public_ip) for peer in subnets.peers}


GOOD = entry("100.96.2.0-24", "10.168.0.12")


def admitted_beside_a_good_peer(suspect: Entry) -> bool:
    """Put a suspect entry beside a good one, in both orders; the good one must never suffer."""
    verdicts = set()
    for entries in ((GOOD, suspect, own_entry()), (own_entry(), suspect, GOOD)):
        subnets = new_map()
        told = [pair for item in entries for pair in subnets.put(item).quarantined]
        assert routes(subnets)["100.96.2.0/24"] == "10.168.0.12"
        assert dict(told) == subnets.quarantined
        assert len(told) == len(subnets.quarantined)
        verdicts.add(suspect.key not in subnets.quarantined)
    (verdict,) = verdicts
    return verdict


def reason(suspect: Entry) -> str:
    assert not admitted_beside_a_good_peer(suspect)
    subnets = new_map()
    ((key, text),) = subnets.snapshot([GOOD, own_entry(), suspect]).quarantined
    assert key == suspect.key
    return text


def test_peers_are_the_admitted_leases_without_our_own() -> None:
    subnets = new_map()
    change = subnets.snapshot([own_entry(), entry("100.96.3.0-24", "10.168.0.13"), GOOD])
    assert routes(subnets) == {"100.96.2.0/24": "10.168.0.12", "100.96.3.0/24": "10.168.0.13"}
    assert change == Change(added=subnets.peers)
    assert [peer.key for peer in subnets.peers] == ["100.96.2.0-24", "100.96.3.0-24"]


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("config", "malformed key"),
        ("100.96.3.0-33", "malformed key"),
        ("100.96.3.0-24&", "malformed key"),
        ("100.97.3.0-24", "100.97.3.0/24 does not lie in the Network 100.96.0.0/16"),
        ("100.96.0.0-15", "does not lie in the Network"),
        ("0.0.0.0-0", "does not lie in the Network"),
        ("100.96.0.0-16", "is the whole Network"),
    ],
)
def test_a_key_that_is_no_subnet_of_the_network(key: str, text: str) -> None:
    assert text in reason(entry(key))


@pytest.mark.parametrize(
    "raw", [b"", b"{}", b"null", b"\xff", b'{"PublicIP":"x"}', b'{"PublicIP":[]}', b"[" * 100_000]
)
def test_a_malformed_value(raw: bytes) -> None:
    assert "malformed value" in reason(replace(GOOD, key="100.96.3.0-24", value=raw))


@pytest.mark.parametrize(
    ("public_ip", "text"),
    [
        ("224.0.0.1", "is multicast"),
        ("239.255.255.255", "is multicast"),
        ("127.0.0.1", "is loopback"),
        ("127.255.0.9", "is loopback"),
        (str(IPv4Address(0)), "is not unicast"),
        ("0.1.2.3", "is not unicast"),
        ("240.0.0.1", "is not unicast"),
        ("255.255.255.255", "is not unicast"),
        ("100.96.0.1", "lies inside the Network"),
        ("100.96.255.255", "lies inside the Network"),
        (str(OWN_IP), "is our own, but 100.96.3.0/24 is not our subnet"),
    ],
)
def test_a_public_ip_that_no_peer_can_have(public_ip: str, text: str) -> None:
    assert text in reason(entry("100.96.3.0-24", public_ip))


@pytest.mark.parametrize("public_ip", ["169.254.1.1", "100.97.0.1", "223.255.255.254", "8.8.8.8"])
def test_unusual_public_ips_that_are_legal(public_ip: str) -> None:
    assert admitted_beside_a_good_peer(entry("100.96.3.0-24", public_ip))


def test_several_leases_may_have_one_public_ip() -> None:
    assert admitted_beside_a_good_peer(entry("100.96.3.0-24", "10.168.0.12"))


@pytest.mark.parametrize("key", ["100.96.2.128-25", "100.96.2.0-23", "100.96.2.0-28"])
def test_overlaps_of_different_lengths_are_legal(key: str) -> None:
    assert admitted_beside_a_good_peer(entry(key, "10.168.0.13"))


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("100.96.1.0-24", "is our own subnet, claimed by 10.168.0.12"),
        ("100.96.1.9-24", "is our own subnet, claimed by 10.168.0.12"),
        ("100.96.1.0-24&fd00::-64", "is our own subnet, claimed by 10.168.0.12"),
        ("100.96.1.0-25", "lies inside our own subnet"),
        ("100.96.1.252-30", "lies inside our own subnet"),
    ],
)
def test_nothing_overrides_the_own_subnet(key: str, text: str) -> None:
    subnets = new_map()
    ((told_key, told),) = subnets.snapshot([GOOD, entry(key)]).quarantined
    assert told_key == key
    assert text in told
    assert routes(subnets) == {"100.96.2.0/24": "10.168.0.12"}


def test_a_peer_may_cover_the_own_subnet_with_a_shorter_prefix() -> None:
    assert admitted_beside_a_good_peer(entry("100.96.0.0-22", "10.168.0.13"))


def test_our_own_key_in_other_forms_is_neither_peer_nor_quarantined() -> None:
    subnets = new_map()
    keys = [OWN_KEY, "100.96.1.5-24", "100.96.1.0-24&fd00::-64"]
    assert not subnets.snapshot([entry(key, str(OWN_IP)) for key in keys])
    assert subnets.peers == ()
    assert not subnets.quarantined


@pytest.mark.parametrize(
    ("first", "second", "winner"),
    [
        # The order of creation decides, whatever the form of the key.
        (("100.96.3.0-24", 7), ("100.96.3.0-24&fd00::-64", 5), "100.96.3.0-24&fd00::-64"),
        (("100.96.3.0-24", 5), ("100.96.3.0-24&fd00::-64", 7), "100.96.3.0-24"),
        (("100.96.3.9-24", 4), ("100.96.3.0-24", 5), "100.96.3.9-24"),
        # A store without such an order: the plain IPv4 key.
        (("100.96.3.0-24&fd00::-64", 0), ("100.96.3.0-24", 0), "100.96.3.0-24"),
        (("100.96.3.9-24", 0), ("100.96.3.0-24", 0), "100.96.3.0-24"),
        (("100.96.3.0-24&fd00::-64", 0), ("100.96.3.9-24", 0), "100.96.3.9-24"),
        # "96" sorts behind "100": the base address wins, not the smaller text.
        (("100.96.100.0-20", 0), ("100.96.96.0-20", 0), "100.96.96.0-20"),
    ],
)
def test_of_two_keys_of_one_subnet_one_wins(
    first: tuple[str, int], second: tuple[str, int], winner: str
) -> None:
    subnet = parse_key(winner).subnet
    claims = [
        entry(first[0], "10.168.0.21", create=first[1]),
        entry(second[0], "10.168.0.22", create=second[1]),
    ]
    for order in (claims, claims[::-1]):
        subnets = new_map()
        for claim in order:
            subnets.put(claim)
        assert [peer.key for peer in subnets.peers] == [winner]
        ((loser, text),) = subnets.quarantined.items()
        assert {loser, winner} == {first[0], second[0]}
        assert text == f"{subnet} is held already by the key {winner}"


def test_a_better_key_with_a_bad_value_costs_the_other_nothing() -> None:
    subnets = new_map()
    good = entry("100.96.3.0-24&fd00::-64", create=9)
    bad = entry("100.96.3.0-24", "127.0.0.1", create=1)
    subnets.snapshot([bad, good])
    assert [peer.key for peer in subnets.peers] == [good.key]


def test_the_loser_takes_over_when_the_winner_goes() -> None:
    subnets = new_map()
    winner = entry("100.96.3.0-24", "10.168.0.21", create=1)
    loser = entry("100.96.3.7-24", "10.168.0.22", create=2)
    subnets.snapshot([winner, loser])
    change = subnets.delete(winner.key)
    assert [peer.key for peer in change.changed] == [loser.key]
    assert change.released == (loser.key,)
    assert not subnets.quarantined
    assert subnets.put(winner).quarantined[0][0] == loser.key


def test_a_key_that_was_made_anew_stands_behind_the_other() -> None:
    subnets = new_map()
    first = entry("100.96.3.0-24", "10.168.0.21", create=1)
    second = entry("100.96.3.7-24", "10.168.0.22", create=2)
    subnets.snapshot([first, second])
    # Removed and put again while nobody watched: the listing shows the same value.
    subnets.snapshot([replace(first, create_revision=3), second])
    assert [peer.key for peer in subnets.peers] == [second.key]


def test_a_dual_stack_keys_ipv4_half_is_used() -> None:
    subnets = new_map()
    subnets.put(entry("100.96.3.0-24&fd00:3::-64", "10.168.0.13"))
    assert routes(subnets) == {"100.96.3.0/24": "10.168.0.13"}
    assert str(subnets.peers[0].subnet6) == "fd00:3::/64"


def test_a_changed_public_ip_is_seen_in_a_snapshot() -> None:
    subnets = new_map()
    subnets.snapshot([GOOD])
    change = subnets.snapshot([entry(GOOD.key, "10.168.0.99", mod=2)])
    assert [str(peer.public_ip) for peer in change.changed] == ["10.168.0.99"]
    assert (change.added, change.removed) == ((), ())
    assert routes(subnets) == {"100.96.2.0/24": "10.168.0.99"}


def test_changed_backend_data_is_a_change() -> None:
    subnets = new_map()
    raw = b'{"PublicIP":"10.168.0.12","BackendType":"vxlan","BackendData":{"VtepMAC":"%s"}}'
    subnets.put(replace(GOOD, value=raw % b"be:51:5e:8d:fd:f9"))
    change = subnets.put(replace(GOOD, value=raw % b"be:51:5e:8d:fd:fa", mod_revision=2))
    assert change.changed == subnets.peers


def test_a_renewal_changes_nothing() -> None:
    subnets = new_map()
    subnets.snapshot([GOOD, own_entry()])
    peers = subnets.peers
    change = subnets.put(replace(GOOD, mod_revision=5, expires_in=10.0))
    assert change == Change()
    assert not change
    assert subnets.peers is peers


def test_what_is_gone_from_the_listing_is_removed() -> None:
    subnets = new_map()
    subnets.snapshot([GOOD, entry("100.96.3.0-24")])
    change = subnets.snapshot([GOOD])
    assert [str(peer.subnet) for peer in change.removed] == ["100.96.3.0/24"]
    assert subnets.delete(GOOD.key).removed[0].key == GOOD.key
    assert subnets.peers == ()


def test_deleting_an_unknown_key_is_no_change() -> None:
    assert new_map().delete("100.96.9.0-24") == Change()


def test_quarantine_is_told_once_until_the_reason_changes() -> None:
    subnets = new_map()
    bad = entry("100.96.3.0-24", "127.0.0.1")
    assert subnets.put(bad).quarantined
    for again in (bad, replace(bad, mod_revision=9), replace(bad, create_revision=7)):
        assert subnets.put(again) == Change()
        assert subnets.snapshot([again, GOOD]).quarantined == ()
    ((key, text),) = subnets.put(entry(bad.key, "127.0.0.2", mod=10)).quarantined
    assert (key, "127.0.0.2" in text) == (bad.key, True)
    assert subnets.put(entry(bad.key, "10.168.0.13", mod=11)).released == (bad.key,)
    assert subnets.put(bad).quarantined
    assert subnets.delete(bad.key) == Change(released=(bad.key,))


def test_our_own_new_public_ip_is_judged_again() -> None:
    subnets = new_map()
    subnets.snapshot([own_entry(), GOOD, entry("100.96.3.0-24", "10.168.0.13")])
    change = subnets.own_changed(OWN_SUBNET, IPv4Address("10.168.0.13"))
    assert [peer.key for peer in change.removed] == ["100.96.3.0-24"]
    assert {key for key, _ in change.quarantined} == {OWN_KEY, "100.96.3.0-24"}
    change = subnets.own_changed(OWN_SUBNET, OWN_IP)
    assert [peer.key for peer in change.added] == ["100.96.3.0-24"]
    assert change.released == (OWN_KEY, "100.96.3.0-24")


# Few subnets and addresses, so that drawn entries meet each other and every rule.
KEYS = st.sampled_from(
    [
        OWN_KEY,
        "100.96.1.3-24",
        "100.96.1.128-25",
        "100.96.0.0-23",
        "100.96.2.0-24",
        "100.96.2.9-24",
        "100.96.2.0-24&fd00:2::-64",
        "100.96.2.128-25",
        "100.96.3.0-24",
        "100.96.0.0-16",
        "100.97.0.0-24",
        "100.96.4.0-24x",
        "",
    ]
)
VALUES = st.sampled_from(
    [
        value("10.168.0.12"),
        value("10.168.0.13"),
        value(str(OWN_IP)),
        value("127.0.0.1"),
        value("224.0.0.9"),
        value("100.96.2.1"),
        b'{"PublicIP":"10.168.0.12"}',
        b"{}",
        b"\xff",
    ]
)
ENTRIES = st.builds(Entry, KEYS, VALUES, st.integers(0, 3), st.integers(1, 3))
LISTINGS = st.lists(ENTRIES, max_size=8, unique_by=lambda item: item.key)
STEPS = st.lists(LISTINGS | ENTRIES | KEYS, max_size=12)


def is_candidate(lease: Lease) -> bool:
    public_ip, subnet = lease.public_ip, lease.subnet
    if not NETWORK.supernet_of(subnet) or subnet == NETWORK:
        return False
    if public_ip.is_multicast or public_ip.is_loopback or public_ip in NETWORK:
        return False
    if public_ip == OWN_IP:
        return subnet == OWN_SUBNET
    return not OWN_SUBNET.supernet_of(subnet)


def model(content: dict[str, Entry]) -> tuple[dict[IPv4Network, Lease], set[str]]:
    """The peers by subnet and the keys of the quarantined, from the whole content at once."""
    peers: dict[IPv4Network, Lease] = {}
    quarantined = set(content)
    plain_first = sorted(content.values(), key=lambda item: (len(item.key), item.key))
    plain_first.sort(key=lambda item: ("&" in item.key, ".0-" not in item.key))
    for item in sorted(plain_first, key=lambda item: item.create_revision):
        try:
            name = parse_key(item.key)
            lease = Lease(name.subnet, parse_attrs(item.value), name.subnet6, item.key)
        except LeaseFormatError:
            continue
        if not is_candidate(lease):
            continue
        if lease.subnet == OWN_SUBNET:
            quarantined.discard(item.key)
        elif lease.subnet not in peers:
            peers[lease.subnet] = lease
            quarantined.discard(item.key)
    return peers, quarantined


def take(subnets: SubnetMap, content: dict[str, Entry], step: list[Entry] | Entry | str) -> Change:
    if isinstance(step, str):
        content.pop(step, None)
        return subnets.delete(step)
    if isinstance(step, Entry):
        content[step.key] = step
        return subnets.put(step)
    content.clear()
    content.update({item.key: item for item in step})
    return subnets.snapshot(step)


@given(STEPS)
def test_each_step_gives_the_models_peers_and_the_exact_difference(
    steps: list[list[Entry] | Entry | str],
) -> None:
    subnets, content = new_map(), dict[str, Entry]()
    told: dict[str, str] = {}
    for step in steps:
        before, _ = model(content)
        change = take(subnets, content, step)
        after, quarantined = model(content)
        assert {peer.subnet: peer for peer in subnets.peers} == after
        assert set(change.added) == {after[net] for net in after.keys() - before.keys()}
        assert set(change.removed) == {before[net] for net in before.keys() - after.keys()}
        both = after.keys() & before.keys()
        assert set(change.changed) == {after[net] for net in both if after[net] != before[net]}
        assert bool(change) == (before != after)
        assert subnets.quarantined.keys() == quarantined
        for key, text in change.quarantined:
            assert told.get(key) != text
            told[key] = text
        for key in change.released:
            del told[key]
        assert told == subnets.quarantined


@given(STEPS)
def test_a_snapshot_equals_any_sequence_of_events_with_the_same_content(
    steps: list[list[Entry] | Entry | str],
) -> None:
    subnets, content = new_map(), dict[str, Entry]()
    for step in steps:
        take(subnets, content, step)
    listed = new_map()
    listed.snapshot(content.values())
    assert listed.peers == subnets.peers
    assert listed.quarantined == subnets.quarantined


@given(LISTINGS, ENTRIES)
def test_no_entry_costs_the_peers_of_other_subnets_their_routes(
    listing: list[Entry], intruder: Entry
) -> None:
    subnets = new_map()
    subnets.snapshot([item for item in listing if item.key != intruder.key])
    before = subnets.peers
    subnets.put(intruder)
    try:
        touched = parse_key(intruder.key).subnet
    except LeaseFormatError:
        touched = None
    others = [peer for peer in before if peer.subnet != touched]
    assert [peer for peer in subnets.peers if peer.subnet != touched] == others
    if intruder.key in subnets.quarantined:
        assert subnets.peers == before


@pytest.mark.parametrize("size", [1, 3, 200])
def test_a_snapshot_in_parts_ends_where_a_whole_one_does(size: int) -> None:
    before = [Entry(f"100.96.{n}.0-24", value(f"10.168.0.{n}"), n, n) for n in range(2, 40)]
    after = [Entry(f"100.96.{n}.0-24", value(f"10.168.1.{n}"), n, n) for n in range(20, 60)]
    after += [Entry("nonsense", b"", 1, 1)]
    whole, parts = (new_map() for _ in range(2))
    for subject in (whole, parts):
        subject.snapshot(before)
    expected = whole.snapshot(after)
    change = Change()
    for part in parts.snapshot_in_parts(after, size):
        change += part
    assert parts.peers == whole.peers
    for verb in ("added", "removed", "changed", "quarantined"):
        assert set(getattr(change, verb)) == set(getattr(expected, verb))
