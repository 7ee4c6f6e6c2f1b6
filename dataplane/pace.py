"""How often the configuration goes to Envoy while etcd changes faster than Envoy acks.

A change that comes alone goes out at once, without a timer. One that comes before Envoy has acked the one before it is
part of a rush; in a rush changes are gathered, so that a thousand of them are a few dozen pushes. Pure: the caller has
the clock.
"""

from dataclasses import dataclass

GATHER_S = 0.032
"""Seconds from one push of a rush to the next: at most 31 a second, and what changed last is out within that time."""

RUSH_FROM = 6
_BEHIND, _IN_TIME = 2, -1
"""Three changes in a row that come too early make a rush; where some come in time it takes a few more. What follows one
change or two, as when an apply takes three revisions, waits for nobody."""

QUIET_S = 2 * GATHER_S
"""Without a push for so long, a rush is over."""


@dataclass(slots=True)
class Pace:
    """Asked before each push. Times are seconds of one monotonic clock."""

    _haste: int = 0
    _last_push: float = float("-inf")

    def due(self, now: float, *, behind: bool) -> float:
        """When what has just come may go out; a time in the past means now.

        behind: Envoy has not acked the last push yet.
        """
        if now - self._last_push > QUIET_S:
            self._haste = 0
            return now
        self._haste = min(max(self._haste + (_BEHIND if behind else _IN_TIME), 0), RUSH_FROM + 1)
        return self._last_push + GATHER_S if self._haste >= RUSH_FROM else now

    def pushed(self, now: float, *, changes: int) -> None:
        """changes: how many have gone out together. Many of them keep a rush going, even if Envoy acks in time."""
        self._last_push = now
        if changes > 1 and self._haste >= RUSH_FROM:
            self._haste = RUSH_FROM + 1
