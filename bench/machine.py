"""Describe the machine and the day, so that figures can be read, and doubted, later."""

from __future__ import annotations

import datetime as dt
import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tunneld
from tunneld.lab import process

if TYPE_CHECKING:
    from tunneld.lab import Cluster, Node

ROOT = Path(__file__).resolve().parent.parent
VULNERABILITIES = Path("/sys/devices/system/cpu/vulnerabilities")

SAME = ("cpu", "cpus", "kernel", "mitigations")
"""What must be equal for runs to belong into one file."""


def machine() -> dict[str, Any]:
    """Describe this machine, its software and the day."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    return {
        "date": dt.datetime.now(tz=dt.UTC).date().isoformat(),
        "cpu": parse_cpu(cpuinfo) or platform.machine(),
        "cpus": os.cpu_count(),
        "cores": parse_cores(cpuinfo),
        "virtual": "hypervisor" in cpuinfo,
        "memory_gb": round(parse_memory(Path("/proc/meminfo").read_text()) / 1e9, 1),
        "kernel": platform.release(),
        "mitigations": mitigations(),
        "tcp_congestion": Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip(),
        "python": platform.python_version(),
        "iperf3": first_number(_said(["iperf3", "--version"])),
        "tunneld": tunneld.__version__,
        "commit": commit(),
    }


def machine_line(what: Mapping[str, Any] | None = None) -> str:
    """Return the same as one line of text.

    Args:
        what: a description out of a result file; None: of this machine, today.
    """
    told = machine() if what is None else what
    date, cpus, cpu, kernel, python = (
        told.get(key, "?") for key in ("date", "cpus", "cpu", "kernel", "python")
    )
    return f"{date}, {cpus} x {cpu}, Linux {kernel}, Python {python}"


def underlay(cluster: Cluster) -> dict[str, Any]:
    """Describe the wire of a cluster: its MTU and the offload features that are really in force."""
    return {
        "shape": cluster.underlay.shape,
        "mtu": cluster.underlay.mtu,
        "offload": {host.name: features(host.node) for host in cluster.nodes},
    }


def features(node: Node, ifname: str = "eth0") -> dict[str, bool]:
    """Return the offload features of an interface as ethtool sees them."""
    return parse_features(node.run(["ethtool", "-k", ifname]).stdout)


def parse_features(text: str) -> dict[str, bool]:
    """Return feature -> on out of the text of `ethtool -k`, without those that can never be on."""
    found = {}
    for line in text.splitlines():
        match = re.match(r"\s*([\w-]+): (on|off)(.*)", line)
        if match and not (match[2] == "off" and "[fixed]" in match[3]):
            found[match[1]] = match[2] == "on"
    return found


def parse_cpu(cpuinfo: str) -> str:
    """Return the model out of /proc/cpuinfo; "" where it has none (not x86)."""
    match = re.search(r"^model name\s*: (.+)$", cpuinfo, re.MULTILINE)
    return match[1].strip() if match else ""


def parse_cores(cpuinfo: str) -> int:
    """Return how many physical cores /proc/cpuinfo shows; 0: it does not say."""
    sockets = re.findall(r"^physical id\s*: (\d+)$", cpuinfo, re.MULTILINE)
    ids = re.findall(r"^core id\s*: (\d+)$", cpuinfo, re.MULTILINE)
    return len(set(zip(sockets, ids, strict=False)))


def parse_memory(meminfo: str) -> int:
    """Return the bytes of RAM out of /proc/meminfo."""
    match = re.search(r"^MemTotal:\s+(\d+) kB$", meminfo, re.MULTILINE)
    return int(match[1]) * 1024 if match else 0


def mitigations(directory: Path = VULNERABILITIES) -> dict[str, str]:
    """Return what the kernel does about flaws of this CPU; those it does not have are left out.

    They make system calls and context switches dearer, so they belong to every figure.
    """
    texts = {path.name: path.read_text().strip() for path in sorted(directory.glob("*"))}
    return {name: text for name, text in texts.items() if text != "Not affected"}


def first_number(text: str) -> str:
    """Return the first version number in a text; "" when there is none."""
    match = re.search(r"\d+(\.\d+)+", text)
    return match[0] if match else ""


def commit() -> str:
    """Return the commit of this checkout, with "+" when files differ from it; "" without git."""
    head = _said(["git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD"]).strip()
    paths = ["--", "tunneld", "csrc", "bench", "setup.py"]
    changed = _said(["git", "-C", str(ROOT), "status", "--porcelain", *paths]).strip()
    return f"{head}+" if head and changed else head


def _said(argv: list[str]) -> str:
    try:
        return process.run(argv, check=False).stdout
    except process.CommandError:
        return ""
