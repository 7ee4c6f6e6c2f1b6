"""What one client asked for, holds, is owed and refused, for one resource type."""

from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from dataplane.ads.order import Act
from dataplane.ads.table import Since
from dataplane.compile.resources import Resource


class Owed(NamedTuple):
    since: Since
    """The earliest reason: what has to come after it waits for this."""
    newest: int
    """The place, in the order of updates, of the latest reason: what has to come before that is waited for."""
    again: bool
    """Send it even though the client holds this version: it asked anew, or waits for it in a changed parent."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One response in the making: all of one type and one step. `nonce` is unique in its session."""

    type_url: str
    act: Act
    nonce: str
    revision: int
    resources: tuple[Resource, ...]
    removed: tuple[str, ...]
    """Names that the client held and must drop, or asked for and must learn that they don't exist."""
    owed: dict[str, Owed]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A resource that the client refused; version None: it refused to let it go."""

    version: str | None
    revision: int
    message: str
    since: Since


@dataclass(slots=True)
class Interest:
    """One of the types in one session. `held` is what was acked; `owed` and `in_flight` are on the way."""

    asked: bool = False
    """Whether the client ever sent a request for this type."""
    wildcard: bool = False
    names: set[str] = field(default_factory=set)
    held: dict[str, Resource] = field(default_factory=dict)
    owed: dict[str, Owed] = field(default_factory=dict)
    in_flight: Batch | None = None
    refused: dict[str, Refusal] = field(default_factory=dict)
    suspects: deque[tuple[str, ...]] = field(default_factory=deque)
    """Parts of a refused batch, to be sent apart until the culprit is alone."""
    offered: set[str] = field(default_factory=set)
    """Names sent on this stream: the client may have them even if it refused the batch they were in."""
    answer_empty: bool = False
    """It waits for a first answer, even for one without resources."""

    def covers(self, name: str) -> bool:
        return self.wildcard or name in self.names

    def may_hold(self, name: str) -> bool:
        return name in self.held or name in self.offered

    @property
    def keeps_older(self) -> bool:
        """The client works on with a version older than the one that it refused."""
        return any(name in self.held for name in self.refused)

    def owe(self, name: str, since: Since, now: int, *, again: bool = False) -> None:
        """`now` is the place of the newest update, whose version of the resource will be sent."""
        before = self.owed.get(name)
        self.owed[name] = Owed(
            min(since, before.since) if before else since, now, again or bool(before and before.again)
        )

    def refuses(self, name: str, version: str | None) -> bool:
        refusal = self.refused.get(name)
        return refusal is not None and refusal.version == version

    def forget(self, names: Iterable[str]) -> None:
        """The client unsubscribed and no longer holds these."""
        for name in names:
            self.held.pop(name, None)
            self.owed.pop(name, None)
            self.refused.pop(name, None)
            self.offered.discard(name)

    def accept(self, batch: Batch) -> None:
        """The client has what was in the batch."""
        self.in_flight = None
        for name in batch.removed:
            self.held.pop(name, None)
            self.offered.discard(name)
        for resource in batch.resources:
            if self.covers(resource.key.name):
                self.held[resource.key.name] = resource

    def refuse(self, batch: Batch, message: str, now: int) -> None:
        """The client refused the batch: split it, or, when the culprit is alone in it, keep its words."""
        self.in_flight = None
        names = tuple(name for name in batch.owed if self.covers(name))
        if len(names) == 1:
            version = batch.resources[0].version if batch.resources else None
            owed = batch.owed[names[0]]
            earlier = self.refused.get(names[0])
            since = min(owed.since, earlier.since) if earlier else owed.since
            # However late the client asked for it: the revision that brought this version is not acked.
            since = since._replace(acked_until=min(since.acked_until, batch.revision - 1))
            self.refused[names[0]] = Refusal(version, batch.revision, message, since)
            return
        for name in names:
            # Which of them were taken is unknown, so all are owed again.
            self.owe(name, batch.owed[name].since, now, again=True)
        middle = len(names) // 2
        self.suspects.extendleft(part for part in (names[middle:], names[:middle]) if part)

    def abandon(self, now: int) -> None:
        """Wait no longer for the answer to what is in flight; all of it is owed again, as it is desired by now."""
        if self.in_flight is not None:
            for name, owed in self.in_flight.owed.items():
                self.owe(name, owed.since, now, again=True)
            self.in_flight = None
            self.suspects.clear()  # what unblocks the client may be behind them

    def choose(self, eligible: Collection[str]) -> Collection[str]:
        """Which of these go into the next response: suspects by themselves, else all."""
        while self.suspects and not any(name in self.owed for name in self.suspects[0]):
            self.suspects.popleft()
        for part in self.suspects:
            if chosen := [name for name in part if name in eligible]:
                return chosen
        return eligible
