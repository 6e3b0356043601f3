"""tunneld under Debian's 6.1 and 6.12: what it chooses there, and that it carries everything."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.kernels.guest import MARK, RUNGS

# The first boot fetches the kernel.
pytestmark = [pytest.mark.kernels, pytest.mark.timeout(600)]

HERE = Path(__file__).parent
PYTHON = HERE.parents[1] / ".venv" / "bin" / "python"
KERNELS = ("6.1", "6.12")
PASSES_USO = {"6.1": False, "6.12": True}
"""TUN_F_USO4 came with Linux 6.2."""

Facts = dict[str, Any]


@pytest.fixture(scope="module", params=KERNELS)
def facts(request: pytest.FixtureRequest) -> Facts:
    """What `guest.py` saw under that kernel."""
    command = [str(HERE / "vm"), request.param, str(PYTHON), "-m", "tests.kernels.guest"]
    done = subprocess.run(
        command, cwd=HERE.parents[1], capture_output=True, text=True, timeout=540, check=False
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(lines) == 1, done.stdout + done.stderr
    return {"kernel": request.param, **json.loads(lines[0].removeprefix(MARK))}


def test_it_is_that_kernel(facts: Facts) -> None:
    assert facts["release"].startswith(facts["kernel"] + ".")


def test_doctor_names_what_the_kernel_lacks(facts: Facts) -> None:
    doctor = facts["doctor"]
    assert doctor["TUN TSO"]["level"] == doctor["UDP GSO"]["level"] == "ok"
    assert doctor["UDP GRO"]["level"] == doctor["TUN vnet_hdr"]["level"] == "ok"
    uso = doctor["TUN USO"]
    assert uso["level"] == ("ok" if PASSES_USO[facts["kernel"]] else "warn")
    assert bool(uso["remedy"]) is not PASSES_USO[facts["kernel"]]
    assert "fail" not in {finding["level"] for finding in doctor.values()}


def test_auto_takes_offload_with_what_the_kernel_passes(facts: Facts) -> None:
    uso = PASSES_USO[facts["kernel"]]
    auto = facts["rungs"]["auto"]
    assert auto["backend"]["dataplane"] == "offload"
    offload = auto["backend"]["offload"]
    assert (offload["coalesce_tcp"], offload["coalesce_udp"]) == (True, uso)
    assert (offload["downgrades_tun"], offload["downgrades_udp"]) == (0, 0)
    assert ("does not pass all superpackets" in auto["log"]) is not uso


def test_segments_are_what_the_kernel_takes(facts: Facts) -> None:
    """Kernels take 64 or 128; of 64 one is given away, as their check counts a header too."""
    limit = facts["segment_limit"]
    offload = facts["rungs"]["auto"]["backend"]["offload"]
    assert offload["segments"] == {64: 63, 128: 128}[limit]


def test_superpackets_cross_the_tun_where_the_kernel_passes_them(facts: Facts) -> None:
    auto = facts["rungs"]["auto"]["superpackets"]
    assert min(auto["tcp"]) > 0
    assert [n > 0 for n in auto["udp"]] == [PASSES_USO[facts["kernel"]]] * 2
    assert facts["rungs"]["mmsg"]["superpackets"] == {"tcp": [0, 0], "udp": [0, 0]}


def test_without_checksum_offload_datagrams_go_one_by_one(facts: Facts) -> None:
    """Kernels through 6.10 refuse UDP_SEGMENT there (EIO), newer ones compute the checksums."""
    seen = facts["without_tx_checksum"]
    assert seen["arrived"] == [True] * 4
    assert seen["before"]["segments"] > 1
    assert seen["before"]["downgrades_udp"] == 0
    refuses = facts["kernel"] == "6.1"
    assert (seen["offload"]["segments"] == 1) is refuses
    # The first refusal is the last one: it counts for good.
    assert seen["offload"]["downgrades_udp"] == int(refuses)
    assert len(seen["lines"]) == int(refuses)
    assert seen["doctor"] == (["running: UDP GSO", "running: udp"] if refuses else ["running"])
    one, two = seen["counters"]
    assert one["outbound"]["packets_written"] == two["inbound"]["packets_read"]
    assert seen["stopped"] == [0, 0]


def test_flows_can_be_steered_to_queues(facts: Facts) -> None:
    assert facts["doctor"]["TUN queues"]["level"] == "ok"


@pytest.mark.parametrize("rung", RUNGS)
def test_everything_arrives(facts: Facts, rung: str) -> None:
    seen = facts["rungs"][rung]
    assert seen["full_size_ping"]
    assert seen["streams"] == [True, True], "a stream's hash, each way"
    assert seen["bursts"] == [True, True], "datagrams of one UDP_SEGMENT message, each way"
    assert seen["stopped"] == [0, 0]


@pytest.mark.parametrize("rung", RUNGS)
def test_every_packet_is_accounted_for(facts: Facts, rung: str) -> None:
    one, two = facts["rungs"][rung]["counters"]
    for way in (one["outbound"], one["inbound"], two["outbound"], two["inbound"]):
        drops = {name: n for name, n in way.items() if name.startswith("drop_") and n}
        assert drops == {}
        assert way["packets_read"] == way["packets_written"] > 300_000 // 1472
    # The wire lost nothing either.
    assert one["outbound"]["packets_written"] == two["inbound"]["packets_read"]
    assert two["outbound"]["packets_written"] == one["inbound"]["packets_read"]
    assert one["kernel"] == two["kernel"] == {"tun_queue_dropped": 0, "socket_dropped": 0}
