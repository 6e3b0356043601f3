"""Which stores there are, and how `--store URL` names one. A new store is one line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from tunneld.errors import ConfigError
from tunneld.store import Store
from tunneld.store.file import FileStore

_SOURCE = "--store"


def _open_file_store(rest: str) -> Store:
    # file:///dir and file://localhost/dir are the same directory as file:/dir (RFC 8089).
    path = rest.removeprefix("//localhost") if rest.startswith("//localhost/") else rest
    if path.startswith("//"):
        path = path[2:]
        if not path.startswith("/"):
            raise ConfigError(
                f"file:{rest} names another host", source=_SOURCE, remedy="write file:/DIR"
            )
    if not path or "\0" in path:
        raise ConfigError(f"file:{rest!s} names no directory", source=_SOURCE, remedy="file:DIR")
    directory = Path(path)
    if directory.exists() and not directory.is_dir():
        raise ConfigError(
            f"{directory} is not a directory", source=_SOURCE, remedy="give the directory of it"
        )
    return FileStore(directory)


STORES: Mapping[str, Callable[[str], Store]] = {"file": _open_file_store}
"""Scheme of the URL -> function that opens the store, called with what follows the colon."""


def open_store(url: str) -> Store:
    """Return the store that `url` names; it connects by itself, later.

    Raises:
        ConfigError: the URL names no store that this release has.
    """
    scheme, colon, rest = url.partition(":")
    factory = STORES.get(scheme) if colon else None
    if factory:
        return factory(rest)
    if scheme == "etcd":
        raise ConfigError(
            "the etcd store comes with a later release", source=_SOURCE, remedy="use file:DIR"
        )
    known = ", ".join(f"{name}:..." for name in sorted(STORES))
    raise ConfigError(f"{url!r} names no store", source=_SOURCE, remedy=f"known: {known}")
