"""logfmt: one line per event, whatever is in it."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator

import pytest

from tunneld.observe import log


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    loggers = [logging.getLogger(), logging.getLogger("tunneld")]
    before = [(logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    yield
    for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
        logger.handlers[:] = handlers
        logger.level = level
        logger.propagate = propagate


def emit(verbosity: int, level: int, message: str, **pairs: object) -> str:
    stream = io.StringIO()
    log.configure(verbosity, stream)
    logging.getLogger("tunneld.test").log(level, message, extra=log.fields(**pairs))
    return stream.getvalue()


def test_a_line() -> None:
    line = emit(0, logging.WARNING, "peer added", subnet="100.96.2.0/24", reason="a b")
    assert re.fullmatch(
        r'time=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z level=warn msg="peer added" '
        r'subnet=100\.96\.2\.0/24 reason="a b"\n',
        line,
    )


def test_nothing_breaks_the_line() -> None:
    line = emit(0, logging.INFO, "x", key='a"b\\c\nlevel=fatal')
    assert line.count("\n") == 1
    assert line.endswith('key="a\\"b\\\\c\\nlevel=fatal"\n')


def test_levels() -> None:
    assert emit(0, logging.DEBUG, "x") == ""
    assert "level=debug" in emit(1, logging.DEBUG, "x")


def test_a_traceback_stays_on_the_line() -> None:
    stream = io.StringIO()
    log.configure(0, stream)
    try:
        int("boom")
    except ValueError:
        logging.getLogger("tunneld.test").exception("failed")
    assert stream.getvalue().count("\n") == 1
    assert "boom" in stream.getvalue()
