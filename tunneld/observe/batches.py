"""System calls of the packet path by the packets that they moved: the batch_* of csrc/counters.h.

A bucket is named by the most packets of its calls: 0 (they failed), 1, 2, 4 (3 or 4), 8 (5 to 8)
and so on, and "more".
"""

from __future__ import annotations

from collections.abc import Mapping

Buckets = Mapping[str, int]
"""Most packets -> calls, in that order."""

_PREFIX = "batch_"
_NAMES = {"read": "reading", "written": "writing"}


def split(counters: Mapping[str, int]) -> tuple[dict[str, int], dict[str, dict[str, int]]]:
    """Take the buckets out of one direction's counters.

    Args:
        counters: name -> value.

    Returns:
        The other counters; and the buckets of each operation, "read" and "written". A backend
        without a packet path of ours has none.
    """
    others: dict[str, int] = {}
    found: dict[str, dict[str, int]] = {}
    for name, value in counters.items():
        if name.startswith(_PREFIX):
            operation, most = name.removeprefix(_PREFIX).rsplit("_", 1)
            found.setdefault(operation, {})[most] = value
        else:
            others[name] = value
    return others, found


def cumulative(buckets: Buckets) -> list[tuple[str, int]]:
    """Return (upper bound, calls up to it) as a Prometheus histogram wants it."""
    total = 0
    made = []
    for most, calls in buckets.items():
        total += calls
        made.append(("+Inf" if most == "more" else most, total))
    return made


def words(batches: Mapping[str, Buckets]) -> dict[str, str]:
    """Return what people read of one direction: a name, and the share of each bucket in use."""
    return {
        f"{_NAMES[operation]} calls by packets": shares
        for operation, buckets in batches.items()
        if (shares := _shares(buckets))
    }


def _shares(buckets: Buckets) -> str:
    total = sum(buckets.values())
    made = []
    before = "0"
    for most, calls in buckets.items():
        if calls:
            share = calls / total
            made.append(f"{_range(before, most)}: {f'{share:.0%}' if share >= 0.005 else '<1%'}")
        before = most
    return ", ".join(made)


def _range(before: str, most: str) -> str:
    if most == "more":
        return f">{before}"
    least = int(before) + 1
    return most if int(most) <= least else f"{least}-{most}"
