"""[edge] Whose turn it is to sign. Signing takes the processor, so calls take turns at it, and no more are let in than
can be served in time: who would wait too long is told so at once, and when to come again.

    connection a ─ ▢ ▢ ▢ ─┐
    connection b ─ ▢ ─────┼─▶ in rotation, one at a time
    connection c ─ ▢ ▢ ───┘

Turns go in slices. Between two slices everything else of the replica runs: etcd's events, other calls, the watchdog.
"""

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import trio

from schemas.errors import Overloaded

T = TypeVar("T")

# Who would wait longer does better to ask another replica, or later: a sidecar asks half a life before the end.
MAX_WAIT_SECONDS = 2.0
# When to come again, at the earliest: sooner, a refusal would cost both sides more than it spares.
MIN_RETRY_SECONDS = 0.5
# What a turn takes, until one has been measured: two certificates on a slow core.
FIRST_GUESS_SECONDS = 0.005
# A signature that follows another costs a third less than one amid other work, with what it needs at hand. Longer, and
# a change that asks etcd several times would feel each of them.
SLICE_SECONDS = 0.010
# Of the newest measurement in the mean: one pause of the process must not turn callers away for long.
NEWEST_SHARE = 0.1


class Turns:
    """One task at a time has its turn. Tasks of one connection come in order, connections in rotation."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, deque[_Waiting[Any]]] = OrderedDict()
        self._promised: Counter[str] = Counter()
        self._taken = False
        self._seconds = FIRST_GUESS_SECONDS

    def wait_for(self, connection: str, turns: int = 1) -> float:
        """Seconds until that many more turns of a connection were over, if it asked for them now."""
        rounds = self._promised[connection] + turns
        others = sum(min(count, rounds) for one, count in self._promised.items() if one != connection)
        return (others + rounds) * self._seconds

    @contextmanager
    def admitted(self, connection: str, seconds: float, turns: int = 1) -> "Iterator[Admitted]":
        """For a call that needs so many turns and whose caller waits `seconds`.

        Raises Overloaded where they would come too late. A batch may take longer than a single call, if its caller
        waits for it: between its turns the others have theirs.
        """
        expected = self.wait_for(connection, turns)
        before = expected - turns * self._seconds
        if before > MAX_WAIT_SECONDS or expected > seconds:
            retry_after = max(MIN_RETRY_SECONDS, before)
            raise Overloaded(
                f"this replica is asked for more certificates than it can issue now: these would take {expected:.1f} s "
                f"and may take {min(seconds, MAX_WAIT_SECONDS):.1f} s; nothing was issued: ask again in "
                f"{retry_after:.1f} s, or ask another replica",
                retry_after=retry_after,
            )
        admitted = Admitted(self, connection, turns)
        self._promised[connection] += turns
        try:
            yield admitted
        finally:
            self._promised[connection] -= admitted.left
            if not self._promised[connection]:
                del self._promised[connection]

    async def _turn(self, connection: str, work: Callable[[], T]) -> T:
        turn = _Waiting(work)
        if self._taken:
            await self._wait(connection, turn)
            if turn.done:  # in the slice of another
                return turn.result()
        else:
            self._taken = True
            try:
                await trio.lowlevel.checkpoint()  # who asks in the same pass of the scheduler waits
            except BaseException:
                self._pass_on()
                raise
        end = trio.current_time() + SLICE_SECONDS
        try:
            self._do(turn)
            while self._waiting and trio.current_time() + self._seconds <= end:
                self._do(following := self._next())
                trio.lowlevel.reschedule(following.task)
        finally:
            self._pass_on()
        return turn.result()

    def _do(self, turn: "_Waiting[Any]") -> None:
        started = trio.current_time()
        turn.do()
        self._seconds += NEWEST_SHARE * (trio.current_time() - started - self._seconds)

    async def _wait(self, connection: str, turn: "_Waiting[Any]") -> None:
        """Returns when the turn is done, or is this task's to do."""
        queue = self._waiting.setdefault(connection, deque())
        queue.append(turn)

        def give_up(_: object) -> trio.lowlevel.Abort:
            queue.remove(turn)
            if not queue:
                del self._waiting[connection]
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(give_up)

    def _next(self) -> "_Waiting[Any]":
        connection, queue = next(iter(self._waiting.items()))
        turn = queue.popleft()
        if queue:
            self._waiting.move_to_end(connection)
        else:
            del self._waiting[connection]
        return turn

    def _pass_on(self) -> None:
        """To whoever is next, by way of the scheduler, which looks at what else there is to do first."""
        if self._waiting:
            trio.lowlevel.reschedule(self._next().task)
        else:
            self._taken = False


class _Waiting(Generic[T]):
    """A turn: whose, what is to be done in it, and what came of it."""

    def __init__(self, work: Callable[[], T]) -> None:
        self.task = trio.lowlevel.current_task()
        self._work = work
        self._value: list[T] = []
        self._error: Exception | None = None

    @property
    def done(self) -> bool:
        return bool(self._value) or self._error is not None

    def do(self) -> None:
        try:
            self._value.append(self._work())
        except Exception as error:  # for whoever asked for it, not for whose slice it is
            self._error = error

    def result(self) -> T:
        """What `work` gave. Raises what it raised."""
        if self._error is not None:
            error, self._error = self._error, None
            try:
                raise error
            finally:
                del error  # no cycle through this frame
        return self._value[0]


@dataclass(slots=True)
class Admitted:
    """A call that was let in: `left` turns of it are still to come."""

    _turns: Turns
    _connection: str
    left: int

    async def turn(self, work: Callable[[], T]) -> T:
        """What `work` gives or raises, when its turn has come; a checkpoint."""
        try:
            return await self._turns._turn(self._connection, work)
        finally:
            self.left -= 1
            self._turns._promised[self._connection] -= 1
