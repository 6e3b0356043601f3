"""The file store: its lock, who may what, and processes that race."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.unit.file_store_bed import (
    DAY,
    KEY,
    OURS,
    by_hand,
    created,
)
from tunneld.store import StoreUnavailableError, file_disk, file_layout
from tunneld.store.file import FileStore


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
