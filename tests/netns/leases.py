"""Leases that a test writes into the file store by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from tunneld.lab import Cluster


def put(cluster: Cluster, key: str, value: str) -> Path:
    """Write a key whole; returns its file.

    On a busy machine a daemon could else read the file while it is empty.
    """
    draft = cluster.lab.directory / f"draft-{key}"
    draft.write_text(value)
    return draft.rename(cluster.store_dir / "subnets" / key)
