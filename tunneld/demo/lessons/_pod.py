"""A pod: several processes in one network namespace, held by one that does nothing else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunneld.demo.waiting import Beside, wait_until
from tunneld.lab.sweep import NETNS_DIR

if TYPE_CHECKING:
    from tunneld.demo.story import Story
    from tunneld.lab import Container, Node

PORT = 80
SERVER = f"python3 -m http.server {PORT}"


def pod(story: Story, node: Node, where: Container, stranger: Container) -> dict[str, Any]:
    """Tell what the containers of a pod share.

    Args:
        story: where.
        node: the host.
        where: the pod's namespace.
        stranger: a container that is not of the pod.
    """
    story.step("A pod: containers that share one namespace")
    story.say(
        "Kubernetes puts containers that belong together into one network namespace. It is made"
        " first, for a process that does nothing but be there (named pause, or infra), so that it"
        " outlives the containers that come and go. Here `sleep` plays it (and the lab has given"
        " the namespace a name, which holds it as well):"
    )
    story.command(where.name, "sleep infinity &")
    infra = Beside(where, "sleep infinity").pid
    # `ip netns exec` enters the namespace before it becomes sleep: who follows too early stays out.
    wait_until(lambda: _is_inside(infra, where), "the pause process in its namespace")
    story.say(f"Its process number is {infra}. A container, app-a, joins its namespace and serves:")
    enter = f"nsenter --net=/proc/{infra}/ns/net"
    story.command(node.name, f"{enter} {SERVER} &")
    app = Beside(node, f"{enter} {SERVER}").pid
    wait_until(lambda: _listens(where), f"a server on port {PORT} of the pod")
    links = f"readlink /proc/{infra}/ns/net /proc/{app}/ns/net /proc/self/ns/net"
    spaces = story.shell(node, links).stdout.split()
    story.say(
        "pause and app-a: "
        + ("one namespace" if spaces[0] == spaces[1] else "two namespaces")
        + ". The third line is node1's own. A second container, app-b, joins the same way. So it"
        " has the same interface and the same address:"
    )
    done = story.shell(node, f"{enter} ip -br address show eth0")
    story.say(f"And the same ports. app-b wants port {PORT}, too:")
    clash = story.shell(node, f"{enter} {SERVER} 2>&1 | tail -n 1", check=False).stdout.strip()
    story.say(
        "One address, one set of ports: who comes second must take another. In exchange the two"
        " are localhost to each other. Anything in the pod reaches app-a so (/dev/tcp/ADDRESS/PORT"
        " is bash's way to open a connection, HEAD the shortest question to a web server):"
    )
    inside = _ask(story, where, "127.0.0.1")
    story.say("The same in container-1, which has a localhost of its own, and nothing on it:")
    elsewhere = _ask(story, stranger, "127.0.0.1")
    story.say("From there app-a is to be had at the pod's address:")
    across = _ask(story, stranger, str(where.address))
    return {
        "address": re.findall(r"[\d.]+(?=/)", done.stdout),
        "one_namespace": spaces[0] == spaces[1] != spaces[2],
        "clash": clash,
        "localhost": inside,
        "localhost_elsewhere": elsewhere,
        "by_address": across,
    }


def _is_inside(pid: int, where: Node) -> bool:
    theirs = Path(f"/proc/{pid}/ns/net").stat().st_ino
    return theirs == (NETNS_DIR / where.netns).stat().st_ino


def _listens(where: Node) -> bool:
    return f":{PORT}" in where.run(["ss", "-ltnH"]).stdout


def _ask(story: Story, node: Node, address: str) -> str:
    """Show a request in a shell's own words, and return the first line of what comes back."""
    connect = f"exec 3<>/dev/tcp/{address}/{PORT}"
    command = f"{connect} && printf 'HEAD / HTTP/1.0\\n\\n' >&3 && head -1 <&3"
    done = story.shell(node, command, check=False, keep=lambda line: "line 1" not in line)
    return (done.stdout + done.stderr).splitlines()[0].strip()
