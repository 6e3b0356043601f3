"""socat between a TUN device and a UDP socket: the simplest tunnel there is, and no daemon of ours.

One packet per read and one per write, in one thread, with select() before each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.peers._tunnel import IPV4_UDP, Plan, Task, Tunnel

if TYPE_CHECKING:
    from bench.contenders import Options

DEVICE = "socat0"
PORT = 7000


class Socat(Tunnel):
    """One socat per node."""

    name = "socat"
    overhead = IPV4_UDP
    note = "no encryption, no header of its own"
    tools = (("socat", "socat"),)
    version_option = "-V"

    def plan(self, task: Task) -> Plan:
        """Return the command; see socat(1), address types TUN and UDP4-DATAGRAM."""
        here, there = task.side, task.peer
        # DATAGRAM, not a connected socket: that one ends with ECONNREFUSED when the peer is late.
        return Plan(
            argv=(
                *("socat", "-d", "-d"),
                f"TUN,tun-name={DEVICE},tun-type=tun,iff-no-pi",
                f"UDP4-DATAGRAM:{there.public_ip}:{PORT},bind={here.public_ip}:{PORT}",
            ),
            ready="starting data transfer loop",
            device=DEVICE,
            then=task.address_device(DEVICE),
        )


def contender(_options: Options) -> Socat:
    """Return the contender."""
    return Socat()
