"""Drawings of the lessons, as text and as SVG; and the page that holds them."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunneld.demo import Lesson, page
from tunneld.demo.drawing import Drawing
from tunneld.demo.drawing.bars import CELLS, Bar, Bars
from tunneld.demo.drawing.crossings import Crossing, Crossings
from tunneld.demo.drawing.frame import FrameDrawing, Header
from tunneld.demo.drawing.topology import Host, Topology, nodes
from tunneld.demo.story import Block

SVG = "{http://www.w3.org/2000/svg}"
DRAWINGS: dict[str, Drawing] = {
    "nodes": nodes(("flannel0", "100.96.N.0/32"), "tunneld"),
    "one host": Topology((Host("a", [("eth0", "x")], [("c1", "1"), ("c2", "2")]),), ("wire",)),
    "router": Topology(
        tuple(Host(name, [("eth0", "10.0.0.1/24")]) for name in ("node1", "router", "node2")),
        ("MTU 1500", "MTU 1400"),
    ),
    "frame": FrameDrawing([Header("IPv4", 20, "TTL < 64", added=True), Header("ICMP", 64)], "it"),
    "crossings": Crossings(
        [
            Crossing("app", "eth0", down=True, label="1.0", host="node1"),
            Crossing("d & e", "tun", down=False, label="2.0"),
        ],
        "the way",
    ),
    "bars": Bars([Bar("one", 1.0), Bar("two", 2.0, "much")], "Gb/s", "speed"),
}


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_drawing_fits_and_has_its_text_alternative(name: str) -> None:
    drawing = DRAWINGS[name]
    assert max(map(len, drawing.text().splitlines())) <= 94
    root = ET.fromstring(drawing.svg("d1"))  # noqa: S314 - our own
    assert root.get("role") == "img"
    assert (root.get("aria-labelledby") or "").split() == ["d1-title", "d1-desc"]
    title, description = root.find(f"{SVG}title"), root.find(f"{SVG}desc")
    assert title is not None
    assert description is not None
    assert title.text
    assert description.text


def test_the_two_nodes() -> None:
    assert nodes(("flannel.1", "100.96.N.0/32")).text().splitlines() == [
        " container-1                         container-2",
        " 100.96.1.2                          100.96.2.3",
        "    |                                   |",
        "+---+---------------- node1 -+      +---+---------------- node2 -+",
        "|  docker0    100.96.1.1/24  |      |  docker0    100.96.2.1/24  |",
        "|  flannel.1  100.96.1.0/32  |      |  flannel.1  100.96.2.0/32  |",
        "|  eth0       10.168.0.2/24  |      |  eth0       10.168.0.3/24  |",
        "+---+------------------------+      +---+------------------------+",
        "    +-------- underlay, MTU 1500 -------+",
    ]


def test_wires_from_each_host_to_the_next() -> None:
    line = DRAWINGS["router"].text().splitlines()[-1]
    assert line.count("+") == 3
    assert line.index("MTU 1500") < line.index("MTU 1400")
    above = DRAWINGS["router"].text().splitlines()[-2]
    assert all(above[at] == "+" for at, sign in enumerate(line) if sign == "+")


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=8))
def test_bars_are_as_long_as_their_figures(values: list[float]) -> None:
    drawing = Bars([Bar(str(n), value) for n, value in enumerate(values)], "u", "t")
    lengths = [line.count("\N{FULL BLOCK}") for line in drawing.text().splitlines()[1:]]
    top = max([*values, 1e-12])
    assert lengths == [round(CELLS * value / top) for value in values]


def test_what_the_tunnel_added_is_marked() -> None:
    text = DRAWINGS["frame"].text()
    assert "IPv4 *" in text
    assert "ICMP *" not in text
    assert text.endswith("* added by the tunnel")


def render(*blocks: Block, solution: bool = False) -> str:
    lesson = Lesson(title="a < b", learn=("`ip` & co",), question="why?", answer="because")
    return page.render("x", lesson, blocks, {"n": 1}, solution=solution)


def test_the_page_shows_text_as_text_and_code_as_code() -> None:
    text = render(
        Block("step", "Is 1 < 2?"),
        Block("say", "use `ip route` & see"),
        Block("command", "echo '<b>'", host="node1"),
        Block("output", "one <two>\nthree", notes={"one": "a & b"}),
    )
    assert "a &lt; b" in text
    assert "<code>ip</code> &amp; co" in text
    assert "use <code>ip route</code> &amp; see" in text
    assert "<b>echo '&lt;b&gt;'</b>" in text
    assert "one &lt;two&gt;" in text
    assert "a &amp; b" in text
    assert '<a href="#step-1">Is 1 &lt; 2?</a>' in text
    assert 'id="step-1"' in text


def test_the_answer_is_there_only_when_asked_for() -> None:
    assert "because" not in render()
    assert "because" in render(solution=True)
