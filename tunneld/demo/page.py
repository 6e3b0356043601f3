"""A lesson as one static page: the same run, with drawings; no script, nothing loaded."""

from __future__ import annotations

import json
import re
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tunneld.demo import Lesson, Results
    from tunneld.demo.drawing import Drawing
    from tunneld.demo.story import Block

# Nothing may be loaded, not even by mistake: the browser enforces it.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def render(
    name: str, lesson: Lesson, blocks: Sequence[Block], results: Results, *, solution: bool
) -> str:
    """Return the page.

    Args:
        name: of the lesson.
        lesson: its text.
        blocks: what was told in the run.
        results: the figures that were seen.
        solution: whether the exercise's answer is shown.
    """
    css = Path(__file__).with_name("page.css").read_text()
    parts, steps = [], []
    for number, block in enumerate(blocks):
        if block.kind == "step":
            steps.append(block.text)
            ident = f"step-{len(steps)}"
            parts.append(_tag("h2", f"{len(steps)}  {escape(block.text)}", id=ident))
        else:
            parts.append(_BLOCKS[block.kind](block, number))
    links = [
        _tag("a", escape(text), href=f"#step-{number}") for number, text in enumerate(steps, 1)
    ]
    body = [
        _tag(
            "header",
            _tag("p", f"tunneld, the lessons: {escape(name)}", class_="eyebrow"),
            _tag("h1", escape(lesson.title)),
            _tag("p", "What you will learn", class_="lead"),
            _tag("ul", *(_tag("li", _prose(each)) for each in lesson.learn)),
            _tag("nav", _tag("ol", *(_tag("li", link) for link in links)), aria_label="Steps"),
        ),
        _tag("main", *parts, _exercise(lesson, solution=solution), _figures(results)),
        _tag(
            "footer",
            _tag(
                "p", f"Every figure was measured in this run of <code>tunneld demo {name}</code>."
            ),
        ),
    ]
    head = (
        '<meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(lesson.title)}</title>\n<style>\n{css}</style>"
    )
    return (
        f'<!doctype html>\n<html lang="en">\n<head>{head}</head>\n<body>\n'
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def _tag(name: str, *children: str, **attributes: str) -> str:
    shown = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for key, value in attributes.items()
    )
    return f"<{name}{shown}>{''.join(children)}</{name}>"


def _prose(text: str) -> str:
    """Return text as markup; what stands in backticks is code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text, quote=False))


def _say(block: Block, _number: int) -> str:
    return _tag("p", _prose(block.text))


def _result(block: Block, _number: int) -> str:
    return _tag("p", escape(block.text, quote=False), class_="result")


def _command(block: Block, _number: int) -> str:
    prompt = _tag("span", f"{escape(block.host)} $", class_="prompt")
    return _tag("pre", prompt + " " + _tag("b", escape(block.text, quote=False)), class_="command")


def _output(block: Block, _number: int) -> str:
    lines = []
    for raw in block.text.rstrip().splitlines():
        note = next((n for start, n in block.notes.items() if raw.startswith(start)), "")
        line = escape(raw.rstrip(), quote=False)
        if note:
            line += _tag(
                "span", f"   \N{LEFTWARDS ARROW} {escape(note, quote=False)}", class_="note"
            )
        lines.append(line)
    return _tag("pre", "\n".join(lines), class_="output", tabindex="0")


def _table(block: Block, _number: int) -> str:
    head, *rows = block.rows

    def cells(row: Sequence[str], kind: str) -> str:
        return "".join(
            _tag(kind, escape(cell, quote=False), class_="left" if i in block.left else "right")
            for i, cell in enumerate(row)
        )

    inside = _tag("thead", _tag("tr", cells(head, "th"))) + _tag(
        "tbody", *(_tag("tr", cells(row, "td")) for row in rows)
    )
    label = ", ".join(word for word in head if word) or "table"
    return _tag(
        "div",
        _tag("table", inside),
        class_="scroll",
        tabindex="0",
        role="region",
        aria_label=f"Table: {label}",
    )


def _drawing(block: Block, number: int) -> str:
    drawing: Drawing | None = block.drawing
    if drawing is None:
        return ""
    picture = _tag("div", drawing.svg(f"drawing-{number}"), class_="scroll", tabindex="0",
                   role="region", aria_label=drawing.title)  # fmt: skip
    return _tag("figure", _tag("figcaption", escape(drawing.title, quote=False)), picture)


_BLOCKS = {
    "say": _say,
    "result": _result,
    "command": _command,
    "output": _output,
    "table": _table,
    "drawing": _drawing,
}


def _exercise(lesson: Lesson, *, solution: bool) -> str:
    answer = lesson.answer if solution else "The answer: run the lesson again with --solution."
    return _tag(
        "section",
        _tag("h2", "Exercise"),
        _tag("p", _prose(lesson.question)),
        _tag("p", _prose(answer), class_="answer" if solution else "result"),
        class_="exercise",
    )


def _figures(results: Mapping[str, object]) -> str:
    text = escape(json.dumps(results, indent=2), quote=False)
    return _tag(
        "details", _tag("summary", "The figures of this run, as --json gives them"),
        _tag("pre", text, class_="output", tabindex="0"),
    )  # fmt: skip
