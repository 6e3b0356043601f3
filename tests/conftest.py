"""Says at the end of a run which tests were left out, and what runs them."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import settings

from tests.bench.browser import find_chromium

COMMANDS = {
    "soak": "./run soak",
    "kernels": "./run test-kernels",
    "browser": "./run test on a machine with Chromium (on Debian it installs it)",
}
"""Marker -> the command that runs its tests."""

_deselected: pytest.StashKey[Counter[str]] = pytest.StashKey()

# How long one example takes says more about the machine's load than about us.
settings.register_profile("tunneld", deadline=None)
settings.load_profile("tunneld")


def pytest_configure(config: pytest.Config) -> None:
    # In the background of a script SIGINT is ignored, and so it is in all that is started there:
    # those who test Ctrl-C need it.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.stash[_deselected] = Counter()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if find_chromium():
        return
    # Not every system has it as a package that apt installs; the summary says what is left out.
    out = [item for item in items if item.get_closest_marker("browser")]
    items[:] = [item for item in items if item not in out]
    config.hook.pytest_deselected(items=out)


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    for item in items:
        for marker in COMMANDS:
            if item.get_closest_marker(marker):
                item.config.stash[_deselected][marker] += 1


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    terminalreporter.section("left out")
    for marker, command in COMMANDS.items():
        count = config.stash[_deselected][marker]
        terminalreporter.write_line(
            f"{marker}: {count} tests deselected; {command} runs them"
            if count
            else f"{marker}: no test left out; {command} runs what has this marker"
        )
