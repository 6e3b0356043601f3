"""The file store: transactions, expiry, edits by hand, crashes."""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.file_store_bed import (
    DAY,
    DUAL,
    KEY,
    OTHER,
    OURS,
    THEIRS,
    FakeTime,
    by_hand,
    created,
    record_path,
)
from tunneld.store import StoreUnavailableError
from tunneld.store.file import FileStore
from tunneld.store.file_ttl import new_record, parse_record, system_clock

# --- transactions


async def test_create_writes_the_value_as_it_is_and_only_once(
    store: FileStore, second: FileStore, tmp_path: Path
) -> None:
    entry = await created(store)
    assert (entry.key, entry.value, entry.expires_in) == (KEY, OURS, DAY)
    assert (tmp_path / "subnets" / KEY).read_bytes() == OURS
    assert await second.create(KEY, THEIRS, DAY) is None
    assert await second.list_entries() == (entry,)


async def test_entries_are_ordered_by_key_and_revisions_by_time(store: FileStore) -> None:
    later = await created(store, OTHER)
    latest = await created(store, KEY)
    dual = await created(store, DUAL)
    assert await store.list_entries() == (latest, later, dual)
    assert later.create_revision < latest.create_revision < dual.create_revision


async def test_renew_needs_the_revision_it_has_seen(store: FileStore, second: FileStore) -> None:
    entry = await created(store)
    renewed = await store.renew(entry, OURS, DAY)
    assert renewed is not None
    assert renewed.create_revision == entry.create_revision
    assert renewed.mod_revision > entry.mod_revision
    assert await second.renew(entry, THEIRS, DAY) is None
    assert await second.list_entries() == (renewed,)


async def test_remove_needs_the_revision_it_has_seen(store: FileStore, tmp_path: Path) -> None:
    entry = await created(store)
    renewed = await store.renew(entry, THEIRS, DAY)
    assert renewed is not None
    assert await store.remove(entry) is False
    assert await store.remove(renewed) is True
    assert await store.remove(renewed) is False
    assert await store.list_entries() == ()
    assert not record_path(tmp_path).exists()


async def test_a_key_that_was_made_anew_has_another_revision(store: FileStore) -> None:
    entry = await created(store)
    assert await store.remove(entry)
    again = await created(store)
    assert again.mod_revision > entry.mod_revision
    assert await store.renew(entry, OURS, DAY) is None


@pytest.mark.parametrize("key", ["", ".", "..", ".x", "a/b", "a\0b", "x" * 241])
async def test_a_key_that_is_no_file_name_is_refused(store: FileStore, key: str) -> None:
    with pytest.raises(ValueError, match="name of a file"):
        await store.create(key, OURS, DAY)


@pytest.mark.parametrize("ttl", [0.0, -1.0, float("inf"), float("nan")])
async def test_a_lease_without_an_end_is_refused(store: FileStore, ttl: float) -> None:
    with pytest.raises(ValueError, match="cannot live"):
        await store.create(KEY, OURS, ttl)
    assert await store.list_entries() == ()


# --- expiry


async def test_what_has_expired_is_gone_from_disk_whoever_looks(
    store: FileStore, second: FileStore, now: FakeTime, tmp_path: Path
) -> None:
    await created(store, ttl=60)
    staying = await created(store, OTHER, ttl=600)
    now.passes(59)
    assert len(await second.list_entries()) == 2
    now.passes(1)
    assert [entry.key for entry in await second.list_entries()] == [staying.key]
    assert not (tmp_path / "subnets" / KEY).exists()
    assert not record_path(tmp_path).exists()


async def test_an_expired_key_is_free(store: FileStore, second: FileStore, now: FakeTime) -> None:
    entry = await created(store, ttl=60)
    now.passes(61)
    taken = await created(second, value=THEIRS)
    assert taken.create_revision > entry.create_revision
    assert await store.renew(entry, OURS, 60) is None
    assert await store.list_entries() == (taken,)


async def test_renewing_prolongs(store: FileStore, now: FakeTime) -> None:
    entry = await created(store, ttl=60)
    now.passes(50)
    renewed = await store.renew(entry, OURS, 60)
    now.passes(50)
    (found,) = await store.list_entries()
    assert renewed == replace(found, expires_in=60)
    assert found.expires_in == 10


@pytest.mark.parametrize("step", [-1e9, -3600.0, 3600.0, 1e9])
async def test_a_clock_step_takes_no_lease(store: FileStore, now: FakeTime, step: float) -> None:
    await created(store, ttl=60)
    now.wall += step
    (entry,) = await store.list_entries()
    assert entry.expires_in == 60
    now.passes(60)
    assert await store.list_entries() == ()


@pytest.mark.parametrize(
    ("off_for", "left"), [(100.0, 500.0), (600.0, None), (-1e9, 600.0)], ids=str
)
async def test_after_a_reboot_the_wall_clock_decides(
    store: FileStore, now: FakeTime, tmp_path: Path, off_for: float, left: float | None
) -> None:
    await created(store, ttl=600)
    now.wall += off_for
    rebooted = FileStore(tmp_path, clock=FakeTime("boot-2", 5.0, now.wall).clock())
    found = await rebooted.list_entries()
    assert [entry.expires_in for entry in found] == ([] if left is None else [left])
    await rebooted.close()


