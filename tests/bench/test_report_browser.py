"""The report in a real browser: on a phone and on a screen, light, dark and printed."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import __main__ as bench
from tests.bench import made_up
from tests.bench.browser import Browser, browser

pytestmark = pytest.mark.browser

WIDTHS = (390, 768, 1440)
SCHEMES = {"light": "rgb(255, 255, 255)", "dark": "rgb(15, 19, 24)"}

SIDEWAYS = """
[...document.querySelectorAll("body *")]
  .filter((e) => !e.closest(".scroll") && !e.closest("svg"))
  .filter((e) => e.getBoundingClientRect().right > WIDTH + 0.5)
  .map((e) => e.tagName + "." + e.className)
"""
# Text inside a picture: none outside of it, and no two on one another.
CLASHES = """
[...document.querySelectorAll("svg[role=img]")].flatMap((svg) => {
  const frame = svg.getBoundingClientRect();
  const texts = [...svg.querySelectorAll("text")].map((e) => [e, e.getBoundingClientRect()]);
  const bad = [];
  texts.forEach(([e, a], i) => {
    if (a.left < frame.left - 2 || a.right > frame.right + 6) bad.push("outside: " + e.textContent);
    texts.slice(i + 1).forEach(([f, b]) => {
      const across = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (across > 1 && down > 4) bad.push(e.textContent + " on " + f.textContent);
    });
  });
  return bad;
})
"""
# The least contrast of text against the page, as WCAG 2.2 counts it.
CONTRAST = """
(() => {
  const light = (c) => {
    const [r, g, b] = c.match(/[\\d.]+/g).map(Number).map((v) => v / 255)
      .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const paper = light(getComputedStyle(document.body).backgroundColor);
  return Math.min(...[...document.querySelectorAll("p, a, td, th, dt, li, h1, h2, svg text")]
    .map((e) => {
      const style = getComputedStyle(e);
      const ink = light(e.ownerSVGElement ? style.fill : style.color);
      return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
    }));
})()
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("report")
    files = [str(path) for path in made_up.write(directory)]
    assert bench.main(["report", *files, "-o", str(directory / "report.html")]) == 0
    return directory / "report.html"


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_overflows_complains_or_is_loaded(
    chromium: Browser, page: Path, width: int, scheme: str
) -> None:
    chromium.open(page, width=width, scheme=scheme)
    chromium.evaluate("document.querySelectorAll('details').forEach((e) => { e.open = true; })")
    assert chromium.evaluate("innerWidth") == width
    assert chromium.evaluate("document.documentElement.scrollWidth") == width
    assert chromium.evaluate(SIDEWAYS.replace("WIDTH", str(width))) == []
    assert chromium.evaluate(CLASHES) == []
    assert chromium.evaluate("getComputedStyle(document.body).backgroundColor") == SCHEMES[scheme]
    assert chromium.evaluate(CONTRAST) >= 4.5
    assert chromium.complaints == []
    assert chromium.requested == [page.resolve().as_uri()]


def test_a_colour_for_every_contender_and_another_one_in_the_dark(
    chromium: Browser, page: Path
) -> None:
    fills = "[...document.querySelectorAll('#data1 figure:first-of-type .bar')].map((e) => getComputedStyle(e).fill)"  # noqa: E501
    found = {}
    for scheme in SCHEMES:
        chromium.open(page, width=1440, scheme=scheme)
        found[scheme] = chromium.evaluate(fills)[: len(made_up.SGRO)]
        assert len(set(found[scheme])) == len(made_up.SGRO)
    assert not set(found["light"]) & set(found["dark"])


def test_the_tests_above_can_fail(chromium: Browser, page: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.html"
    text = page.read_text().replace("</main>", '<p style="width: 500px">wide</p></main>')
    text = text.replace("</h1>", '</h1><img src="picture.png">')
    broken.write_text(text)
    chromium.open(broken, width=390, scheme="light")
    assert chromium.evaluate(SIDEWAYS.replace("WIDTH", "390")) == ["P."]
    assert chromium.evaluate("document.documentElement.scrollWidth") > 390
    assert chromium.complaints


def test_print_shows_what_the_screen_folds_away(chromium: Browser, page: Path) -> None:
    chromium.open(page, width=1000, scheme="light")
    chromium.call("Emulation.setEmulatedMedia", media="print")
    try:
        height = "document.querySelector('details').getBoundingClientRect().height"
        assert chromium.evaluate(height) > 500
        assert chromium.evaluate("getComputedStyle(document.querySelector('nav')).display") == (
            "none"
        )
        pdf = base64.b64decode(chromium.call("Page.printToPDF", paperWidth=8.27)["data"])
        assert pdf.startswith(b"%PDF")
    finally:
        chromium.call("Emulation.setEmulatedMedia", media="")
