"""Says in the log who was given or refused what, and no more often than somebody reads: anyone on the host can ask."""

import logging
from collections.abc import Callable

log = logging.getLogger("mesh.workload_api")

WINDOW_SECONDS = 60.0
LINES_PER_WINDOW = 10  # enough to see who it is; the rest is counted


class Told:
    """Events of one kind. `clock`: seconds since 1970. `level` of `logging`."""

    def __init__(self, clock: Callable[[], float], level: int, kind: str) -> None:
        self._clock = clock
        self._level = level
        self._kind = kind
        self._since = float("-inf")
        self._lines = 0
        self._unsaid = 0

    def say(self, text: str) -> None:
        now = self._clock()
        if not self._since <= now < self._since + WINDOW_SECONDS:
            if self._unsaid:
                log.log(self._level, "%s: %d more since then", self._kind, self._unsaid)
            self._since, self._lines, self._unsaid = now, 0, 0
        if self._lines < LINES_PER_WINDOW:
            self._lines += 1
            log.log(self._level, "%s: %s", self._kind, text)
        else:
            self._unsaid += 1
