"""The file store as two daemons see it; a test file may have a `store` of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.unit.file_store_bed import FakeTime
from tunneld.store.file import FileStore


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