async def test_a_renewal_after_a_reboot_counts_in_the_new_boot(
    store: FileStore, now: FakeTime, tmp_path: Path
) -> None:
    await created(store, ttl=600)
    later = FakeTime("boot-2", 5.0, now.wall + 100)
    rebooted = FileStore(tmp_path, clock=later.clock())
    (entry,) = await rebooted.list_entries()
    assert await rebooted.renew(entry, OURS, 600) is not None
    later.wall += 1e9
    assert [entry.expires_in for entry in await rebooted.list_entries()] == [600]
    await rebooted.close()


def test_the_clock_of_this_machine() -> None:
    clock = system_clock()
    assert len(clock.boot_id) == 36
    assert clock.boottime() <= clock.boottime()


# --- what people do


async def test_a_file_written_by_hand_never_expires(
    store: FileStore, now: FakeTime, tmp_path: Path
) -> None:
    by_hand(tmp_path, KEY, THEIRS)
    now.passes(1e9)
    (entry,) = await store.list_entries()
    assert (entry.value, entry.expires_in, entry.create_revision) == (THEIRS, None, 0)
    assert await store.create(KEY, OURS, DAY) is None


async def test_a_lease_changed_by_hand_becomes_a_reservation(
    store: FileStore, now: FakeTime, tmp_path: Path
) -> None:
    entry = await created(store, ttl=60)
    by_hand(tmp_path, KEY, THEIRS)
    (found,) = await store.list_entries()
    assert found.expires_in is None
    assert await store.renew(entry, OURS, 60) is None
    # For good: to change it back does not bring the old deadline back.
    by_hand(tmp_path, KEY, OURS)
    now.passes(61)
    assert [entry.expires_in for entry in await store.list_entries()] == [None]


async def test_each_edit_by_hand_has_its_own_revision(store: FileStore, tmp_path: Path) -> None:
    by_hand(tmp_path, KEY, OURS)
    (first,) = await store.list_entries()
    by_hand(tmp_path, KEY, THEIRS)
    (edited,) = await store.list_entries()
    assert first.mod_revision != edited.mod_revision
    assert await store.renew(first, OURS, DAY) is None
    assert await store.remove(first) is False
    assert await store.remove(edited) is True


async def test_a_renewed_reservation_stays_a_reservation(
    store: FileStore, now: FakeTime, tmp_path: Path
) -> None:
    by_hand(tmp_path, KEY, OURS)
    (entry,) = await store.list_entries()
    renewed = await store.renew(entry, THEIRS, 60)
    assert renewed is not None
    now.passes(61)
    assert await store.list_entries() == (renewed,)
    assert (renewed.value, renewed.expires_in) == (THEIRS, None)


async def test_bookkeeping_removed_by_hand_lets_nobody_overwrite(
    store: FileStore, second: FileStore, tmp_path: Path
) -> None:
    entry = await created(store)
    shutil.rmtree(tmp_path / ".leases")
    (tmp_path / "subnets" / KEY).unlink()
    claim = await created(second, value=THEIRS)
    assert claim.mod_revision == entry.mod_revision
    assert await store.renew(entry, OURS, DAY) is None


@pytest.mark.parametrize("damage", [b"", b"x", b"-5\n", b"9" * 30, b"9" * 5000])
async def test_revisions_go_on_when_their_counter_is_damaged(
    store: FileStore, tmp_path: Path, damage: bytes
) -> None:
    first = await created(store)
    second = await created(store, OTHER)
    (tmp_path / ".leases" / ".revision").write_bytes(damage)
    renewed = await store.renew(first, OURS, DAY)
    assert renewed is not None
    assert renewed.mod_revision > second.mod_revision


# --- crashes


async def test_a_crash_between_record_and_value_makes_no_reservation(
    store: FileStore, now: FakeTime, tmp_path: Path
) -> None:
    entry = await created(store, ttl=60)
    revisions = (entry.create_revision, entry.mod_revision + 1)
    record = new_record(THEIRS, previous=OURS, revisions=revisions, ttl=60, clock=now.clock())
    record_path(tmp_path).write_bytes(record.encode())
    (found,) = await store.list_entries()
    assert (found.value, found.expires_in) == (OURS, 60)
    now.passes(60)
    assert await store.list_entries() == ()


async def test_a_renewal_records_the_value_it_replaces(store: FileStore, tmp_path: Path) -> None:
    await store.renew(await created(store), THEIRS, DAY)
    record = parse_record(record_path(tmp_path).read_bytes())
    assert record is not None
    assert record.describes(OURS)
    assert record.describes(THEIRS)


async def test_a_record_without_a_value_holds_nothing(
    store: FileStore, second: FileStore, tmp_path: Path
) -> None:
    await created(store)
    (tmp_path / "subnets" / KEY).unlink()
    assert await second.list_entries() == ()
    assert not record_path(tmp_path).exists()
    await created(second, value=THEIRS)


@pytest.mark.parametrize("written", [0, 1], ids=["the value", "the record"])
async def test_a_full_disk_leaves_everything_as_it_was(
    store: FileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    entry = await created(store)
    calls = 0

    def full(_fd: int) -> None:
        nonlocal calls
        calls += 1
        if calls > written:
            calls = 0
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StoreUnavailableError, match=r"No space left on device .*make room"):
            await store.renew(entry, THEIRS, DAY)
        with pytest.raises(StoreUnavailableError):
            await store.create(OTHER, OURS, DAY)
    assert store.health().state == "disconnected"
    assert await store.list_entries() == (entry,)
    assert store.health().state == "connected"
    assert [path.name for path in (tmp_path / "subnets").iterdir()] == [KEY]
    assert await store.renew(entry, THEIRS, DAY) is not None
