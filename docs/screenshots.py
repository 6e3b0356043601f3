"""Makes docs/lessons/NAME.png anew: runs each lesson and takes its page's picture in Chromium.

sudo .venv/bin/python docs/screenshots.py [NAME ...]
"""

from __future__ import annotations

import base64
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.bench.browser import Browser, browser  # noqa: E402 - the script runs from anywhere

WIDTH, HEIGHT = 1000, 1250
PICTURES = {
    "one-host": "main h2:nth-of-type(1)",
    "one-packet": "main h2:nth-of-type(5)",
    "three-crossings": "main h2:nth-of-type(5)",
    "ladder": "main h2:nth-of-type(8)",
    "vxlan": "main h2:nth-of-type(1)",
    "vxlan-history": "main h2:nth-of-type(1)",
    "host-gw": "main h2:nth-of-type(2)",
    "when-it-breaks": "main h2:nth-of-type(1)",
    "store": "main h2:nth-of-type(1)",
}
"""Lesson -> the headline at which its picture begins."""


def shoot(page: Browser, html: Path, selector: str) -> bytes:
    """Return the picture of a page from a headline on, as PNG."""
    page.open(html, width=WIDTH, scheme="light")
    top = page.evaluate(
        f"document.querySelector('{selector}').getBoundingClientRect().top + scrollY"
    )
    bottom = page.evaluate("document.documentElement.scrollHeight")
    clip = {
        "x": 0,
        "y": max(min(top, bottom - HEIGHT), 0),
        "width": WIDTH,
        "height": HEIGHT,
        "scale": 1,
    }
    shot = page.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
    return base64.b64decode(shot["data"])


def main() -> None:
    """Run the lessons that are named, or all."""
    target = ROOT / "docs" / "lessons"
    target.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as directory, browser(Path(directory) / "profile") as page:
        for name in sys.argv[1:] or PICTURES:
            print(f"{name} ...", flush=True)
            html = Path(directory) / f"{name}.html"
            argv = [sys.executable, "-m", "tunneld", "demo", name, "--html", str(html)]
            subprocess.run(argv, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
            (target / f"{name}.png").write_bytes(shoot(page, html, PICTURES[name]))


if __name__ == "__main__":
    main()
