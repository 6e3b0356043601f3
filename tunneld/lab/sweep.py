"""Remove what labs leave: those that were killed before they could, and those that were kept.

A lab's namespaces and its scratch directory carry its pid: `tl<pid>-...`.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path

from tunneld.lab import process

NETNS_DIR = Path("/run/netns")
KEPT = "kept"
"""File in the scratch directory of a lab that shall outlive its process."""


def delete_namespace(netns: str) -> None:
    """Kill what still lives in one of the lab's namespaces and delete it."""
    for pid in process.run(["ip", "netns", "pids", netns], check=False).stdout.split():
        process.kill_pid(int(pid))
    process.run(["ip", "netns", "del", netns])


def sweep() -> None:
    """Delete the namespaces and scratch directories of labs that were killed before they could."""
    for path in NETNS_DIR.glob("tl*-*-*"):
        if _owner_is_dead(path):
            # Another lab may be sweeping the same one.
            with contextlib.suppress(process.CommandError):
                delete_namespace(path.name)
    for path in Path(tempfile.gettempdir()).glob("tl*-*"):
        if _owner_is_dead(path):
            shutil.rmtree(path, ignore_errors=True)


def tear_down() -> list[str]:
    """Remove every lab that was kept, processes first; returns the names of its namespaces."""
    removed = []
    for marker in Path(tempfile.gettempdir()).glob(f"tl*-*/{KEPT}"):
        owner = marker.parent.name.split("-")[0]
        for path in sorted(NETNS_DIR.glob(f"{owner}-*-*")):
            delete_namespace(path.name)
            removed.append(path.name)
        shutil.rmtree(marker.parent, ignore_errors=True)
    return removed


def _owner_is_dead(path: Path) -> bool:
    owner = path.name[2:].split("-")[0]
    if not owner.isdigit() or Path("/proc", owner).exists():
        return False
    return not any(Path(tempfile.gettempdir()).glob(f"tl{owner}-*/{KEPT}"))
