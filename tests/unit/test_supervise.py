"""Supervision: restarts with back-off, final errors go up."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest

from tunneld.errors import LeaseLostError
from tunneld.store import StoreUnavailableError
from tunneld.supervise import Backoff, supervise

QUICK = {"first": 0.001, "ceiling": 0.002}


def lives(*ends: BaseException | None) -> tuple[Callable[[], object], list[int]]:
    """Return a task whose lives end so, one after the other, and a count of its lives."""
    count = [0]

    async def run() -> None:
        end = ends[count[0]]
        count[0] += 1
        if end is not None:
            raise end

    return run, count


@pytest.mark.parametrize(
    "end", [None, OSError("x"), StoreUnavailableError("x"), ValueError("x"), TimeoutError()]
)
async def test_restarted_until_a_final_error(end: BaseException | None) -> None:
    run, count = lives(end, end, LeaseLostError("another owner"))
    with pytest.raises(LeaseLostError, match="another owner"):
        await supervise("test", run, backoff=Backoff(**QUICK))  # type: ignore[arg-type]
    assert count == [3]


async def test_cancelled_from_outside() -> None:
    async def run() -> None:
        await asyncio.Event().wait()

    task = asyncio.create_task(supervise("test", run))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_delays_double_up_to_the_ceiling_with_jitter() -> None:
    backoff = Backoff(first=1, ceiling=8, rng=random.Random(1))
    delays = [backoff.delay() for _ in range(6)]
    for delay, full in zip(delays, (1, 2, 4, 8, 8, 8), strict=True):
        assert full / 2 <= delay <= full
    assert len(set(delays[3:])) == 3
    backoff.reset()
    assert backoff.delay() <= 1


async def test_a_long_life_resets_the_backoff() -> None:
    backoff = Backoff(first=0.001, ceiling=1000)
    run, count = lives(*[OSError()] * 30, LeaseLostError("end"))
    with pytest.raises(LeaseLostError):
        # Without the reset the delays would add up to more than 1000 seconds.
        await supervise("test", run, backoff=backoff, healthy_after=0.0)  # type: ignore[arg-type]
    assert count == [31]
