"""The file store: transactions, expiry, what people leave in the directory, races of processes."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunneld.store import Entry, NoNetworkConfigError, StoreUnavailableError, file_disk, file_layout
from tunneld.store.file import FileStore
from tunneld.store.file_layout import Layout
from tunneld.store.file_ttl import Clock, Record, new_record, parse_record, system_clock

KEY = "100.96.1.0-24"
OTHER = "100.96.2.0-24"
DUAL = "100.96.3.0-24&fd00:12:13::-56"
OURS = b'{"PublicIP":"10.168.0.2","PublicIPv6":null}'
THEIRS = b'{"PublicIP":"10.168.0.3","PublicIPv6":null}'
DAY = 86400.0


@dataclass
class FakeTime:
    """Time that a test moves. `boottime` cannot be stepped, `wall` can."""

    boot_id: str = "boot-1"
    boottime: float = 1000.0
    wall: float = 1.8e9

    def clock(self) -> Clock:
        return Clock(self.boot_id, lambda: self.boottime, lambda: self.wall)

    def passes(self, seconds: float) -> None:
        self.boottime += seconds
        self.wall += seconds


@pytest.fixture
def now() -> FakeTime:
    return FakeTime()


@pytest.fixture
async def store(tmp_path: Path, now: FakeTime) -> AsyncIterator[FileStore]:
    store = FileStore(tmp_path, clock=now.clock())
    yield store
    await store.close()


@pytest.fixture
async def second(tmp_path: Path, now: FakeTime) -> AsyncIterator[FileStore]:
    """Another daemon's view of the same directory."""
    store = FileStore(tmp_path, clock=now.clock())
    yield store
    await store.close()


async def created(store: FileStore, key: str = KEY, value: bytes = OURS, ttl: float = DAY) -> Entry:
    entry = await store.create(key, value, ttl)
    assert entry is not None
    return entry


def by_hand(directory: Path, key: str, value: bytes) -> Path:
    path = directory / "subnets" / key
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(value)
    return path


def record_path(directory: Path, key: str = KEY) -> Path:
    return directory / ".leases" / f"{key}.json"


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


# --- bad files


def directory_there(path: Path) -> None:
    path.mkdir()


def fifo_there(path: Path) -> None:
    os.mkfifo(path)


def dangling_link_there(path: Path) -> None:
    path.symlink_to("nowhere")


def loop_there(path: Path) -> None:
    path.symlink_to(path.name)


def too_long(path: Path) -> None:
    path.write_bytes(b"x" * 1_000_000)


@pytest.mark.parametrize(
    "spoil", [directory_there, fifo_there, dangling_link_there, loop_there, too_long]
)
async def test_what_cannot_be_read_costs_only_itself(
    store: FileStore, tmp_path: Path, spoil: object, caplog: pytest.LogCaptureFixture
) -> None:
    good = await created(store)
    assert callable(spoil)
    spoil(tmp_path / "subnets" / OTHER)
    for _ in range(3):
        found = await store.list_entries()
        assert [(entry.key, entry.value) for entry in found] == [(KEY, OURS), (OTHER, b"")]
        assert found[0] == good
    assert caplog.text.count(OTHER) == 1
    assert await store.create(OTHER, OURS, DAY) is None
    assert await store.renew(found[1], OURS, DAY) is None
    assert await store.remove(found[1]) is False


async def test_bytes_that_are_no_text_are_passed_on(store: FileStore, tmp_path: Path) -> None:
    by_hand(tmp_path, KEY, b"\xff\xfe{")
    assert [entry.value for entry in await store.list_entries()] == [b"\xff\xfe{"]


async def test_names_that_begin_with_a_dot_are_no_keys(store: FileStore, tmp_path: Path) -> None:
    for name in (".100.96.1.0-24.swp", ".100.96.1.0-24.new", "4913", f"{KEY}~"):
        by_hand(tmp_path, name, OURS)
    assert [entry.key for entry in await store.list_entries()] == [f"{KEY}~", "4913"]


async def test_a_name_that_is_no_text_can_be_printed(store: FileStore, tmp_path: Path) -> None:
    (tmp_path / "subnets").mkdir()
    (tmp_path / "subnets" / os.fsdecode(b"\xff\xfe")).write_bytes(OURS)
    (entry,) = await store.list_entries()
    assert entry.key == "\\xff\\xfe"
    assert await store.renew(entry, THEIRS, DAY) is None


SOUND = Record("ab", "", 1, 2, 60.0, "boot-1", 10.0, 20.0)


