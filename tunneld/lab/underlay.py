"""The wire between the nodes: its shape (switch, cable, router, relay) and its offload setting.

The setting decides what a benchmark measures:

* `on`: veth defaults. 64 KiB superpackets cross the "wire" whole. Flatters everyone.
* `sgro`: checksum offload on, all hardware segmentation off, software GSO and GRO on. Nearest to
  a plain network card, and the headline setting.
* `plain`: no checksum, segmentation or GRO offload: every frame is at most 1514 bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunneld.lab import netns
from tunneld.lab.relay import Relay
from tunneld.lab.relay_faults import Faults

if TYPE_CHECKING:
    from tunneld.lab.netns import Lab, Node

SHAPES = ("switch", "cable", "router", "relay")

SEGMENTATION = (
    "tx-tcp-segmentation",
    "tx-tcp-ecn-segmentation",
    "tx-tcp-mangleid-segmentation",
    "tx-tcp6-segmentation",
    "tx-gre-segmentation",
    "tx-gre-csum-segmentation",
    "tx-ipxip4-segmentation",
    "tx-ipxip6-segmentation",
    "tx-udp_tnl-segmentation",
    "tx-udp_tnl-csum-segmentation",
    "tx-sctp-segmentation",
    "tx-udp-segmentation",
    "tx-gso-list",
)

SETTINGS: dict[str, dict[str, bool]] = {
    "on": {},
    "sgro": {
        **dict.fromkeys(SEGMENTATION, False),
        "tx-checksum-ip-generic": True,
        "tx-generic-segmentation": True,
        "rx-gro": True,
    },
    "plain": {
        **dict.fromkeys(SEGMENTATION, False),
        "tx-checksum-ip-generic": False,
        "rx-checksum": False,
        "tx-generic-segmentation": False,
        "rx-gro": False,
    },
}


def apply_setting(node: Node, ifname: str, setting: str, *, switch_port: bool = False) -> None:
    """Set the offload features of one end of the wire with ethtool.

    Args:
        node: where the interface is.
        ifname: the interface.
        setting: a key of `SETTINGS`.
        switch_port: the end belongs to a switch or router of the lab. It does not merge received
            frames: a real switch forwards them one by one, and merging and splitting them again
            would be charged to the hosts' CPU.
    """
    wanted = dict(SETTINGS[setting])
    if switch_port and wanted:
        wanted["rx-gro"] = False
    if not wanted:
        return
    arguments = [word for name, on in wanted.items() for word in (name, "on" if on else "off")]
    node.run(["ethtool", "-K", ifname, *arguments])


class Underlay:
    """The wire of one cluster.

    Attributes:
        shape: "switch" (one bridge, any number of hosts), "cable" (one veth pair, two hosts: what
            benchmarks use), "router" (the first host on one link, the others on a second one) or
            "relay" (two hosts, a process between them that damages frames; see `relay`; TAP devices
            have no offloads, so the setting does nothing).
        switch: the namespace of the bridge or router; None for a cable or relay.
        relay: of the shape "relay", once two hosts are attached.

    Args:
        lab: where the namespaces live.
        shape: see above.
        setting: a key of `SETTINGS`.
        mtu: of the (first) link.
        second_mtu: of the router's second link.
        faults: of the relay.
    """

    def __init__(
        self,
        lab: Lab,
        *,
        shape: str,
        setting: str,
        mtu: int,
        second_mtu: int,
        faults: Faults | None = None,
    ) -> None:
        if shape not in SHAPES or setting not in SETTINGS:
            raise ValueError(f"no such underlay: {shape} {setting}")
        self.shape = shape
        self.setting = setting
        self.mtu = mtu
        self.second_mtu = second_mtu
        self._first: Node | None = None
        self._ports = 0
        self._lab = lab
        self._faults = faults or Faults()
        self.relay: Relay | None = None
        self.switch: Node | None = None
        if shape not in {"cable", "relay"}:
            self.switch = lab.node("router" if shape == "router" else "switch")
            self._bridge(self.switch, "br0", "10.168.0.1/24", mtu)
            if shape == "router":
                self._bridge(self.switch, "br1", "10.168.1.1/24", second_mtu)
                self.switch.sysctl("net.ipv4.ip_forward", "1")

    @staticmethod
    def _bridge(node: Node, name: str, address: str, mtu: int) -> None:
        node.batch(
            [
                f"link add {name} mtu {mtu} type bridge forward_delay 0",
                f"address add {address} dev {name}",
                f"link set {name} up",
            ]
        )

    def address(self, number: int) -> tuple[str, str]:
        """Return address/length and gateway of host `number` (from 1): 10.168.0.2 is host 1."""
        third = 1 if self.shape == "router" and number > 1 else 0
        return f"10.168.{third}.{number + 1}/24", f"10.168.{third}.1"

    def attach(self, node: Node, number: int) -> None:
        """Give a node its eth0, address and default route, and plug it in."""
        address, gateway = self.address(number)
        if self.switch is not None:
            self._attach_port(self.switch, node, number)
        elif self._first is None:
            self._first = node
            return
        else:
            self._attach_cable(self._first, node)
        self._configure(node, address, gateway)

    def _attach_port(self, switch: Node, node: Node, number: int) -> None:
        second = self.shape == "router" and number > 1
        mtu = self.second_mtu if second else self.mtu
        self._ports += 1
        port = f"port{self._ports}"
        netns.link((node, "eth0"), (switch, port), mtu=mtu)
        switch.ip("link", "set", port, "master", "br1" if second else "br0")
        apply_setting(node, "eth0", self.setting)
        apply_setting(switch, port, self.setting, switch_port=True)

    def _attach_cable(self, first: Node, node: Node) -> None:
        if self._ports:
            raise ValueError("a cable or relay has two ends; use the switch for more hosts")
        self._ports = 2
        if self.shape == "relay":
            self.relay = Relay(first, node, self._faults, mtu=self.mtu)
            self._lab.on_close(self.relay.close)
        else:
            netns.link((first, "eth0"), (node, "eth0"), mtu=self.mtu)
            for end in (first, node):
                apply_setting(end, "eth0", self.setting)
        self._configure(first, *self.address(1))

    @staticmethod
    def _configure(node: Node, address: str, gateway: str) -> None:
        node.batch([f"address add {address} dev eth0", f"route add default via {gateway} dev eth0"])
