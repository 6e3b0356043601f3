"""A mapping that is made when somebody looks at it, in whichever thread that is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Later(Mapping[K, V]):
    """Holds what was read, and how to make a mapping of it.

    To read the counters of thousands of peers takes the C core a fraction of a millisecond, to make
    objects of them takes Python tens: the reader decides where.

    Args:
        make: called once, or once more when two threads look at the same moment.
    """

    def __init__(self, make: Callable[[], Mapping[K, V]]) -> None:
        self._make = make
        self._made: Mapping[K, V] | None = None

    def _get(self) -> Mapping[K, V]:
        if self._made is None:
            self._made = self._make()
        return self._made

    def __getitem__(self, key: K) -> V:
        """Return the value of a key."""
        return self._get()[key]

    def __iter__(self) -> Iterator[K]:
        """Yield the keys."""
        return iter(self._get())

    def __len__(self) -> int:
        """Return how many keys there are."""
        return len(self._get())
