"""OpenVPN from point to point with neither TLS nor cipher: the bare packet path of openvpn.

Without keys there is no header at all. OpenVPN 2.7 drops this form; it then says so and ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.peers._tunnel import IPV4_UDP, Plan, Task, Tunnel

if TYPE_CHECKING:
    from bench.contenders import Options

DEVICE = "openvpn0"
PORT = 1194


class Openvpn(Tunnel):
    """One openvpn per node."""

    name = "openvpn"
    overhead = IPV4_UDP
    note = "no encryption (cipher none, auth none, no TLS)"
    tools = (("openvpn", "openvpn"),)

    def plan(self, task: Task) -> Plan:
        """Return the command; see openvpn(8)."""
        here, there = task.side, task.peer
        return Plan(
            argv=(
                *("openvpn", "--dev", DEVICE, "--dev-type", "tun", "--proto", "udp4"),
                *("--local", str(here.public_ip), "--lport", str(PORT)),
                *("--remote", str(there.public_ip), str(PORT), "udp4"),
                *("--cipher", "none", "--auth", "none", "--disable-dco"),
                *("--tun-mtu", str(task.mtu), "--mssfix", "0", "--verb", "3"),
            ),
            ready="UDPv4 link remote",
            device=DEVICE,
            then=task.address_device(DEVICE),
        )


def contender(_options: Options) -> Openvpn:
    """Return the contender."""
    return Openvpn()
