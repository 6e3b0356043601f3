"""What the relay does to frames: loss, duplication, corruption, reordering and delay, by a seed."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field

ETHERNET_HEADER = 14


@dataclass(frozen=True, slots=True)
class Faults:
    """Shares of all frames (0..1) that meet a fault, each drawn on its own.

    Attributes:
        loss: not passed on.
        duplicate: passed on twice.
        corrupt: one bit behind the Ethernet header is flipped.
        reorder: held back until `reorder_by` later frames went by, or for `hold_s`.
        reorder_by: frames that overtake one that is held back.
        hold_s: seconds after which a frame that nothing overtook goes on all the same.
        delay_s: seconds that every frame takes.
        seed: the same seed and the same frames give the same result.
    """

    loss: float = 0.0
    duplicate: float = 0.0
    corrupt: float = 0.0
    reorder: float = 0.0
    reorder_by: int = 3
    hold_s: float = 0.01
    delay_s: float = 0.0
    seed: int = 1


@dataclass(slots=True)
class Counts:
    """Frames by what was done to them."""

    frames: int = 0
    lost: int = 0
    duplicated: int = 0
    corrupted: int = 0
    reordered: int = 0


@dataclass(slots=True)
class _Held:
    overtaken_at: int
    until: float
    frame: bytes


@dataclass(slots=True)
class Direction:
    """One way through the relay: frames in, frames out when they are due.

    Time is an argument, so a test needs no clock. Which frame meets which fault depends on the
    seed, the direction and the frame's number alone: every frame takes the same number of draws.

    Attributes:
        faults: what to do.
        name: part of the seed, so that the two directions differ.
        counts: what was done so far.
    """

    faults: Faults
    name: str
    counts: Counts = field(default_factory=Counts)
    _random: random.Random = field(init=False)
    _held: list[_Held] = field(default_factory=list)
    _delayed: deque[tuple[float, bytes]] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self._random = random.Random(f"{self.faults.seed} {self.name}")  # noqa: S311

    def put(self, frame: bytes, now: float) -> None:
        """Take one frame that arrived at `now` (seconds)."""
        faults, counts, draw = self.faults, self.counts, self._random.random
        loss, twice, bad, late, where = draw(), draw(), draw(), draw(), draw()
        counts.frames += 1
        if loss < faults.loss:
            counts.lost += 1
        else:
            if bad < faults.corrupt and len(frame) > ETHERNET_HEADER:
                counts.corrupted += 1
                frame = _flip(frame, where)
            if late < faults.reorder:
                counts.reordered += 1
                at = counts.frames + faults.reorder_by
                self._held.append(_Held(at, now + faults.hold_s, frame))
            else:
                self._delayed.append((now + faults.delay_s, frame))
            if twice < faults.duplicate:
                counts.duplicated += 1
                self._delayed.append((now + faults.delay_s, frame))
        self._release(now)

    def _release(self, now: float) -> None:
        if not self._held:
            return
        number, delay = self.counts.frames, self.faults.delay_s
        keep = []
        for held in self._held:
            if held.overtaken_at <= number or held.until <= now:
                self._delayed.append((now + delay, held.frame))
            else:
                keep.append(held)
        self._held = keep

    def take(self, now: float) -> list[bytes]:
        """Return the frames that leave at `now`, in order."""
        self._release(now)
        out = []
        while self._delayed and self._delayed[0][0] <= now:
            out.append(self._delayed.popleft()[1])
        return out

    def next_due(self) -> float | None:
        """Return when `take` has something to give if nothing more arrives; None: never."""
        times = [held.until for held in self._held]
        if self._delayed:
            times.append(self._delayed[0][0])
        return min(times, default=None)


def _flip(frame: bytes, where: float) -> bytes:
    bit = int(where * (len(frame) - ETHERNET_HEADER) * 8)
    changed = bytearray(frame)
    changed[ETHERNET_HEADER + bit // 8] ^= 1 << bit % 8
    return bytes(changed)
