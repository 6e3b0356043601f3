"""Result files: what is accepted, what is refused and how it is said, and what is made of them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from bench import bars, contenders, quick, results, run, show, workloads
from bench.__main__ import COMMANDS, main
from bench.results import Document
from tunneld.errors import ConfigError, StartError

MACHINE = {"date": "2026-11-21", "cpu": "X", "cpus": 2, "kernel": "6.18", "python": "3.11"}


def document(setting: str = "sgro", *, tcp: float = 12.0) -> Document:
    """Two rounds in which udp is `tcp` times as fast as its rung syscall, and meets all else."""
    figures = {
        "udp": {"gbps": tcp, "cpu_s_per_gb": 2.0, "kpps": 200.0, "rtt_us_min": 40.0},
        "vxlan": {"gbps": 10.0, "cpu_s_per_gb": 2.0, "kpps": 90.0, "rtt_us_min": 25.0},
        "udp-syscall": {"gbps": 1.0, "cpu_s_per_gb": 9.0},
    }
    for name in ("udp", "vxlan"):
        figures[name]["rtt_us_p50"] = 2 * figures[name]["rtt_us_min"]
    figures["udp"]["rtt_us_p50"] = 60.0
    runs = [
        {
            "round": number,
            "contender": name,
            "workload": workload,
            "metrics": dict(metrics),
            "quiet": True,
        }
        for number in (1, 2)
        for name, metrics in figures.items()
        for workload in bars.WORKLOADS
        if name != "udp-syscall" or workload == "tcp1"
    ]
    return {"schema": 1, "machine": dict(MACHINE), "setting": setting, "runs": runs}


def test_document_survives_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    results.save(path, document())
    assert results.load(path) == document()
    assert [entry.name for entry in tmp_path.iterdir()] == ["r.json"], "no half file is left"


def test_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--json.*cannot be written: No such file"):
        results.save(tmp_path / "nowhere" / "r.json", document())


def broken(**changes: Any) -> Document:
    made = document()
    for key, value in changes.items():
        if value is None:
            del made[key]
        else:
            made[key] = value
    return made


def broken_run(**changes: Any) -> Document:
    made = document()
    made["runs"][1] = {
        key: value for key, value in (made["runs"][1] | changes).items() if value is not None
    }
    return made


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ([], "schema: is not a result of this benchmark"),
        (broken(schema=None), "schema: is not a result"),
        (broken(schema=2), "schema: is 2, this version reads 1"),
        (broken(machine=None), "machine: is missing"),
        (broken(runs={}), "runs: has the wrong type: dict"),
        (broken(setting="fast"), "setting: is 'fast', not one of"),
        (broken(runs=[1]), r"runs\[0\]: is no object"),
        (broken_run(workload=None), r"runs\[1\].workload: is missing"),
        (broken_run(round=True), r"runs\[1\].round: has the wrong type: bool"),
        (broken_run(quiet="yes"), r"runs\[1\].quiet: has the wrong type"),
        (broken_run(metrics={"gbps": "fast"}), r"runs\[1\].metrics.gbps: is no number: 'fast'"),
        (broken_run(workload="tcp1"), r"runs\[1\]: is there twice"),
    ],
)
def test_wrong_document_is_told_with_its_place(made: object, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"r\.json, {message}"):
        results.validate(made, "r.json")


def test_file_that_is_none_is_told(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        results.load(path)
    path.write_text("{")
    with pytest.raises(ConfigError, match="is no JSON"):
        results.load(path)


@pytest.mark.parametrize(
    ("where", "value", "field"),
    [
        ("", {"plan": [1]}, "plan"),
        ("", {"failures": None}, "failures"),
        ("", {"failures": [1]}, r"failures\[0\]"),
        ("", {"contenders": {"udp": 1}}, "contenders.udp"),
        ("", {"contenders": {"udp": {"command_lines": 5}}}, "contenders.udp.command_lines"),
        ("run", {"histograms": []}, r"runs\[0\].histograms"),
        ("run", {"histograms": {"rtt_us": [[1]]}}, r"runs\[0\].histograms.rtt_us"),
        ("run", {"noise": {"before": "much"}}, r"runs\[0\].noise.before"),
        ("run", {"metrics": {"gbps": float("nan")}}, r"runs\[0\].metrics.gbps"),
    ],
)
def test_what_may_be_absent_is_checked_where_it_is_there(
    where: str, value: dict[str, Any], field: str
) -> None:
    made = document()
    (made["runs"][0] if where else made).update(value)
    with pytest.raises(ConfigError, match=f"^file, {field}: "):
        results.validate(made, "file")


def test_machine_that_tells_nothing_is_no_traceback() -> None:
    made = document() | {"machine": {}}
    results.validate(made, "file")
    assert "? x ?, Linux ?" in bars.footer([made])


def test_more_keys_than_the_schema_has_are_fine() -> None:
    results.validate(broken(more=1) | {"runs": broken_run(more=2)["runs"]}, "r.json")


def test_bars_that_are_cleared() -> None:
    assert bars.missed([document()]) == []
    assert "**" not in bars.table([document()])


def test_missed_bar_is_bold_and_counts() -> None:
    made = document(tcp=8.5)
    assert bars.missed([made]) == [("sgro", "TCP 1 stream"), ("sgro", "TCP against rung syscall")]
    assert "| >= 1.05 | **0.85 (0.85-0.85)** |" in bars.table([made])


def test_bars_differ_by_setting() -> None:
    assert bars.missed([document("on", tcp=11.5)]) == []
    made = [document("on", tcp=10.5), document("sgro", tcp=10.6)]
    assert bars.missed(made) == [("on", "TCP against rung syscall")]
    assert bars.table(made).startswith("| | sgro: bar | sgro: measured | on: bar")


def test_bar_that_was_not_measured_is_missed() -> None:
    made = document()
    made["runs"] = [run for run in made["runs"] if run["workload"] != "pingpong"]
    assert len(bars.missed([made])) == 2
    assert bars.table([made]).count("| - |") == 2


def test_bars_from_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "r.json"
    results.save(path, document())
    assert main(["bars", "--from", str(path)]) == 0
    assert "TCP 1 stream" in capsys.readouterr().out
    results.save(path, document(tcp=2.0))
    assert main(["bars", "--from", str(path)]) == 1


def test_bars_of_several_settings_are_several_files() -> None:
    assert bars.path_for("x/b.json", "on", several=True) == Path("x/b-on.json")
    assert bars.path_for("x/b.json", "on", several=False) == Path("x/b.json")


def test_slow_contender_is_reported_slow() -> None:
    said = show.tables(document(tcp=2.0))
    block = next(block for block in said.split("\n\n") if block.startswith("tcp1:"))
    line = next(line for line in block.splitlines() if line.startswith("udp "))
    assert "0.20 (0.20-0.20)" in line
    assert "worse" in line


def test_tables_hold_what_went_wrong() -> None:
    made = document()
    made["skipped"] = {"fastd": "not installed"}
    made["failures"] = [{"round": 1, "contender": "udp", "workload": "tcp4", "error": "no answer"}]
    made["runs"][0]["quiet"] = False
    said = show.tables(made)
    assert "skipped: fastd: not installed" in said
    assert "failed: round 1 udp tcp4: no answer" in said
    assert "1 of 22 runs were disturbed" in said


def test_quick_table_is_for_newcomers() -> None:
    said = quick.table(document(tcp=11.0))
    assert "so tunneld is" in said
    first = next(line for line in said.splitlines() if line.startswith("TCP, one stream"))
    assert first.split()[-2:] == ["about", "equal"]
    packets = next(line for line in said.splitlines() if "packets that arrive" in line)
    assert "200,000/s" in packets
    assert packets.endswith("better")


def test_every_contender_of_the_contract_is_known() -> None:
    known = contenders.registry()
    ours = ["direct", "vxlan", "udp", "udp-python", "udp-syscall", "udp-mmsg", "udp-gso"]
    assert list(known)[:9] == [*ours, "udp-offload-1", "udp-offload-2"]
    assert all(isinstance(item, contenders.Contender) for item in known.values())
    assert all(name == item.name for name, item in known.items())


def test_unknown_names_are_told_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"no contender 'udpp'.*one of direct, vxlan"):
        contenders.choose(["udp", "udpp"])
    with pytest.raises(ConfigError, match=r"no workload 'tcp'.*one of tcp1"):
        workloads.choose(["tcp"])
    assert [item.name for item in contenders.choose(["udp", "vxlan", "udp"])] == ["udp", "vxlan"]


def test_every_workload_is_about_a_metric_of_its_table() -> None:
    for item in workloads.WORKLOADS.values():
        assert item.columns[0] == item.headline


def test_list_for_scripts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["contenders"]["vxlan"] == {"missing": None}
    assert set(said["workloads"]) == set(workloads.WORKLOADS)
    assert set(said["settings"]) == set(results.SETTINGS)


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert f"python -m bench {command}" in capsys.readouterr().out


def test_wrong_command_shows_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fly"]) == 2
    said = capsys.readouterr().err
    assert "compare" in said
    assert said.endswith("bench: no command 'fly'\n")
    assert main(["--help"]) == 0
    assert "example:\n  python -m bench run" in capsys.readouterr().out


@pytest.mark.parametrize("count", ["0", "-1", "x", "1.5"])
def test_wrong_count_is_told_in_words(count: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["run", f"--rounds={count}"])
    assert ended.value.code == 2
    assert f"must be a whole number, at least 1: '{count}'" in capsys.readouterr().err


def test_result_file_is_locked_and_no_lock_is_left_after_ctrl_c(tmp_path: Path) -> None:
    lock = run._alone(tmp_path / "r.json")
    lock.__enter__()
    with pytest.raises(StartError, match="another benchmark"):
        run._alone(tmp_path / "r.json").__enter__()
    assert not lock.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert list(tmp_path.iterdir()) == []


def test_wrong_file_is_one_line_and_no_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps(copy.deepcopy(broken(schema=7))))
    assert main(["bars", "--from", str(path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
