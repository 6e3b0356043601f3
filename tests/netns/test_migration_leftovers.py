"""What flanneld leaves of its rules goes by the commands of docs/migrating-from-flannel.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.netns.test_migration import commands

if TYPE_CHECKING:
    from tunneld.lab import Cluster

# As flannel sets them up (pkg/trafficmngr/iptables).
FLANNELS = [
    "iptables -t nat -N FLANNEL-POSTRTG",
    "iptables -t nat -A FLANNEL-POSTRTG -s 100.96.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE",
    "iptables -t nat -A POSTROUTING {} -j FLANNEL-POSTRTG",
    "iptables -N FLANNEL-FWD",
    "iptables -A FLANNEL-FWD -s 100.96.0.0/16 -j ACCEPT",
    "iptables -A FLANNEL-FWD -d 100.96.0.0/16 -j ACCEPT",
    "iptables -A FORWARD {} -j FLANNEL-FWD",
]
COMMENT = "-m comment --comment flanneld"


@pytest.mark.parametrize("comment", ["", COMMENT], ids=["plain", "with a comment"])
def test_flannels_rules_are_removed(cluster: Cluster, comment: str) -> None:
    node = cluster.nodes[0].node
    for command in FLANNELS:
        node.run(command.format(comment).split())
    documented = [command for command in commands() if command.startswith("iptables ")]
    assert len(documented) == 6
    for command in documented:
        words = command.split()
        if "-D" in words and comment:
            # "With a comment on the jump repeat it after -D."
            at = words.index("-D") + 2
            words[at:at] = comment.split()
        node.run(words)
    assert "FLANNEL" not in node.run(["iptables-save"]).stdout
