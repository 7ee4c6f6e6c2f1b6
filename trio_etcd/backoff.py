"""Growing, jittered pauses between attempts."""

import random


class Backoff:
    """Seconds to wait before attempt 1, 2, …: doubling from `first` to `most`, each times 0.5 to 1."""

    def __init__(self, first: float, most: float, rng: random.Random) -> None:
        self._first = first
        self._most = most
        self._next = first
        self._rng = rng

    def pause(self) -> float:
        """The next pause."""
        now, self._next = self._next, min(self._next * 2, self._most)
        return now * self._rng.uniform(0.5, 1)

    def reset(self) -> None:
        """After a success."""
        self._next = self._first
