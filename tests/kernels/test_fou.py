"""`--dataplane kernel` under Debian's 6.1, against our own packet path and a plain UDP socket."""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any

import pytest

from tests.kernels.guest import MARK, STREAM_BYTES
from tests.kernels.guest_fou import FLOOD
from tests.kernels.test_kernels import HERE, PYTHON

# The first boot fetches the kernel.
pytestmark = [pytest.mark.kernels, pytest.mark.timeout(600)]

Facts = dict[str, Any]
DEVICES = ("tunneld0aa80003", "tunneld0aa80004")


@pytest.fixture(scope="module")
def facts() -> Facts:
    """What `guest_fou.py` saw."""
    command = [str(HERE / "vm"), "6.1", str(PYTHON), "-m", "tests.kernels.guest_fou"]
    done = subprocess.run(
        command, cwd=HERE.parents[1], capture_output=True, text=True, timeout=540, check=False
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(lines) == 1, done.stdout + done.stderr
    found: Facts = json.loads(lines[0].removeprefix(MARK))
    return found


def test_containers_reach_the_daemons_own_packet_path(facts: Facts) -> None:
    assert facts["streams"] == [True, True], "a stream's hash, each way"
    assert facts["full_size_ping"]
    assert facts["environment"]["FLANNEL_MTU"] == "1472"


def test_the_host_itself_is_answered(facts: Facts) -> None:
    assert "1 received" in facts["from_host"]


def test_the_other_end_sees_nothing_wrong(facts: Facts) -> None:
    for counters in facts["userspace"]["counters"].values():
        assert {name: n for name, n in counters.items() if "drop" in name and n} == {}


def test_devices_routes_port_and_rules(facts: Facts) -> None:
    tables = facts["tables"]
    assert sorted(re.findall(r"tunneld[0-9a-f]+", tables["links"])) == sorted(DEVICES)
    for remote in ("10.168.0.3", "10.168.0.4"):
        assert (
            f"remote {remote} local 10.168.0.2 ttl 64 pmtudisc encap fou encap-sport 8285"
            " encap-dport 8285 encap-csum "
        ) in tables["links"]
    assert [" ".join(line.split()) for line in tables["routes"].splitlines()] == [
        "unreachable 100.96.0.0/16 metric 4294967295",
        "unreachable 100.96.1.0/24 metric 4294967295",
        "100.96.2.0/24 dev tunneld0aa80003",
        "100.96.3.0/24 dev tunneld0aa80004",
    ]
    for device in DEVICES:
        assert re.search(rf"{device} +inet 100\.96\.1\.0/32 ", tables["addresses"])
    assert tables["fou"] == "port 8285 ipproto 4\n"
    assert "table ip tunneld_udp\n" in tables["nft"]


def test_the_status(facts: Facts) -> None:
    status = facts["status"]
    backend = status["backend"]
    assert (backend["type"], backend["dataplane"], backend["threads"]) == ("udp", "kernel", 0)
    assert (backend["mtu"], backend["repairs"], backend["skipped"]) == (1472, {}, {})
    assert status["state"] == "ready"
    busy, idle = status["peers"]
    assert min(busy["tx_bytes"], busy["rx_bytes"]) > STREAM_BYTES
    assert idle["tx_packets"] == idle["rx_packets"] == 0


def test_the_bytes_on_the_wire(facts: Facts) -> None:
    """Bare inner packet; 8285 to 8285 with a checksum; DF, TTL 64, TOS 0: flannel's."""
    sent = facts["wire"]["sent"]
    assert sent["source"] == ["10.168.0.2", 8285]
    payload = bytes.fromhex(sent["payload"])
    # One hop: the kernel's own forwarding. The daemon's path takes another one off.
    assert payload[:2].hex() + payload[8:9].hex() == "45003f"
    assert payload[12:20].hex() == "64600102" + "64600304"
    assert payload.endswith(b"hello from the container")
    (outer,) = (bytes.fromhex(each) for each in facts["wire"]["outer"])
    assert outer[0:2].hex() == "4500"
    assert int.from_bytes(outer[2:4], "big") == 28 + len(payload)
    assert outer[6:10].hex() == "40004011"
    assert outer[12:24].hex() == "0aa80002" + "0aa80004" + "205d205d"
    assert outer[26:28] != bytes(2)


def test_what_must_not_come_in_is_dropped_and_counted(facts: Facts) -> None:
    assert facts["wire"]["leaks"] == []
    assert facts["wire"]["received"] == "good"
    dropped = facts["wire"]["dropped"]
    assert dropped["drop_outer_source"] == dropped["drop_outer_port"] == FLOOD
    # And one each: this host's own address as a source, and a packet for a third node.
    assert dropped["drop_spoofed_source"] == dropped["drop_foreign_destination"] == FLOOD + 1


def test_what_others_break_is_repaired(facts: Facts) -> None:
    assert facts["repairs"] == {
        **dict.fromkeys(("device", "route", "rules", "firewall_rules", "fou_port", "link"), 1),
        "left": {},
    }


def test_a_restart_touches_nothing(facts: Facts) -> None:
    restart = facts["restart"]
    assert restart["answer_without_daemon"]
    assert restart["differing"] == {}
    assert (restart["repairs"], restart["stopped"]) == ({}, 0)
    assert restart["changes"] == ""


def test_cleanup_removes_everything(facts: Facts) -> None:
    code, text = facts["restart"]["cleanup"]
    assert code == 0
    for what in (*(f"device {name}" for name in DEVICES), "fou port 8285", "nft table tunneld_udp"):
        assert f"removed {what}\n" in text
    after = facts["restart"]["after"]
    assert "tunneld" not in after["links"] + after["addresses"]
    assert (after["routes"], after["fou"]) == ("", "")
    # What iptables itself leaves behind is no rule of ours.
    assert "tunneld" not in after["nft"]


def test_a_clash_of_ports_is_named(facts: Facts) -> None:
    code, text = facts["restart"]["clash_with_a_socket"]
    assert code == 1
    assert "UDP port 8285 on 0.0.0.0 is in use by python" in text
    code, text = facts["restart"]["clash_with_fou"]
    assert code == 1
    assert "UDP port 8285 is taken by another fou of this host (ipproto 47)" in text
    code, text = facts["restart"]["auto_beside_it"]
    assert code == 1
    assert "`tunneld cleanup` removes what --dataplane=kernel left" in text
