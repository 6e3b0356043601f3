"""wireguard-go: WireGuard in userspace. It always encrypts; there is no mode without.

Its control socket lies in /var/run/wireguard, one for the whole machine whatever the namespace, so
its devices are named after the benchmark's pid.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bench.peers._tunnel import IPV4_UDP, Plan, Side, Task, Tunnel
from tunneld.lab import process

if TYPE_CHECKING:
    from bench.contenders import Options

PORT = 51820
SOCKETS = Path("/var/run/wireguard")
KEY_FILE = "private-key"


class WireguardGo(Tunnel):
    """One wireguard-go per node, configured with wg(8)."""

    name = "wireguard-go"
    overhead = IPV4_UDP + 32
    """Data header 16 and Poly1305 tag 16 (WireGuard's paper, 5.4.6)."""
    note = "encrypted (ChaCha20-Poly1305): it has no other mode; before 2023 without GSO and GRO"
    tools = (("wireguard-go", "wireguard-go"), ("wg", "wireguard-tools"))

    def make_key(self, side: Side, directory: Path) -> str:  # noqa: ARG002 - both nodes alike
        """Make a Curve25519 key pair."""
        private = process.run(["wg", "genkey"]).stdout
        file = directory / KEY_FILE
        file.touch(mode=0o600)
        file.write_text(private)
        return process.run(["wg", "pubkey"], stdin=private).stdout.strip()

    def plan(self, task: Task) -> Plan:
        """Return the commands; see wg(8)."""
        device = f"wg{task.owner}-{task.side.number}"
        private = str(task.directory / KEY_FILE)
        return Plan(
            argv=("wireguard-go", "-f", device),
            env={"LOG_LEVEL": "verbose"},  # else it does not say when its control socket is there
            ready="UAPI listener started",
            device=device,
            then=(
                (
                    *("wg", "set", device, "listen-port", str(PORT), "private-key", private),
                    *("peer", task.peer_key, "allowed-ips", str(task.peer.subnet)),
                    *("endpoint", f"{task.peer.public_ip}:{PORT}"),
                ),
                *task.address_device(device),
            ),
            outside=(SOCKETS / f"{device}.sock",),
        )


def contender(_options: Options) -> WireguardGo:
    """Return the contender."""
    return WireguardGo()
