"""Drawings of the lessons: each one shows itself as text in the terminal and as SVG in the page.

A drawing holds what is to be seen (hosts, headers, measured figures), not how. The SVG takes its
colours from the page, and carries a title and a description for those who do not see it.
"""

from __future__ import annotations

from typing import Protocol


class Drawing(Protocol):
    """What a lesson can draw.

    Attributes:
        title: what it shows.
        description: what a reader sees in it, in a sentence or two; the text alternative.
    """

    @property
    def title(self) -> str: ...  # noqa: D102

    @property
    def description(self) -> str: ...  # noqa: D102

    def text(self) -> str:
        """Return it as lines of at most 94 columns."""

    def svg(self, ident: str) -> str:
        """Return it as one SVG element; `ident` is unique in the page."""
