"""How long a lease of the file store lives: the clock, and the record kept in `DIR/.leases/`.

Within one boot only `CLOCK_BOOTTIME` decides: nobody can step it and it counts suspended time, so
a step of the wall clock never takes a lease from a living owner. After a reboot that clock starts
again at zero; then the wall clock decides until the owner renews.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from tunneld.errors import StartError

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
# No file system of Linux hands out revisions, so what a person wrote gets one from its content.
# This bit keeps the two kinds apart.
_CONTENT_REVISION = 1 << 62
MAX_REVISION = _CONTENT_REVISION - 1
"""The highest revision that a counter can reach."""


@dataclass(frozen=True, slots=True)
class Clock:
    """The time as the file store sees it; tests put their own functions in.

    Attributes:
        boot_id: names the boot within which `boottime` counts.
        boottime: seconds since the boot, suspended time included.
        wall: seconds since the epoch.
    """

    boot_id: str
    boottime: Callable[[], float]
    wall: Callable[[], float]


def system_clock() -> Clock:
    """Return the clock of this machine.

    Raises:
        StartError: the kernel does not tell its boot id.
    """
    try:
        boot_id = _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError as error:
        raise StartError(f"{_BOOT_ID}: {error.strerror}", remedy="mount /proc") from error
    return Clock(
        boot_id=boot_id,
        boottime=lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
        wall=time.time,
    )


def digest(value: bytes) -> str:
    """Return the hash by which a record recognises its value."""
    return hashlib.sha256(value).hexdigest()


def content_revision(value: bytes) -> int:
    """Return the mod revision of a value that no record describes: it changes with the content."""
    return _CONTENT_REVISION | int.from_bytes(hashlib.sha256(value).digest()[:7], "big")


@dataclass(frozen=True, slots=True)
class Record:
    """What the store knows of a value that a daemon wrote with a time to live.

    Attributes:
        sha256: `digest` of the value.
        previous: `digest` of the value before it, or an empty string. The record is renamed into
            place before its value; a crash between the two must not make the old value look as
            if a person had written it.
        create_revision: see `Entry`.
        mod_revision: see `Entry`.
        ttl: seconds that were asked for.
        boot_id: the boot in which the record was written.
        boottime_deadline: `Clock.boottime` at expiry, valid in that boot only.
        wall_deadline: `Clock.wall` at expiry, for every other boot.
    """

    sha256: str
    previous: str
    create_revision: int
    mod_revision: int
    ttl: float
    boot_id: str
    boottime_deadline: float
    wall_deadline: float

    def describes(self, value: bytes) -> bool:
        """Return whether a daemon wrote this value; False: a person did."""
        return digest(value) in {self.sha256, self.previous}

    def remaining(self, clock: Clock) -> float:
        """Return the seconds until expiry, zero or less when it is over; never more than `ttl`."""
        if clock.boot_id == self.boot_id:
            left = self.boottime_deadline - clock.boottime()
        else:
            left = self.wall_deadline - clock.wall()
        return min(left, self.ttl)

    def encode(self) -> bytes:
        """Return the record as the JSON of its file."""
        return (json.dumps(asdict(self)) + "\n").encode("ascii")


def new_record(
    value: bytes, *, previous: bytes | None, revisions: tuple[int, int], ttl: float, clock: Clock
) -> Record:
    """Return the record of a value written now.

    Args:
        value: what is about to be written.
        previous: what lies there until then, None for nothing.
        revisions: create revision and mod revision.
        ttl: seconds to live.
        clock: the time.

    Raises:
        ValueError: the time to live is not a finite, positive number of seconds.
    """
    if not (math.isfinite(ttl) and ttl > 0):
        raise ValueError(f"a lease cannot live for {ttl} s")
    return Record(
        sha256=digest(value),
        previous="" if previous is None else digest(previous),
        create_revision=revisions[0],
        mod_revision=revisions[1],
        ttl=float(ttl),
        boot_id=clock.boot_id,
        boottime_deadline=float(clock.boottime() + ttl),
        wall_deadline=float(clock.wall() + ttl),
    )


def parse_record(data: bytes) -> Record | None:
    """Return the record in `data`, or None where there is none that makes sense.

    A damaged record counts as no record: its key becomes a permanent reservation, which wastes one
    subnet; to guess an expiry instead could take a subnet from its living owner.
    """
    try:
        raw = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(raw, dict) or raw.keys() != {field.name for field in fields(Record)}:
        return None
    texts = (raw["sha256"], raw["previous"], raw["boot_id"])
    revisions = (raw["create_revision"], raw["mod_revision"])
    times = (raw["ttl"], raw["boottime_deadline"], raw["wall_deadline"])
    sound = (
        all(isinstance(text, str) for text in texts)
        and all(type(number) is int and 0 < number <= MAX_REVISION for number in revisions)
        and all(type(moment) is float and math.isfinite(moment) for moment in times)
    )
    return Record(**raw) if sound else None
