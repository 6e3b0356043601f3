"""What the state directory remembers: network config, own lease and peers of the last run.

With these a daemon forwards at once when its store is away at the start. It is a cache: a file that
is missing, damaged or of another store is as good as none, and a lease that has ended is not used,
because its subnet may be another node's by now.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunneld.lease import Lease, format_attrs
from tunneld.observe.log import fields
from tunneld.store import Entry
from tunneld.store.file_disk import UnreadableError, read_file, stage_file

if TYPE_CHECKING:
    from tunneld.lease_keeper import LeaseKeeper
    from tunneld.subnet_map import SubnetMap

log = logging.getLogger(__name__)

_SCHEMA = 1
_LIMIT = 64 << 20  # bytes; some 10 MB are 65,536 peers


@dataclass(frozen=True, slots=True)
class Remembered:
    """The state of the last run.

    Attributes:
        config: the network config document.
        own: our key; `expires_in` as of now.
        peers: the admitted leases.
        saved_at: `time.time()` at which all this was written; 0: not known.
    """

    config: bytes
    own: Entry
    peers: tuple[Entry, ...]
    saved_at: float = 0.0


class StateCache:
    """The file `state.json`.

    Args:
        directory: made when something is first written.
        store_url: of the store that the state belongs to.
    """

    def __init__(self, directory: Path, store_url: str) -> None:
        self._path = directory / "state.json"
        self._store_url = store_url
        self._complained = False

    @property
    def useful(self) -> bool:
        """Whether the store can be away while this host is well; a directory here cannot."""
        return not self._store_url.startswith("file:")

    def load(self) -> Remembered | None:
        """Return what is remembered, None if that is nothing of use."""
        if not self.useful:
            return None
        try:
            data = read_file(self._path, _LIMIT)
        except UnreadableError as error:
            log.warning("cannot read the cached state", extra=fields(path=self._path, error=error))
            return None
        if data is None:
            return None
        try:
            return self._parse(json.loads(data))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            log.warning("the cached state is damaged", extra=fields(path=self._path, error=error))
            return None

    def _parse(self, document: dict[str, Any]) -> Remembered | None:
        if (document["schema"], document["store"]) != (_SCHEMA, self._store_url):
            return None
        own, ends_at = document["lease"], document["lease"]["ends_at"]
        left = None if ends_at is None else ends_at - time.time()
        if left is not None and left <= 0:
            return None
        return Remembered(
            config=document["config"].encode(),
            own=_entry(own, left),
            # None would make each a reservation, and those that vanish are gone at once.
            peers=tuple(_entry(peer, math.inf) for peer in document["peers"]),
            saved_at=float(document.get("saved_at", 0)),
        )

    def forget(self) -> None:
        """Remove the state, because it is no longer true."""
        with contextlib.suppress(OSError):
            self._path.unlink()

    async def keep(self, config: bytes, keeper: LeaseKeeper, subnet_map: SubnetMap) -> None:
        """Write what is true now, without holding up the event loop.

        Lease and peers are read here, in the loop that they belong to: a thread could see them half
        changed, and put an old list of peers in the place of a newer one.

        Args:
            config: the network config document.
            keeper: holds our key.
            subnet_map: holds the peers.
        """
        entry, expires_in, peers = keeper.held.entry, keeper.expires_in, subnet_map.peers
        await asyncio.to_thread(self.save, config, entry, expires_in, peers)

    def save(
        self, config: bytes, own: Entry, expires_in: float | None, peers: Iterable[Lease]
    ) -> None:
        """Write the state; a directory that cannot be written is told once.

        Args:
            config: the network config document.
            own: our key.
            expires_in: seconds until it ends; None: never.
            peers: the admitted leases.
        """
        document = {
            "schema": _SCHEMA,
            "store": self._store_url,
            "saved_at": round(time.time()),
            "config": config.decode("utf-8", "replace"),
            "lease": {
                "key": own.key,
                "value": own.value.decode("utf-8", "replace"),
                "create_revision": own.create_revision,
                "mod_revision": own.mod_revision,
                # By the wall clock: a reboot begins every other one anew.
                "ends_at": None if expires_in is None else round(time.time() + expires_in),
            },
            "peers": [
                {"key": peer.key, "value": format_attrs(peer.attrs).decode()} for peer in peers
            ],
        }
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
            # Not durable: after a power cut the last but one state does as well.
            data = (json.dumps(document) + "\n").encode()
            stage_file(self._path, data, durable=False).replace(self._path)
        except OSError as error:
            if not self._complained:
                self._complained = True
                pair = fields(path=self._path, error=error.strerror)
                log.warning("cannot remember peers for a start without the store", extra=pair)


def _entry(document: dict[str, Any], expires_in: float | None) -> Entry:
    created, modified = document.get("create_revision", 0), document.get("mod_revision", 0)
    entry = Entry(document["key"], document["value"].encode(), created, modified, expires_in)
    if not (isinstance(entry.key, str) and isinstance(created, int) and isinstance(modified, int)):
        raise TypeError("a key is no text, or a revision no number")
    return entry
