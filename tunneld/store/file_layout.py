"""What the file store has on disk, and the transactions on it; blocking, for a thread.

    DIR/config              the network config
    DIR/subnets/<key>       a lease, the same JSON value as in etcd
    DIR/.leases/<key>.json  the `Record` of a value that a daemon wrote
    DIR/.leases/.lock       the flock
    DIR/.leases/.revision   the last revision that was handed out

A name that begins with a dot is never a key: our own temporary files, the swap files of editors.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tunneld.store import Entry
from tunneld.store.file_disk import (
    UnreadableError,
    check_key,
    file_names,
    inode,
    is_key,
    locked,
    printable,
    read_file,
    stage_file,
    sync_directory,
)
from tunneld.store.file_ttl import (
    MAX_REVISION,
    Clock,
    Record,
    content_revision,
    new_record,
    parse_record,
)

_log = logging.getLogger(__name__)

VALUE_LIMIT = 64 * 1024
"""Bytes; a lease has about 200, so a longer file is a mistake that shall cost no memory."""
_CONFIG_LIMIT = 1024 * 1024
_RECORD_LIMIT = 4096
_SUFFIX = ".json"
_LOCK_PATIENCE = 5.0


@dataclass(frozen=True, slots=True)
class _Found:
    """A file in DIR/subnets. `record` is None where a person wrote what lies there now."""

    entry: Entry
    record: Record | None
    readable: bool

    @property
    def expired(self) -> bool:
        return self.entry.expires_in is not None and self.entry.expires_in <= 0

    def still_is(self, entry: Entry) -> bool:
        """Return whether nobody has written the key since `entry` was read.

        The values are compared too: when somebody has removed `.leases`, revisions begin anew.
        """
        found = self.entry
        return found.mod_revision == entry.mod_revision and found.value == entry.value


class Layout:
    """The directory `DIR` of one file store; used by one thread at a time.

    Methods raise OSError (TimeoutError: the lock) where they say nothing else.
    """

    def __init__(self, directory: Path, clock: Clock) -> None:
        self._directory = directory
        self._clock = clock
        self._subnets = directory / "subnets"
        self._leases = directory / ".leases"
        self._seen_subnets = False
        self._complained: dict[str, str] = {}
        self.stopped = False

    @property
    def directories(self) -> tuple[Path, Path]:
        """What a watcher watches: DIR and DIR/subnets."""
        return self._directory, self._subnets

    def identity(self) -> tuple[tuple[int, int] | None, ...]:
        """Return which directories lie at our paths; changes when one is replaced."""
        return tuple(inode(path) for path in self.directories)

    def read_config(self) -> bytes | None:
        """Return the content of DIR/config, None if there is none or nothing in it (yet).

        Raises:
            UnreadableError: something else lies there.
        """
        return read_file(self._directory / "config", _CONFIG_LIMIT) or None

    def scan(self) -> dict[str, Entry]:
        """Return all living entries by file name, and remove from disk what has expired."""
        if not self._has_subnets():
            return {}
        with self._lock(exclusive=False):
            names = [name for name in file_names(self._subnets) if is_key(name)]
            found = {name: item for name in names if (item := self._load(name))}
            recorded = self._recorded_names()
        self._tidy({name for name in recorded if not _governed(found.get(name))})
        return {name: item.entry for name, item in found.items() if not item.expired}

    def read(self, names: Iterable[str]) -> dict[str, Entry | None]:
        """Return some entries by file name; None for one that is gone or expired."""
        with self._lock(exclusive=False):
            found = {name: self._load(name) for name in names}
            recorded = {name for name in found if self._record_path(name).exists()}
        self._tidy({name for name in recorded if not _governed(found[name])})
        # Without the directory each of them looks removed, which nobody said.
        if not self._has_subnets():
            raise FileNotFoundError(2, "the directory is gone", str(self._subnets))
        return {
            name: None if item is None or item.expired else item.entry
            for name, item in found.items()
        }

    def create(self, key: str, value: bytes, ttl: float) -> Entry | None:
        """See `Store.create`."""
        check_key(key)
        self._make_directories()
        with self._lock(exclusive=True):
            found = self._load(key)
            if found and not found.expired:
                return None
            revision = self._next_revision()
            record = new_record(
                value,
                previous=found.entry.value if found else None,
                revisions=(revision, revision),
                ttl=ttl,
                clock=self._clock,
            )
            self._commit(key, value, record)
        return self._entry(key, value, record)

    def renew(self, entry: Entry, value: bytes, ttl: float) -> Entry | None:
        """See `Store.renew`. A permanent reservation stays one: a person has decided that."""
        check_key(entry.key)
        self._make_directories()
        with self._lock(exclusive=True):
            found = self._load(entry.key)
            if found is None or not found.readable or not found.still_is(entry):
                return None
            record = None
            if found.record:
                record = new_record(
                    value,
                    previous=found.entry.value,
                    revisions=(found.entry.create_revision, self._next_revision()),
                    ttl=ttl,
                    clock=self._clock,
                )
            if record or value != found.entry.value:
                self._commit(entry.key, value, record)
        return self._entry(entry.key, value, record)

    def remove(self, entry: Entry) -> bool:
        """See `Store.remove`."""
        check_key(entry.key)
        self._make_directories()
        with self._lock(exclusive=True):
            found = self._load(entry.key)
            if found is None or not found.readable or not found.still_is(entry):
                return False
            self._unlink(entry.key)
        return True

    def _lock(self, *, exclusive: bool) -> contextlib.AbstractContextManager[None]:
        path = self._leases / ".lock"
        return locked(
            path, exclusive=exclusive, patience=_LOCK_PATIENCE, stopped=lambda: self.stopped
        )

    def _has_subnets(self) -> bool:
        """Return whether DIR/subnets is there; raise where that is an outage, not a fresh store.

        A store that had one and has none is in the middle of being replaced: neither is it empty,
        nor may we make the directory into which a person is about to move another.
        """
        try:
            os.scandir(self._subnets).close()
        except FileNotFoundError:
            self._directory.stat()
            if self._seen_subnets:
                raise
            return False
        self._seen_subnets = True
        return True

    def _make_directories(self) -> None:
        if not self._has_subnets():
            self._subnets.mkdir(exist_ok=True)
            self._seen_subnets = True
        self._leases.mkdir(exist_ok=True)

    def _recorded_names(self) -> set[str]:
        try:
            names = file_names(self._leases)
        except OSError:
            return set()
        return {name[: -len(_SUFFIX)] for name in names if name.endswith(_SUFFIX) and is_key(name)}

    def _record_path(self, name: str) -> Path:
        return self._leases / f"{name}{_SUFFIX}"

    def _load(self, name: str) -> _Found | None:
        """Return what lies at `name` now; the value is read first, as the record is written first.

        So even without the lock a renewal in between is never taken for a person's edit.
        """
        try:
            value = read_file(self._subnets / name, VALUE_LIMIT)
        except UnreadableError as error:
            self._complain(name, str(error))
            return _Found(self._entry(name, b"", None), record=None, readable=False)
        self._complained.pop(name, None)
        if value is None:
            return None
        data = None
        with contextlib.suppress(UnreadableError):
            data = read_file(self._record_path(name), _RECORD_LIMIT)
        record = parse_record(data) if data is not None else None
        if record and not record.describes(value):
            record = None
        return _Found(self._entry(name, value, record), record=record, readable=True)

    def _entry(self, name: str, value: bytes, record: Record | None) -> Entry:
        # 0: what a person wrote was there before every lease, so it wins the tie over a subnet.
        return Entry(
            key=printable(name),
            value=value,
            create_revision=record.create_revision if record else 0,
            mod_revision=record.mod_revision if record else content_revision(value),
            expires_in=record.remaining(self._clock) if record else None,
        )

    def _complain(self, name: str, reason: str) -> None:
        if self._complained.get(name) != reason:
            self._complained[name] = reason
            _log.warning("%s/%s: %s; passed on as empty", self._subnets, printable(name), reason)

    def _next_revision(self) -> int:
        path = self._leases / ".revision"
        try:
            last = int(read_file(path, _RECORD_LIMIT) or b"")
        except (UnreadableError, ValueError):
            last = -1
        if not 0 <= last < MAX_REVISION:
            # Lost or damaged: go on after the highest one in use.
            found = (self._load(name) for name in self._recorded_names())
            last = max(
                (item.record.mod_revision for item in found if item and item.record), default=0
            )
        # Not durable: whoever remembers a revision is gone after a power failure.
        stage_file(path, b"%d\n" % (last + 1), durable=False).replace(path)
        return last + 1

    def _commit(self, name: str, value: bytes, record: Record | None) -> None:
        path = self._subnets / name
        staged = stage_file(path, value)
        try:
            if record:
                record_path = self._record_path(name)
                # The record first: a value without one would be a reservation for ever.
                stage_file(record_path, record.encode()).replace(record_path)
                sync_directory(self._leases)
            staged.replace(path)
        except OSError:
            staged.unlink(missing_ok=True)
            raise
        sync_directory(self._subnets)

    def _unlink(self, name: str) -> None:
        (self._subnets / name).unlink(missing_ok=True)
        self._record_path(name).unlink(missing_ok=True)
        sync_directory(self._subnets)

    def _tidy(self, names: set[str]) -> None:
        """Remove expired keys, and the records of keys that are gone or changed by a person.

        Looked at again under the exclusive lock, because an owner may have renewed meanwhile. A
        store that we may only read stays as it is: what has expired is left out anyway.
        """
        if not names:
            return
        with contextlib.suppress(OSError), self._lock(exclusive=True):
            for name in sorted(names):
                found = self._load(name)
                if found and found.expired:
                    _log.info("%s has expired", printable(name))
                    self._unlink(name)
                elif found is None or (found.readable and not found.record):
                    self._record_path(name).unlink(missing_ok=True)


def _governed(found: _Found | None) -> bool:
    """Return whether a record is in force; what cannot be read now may be readable again."""
    if found is None:
        return False
    return not found.readable or (found.record is not None and not found.expired)
