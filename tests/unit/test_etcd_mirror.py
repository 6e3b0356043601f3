"""The guard against losing most peers at once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from collections.abc import Set as AbstractSet

import pytest

from tunneld.store import Deleted, Entry, Listed, Put
from tunneld.store.etcd_keys import Listing
from tunneld.store.etcd_mirror import Mirror

GRACE = 10.0
LINGER = 2.0


def entry(number: int, revision: int = 1, expires_in: float | None = math.inf) -> Entry:
    return Entry(str(number), b"v", revision, revision, expires_in)


def listing(*numbers: int, revision: int = 100, cluster: int = 7) -> Listing:
    return Listing(tuple(entry(number) for number in numbers), revision, cluster)


def keys(listed: Listed) -> set[int]:
    return {int(item.key) for item in listed.entries}


@pytest.fixture
def mirror() -> Mirror:
    mirror = Mirror({"0"}, GRACE, LINGER)
    mirror.listed(listing(*range(10)), 0.0)
    return mirror


def test_a_few_linger_and_go(mirror: Mirror) -> None:
    assert keys(mirror.listed(listing(0, 1, 2, 3, 4, 5), 1.0)) == set(range(10))
    assert mirror.due(1.0) is None, "no listing need confirm that"
    assert mirror.leaving(2.0) == LINGER - 1
    assert mirror.left(2.9) == []
    assert mirror.left(1.0 + LINGER) == [Deleted(str(number)) for number in range(6, 10)]
    assert mirror.leaving(5.0) is None
    assert keys(mirror.listed(listing(0, 1, 2, 3, 4, 5), 5.0)) == {0, 1, 2, 3, 4, 5}


def test_a_key_that_is_put_again_was_never_away(mirror: Mirror) -> None:
    assert mirror.changed([Deleted("1")], 101, 1.0) == []
    assert mirror.changed([Deleted("2")], 102, 1.5) == []
    assert mirror.changed([Put(entry(1, 103))], 103, 2.0) == [Put(entry(1, 103))]
    assert mirror.leaving(2.0) == 1.5
    assert mirror.left(9.0) == [Deleted("2")]
    assert mirror.left(9.0) == []


def test_who_lingers_while_a_listing_comes_lingers_no_longer_for_it(mirror: Mirror) -> None:
    mirror.changed([Deleted("1"), Deleted("2")], 101, 1.0)
    assert keys(mirror.listed(listing(0, *range(2, 10)), 2.0)) == set(range(10))
    assert mirror.left(1.0 + LINGER) == [Deleted("1")], "2 is back"
    mirror.changed([Deleted("3")], 102, 4.0)
    assert keys(mirror.listed(listing(0, 2, *range(4, 10)), 4.0 + LINGER)) == {0, 2, *range(4, 10)}
    assert mirror.leaving(9.0) is None


def test_a_reservation_goes_at_once() -> None:
    mirror = Mirror(set(), GRACE, LINGER)
    mirror.listed(Listing((entry(1, expires_in=None), entry(2)), 100, 7), 0.0)
    assert mirror.changed([Deleted("1"), Deleted("2")], 101, 1.0) == [Deleted("1")]


def test_most_are_kept_until_a_later_listing_confirms(mirror: Mirror) -> None:
    assert keys(mirror.listed(listing(0, 1), 1.0)) == set(range(10))
    assert mirror.due(2.0) == GRACE - 1
    # Nothing a listing in between says counts as a confirmation.
    assert keys(mirror.listed(listing(0, 1), 5.0)) == set(range(10))
    assert mirror.due(1.0 + GRACE) == 0
    assert keys(mirror.listed(listing(0, 1), 1.0 + GRACE)) == {0, 1}
    assert mirror.due(20.0) is None


def test_what_comes_back_is_kept_for_good(mirror: Mirror) -> None:
    mirror.listed(listing(0), 1.0)
    assert mirror.changed([Put(entry(1, 200))], 200, 2.0) == [Put(entry(1, 200))]
    assert keys(mirror.listed(listing(0, 1, 2), 1.0 + GRACE)) == {0, 1, 2}


def test_our_own_key_is_never_kept(mirror: Mirror) -> None:
    assert keys(mirror.listed(listing(), 1.0)) == set(range(1, 10))
    assert mirror.changed([Deleted("0")], 101, 2.0) == [Deleted("0")]


def test_less_than_four_are_no_mass() -> None:
    mirror = Mirror({"0"}, GRACE, LINGER)
    mirror.listed(listing(0, 1, 2, 3), 0.0)
    assert keys(mirror.listed(listing(0), 1.0)) == {0, 1, 2, 3}
    assert mirror.held == 0
    assert keys(mirror.listed(listing(0), 1.0 + LINGER)) == {0}


@pytest.mark.parametrize(("revision", "cluster"), [(99, 7), (100, 8)])
def test_another_history_keeps_even_one(revision: int, cluster: int) -> None:
    mirror = Mirror({"0"}, GRACE, LINGER)
    mirror.listed(listing(0, 1), 0.0)
    assert mirror.is_other(cluster, revision)
    assert keys(mirror.listed(listing(revision=revision, cluster=cluster), 1.0)) == {1}
    assert keys(mirror.listed(listing(revision=101, cluster=cluster), 1.0 + GRACE)) == set()


def test_deletions_of_one_transaction_are_kept(mirror: Mirror) -> None:
    assert mirror.changed([Deleted(str(n)) for n in range(10)], 101, 1.0) == [Deleted("0")]
    assert mirror.held == 9
    assert keys(mirror.listed(listing(revision=102), 1.0 + GRACE)) == set()


def test_deletions_one_by_one_are_kept_from_the_half_on(mirror: Mirror) -> None:
    held = []
    for number in range(1, 10):
        assert mirror.changed([Deleted(str(number))], 100 + number, 1.0) == []
        held.append(mirror.held)
    # And those that went a moment before with them.
    assert held == [0, 0, 0, 0, 5, 6, 7, 8, 9]
    assert mirror.left(1.0 + LINGER) == []


def test_deletions_over_time_are_no_mass(mirror: Mirror) -> None:
    for number in range(1, 10):
        mirror.changed([Deleted(str(number))], 100 + number, 2.0 * number)
        assert mirror.left(2.0 * number + LINGER) == [Deleted(str(number))]
    assert mirror.held == 0


def test_a_key_that_is_put_again_in_the_same_answer_is_there(mirror: Mirror) -> None:
    batch: list[Put | Deleted] = [Deleted("1"), Put(entry(1, 101))]
    assert mirror.changed(batch, 101, 1.0) == [Put(entry(1, 101))]
    assert mirror.changed([Put(entry(1, 102)), Deleted("1")], 102, 1.0) == []
    assert mirror.left(1.0 + LINGER) == [Deleted("1")]


def test_what_an_earlier_daemon_has_seen_is_guarded_too() -> None:
    mirror = Mirror({"0"}, GRACE, LINGER)
    mirror.recall([entry(number) for number in range(1, 6)], 90)
    assert keys(mirror.listed(listing(0, 1), 1.0)) == set(range(6))
    assert keys(mirror.listed(listing(0, 1), 1.0 + GRACE)) == {0, 1}


def test_a_few_that_went_while_we_were_down_go_soon() -> None:
    mirror = Mirror({"0"}, GRACE, LINGER)
    mirror.recall([entry(number) for number in range(1, 6)], 90)
    assert keys(mirror.listed(listing(0, 1, 2, 3, 4), 1.0)) == set(range(6))
    assert mirror.left(1.0 + LINGER) == [Deleted("5")]


def test_a_history_that_ends_before_what_an_earlier_daemon_has_seen_is_another() -> None:
    mirror = Mirror({"0"}, GRACE, LINGER)
    mirror.recall([entry(1)], 101)
    assert keys(mirror.listed(listing(0), 1.0)) == {0, 1}
    assert keys(mirror.listed(listing(0), 1.0 + GRACE)) == {0}


class Asked(AbstractSet[str]):
    """Our own key, and how often anybody looked whether a key is it."""

    def __init__(self) -> None:
        self.times = 0

    def __contains__(self, key: object) -> bool:
        self.times += 1
        return key == "0"

    def __iter__(self) -> Iterator[str]:
        return iter(["0"])

    def __len__(self) -> int:
        return 1


def test_an_event_costs_the_same_among_thousands() -> None:
    """A fleet that starts anew puts each of its keys: 6 ms for each of 10,000 was a minute."""
    own = Asked()
    mirror = Mirror(own, GRACE, LINGER)
    mirror.listed(listing(*range(5000)), 0.0)
    own.times = 0
    mirror.changed([Put(entry(1, 101))], 101, 1.0)
    mirror.changed([Deleted("2")], 102, 1.0)
    assert own.times < 10
