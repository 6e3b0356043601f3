"""Wait for a state instead of sleeping."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(state: Callable[[], T | None], what: str, timeout: float = 30.0) -> T:
    """Return the first true result of `state`.

    The deadline is for a machine that is crowded: what is measured is measured elsewhere.

    Raises:
        AssertionError: there was none within `timeout` seconds; says the last one.
    """
    deadline = time.monotonic() + timeout
    while True:
        result = state()
        if result:
            return result
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout:g} s for: {what}; last: {result!r}")
        time.sleep(0.01)
