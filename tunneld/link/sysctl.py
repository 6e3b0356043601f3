"""Read and set sysctls of the network namespace that the calling thread is in."""

from __future__ import annotations

from pathlib import Path

_ROOT = Path("/proc/sys")


def read(path: str) -> str:
    """Return a value, for example `read("net/ipv4/ip_forward")`.

    Raises:
        FileNotFoundError: this kernel has no such sysctl.
    """
    return (_ROOT / path).read_text(encoding="ascii").strip()


def ensure(path: str, value: str) -> bool:
    """Set a sysctl if it differs.

    Returns:
        True when it had to be changed.

    Raises:
        FileNotFoundError: this kernel has no such sysctl.
        OSError: it is read-only (PermissionError, EROFS).
    """
    if read(path) == value:
        return False
    (_ROOT / path).write_text(value, encoding="ascii")
    return True
