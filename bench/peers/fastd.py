"""fastd with method "null": an authenticated handshake, then packets in the clear."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bench.peers._tunnel import IPV4_UDP, Plan, Side, Task, Tunnel
from tunneld.lab import process

if TYPE_CHECKING:
    from bench.contenders import Options

DEVICE = "fastd0"
PORT = 10000
KEY_FILE = "secret.conf"


class Fastd(Tunnel):
    """One fastd per node."""

    name = "fastd"
    overhead = IPV4_UDP + 1
    """One byte of packet type (fastd's manual, "MTU configuration")."""
    note = 'no encryption (method "null"); its handshake is authenticated'
    tools = (("fastd", "fastd"),)

    def make_key(self, side: Side, directory: Path) -> str:  # noqa: ARG002 - both nodes alike
        """Make a key pair; the secret goes to a file that the config includes."""
        secret, public = parse_keys(process.run(["fastd", "--generate-key"]).stdout)
        file = directory / KEY_FILE
        file.touch(mode=0o600)
        file.write_text(f'secret "{secret}";\n')
        return public

    def plan(self, task: Task) -> Plan:
        """Return config and command; see fastd's manual, "Configuration file"."""
        config = task.directory / "fastd.conf"
        return Plan(
            argv=("fastd", "--config", str(config), "--log-level", "info"),
            ready="bound to ",
            device=DEVICE,
            files={config.name: config_text(task)},
            then=task.address_device(DEVICE),
        )


def config_text(task: Task) -> str:
    """Return the config of one node."""
    peer = f"remote {task.peer.public_ip}:{PORT}; key {quoted(task.peer_key)};"
    return "\n".join(
        [
            "mode tun;",
            f"interface {quoted(DEVICE)};",
            f"mtu {task.mtu};",
            'method "null";',
            f"bind {task.side.public_ip}:{PORT};",
            f"include {quoted(KEY_FILE)};",
            f"peer {quoted(task.peer.name)} {{ {peer} }}",
            "",
        ]
    )


def quoted(text: str) -> str:
    """Return a string of fastd's config language."""
    return f'"{text}"'


def parse_keys(text: str) -> tuple[str, str]:
    """Return secret and public key from what `fastd --generate-key` prints.

    Raises:
        CommandError: they are not in it.
    """
    fields = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
    try:
        return fields["Secret"], fields["Public"]
    except KeyError as error:
        raise process.CommandError(f"fastd --generate-key printed no {error} key") from None


def contender(_options: Options) -> Fastd:
    """Return the contender."""
    return Fastd()
