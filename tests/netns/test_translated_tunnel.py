"""A host whose administrator has its tunnel come from another of its addresses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.netns.firewall import NO_RULES, rules
from tunneld.lab import PORT, Cluster, wait_for_ping

if TYPE_CHECKING:
    from tunneld.lab import ClusterNode

OTHER = "10.168.0.222"

TO_OURS = f"ip daddr {OTHER} udp dport {PORT} dnat to 10.168.0.3"
TO_OTHER = f"ip saddr 10.168.0.3 udp dport {PORT} snat to {OTHER}"

NAT = f"""
table ip other {{
  chain in {{
    type nat hook prerouting priority dstnat;
    {TO_OURS}
  }}
  chain out {{
    type nat hook postrouting priority srcnat;
    {TO_OTHER}
  }}
}}
"""


def translated(host: ClusterNode, cluster: Cluster) -> None:
    host.node.run(["ip", "address", "add", f"{OTHER}/24", "dev", "eth0"])
    host.node.run(["nft", "-f", "-"], stdin=NAT)
    path = cluster.store_dir / "subnets" / str(host.subnet).replace("/", "-")
    path.write_text(path.read_text().replace(str(host.public_ip), OTHER))


@pytest.mark.parametrize("args", [[], ["--ip-masq"], [NO_RULES]])
@pytest.mark.parametrize("first", [0, 1])
def test_it_is_no_container(cluster: Cluster, args: list[str], first: int) -> None:
    """The guard is for what is forwarded, and for nothing that the host sends itself."""
    one, two = cluster.nodes
    translated(two, cluster)
    one.daemon.start()
    two.daemon.start([f"--public-ip={OTHER}", *args])
    for host in cluster.nodes:
        host.daemon.wait_ready()
    ends = (one, two) if first == 0 else (two, one)
    wait_for_ping(ends[0].container, ends[1].container.address)
    wait_for_ping(ends[1].container, ends[0].container.address)
    assert not rules(two)["drop_forged_outer"]
