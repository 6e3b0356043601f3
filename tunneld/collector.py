"""Keeps Python's cyclic garbage collector from stalling the event loop.

A full collection walks every object of the process, and that many leases make it run again and
again while they are taken: with 10,000 of them each run takes 70 ms. Leases live long and refer to
nothing that refers back to them, so reference counting alone frees them.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

MANY = 1000
"""New objects of the long-lived kind that are worth a `settle`."""


@contextlib.contextmanager
def paused() -> Iterator[None]:
    """Collect nothing while the block runs; not to be nested."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def settle() -> None:
    """Take what there is now for long-lived: later collections leave it out.

    What is in a cycle and no longer used at this moment is never freed. So call it seldom: after
    the start, and after a great change.
    """
    gc.freeze()
