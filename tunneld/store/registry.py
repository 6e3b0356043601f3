"""Which stores there are, and how `--store URL` names one. A new store is one line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from tunneld.errors import ConfigError
from tunneld.store import Store
from tunneld.store.etcd import EtcdStore
from tunneld.store.etcd_options import DEFAULT_ENDPOINTS, EtcdOptions, parse_endpoints
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


def _open_etcd_store(rest: str, options: EtcdOptions) -> Store:
    if rest:
        raise ConfigError(
            "etcd: takes nothing behind the colon", source=_SOURCE, remedy="use --etcd-endpoints"
        )
    for flag, path in (
        ("cafile", options.cafile),
        ("certfile", options.certfile),
        ("keyfile", options.keyfile),
    ):
        if not path:
            continue
        try:
            Path(path).read_bytes()
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}", source=f"--etcd-{flag}") from error
    return EtcdStore(options)


STORES: Mapping[str, Callable[[str, EtcdOptions], Store]] = {
    "etcd": _open_etcd_store,
    "file": lambda rest, _options: _open_file_store(rest),
}
"""Scheme of the URL -> function that opens the store, called with what follows the colon."""


def open_store(url: str, etcd: EtcdOptions | None = None) -> Store:
    """Return the store that `url` names; it connects by itself, later.

    Args:
        url: `etcd:` or `file:DIR`.
        etcd: what the etcd flags say; None: nothing was given.

    Raises:
        ConfigError: the URL names no store, or a file of the etcd flags cannot be read.
    """
    scheme, colon, rest = url.partition(":")
    factory = STORES.get(scheme) if colon else None
    if factory:
        return factory(rest, etcd or EtcdOptions(parse_endpoints(DEFAULT_ENDPOINTS)))
    known = ", ".join(f"{name}:..." for name in sorted(STORES))
    raise ConfigError(f"{url!r} names no store", source=_SOURCE, remedy=f"known: {known}")
