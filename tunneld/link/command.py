"""Run the tools that know the kernel's rules (nft, iptables), off the event loop."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Sequence

from tunneld.errors import StartError

_TIMEOUT_S = 20.0


async def run(
    argv: Sequence[str], stdin: str = "", *, package: str
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, in our network namespace, and capture what it prints.

    Args:
        argv: the command; never a shell line.
        stdin: text for its standard input.
        package: what to install when it is missing.

    Raises:
        StartError: it is not installed, or does not end.
    """
    try:
        # In a thread, which is in our network namespace as we are.
        return await asyncio.to_thread(
            subprocess.run,
            list(argv),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except FileNotFoundError:
        raise StartError(
            f"{argv[0]} is not installed", remedy=f"apt-get install {package}"
        ) from None
    except subprocess.TimeoutExpired:
        raise StartError(f"{argv[0]} did not end within {_TIMEOUT_S:g} s") from None
