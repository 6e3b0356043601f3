"""`bench compare`: what counts as worse, what is noise, what cannot be compared."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import __main__ as bench
from bench import compare
from bench.compare import judge
from bench.stats import Spread
from tests.bench import made_up

Document = dict[str, Any]
Save = Callable[[str, Document], str]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def write(name: str, document: Document) -> str:
        (tmp_path / name).write_text(json.dumps(document))
        return str(tmp_path / name)

    return write


def changed(document: Document, factor: float, *which: str) -> Document:
    """Copy a document with one figure of one contender multiplied."""
    contender, workload, metric = which
    other = copy.deepcopy(document)
    for run in other["runs"]:
        if (run["contender"], run["workload"]) == (contender, workload):
            run["metrics"][metric] *= factor
    return other


def worse(before: Document, after: Document) -> list[tuple[str, str, str]]:
    found = compare.compare(before, after).of("regression")
    return [(each.contender, each.workload, each.metric) for each in found]


BASE = made_up.document()


def test_a_file_is_no_worse_than_itself() -> None:
    found = compare.compare(BASE, BASE)
    assert found.exit_code == 0
    assert {each.verdict for each in found.changes} == {"same"}
    assert {each.contender for each in found.changes} == set(made_up.SGRO) - {"vxlan"}


@pytest.mark.parametrize("seed", range(2, 12))
def test_noise_of_3_percent_is_no_change(seed: int) -> None:
    found = compare.compare(BASE, made_up.document(seed=seed))
    assert [each for each in found.changes if each.verdict != "same"] == []


@pytest.mark.parametrize(
    ("metric", "factor"), [("gbps", 0.7), ("cpu_s_per_gb", 1.3), ("syscalls_per_packet", 20)]
)
def test_one_figure_that_is_worse_is_named_alone(metric: str, factor: float) -> None:
    after = changed(made_up.document(seed=2), factor, "udp", "tcp1", metric)
    assert worse(BASE, after) == [("udp", "tcp1", metric)]


def test_better_is_no_regression_in_either_direction() -> None:
    after = changed(made_up.document(seed=2), 1.4, "udp", "tcp1", "gbps")
    after = changed(after, 0.6, "udp", "pingpong", "rtt_us_p50")
    found = compare.compare(BASE, after)
    assert found.exit_code == 0
    assert {(each.workload, each.metric) for each in found.of("improvement")} == {
        ("tcp1", "gbps"),
        ("pingpong", "rtt_us_p50"),
    }


def test_a_slower_machine_is_no_regression() -> None:
    after = made_up.document(seed=2)
    for run in after["runs"]:
        if "gbps" in run["metrics"]:
            run["metrics"]["gbps"] *= 0.5
    assert worse(BASE, after) == []


def test_without_the_yardstick_absolute_figures_are_compared_and_it_says_so() -> None:
    few = {name: made_up.SGRO[name] for name in ("udp", "direct")}
    before, after = made_up.document("sgro", few), made_up.document("sgro", few, seed=2)
    found = compare.compare(before, changed(after, 0.5, "direct", "tcp1", "gbps"))
    assert [(each.contender, each.basis) for each in found.of("regression")] == [
        ("direct", "value")
    ]
    assert any("absolute figures" in note for note in found.notes)


def test_loss_is_compared_by_difference() -> None:
    after = copy.deepcopy(BASE)
    for run in after["runs"]:
        if (run["contender"], run["workload"]) == ("udp", "udp64"):
            run["metrics"]["loss"] = 0.08
    assert worse(BASE, after) == [("udp", "udp64", "loss")]


def test_what_fails_now_is_worse_and_what_was_left_out_is_a_note() -> None:
    after = copy.deepcopy(BASE)
    after["runs"] = [
        run
        for run in after["runs"]
        if (run["contender"], run["workload"]) not in {("udp", "tcp4"), ("udp-gso", "tcp4")}
    ]
    after["failures"] = [{"round": 1, "contender": "udp", "workload": "tcp4", "error": "made up"}]
    found = compare.compare(BASE, after)
    assert found.failed == ["udp, tcp4"]
    assert found.exit_code == 1
    assert "only before: udp-gso, tcp4" in found.notes
    assert any(note.startswith("after: 1 run(s) failed") for note in found.notes)


def test_another_machine_few_rounds_and_noise_are_noted() -> None:
    after = made_up.document(rounds=2)
    after["machine"]["kernel"] = "6.1"
    notes = compare.compare(BASE, after).notes
    assert "another machine: kernel was 6.18.0-made-up, is 6.1" in notes
    assert "after: 2 round(s) only; some figures will differ by chance" in notes
    assert "before: 1 of 440 runs were disturbed" in notes


def test_ranges_must_be_apart() -> None:
    old = Spread(1.0, 0.9, 1.1)
    assert judge(old, Spread(0.8, 0.7, 0.91), higher_is_better=True) == "same"
    assert judge(old, Spread(0.8, 0.7, 0.86), higher_is_better=True) == "same"
    assert judge(old, Spread(0.8, 0.7, 0.84), higher_is_better=True) == "regression"
    assert judge(old, Spread(0.9, 0.9, 0.9), higher_is_better=True) == "same"
    assert judge(Spread(0, 0, 0), Spread(1, 1, 1), higher_is_better=False) == "regression"


spreads = st.lists(st.floats(0.01, 1e6), min_size=1, max_size=7).map(Spread.of)


@given(spreads, spreads, st.booleans())
def test_direction_only_decides_between_better_and_worse(
    old: Spread, new: Spread, up: bool
) -> None:
    one, other = (judge(old, new, higher_is_better=way) for way in (up, not up))
    assert (one == "same") == (other == "same")
    assert one == "same" or {one, other} == {"regression", "improvement"}


def test_exit_codes_and_table(save: Save, capsys: pytest.CaptureFixture[str]) -> None:
    before = save("a.json", BASE)
    good = save("b.json", made_up.document(seed=2))
    bad = save("c.json", changed(made_up.document(seed=2), 0.5, "udp", "tcp1", "gbps"))
    assert bench.main(["compare", before, good]) == 0
    assert "0 worse" in capsys.readouterr().out
    assert bench.main(["compare", before, bad]) == 1
    out = capsys.readouterr().out
    assert "udp, tcp1: gbps / vxlan" in out
    assert "WORSE" in out
    assert bench.main(["compare", before, bad, "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert said["worse"]
    assert [each["metric"] for each in said["changes"] if each["verdict"] == "regression"] == [
        "gbps"
    ]
    assert bench.main(["compare", before, good, "--all"]) == 0
    assert len(capsys.readouterr().out.splitlines()) > 300


def test_bad_input_names_file_and_field(save: Save, capsys: pytest.CaptureFixture[str]) -> None:
    before = save("a.json", BASE)
    broken = copy.deepcopy(BASE)
    del broken["runs"][3]["quiet"]
    empty = made_up.document("sgro", {})
    for document, words in (
        (broken, "broken.json, runs[3].quiet: is missing"),
        (made_up.document("on", made_up.ON), "broken.json, setting: is 'on', but"),
        (empty, "broken.json, runs: has no contender under a workload"),
    ):
        assert bench.main(["compare", before, save("broken.json", document)]) == 2
        assert words in capsys.readouterr().err
    assert bench.main(["compare", before, "/nonexistent.json"]) == 2
    assert "/nonexistent.json: cannot be read" in capsys.readouterr().err
