"""sd_notify: tell the service manager (or the lab) that we are ready or stopping."""

from __future__ import annotations

import os
import socket


def notify(*lines: str) -> None:
    """Send the lines to $NOTIFY_SOCKET; a manager that is not there is no error of ours."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        try:
            sock.sendto("\n".join(lines).encode(), address)
        except OSError:
            return
