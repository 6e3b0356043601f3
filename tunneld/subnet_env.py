"""subnet.env: how Docker and the CNI plugin learn the subnet (flannel's format, byte for byte)."""

from __future__ import annotations

import os
import tempfile
from ipaddress import IPv4Interface, IPv4Network
from pathlib import Path

from tunneld.errors import StartError

_MODE = 0o644


def render(network: IPv4Network, subnet: IPv4Network, mtu: int, *, ip_masq: bool = False) -> str:
    """Return the file's text; FLANNEL_SUBNET is the bridge's address, the first of the subnet."""
    return (
        f"FLANNEL_NETWORK={network}\n"
        f"FLANNEL_SUBNET={subnet.network_address + 1}/{subnet.prefixlen}\n"
        f"FLANNEL_MTU={mtu}\n"
        f"FLANNEL_IPMASQ={'true' if ip_masq else 'false'}\n"
    )


def write(path: Path, text: str) -> bool:
    """Replace the file as one, mode 0644, directory 0755.

    Returns:
        Whether anything was written; a file that is right already keeps its times.

    Raises:
        StartError: the file cannot be written there.
    """
    try:
        if path.read_text(encoding="utf-8") == text:
            return False
    except (OSError, UnicodeDecodeError):
        pass
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        _replace(path, text)
    except OSError as error:
        raise _unwritable(path, error) from error
    return True


def _replace(path: Path, text: str) -> None:
    fd, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), _MODE)
            os.fsync(file.fileno())
        Path(name).replace(path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise


def check_writable(path: Path) -> None:
    """Fail now rather than after the lease is taken.

    Raises:
        StartError: the file could not be written there later.
    """
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(21, "is a directory")
        fd, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(fd)
        Path(name).unlink()
    except OSError as error:
        raise _unwritable(path, error) from error


def previous_subnet(path: Path) -> IPv4Network | None:
    """Return the subnet that an earlier life wrote, or None; a broken file is no error."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        values = dict(line.split("=", 1) for line in lines if "=" in line)
        return IPv4Interface(values["FLANNEL_SUBNET"]).network
    except (OSError, KeyError, ValueError):
        return None


def _unwritable(path: Path, error: OSError) -> StartError:
    return StartError(
        f"cannot write the subnet file {path}: {error.strerror}",
        remedy="name another place with --subnet-file, or make its directory writable",
    )
