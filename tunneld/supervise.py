"""Supervision: nothing dies silently.

A long-lived task that fails is logged and restarted with back-off; an error that is final for the
whole daemon goes up and ends it.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import NoReturn

from tunneld.errors import ConfigChangedError, LeaseLostError, TunneldError
from tunneld.observe.log import fields

log = logging.getLogger(__name__)

FINAL: tuple[type[BaseException], ...] = (LeaseLostError, ConfigChangedError)
"""No restart helps against these."""


class Backoff:
    """Delays that double up to a ceiling, each with jitter so that hosts do not march in step.

    Args:
        first: the first delay, seconds.
        ceiling: no delay is longer, seconds.
        rng: source of the jitter (0.5 to 1 times the delay).
    """

    def __init__(
        self, first: float = 0.2, ceiling: float = 30.0, rng: random.Random | None = None
    ) -> None:
        self._first = first
        self._ceiling = ceiling
        self._next = first
        self._rng = rng or random.Random()  # noqa: S311 - jitter, not a secret

    def delay(self) -> float:
        """Return the next delay, seconds."""
        delay = self._next
        self._next = min(2 * delay, self._ceiling)
        return delay * self._rng.uniform(0.5, 1.0)

    def reset(self) -> None:
        """Begin with the first delay again."""
        self._next = self._first


async def supervise(
    name: str,
    run: Callable[[], Awaitable[None]],
    *,
    backoff: Backoff | None = None,
    healthy_after: float = 60.0,
) -> NoReturn:
    """Run a task for ever.

    Args:
        name: for the log.
        run: makes one life of the task; it may end, by returning or by an exception.
        backoff: the delays between lives.
        healthy_after: a life of this many seconds resets the back-off.

    Raises:
        LeaseLostError: and whatever else is in `FINAL`.
    """
    backoff = backoff or Backoff()
    loop = asyncio.get_running_loop()
    told = ""
    while True:
        began = loop.time()
        try:
            await run()
            reason: object = "it returned"
        except FINAL:
            raise
        except TunneldError as error:
            reason = error
        except Exception as error:
            reason = repr(error)
            log.debug("traceback of %s", name, exc_info=True)
        if loop.time() - began >= healthy_after:
            backoff.reset()
            told = ""
        delay = backoff.delay()
        # An outage of a day is one line, not one for each attempt.
        level = logging.DEBUG if str(reason) == told else logging.WARNING
        told = str(reason)
        log.log(
            level,
            "task failed, will be restarted",
            extra=fields(task=name, error=reason, again_in_s=round(delay, 2)),
        )
        await asyncio.sleep(delay)
