"""The report: what is worked out, what is drawn, what the page says; no browser needed."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import __main__ as bench
from bench import report_data, report_html, report_names
from bench.report_data import Dataset
from bench.workloads import WORKLOADS
from tests.bench import made_up
from tunneld.demo.drawing.svg import linear_ticks, log_ticks

SGRO = made_up.document()
SVG = "{http://www.w3.org/2000/svg}"


def page_of(*documents: dict[str, Any]) -> str:
    named = [(f"{number}.json", document) for number, document in enumerate(documents)]
    return report_html.page(report_data.datasets(named))


def one(document: dict[str, Any]) -> Dataset:
    return report_data.datasets([("a.json", document)])[0]


def drawings(page: str) -> list[ET.Element]:
    # Our own output, not a stranger's.
    return [ET.fromstring(text) for text in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]  # noqa: S314


class Checker(HTMLParser):
    """Collects what a page refers to and whether every element is closed."""

    void = frozenset({"meta", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in self.void:
            self.open.append(tag)
        for name, value in attrs:
            assert value is not None, f"{tag} {name}"
            if name == "id":
                self.ids.append(value)
            if name in ("href", "src"):
                self.links.append(value)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.void:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page() -> str:
    earlier = made_up.document(date="2026-11-20", seed=3, noise=0.1, rounds=3)
    return page_of(SGRO, made_up.document("on", made_up.ON, seed=2), earlier)


def test_page_is_whole_and_refers_to_nothing_outside(page: str) -> None:
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert checker.open == []
    assert len(checker.ids) == len(set(checker.ids))
    assert {link.removeprefix("#") for link in checker.links} <= set(checker.ids)
    assert not checker.tags & {"script", "link", "img", "iframe"}
    assert "url(" not in page
    assert "@import" not in page


def test_every_picture_has_a_text_alternative(page: str) -> None:
    found = [svg for svg in drawings(page) if svg.get("aria-hidden") != "true"]
    assert len(found) >= 6 + 3 + 3 * 8
    for svg in found:
        assert svg.get("role") == "img"
        texts = {
            each.get("id"): each.text for each in svg if each.tag in (SVG + "title", SVG + "desc")
        }
        named = (svg.get("aria-labelledby") or "").split()
        assert list(texts) == named
        assert all(texts.values())


def test_no_text_leaves_its_picture(page: str) -> None:
    for svg in drawings(page):
        _, _, width, height = map(float, (svg.get("viewBox") or "").split())
        for each in svg.iter(SVG + "text"):
            x, y = float(each.get("x", 0)), float(each.get("y", 0))
            # 7 units a letter: wider than any common font at this size.
            length = 7 * len(each.text or "")
            start = {"end": x - length, "middle": x - length / 2}.get(
                each.get("text-anchor", "start"), x
            )
            assert start >= -1, each.text
            assert start + length <= width + 8, each.text
            assert 0 < y <= height, each.text


def test_same_input_gives_the_same_bytes(page: str, tmp_path: Path) -> None:
    first, second = tmp_path / "1.html", tmp_path / "2.html"
    paths = [str(path) for path in made_up.write(tmp_path)]
    assert bench.main(["report", *paths, "-o", str(first)]) == 0
    assert bench.main(["report", *reversed(paths), "-o", str(second)]) == 0
    assert first.read_bytes() == second.read_bytes()
    assert len(page) < 1_000_000


def test_headline_setting_and_later_day_come_first(page: str) -> None:
    titles = re.findall(r"<h2>(.*?)</h2>", page)
    assert titles == [
        "Headline ratios",
        "The ladder",
        "Setting sgro, 2026-11-21",
        "Setting sgro, 2026-11-20",
        "Setting on",
        "Day to day",
        "Method, machine, noise",
    ]


def test_ratios_divide_within_a_round() -> None:
    document = made_up.document(rounds=3)
    for run in document["runs"]:
        # A mood that is three times better in round 2 must not show in any ratio.
        if "gbps" in run["metrics"]:
            run["metrics"]["gbps"] = {"udp": 2.0}.get(run["contender"], 1.0) * (
                3 if run["round"] == 2 else 1
            )
    figure = one(document).figure("udp", "tcp1", "gbps")
    assert figure is not None
    assert figure.ratios == {1: 2.0, 2: 2.0, 3: 2.0}
    assert figure.shaky


def test_what_is_noisy_or_deviates_is_marked_and_named() -> None:
    document = made_up.document(noise=0.01)
    assert "1 of 440 runs were disturbed" in page_of(document)
    assert "tcp1: udp-gso (round 2)" in page_of(document)
    assert "deviate by more than" not in re.sub("<li>.*?</li>", "", page_of(document))
    for run in document["runs"]:
        if (run["contender"], run["workload"], run["round"]) == ("udp", "tcp1", 3):
            run["metrics"]["gbps"] *= 2
    page = page_of(document)
    assert "* the rounds deviate by more than 15 %" in page
    assert re.search(r"udp, tcp1: the deviation of gbps is \d+%", page)


def test_a_file_that_says_little_says_so_on_top() -> None:
    assert 'class="beware"' not in page_of(SGRO)
    assert "Fewer than three rounds" in page_of(made_up.document(rounds=2))
    document = copy.deepcopy(SGRO)
    for run in document["runs"][::2]:
        run |= {"quiet": False, "noise": {"before": 0.31, "foreign": 0.1, "waited_s": 9.0}}
    page = page_of(document)
    assert "220 of 440 runs were disturbed: do not rely" in page.partition("<main>")[0]
    assert "udp (round 1, 31 %)" in page


def test_left_out_and_failed_contenders_are_named() -> None:
    document = copy.deepcopy(SGRO)
    document["failures"] = [
        {"round": 2, "contender": "tinc", "workload": "tcp1", "error": "made up: <no> answer"}
    ]
    page = page_of(document)
    assert "fastd: not installed: apt-get install fastd" in page
    assert "round 2, tinc, tcp1: made up: &lt;no&gt; answer" in page


def test_names_from_a_file_are_only_text() -> None:
    evil = "<script>alert(1)</script>"
    document = copy.deepcopy(SGRO)
    document["machine"] |= {"cpu": evil, "date": evil, evil: evil}
    document["skipped"] = {evil: evil}
    document["contenders"]["udp"]["command_lines"] = [evil]
    for run in document["runs"]:
        if run["contender"] == "flannel":
            run["contender"] = evil
        if run["workload"] == "udp1400":
            run["workload"] = evil
    page = page_of(document, document)
    assert "<script" not in page
    assert "alert(1)" in page


def test_command_lines_and_machine_are_there(page: str) -> None:
    assert "node2: made-up --as udp-offload-1 --iface eth0" in page
    assert "Mitigation: Retpolines; STIBP: disabled" in page
    assert "on: tx-checksumming; off: generic-segmentation" in page


def test_the_second_cpu_is_told_beside_every_udp_figure(page: str) -> None:
    for chart in re.findall(r"<figure>.*?</figure>", page, re.DOTALL):
        if "Datagrams of" in chart.partition("</h3>")[0]:
            assert "second CPU" in chart


def test_a_bare_file_is_enough() -> None:
    bare = {key: SGRO[key] for key in ("schema", "setting")} | {"machine": {}}
    runs = [{key: run[key] for key in ("round", "contender", "workload", "metrics", "quiet")}
            for run in SGRO["runs"]]  # fmt: skip
    assert "Headline ratios" in page_of(bare | {"runs": runs})
    alone = [run for run in runs if run["contender"] == "socat" or run["contender"] == "direct"]
    page = page_of(bare | {"runs": alone})
    assert "Headline ratios" not in page
    assert "no file here has both" in page
    unknown = {"round": 1, "contender": "new", "workload": "new", "quiet": True}
    for metrics in ({"gbps": 1.5}, {"gbps": 0}, {"unheard of": 3}, {}):
        page_of(bare | {"runs": [unknown | {"metrics": metrics}]})


def test_latency_adds_the_rounds_up() -> None:
    document = made_up.document(rounds=2)
    for run in document["runs"]:
        if "histograms" in run:
            run["histograms"] = {"rtt_us": [[10, 1], [20.5, 1]] if run["round"] == 1 else [[10, 2]]}
    assert one(document).latency("udp") == ((10.0, 0.75), (20.5, 1.0))
    assert one(document).latency("nobody") == ()


def test_bad_files_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps(SGRO | {"runs": []}))
    assert bench.main(["report", str(path), "-o", str(tmp_path / "r.html")]) == 2
    assert "r.json, runs: holds no run yet" in capsys.readouterr().err
    path.write_text(json.dumps(SGRO))
    assert bench.main(["report", str(path), "-o", str(tmp_path / "no" / "r.html")]) == 2
    assert "no/r.html: cannot be written" in capsys.readouterr().err


def test_every_workload_has_its_note() -> None:
    assert set(report_names.NOTES) == set(WORKLOADS)


@given(st.floats(1e-6, 1e9), st.integers(2, 8))
def test_linear_ticks_are_round_and_reach_the_top(top: float, most: int) -> None:
    ticks = linear_ticks(top, most)
    assert ticks[0] == 0
    assert ticks[-1] >= top * (1 - 1e-6)
    assert 2 <= len(ticks) <= most + 1


@given(st.lists(st.floats(0.01, 1e7), min_size=2, max_size=2).map(sorted))
def test_log_ticks_hold_the_range(ends: Sequence[float]) -> None:
    ticks = log_ticks(ends[0], ends[1])
    assert ticks == sorted(set(ticks))
    assert len(ticks) >= 2
    assert ticks[0] <= ends[0] * 1.001
    assert ticks[-1] >= ends[1] * 0.999
