"""Tells one lesson from its headline to its exercise, the same way for all of them."""

from __future__ import annotations

import contextlib
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from tunneld.demo import needs, page
from tunneld.demo.story import Story
from tunneld.errors import StartError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tunneld.demo import Lesson, LessonModule, Options, Results
    from tunneld.demo.screen import Screen


@dataclass(frozen=True, slots=True)
class Manner:
    """How a lesson is told.

    Attributes:
        solution: whether the exercise's answer is shown.
        html: file for the page; None: no page.
        stepping: where Enter comes from between steps; None: no waiting.
    """

    solution: bool = False
    html: Path | None = None
    stepping: IO[str] | None = None


def tell(
    name: str, module: LessonModule, screen: Screen, options: Options, manner: Manner
) -> Results:
    """Tell a lesson and return its figures.

    Raises:
        StartError: something is missing here, or the page cannot be written; with the remedy.
        CommandError: a command failed; the text names the step.
    """
    lesson = module.LESSON
    needs.require(name, lesson.needs)
    if manner.html is not None:
        # Now, not after a minute of lesson.
        _try_to_write(manner.html)
    story = Story(screen, options, manner.stepping)
    screen.title(f"{name}: {lesson.title}")
    _learn(screen, lesson)
    results = module.run(story, options)
    _exercise(screen, lesson, name, solution=manner.solution)
    _kept(screen, story)
    if manner.html is not None:
        text = page.render(name, lesson, story.blocks, results, solution=manner.solution)
        _write(manner.html, text)
        screen.line()
        screen.say(f"The page: {manner.html}")
    return results


def _try_to_write(path: Path) -> None:
    """See that a file can be written; what is there stays, and nothing new is left."""
    new = not path.exists()
    with _writing(path), path.open("a"):
        pass
    if new:
        path.unlink()


def _write(path: Path, text: str) -> None:
    with _writing(path):
        path.write_text(text)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StartError(
            f"flag --html: cannot write {path}: {error.strerror}",
            remedy="name a file in a directory that exists and can be written",
        ) from None


def _learn(screen: Screen, lesson: Lesson) -> None:
    screen.line()
    screen.line("   What you will learn:")
    for each in lesson.learn:
        screen.item(each)


def _exercise(screen: Screen, lesson: Lesson, name: str, *, solution: bool) -> None:
    screen.line()
    screen.title("Exercise")
    screen.say(lesson.question)
    screen.line()
    answer = lesson.answer if solution else f"tunneld demo {name} --solution"
    screen.say(f"The answer: {answer}")


def _kept(screen: Screen, story: Story) -> None:
    if not story.kept:
        return
    screen.line()
    screen.title("Still up")
    for lab in story.kept:
        for node in lab.nodes:
            screen.line(f"   {node.name:<14} ip netns exec {node.netns} bash")
        screen.line(f"   {'files':<14} {lab.directory}")
    if shutil.which("tunneld") is None:
        programs = Path(sys.executable).parent
        screen.say("tunneld and python as shown above are not in the PATH here. In a host, first:")
        screen.line(f"   export PATH={programs}:$PATH")
    screen.say("Take it down with: tunneld demo --tear-down")