def spoiled(**fields: object) -> bytes:
    return json.dumps(json.loads(SOUND.encode()) | fields).encode()


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{}",
        b"[1]",
        b"\xff",
        b"[" * 4000,
        b"x" * 10_000,
        spoiled(ttl=None),
        spoiled(wall_deadline=float("nan")),
        spoiled(mod_revision=True),
        spoiled(create_revision=-1),
        spoiled(boot_id=3),
        spoiled(more=1),
    ],
    ids=range(12),
)
async def test_a_damaged_record_makes_its_key_permanent(
    store: FileStore, now: FakeTime, tmp_path: Path, damage: bytes
) -> None:
    await created(store, ttl=60)
    await created(store, OTHER, ttl=60)
    record_path(tmp_path).write_bytes(damage)
    now.passes(61)
    assert [(entry.key, entry.expires_in) for entry in await store.list_entries()] == [(KEY, None)]


@given(st.binary(max_size=200))
def test_any_bytes_may_stand_for_a_record(data: bytes) -> None:
    assert parse_record(data) is None


def test_a_record_survives_its_file() -> None:
    assert parse_record(SOUND.encode()) == SOUND


# --- the directory


async def test_the_config_is_passed_on_as_it_is(store: FileStore, tmp_path: Path) -> None:
    (tmp_path / "config").write_bytes(b'{"Network":"100.96.0.0/16"}\n')
    assert await store.get_config() == b'{"Network":"100.96.0.0/16"}\n'
    assert store.health().state == "connected"
    assert store.health().last_sync is not None


@pytest.mark.parametrize("content", [None, b"", b" \n"])
async def test_no_config_says_where_to_write_one(
    store: FileStore, tmp_path: Path, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / "config").write_bytes(content)
    with pytest.raises(NoNetworkConfigError) as caught:
        await store.get_config()
    assert str(tmp_path / "config") in str(caught.value)
    assert "write one into it" in caught.value.remedy


