"""Fixtures of the packet path's tests: each test runs on every rung that exists."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio

from tests.dataplane.bed import RUNGS, Bed

OpenBed = Callable[..., Bed]


@pytest.fixture(params=RUNGS)
def rung(request: pytest.FixtureRequest) -> str:
    """The rung under test."""
    return str(request.param)


@pytest_asyncio.fixture
async def open_bed(rung: str) -> AsyncIterator[OpenBed]:
    """Make beds; after the test each of them is closed, which asserts conservation."""
    beds: list[Bed] = []

    def make(*, start: bool = True, **options: Any) -> Bed:
        bed = Bed(rung, **options)
        beds.append(bed)
        if start:
            bed.start()
        return bed

    yield make
    for bed in beds:
        await bed.close()


@pytest_asyncio.fixture
async def bed(open_bed: OpenBed) -> Bed:
    """A running bed with the default snapshot and no rate limit that a test could reach."""
    return open_bed()
