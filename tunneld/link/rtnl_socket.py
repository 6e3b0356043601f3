"""One rtnetlink socket on which questions are asked one after the other.

pyroute2 leaves three things to its user. The kernel answers EBUSY to a second dump on a socket
while the first is on its way (which happens above some 600 routes). An answer that was lost
(ENOBUFS) is waited for without end. And a socket that once had an error gives that error to every
later question. So: one question at a time, with a deadline, and a new socket after an error.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from pyroute2 import AsyncIPRoute
from pyroute2.netlink import NLM_F_DUMP, NLM_F_REQUEST
from pyroute2.netlink.nlsocket import NetlinkRequest
from pyroute2.netlink.rtnl import RTM_GETROUTE, RTM_NEWROUTE

from tunneld.errors import StartError

ANSWER_S = 10.0
"""The kernel answers within milliseconds: after this the answer is lost, and not to wait for."""

_NLMSG = struct.Struct("=IHHI")  # struct nlmsghdr without the port
_DST_LEN_AT = 17  # rtm_dst_len, behind struct nlmsghdr and rtm_family


class RtnlSocket:
    """A socket for questions and their answers, in one event loop.

    Every question raises NetlinkError when the kernel refuses, and StartError when the answer is
    lost: whether a change was made is not known then, which an `ensure_*` finds out next time.
    """

    def __init__(self) -> None:
        self._ipr: Any = None
        self._turn = asyncio.Lock()

    async def open(self) -> None:
        """Open the socket in the network namespace of the calling thread."""
        # Strict: the kernel filters dumps itself (Linux 4.20). On a host with 20,000 routes ours
        # are found in 2 ms; without it Python parses them all, for 700 ms.
        self._ipr = AsyncIPRoute(strict_check=True)
        await self._ipr.setup_endpoint()

    def close(self) -> None:
        """Close it; idempotent."""
        ipr, self._ipr = self._ipr, None
        if ipr is not None:
            ipr.close()

    async def ask(self, what: str, command: str, **arguments: Any) -> list[Any]:
        """Ask for one thing, or change one: `ask("link", "get", ifname="lo")`."""
        async with self._question():
            return list(await getattr(self._ipr, what)(command, **arguments))

    async def dump(self, what: str, **arguments: Any) -> list[Any]:
        """Ask for all of a kind: `dump("addr", family=AF_INET)`."""
        async with self._question():
            messages = await getattr(self._ipr, what)("dump", **arguments)
            return [message async for message in messages]

    async def dump_routes(self, request: Any, *, only_default: bool = False) -> list[Any]:
        """Ask for the routes that an rtmsg describes."""
        async with self._question():
            asked = NetlinkRequest(
                self._ipr,
                request,
                msg_type=RTM_GETROUTE,
                msg_flags=NLM_F_REQUEST | NLM_F_DUMP,
                parser=self._parse_default if only_default else None,
            )
            await asked.send()
            return [message async for message in asked.response() if "family" in message]

    def _parse_default(self, data: bytes, offset: int, length: int) -> Any:
        """Decode routes with an empty prefix and pass over the others, which takes a tenth.

        pyroute2's own `get_default_routes` returns None for the others and then takes a datagram
        without a default route for the end of the dump.
        """
        size, kind, flags, sequence = _NLMSG.unpack_from(data, offset)
        if kind == RTM_NEWROUTE and data[offset + _DST_LEN_AT]:
            return {"header": {"length": size, "type": kind, "flags": flags, "error": None}}
        return self._ipr.marshal.parse_one_message(kind, flags, sequence, data, offset, length)

    @asynccontextmanager
    async def _question(self) -> AsyncIterator[None]:
        async with self._turn:
            if self._ipr is None:
                await self.open()
            try:
                async with asyncio.timeout(ANSWER_S):
                    yield
            except OSError as error:  # TimeoutError is one too
                self.close()
                raise StartError(f"the kernel's answer over netlink was lost: {error!r}") from error
