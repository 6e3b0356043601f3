"""The report in a real browser: on a phone and on a screen, light, dark and printed."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import __main__ as bench
from tests.bench import made_up, page_checks
from tests.bench.browser import Browser, browser
from tests.bench.page_checks import SCHEMES, SIDEWAYS, WIDTHS

pytestmark = pytest.mark.browser


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
    page_checks.check(chromium, page, width=width, scheme=scheme)


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
