"""Says at the end of a run which tests were left out, and what runs them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import settings

COMMANDS = {"soak": "./run soak", "kernels": "./run test-kernels"}
"""Marker -> the command that runs its tests."""

_deselected: pytest.StashKey[Counter[str]] = pytest.StashKey()

# How long one example takes says more about the machine's load than about us.
settings.register_profile("tunneld", deadline=None)
settings.load_profile("tunneld")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_deselected] = Counter()


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
