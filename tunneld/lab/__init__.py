"""A cluster on one machine: hosts, containers and wires out of network namespaces.

Used by the demo, the tests and the benchmarks, so that all three speak of the same two nodes:

    with Cluster(nodes=2, setting="sgro") as cluster:
        cluster.start_daemons(["--dataplane", "mmsg"])
        node1, node2 = cluster.nodes
        print(node1.container.run(["ping", "-c", "1", str(node2.container.address)]).stdout)

Everything is plain and synchronous: `ip`, `bridge` and `ethtool` as subprocesses, so what the lab
does can be typed by a reader. It needs root (or `unshare -Urnm`). When the `with` block ends, also
by an exception, Ctrl-C or SIGTERM, no process, namespace or file is left.
"""

from tunneld.lab.capture import Capture, Frame
from tunneld.lab.cluster import CONFIG, NETWORK, PORT, Cluster, ClusterNode, Container
from tunneld.lab.daemon import Daemon, DaemonError
from tunneld.lab.netns import Lab, Node, link
from tunneld.lab.probe import Answer, ping, wait_for_ping
from tunneld.lab.process import CommandError
from tunneld.lab.vxlan import Command

__all__ = [
    "CONFIG",
    "NETWORK",
    "PORT",
    "Answer",
    "Capture",
    "Cluster",
    "ClusterNode",
    "Command",
    "CommandError",
    "Container",
    "Daemon",
    "DaemonError",
    "Frame",
    "Lab",
    "Node",
    "link",
    "ping",
    "wait_for_ping",
]
