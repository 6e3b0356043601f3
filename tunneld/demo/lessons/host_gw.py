"""Lesson "host-gw"."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunneld.demo import Lesson
from tunneld.errors import StartError

if TYPE_CHECKING:
    from tunneld.demo import Options, Results
    from tunneld.demo.story import Story

LESSON = Lesson(title="host-gw", learn=(), question="", answer="", needs=("root",))


def run(_story: Story, _options: Options) -> Results:
    """Tell it."""
    raise StartError("this lesson is being written", remedy="come back soon")