async def test_a_config_that_cannot_be_read_is_named(store: FileStore, tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    with pytest.raises(StoreUnavailableError, match=r"config: .*directory|config: not a regular"):
        await store.get_config()


async def test_a_missing_directory_is_an_outage(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "none")
    assert store.url == f"file:{tmp_path}/none"
    assert store.health().state == "connecting"
    with pytest.raises(NoNetworkConfigError):
        await store.get_config()
    with pytest.raises(StoreUnavailableError, match=r"No such file.*make the directory"):
        await store.list_entries()
    with pytest.raises(StoreUnavailableError):
        await store.create(KEY, OURS, DAY)
    assert store.health().state == "disconnected"
    assert "No such file" in store.health().detail
    await store.close()


async def test_a_directory_that_vanished_is_not_empty(store: FileStore, tmp_path: Path) -> None:
    entry = await created(store)
    (tmp_path / "subnets").rename(tmp_path / "aside")
    with pytest.raises(StoreUnavailableError):
        await store.list_entries()
    with pytest.raises(StoreUnavailableError):
        await store.create(OTHER, OURS, DAY)
    assert not (tmp_path / "subnets").exists()
    (tmp_path / "aside").rename(tmp_path / "subnets")
    assert await store.list_entries() == (entry,)


def test_looking_at_names_of_a_vanished_directory_says_that_it_vanished(
    tmp_path: Path, now: FakeTime
) -> None:
    by_hand(tmp_path, KEY, OURS)
    layout = Layout(tmp_path, now.clock())
    assert list(layout.scan()) == [KEY]
    shutil.rmtree(tmp_path / "subnets")
    with pytest.raises(FileNotFoundError):
        layout.read({KEY})


def test_a_store_that_had_no_leases_yet_can_lose_its_directory_too(
    tmp_path: Path, now: FakeTime
) -> None:
    with pytest.raises(FileNotFoundError):
        Layout(tmp_path, now.clock()).read({KEY})


async def test_a_closed_store_says_so(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    await store.close()
    await store.close()
    with pytest.raises(StoreUnavailableError, match="closed"):
        await store.list_entries()
    assert [event async for event in store.watch()] == []


async def test_a_stuck_holder_of_the_lock_is_reported(
    store: FileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = await created(store)
    monkeypatch.setattr(file_layout, "_LOCK_PATIENCE", 0.05)
    with (tmp_path / ".leases" / ".lock").open("rb") as holder:
        fcntl.flock(holder, fcntl.LOCK_SH)
        assert await store.list_entries() == (entry,)
        with pytest.raises(StoreUnavailableError, match=r"holds the lock.*fuser"):
            await store.renew(entry, OURS, DAY)
        fcntl.flock(holder, fcntl.LOCK_EX)
        with pytest.raises(StoreUnavailableError, match="holds the lock"):
            await store.list_entries()
    assert await store.renew(entry, OURS, DAY) is not None


async def test_a_lock_that_was_replaced_is_not_waited_for(store: FileStore, tmp_path: Path) -> None:
    entry = await created(store)
    with (tmp_path / ".leases" / ".lock").open("rb") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        (tmp_path / ".leases" / ".lock").unlink()
        assert await store.renew(entry, OURS, DAY) is not None


def test_a_lock_that_is_replaced_while_we_take_it_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / ".lock"
    really = fcntl.flock

    def late(fd: int, operation: int) -> None:
        # Another inode: the old one is still open.
        path.unlink()
        path.touch()
        really(fd, operation)

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", late)
        assert file_disk._try_lock(path, exclusive=True) is None
    fd = file_disk._try_lock(path, exclusive=True)
    assert fd is not None
    os.close(fd)


async def test_only_the_owner_of_the_store_can_lock_it(store: FileStore, tmp_path: Path) -> None:
    await created(store)
    assert (tmp_path / ".leases" / ".lock").stat().st_mode & 0o777 == 0o600


# --- other processes

PREAMBLE = """
import asyncio, sys
from pathlib import Path
from tunneld.errors import TunneldError
from tunneld.store.file import FileStore
store = FileStore(Path(sys.argv[1]))
"""

UNPRIVILEGED = (
    PREAMBLE
    + """
async def main():
    print([entry.key for entry in await store.list_entries()])
    for attempt in (store.create("100.96.9.0-24", b"x", 60),
                    store.remove((await store.list_entries())[0])):
        try:
            await attempt
        except TunneldError as error:
            print(error)
asyncio.run(main())
"""
)


def test_who_may_only_read_can_read() -> None:
    # Not tmp_path: its parents are closed to other users.
    with tempfile.TemporaryDirectory() as name:
        by_hand(Path(name), KEY, OURS)
        # Root may write everywhere, so it becomes somebody else.
        other = {"user": 65534, "group": 65534, "extra_groups": []} if os.geteuid() == 0 else {}
        try:
            for path in (Path(name, "subnets"), Path(name)):
                path.chmod(0o555)
            output = output_of(UNPRIVILEGED, name, **other)
        finally:
            for path in (Path(name), Path(name, "subnets")):
                path.chmod(0o755)
    assert output[0] == f"['{KEY}']"
    assert len(output) == 3
    assert all("Permission denied (let this user write there" in line for line in output[1:])


def output_of(script: str, *arguments: str, **options: Any) -> list[str]:
    done: subprocess.CompletedProcess[str] = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
        **options,
    )
    return done.stdout.splitlines()


RACE = (
    PREAMBLE
    + """
async def main():
    print("ready", flush=True)
    sys.stdin.readline()
    won = []
    for number in range(30):
        entry = await store.create(f"100.96.{number}.0-24", sys.argv[2].encode(), 60)
        if entry:
            renewed = await store.renew(entry, entry.value, 60)
            won.append((entry.key, entry.mod_revision, renewed.mod_revision))
    print(won)
asyncio.run(main())
"""
)


def test_of_processes_that_race_exactly_one_wins_each_key(tmp_path: Path) -> None:
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, tmp_path, f"owner-{number}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    try:
        for racer in racers:
            assert racer.stdout
            assert racer.stdout.readline() == "ready\n"
        for racer in racers:
            assert racer.stdin
            racer.stdin.write("go\n")
            racer.stdin.flush()
        answers = [racer.communicate(timeout=60)[0] for racer in racers]
    finally:
        for racer in racers:
            racer.kill()
            racer.wait()
    won = {
        f"owner-{number}": json.loads(answer.translate(str.maketrans("()'", '[]"')))
        for number, answer in enumerate(answers)
    }
    owners = {key: owner for owner, wins in won.items() for key, _, _ in wins}
    assert sum(len(wins) for wins in won.values()) == len(owners) == 30
    revisions = [revision for wins in won.values() for win in wins for revision in win[1:]]
    assert sorted(revisions) == list(range(1, 61))
    files = (tmp_path / "subnets").iterdir()
    assert {path.name: path.read_text() for path in files} == owners
