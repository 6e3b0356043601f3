"""The file store: what people and disks leave in its directory costs only itself."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.file_store_bed import (
    DAY,
    KEY,
    OTHER,
    OURS,
    THEIRS,
    FakeTime,
    by_hand,
    created,
    record_path,
)
from tunneld.store import NoNetworkConfigError, StoreUnavailableError
from tunneld.store.file import FileStore
from tunneld.store.file_layout import Layout
from tunneld.store.file_ttl import Record, parse_record


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
