"""The newest revision that etcd has answered with. Pure.

An answer to what was asked after revision R was seen is of R or later (reads are linearizable): one that is not comes
from an etcd that was put back to an older state.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Newest:
    """`went_back`: an older state was seen, and nobody has called `settled` since. `on_regression` is told then."""

    def __init__(self) -> None:
        self.revision = 0
        self.went_back_from = 0
        """The newest revision before that; 0: it has not gone back."""
        self.on_regression: Callable[[], None] = lambda: None
        self._turn = 0

    @property
    def went_back(self) -> bool:
        return self.went_back_from > 0

    @contextmanager
    def seen_by(self) -> Iterator[Callable[[int], None]]:
        """For one question to etcd; what it gives is called with the revision of the answer."""
        before, turn = self.revision, self._turn

        def answered(revision: int) -> None:
            if turn != self._turn:
                return  # of before a regression, or across it
            if revision >= before:
                self.revision = max(self.revision, revision)
                return
            self._turn += 1
            self.went_back_from, self.revision = max(before, self.went_back_from), revision
            self.on_regression()

        yield answered

    def settled(self) -> None:
        self.went_back_from = 0
