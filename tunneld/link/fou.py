"""fou ports: UDP ports that the kernel itself takes datagrams from (ip-fou(8), linux/fou.h).

A datagram to such a port loses its UDP header and goes on as a packet of the port's IP protocol:
with protocol 4 the payload is a bare IPv4 packet, which is flannel's UDP format. A port belongs to
the whole network namespace, whatever address a datagram is sent to.
"""

from __future__ import annotations

import errno
import socket
import struct
import subprocess
from dataclasses import dataclass

from tunneld.errors import StartError
from tunneld.link.rtnl_bulk import BulkSocket, Request, attribute, attributes

NETLINK_GENERIC = 16
IPIP = 4
"""IP protocol number: IPv4 in IPv4."""

_CTRL = 0x10  # linux/genetlink.h
_CTRL_GETFAMILY = 3
_CTRL_FAMILY_ID = 1
_CTRL_FAMILY_NAME = 2
_GENL = struct.Struct("=BBH")
_ADD, _DEL, _GET = 1, 2, 3
_PORT, _AF, _IPPROTO, _TYPE, _LOCAL_V4 = 1, 2, 3, 4, 6
_DIRECT = 1


@dataclass(frozen=True, slots=True)
class FouPort:
    """One port.

    Attributes:
        port: UDP port.
        protocol: IP protocol of what the datagrams hold.
        direct: the payload is that packet itself (fou), not behind another header (gue).
        family: AF_INET or AF_INET6.
        local: only for this address; None: for all.
    """

    port: int
    protocol: int = IPIP
    direct: bool = True
    family: int = socket.AF_INET
    local: bytes | None = None

    def __str__(self) -> str:
        return f"fou port {self.port} ipproto {self.protocol}"


class Fou:
    """The kernel's fou ports of this network namespace."""

    def __init__(self) -> None:
        self._bulk = BulkSocket(NETLINK_GENERIC)
        self._family = 0

    def close(self) -> None:
        """Close the socket; the next request opens another one."""
        self._bulk.close()

    async def available(self, *, load: bool = False) -> bool:
        """Tell whether the kernel has fou.

        Args:
            load: try to load the module; nothing else does.

        Raises:
            StartError: the kernel's answers are lost.
        """
        if not self._family:
            self._family = await self._find()
        if not self._family and load:
            modprobe("fou", "ipip")
            self._family = await self._find()
        return bool(self._family)

    async def _find(self) -> int:
        body = _GENL.pack(_CTRL_GETFAMILY, 1, 0) + attribute(_CTRL_FAMILY_NAME, b"fou\0")
        (answer,) = await self._bulk.exchange([Request(_CTRL, body)])
        if answer.errno or not answer.replies:
            return 0
        found = attributes(answer.replies[0], _GENL.size)
        return int(struct.unpack("=H", found[_CTRL_FAMILY_ID])[0])

    async def ports(self) -> list[FouPort]:
        """Return all ports; none on a kernel without fou.

        Raises:
            StartError: the kernel refuses, or its answers are lost.
        """
        if not await self.available():
            return []
        return [read(body) for body in await self._bulk.dump(self._family, _GENL.pack(_GET, 1, 0))]

    async def ensure(self, port: int) -> bool:
        """Have a port for bare IPv4 packets; True: it had to be made.

        Raises:
            StartError: the port is taken, or the kernel has no fou.
        """
        wanted = FouPort(port)
        there = [found for found in await self.ports() if found.port == port]
        if wanted in there:
            return False
        if there:
            raise taken(there[0])
        (answer,) = await self._bulk.exchange([Request(self._family, _message(_ADD, wanted))])
        if answer.errno:
            reason = f"the kernel refuses fou on UDP port {port}: {answer.reason}"
            raise StartError(reason, remedy=f"see `ss -ulpn sport = {port}` and `ip fou show`")
        return True

    async def remove(self, port: int) -> bool:
        """Remove a port for bare IPv4 packets; False when there is none.

        Raises:
            StartError: the kernel refuses.
        """
        if FouPort(port) not in await self.ports():
            return False
        message = _message(_DEL, FouPort(port))
        (answer,) = await self._bulk.exchange([Request(self._family, message)])
        if answer.errno not in {0, errno.EINVAL, errno.ENOENT}:
            raise StartError(f"the kernel keeps fou port {port}: {answer.reason}")
        return not answer.errno


def taken(port: FouPort) -> StartError:
    """Return the error that names somebody else's fou on our port."""
    kind = "fou" if port.direct else "gue"
    return StartError(
        f"UDP port {port.port} is taken by another {kind} of this host (ipproto {port.protocol}),"
        " and a fou port belongs to the whole network namespace",
        remedy=f"remove it (`ip fou del port {port.port}`), or change Port in the network config"
        " of all nodes",
    )


def modprobe(*modules: str) -> None:
    """Load modules if they can be; what is missing then, the caller finds out."""
    try:
        command = ["modprobe", "-q", "-a", *modules]
        subprocess.run(command, capture_output=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return


def read(body: bytes) -> FouPort:
    """Read one port of a listing."""
    found = attributes(body, _GENL.size)
    local = found.get(_LOCAL_V4)
    return FouPort(
        port=int.from_bytes(found.get(_PORT, b""), "big"),
        protocol=int.from_bytes(found.get(_IPPROTO, b""), "little"),
        direct=found.get(_TYPE, bytes((_DIRECT,))) == bytes((_DIRECT,)),
        family=int.from_bytes(found.get(_AF, bytes((socket.AF_INET,))), "little"),
        local=local if local and any(local) else None,
    )


def _message(command: int, port: FouPort) -> bytes:
    return (
        _GENL.pack(command, 1, 0)
        + attribute(_PORT, port.port.to_bytes(2, "big"))
        + attribute(_AF, bytes((port.family,)))
        + attribute(_IPPROTO, bytes((port.protocol,)))
        + attribute(_TYPE, bytes((_DIRECT,)))
    )
