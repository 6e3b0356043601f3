"""What tests of the file store share: its keys, and time that a test moves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tunneld.store import Entry
from tunneld.store.file import FileStore
from tunneld.store.file_ttl import Clock

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
