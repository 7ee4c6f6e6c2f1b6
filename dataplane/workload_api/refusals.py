"""Says in the log who was refused, and no more often than somebody reads: anyone on the host can ask."""

import logging
from collections.abc import Callable

log = logging.getLogger("mesh.workload_api")

WINDOW_SECONDS = 60.0
LINES_PER_WINDOW = 10  # enough to see who it is; the rest is counted


class Refusals:
    """`clock`: seconds since 1970."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since = float("-inf")
        self._lines = 0
        self._unsaid = 0

    def say(self, what: str, why: str) -> None:
        now = self._clock()
        if not self._since <= now < self._since + WINDOW_SECONDS:
            if self._unsaid:
                log.warning("refused %d more calls since then", self._unsaid)
            self._since, self._lines, self._unsaid = now, 0, 0
        if self._lines < LINES_PER_WINDOW:
            self._lines += 1
            log.warning("refused a call of %s: %s", what[:80], why)
        else:
            self._unsaid += 1
