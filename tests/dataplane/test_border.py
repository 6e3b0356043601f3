"""The border to C: what Python hands over must live until the C core has copied it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

# Its own process, because the allocator is chosen at start: "debug" overwrites freed memory, so an
# array that is freed before the call that reads it is seen each time, not once in a thousand.
SCRIPT = """
import socket
from dataclasses import replace
from ipaddress import IPv4Network
from tests.dataplane.bed import SNAPSHOT
from tunneld.dataplane.engine import Engine, RouteTable

allow = (IPv4Network("10.9.0.0/16"),)
many = replace(SNAPSHOT, allow_sources=allow)
for route in many.routes:
    assert RouteTable(many).lookup(route.subnet[3]) == route
tun, tun_fd = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
engine = Engine(tun_fd=tun_fd.fileno(), udp_fd=udp.fileno(), snapshot=many, rung="mmsg")
engine.publish(replace(many, routes=many.routes[::-1]))
print(len(engine.peer_counters()))
"""


def test_a_snapshots_arrays_live_until_they_are_copied() -> None:
    environment = {**os.environ, "PYTHONMALLOC": "debug"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("2\n", "", 0)
