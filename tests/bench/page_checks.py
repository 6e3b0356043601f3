"""What must hold for every page of ours, on a phone and on a screen, light and dark."""

from __future__ import annotations

from pathlib import Path

from tests.bench.browser import Browser

WIDTHS = (390, 768, 1440)
SCHEMES = {"light": "rgb(255, 255, 255)", "dark": "rgb(15, 19, 24)"}

SIDEWAYS = """
[...document.querySelectorAll("body *")]
  .filter((e) => !e.closest(".scroll, pre.output") && !e.closest("svg"))
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


def check(chromium: Browser, page: Path, *, width: int, scheme: str) -> None:
    """See that nothing overflows, clashes, is hard to read, is complained about or loaded."""
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
