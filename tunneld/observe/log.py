"""Logging: the standard library, one logfmt line per event on stderr.

A lost packet is a counter, never a line here.
"""

from __future__ import annotations

import logging
import sys
import time
from typing import TextIO

_BARE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:%+@,")
_LEVELS = {"WARNING": "warn", "CRITICAL": "fatal"}
FIELDS = "fields"
"""Name of the record attribute that holds the key-value pairs."""


def quote(value: object) -> str:
    """Return the value as logfmt wants it: bare when it can be, else quoted on one line."""
    text = str(value)
    if text and _BARE.issuperset(text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + escaped.replace("\n", "\\n").replace("\r", "\\r") + '"'


class LogfmtFormatter(logging.Formatter):
    """`time=... level=info msg="..." key=value ...`."""

    converter = staticmethod(time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line; a traceback is folded into `trace`."""
        pairs: dict[str, object] = {
            "time": f"{self.formatTime(record, '%Y-%m-%dT%H:%M:%S')}.{int(record.msecs):03d}Z",
            "level": _LEVELS.get(record.levelname, record.levelname.lower()),
            "msg": record.getMessage(),
        }
        pairs.update(getattr(record, FIELDS, {}))
        if record.exc_info:
            pairs["trace"] = self.formatException(record.exc_info)
        return " ".join(f"{key}={quote(value)}" for key, value in pairs.items())


def fields(**pairs: object) -> dict[str, dict[str, object]]:
    """Return the `extra=` argument that puts these pairs behind the message."""
    return {FIELDS: pairs}


def configure(verbosity: int, stream: TextIO | None = None) -> None:
    """Send our records to `stream` (default stderr).

    Args:
        verbosity: flannel's `-v`: 0 is info, anything above is debug.
        stream: where to write; for tests.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(LogfmtFormatter())
    logger = logging.getLogger("tunneld")
    logger.handlers[:] = [handler]
    logger.propagate = False
    logger.setLevel(logging.DEBUG if verbosity > 0 else logging.INFO)
    # Other libraries speak up only when something is wrong.
    logging.getLogger().handlers[:] = [handler]
