"""The relay: each fault at its rate, the same for a seed, and frames really cross."""

from __future__ import annotations

import pytest

from tunneld.lab import Cluster, wait_for_ping
from tunneld.lab.relay_faults import Direction, Faults

FRAMES = [bytes(14) + number.to_bytes(8, "big") for number in range(20_000)]
RATE = 0.05


def through(faults: Faults, name: str = "forth") -> tuple[Direction, list[bytes]]:
    direction = Direction(faults, name)
    out = []
    for frame in FRAMES:
        direction.put(frame, 0.0)
        out += direction.take(0.0)
    return direction, out + direction.take(faults.hold_s + faults.delay_s)


def near(count: int) -> bool:
    return count == pytest.approx(RATE * len(FRAMES), rel=0.15)


def test_without_faults_frames_pass_unchanged_and_in_order() -> None:
    assert through(Faults())[1] == FRAMES


def test_loss() -> None:
    direction, out = through(Faults(loss=RATE))
    assert near(len(FRAMES) - len(out))
    assert direction.counts.lost == len(FRAMES) - len(out)
    assert out == sorted(out)


def test_duplication() -> None:
    direction, out = through(Faults(duplicate=RATE))
    assert near(len(out) - len(FRAMES))
    assert direction.counts.duplicated == len(out) - len(FRAMES)
    assert sorted(set(out)) == FRAMES


def test_corruption_flips_one_bit_behind_the_ethernet_header() -> None:
    direction, out = through(Faults(corrupt=RATE))
    changed = [(a, b) for a, b in zip(FRAMES, out, strict=True) if a != b]
    assert near(len(changed))
    assert direction.counts.corrupted == len(changed)
    for before, after in changed:
        assert before[:14] == after[:14]
        difference = int.from_bytes(before, "big") ^ int.from_bytes(after, "big")
        assert difference.bit_count() == 1


def test_reordering_lets_so_many_frames_overtake_and_loses_none() -> None:
    direction, out = through(Faults(reorder=RATE, reorder_by=3))
    assert sorted(out) == FRAMES
    late, highest = 0, b""
    for frame in out:
        late += frame < highest
        highest = max(highest, frame)
    assert near(direction.counts.reordered)
    # Of neighbours that are both held back, the first ones have less to be overtaken by.
    assert late == pytest.approx(direction.counts.reordered, rel=0.05)


def test_a_held_frame_goes_on_after_its_time_when_nothing_overtakes_it() -> None:
    direction = Direction(Faults(reorder=1.0, hold_s=0.01), "forth")
    direction.put(FRAMES[0], 5.0)
    assert direction.take(5.0) == []
    assert direction.next_due() == pytest.approx(5.01)
    assert direction.take(5.011) == [FRAMES[0]]
    assert direction.next_due() is None


def test_delay_holds_each_frame_that_long() -> None:
    direction = Direction(Faults(delay_s=0.2), "forth")
    direction.put(FRAMES[0], 1.0)
    direction.put(FRAMES[1], 1.1)
    assert direction.take(1.19) == []
    assert direction.next_due() == pytest.approx(1.2)
    assert direction.take(1.25) == [FRAMES[0]]
    assert direction.take(1.35) == [FRAMES[1]]


def test_the_seed_decides_and_the_directions_differ() -> None:
    faults = Faults(loss=RATE, duplicate=RATE, corrupt=RATE, reorder=RATE, seed=7)
    first = through(faults)[1]
    assert through(faults)[1] == first
    assert through(faults, "back")[1] != first
    assert (
        through(Faults(loss=RATE, duplicate=RATE, corrupt=RATE, reorder=RATE, seed=8))[1] != first
    )


def test_two_hosts_meet_over_it_and_the_delay_shows_in_both_directions() -> None:
    with Cluster(shape="relay", faults=Faults(delay_s=0.02)) as cluster:
        one, two = cluster.nodes
        wait_for_ping(one.node, two.public_ip)
        assert wait_for_ping(one.node, two.public_ip).rtt >= 0.04
        assert cluster.underlay.relay is not None
        counts = cluster.underlay.relay.stop()
    assert counts["forth"].frames >= 2
    assert counts["back"].frames >= 2
