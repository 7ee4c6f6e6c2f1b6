"""What this sidecar is told to log for a time, as far as it has heard. Pure.

The end is said twice, as a time and as a number of seconds: the earlier one counts, from when the order was first seen,
by a clock that nobody sets. So no clock that is wrong, and no etcd that is out of reach, makes it last longer.
"""

from dataclasses import dataclass

from dataplane.watch.events import Changes, Dropped, Event, Listing, Put
from schemas import codec
from schemas.errors import Corrupt, Problem
from schemas.keys import Keyspace, LogLevelRef
from schemas.log_levels import LogLevels
from schemas.records import LogLevel


@dataclass(frozen=True, slots=True)
class Order:
    subject: str
    levels: LogLevels
    by: str
    revision: int
    ends: float
    """Of the clock that nobody sets."""


class Orders:
    """Of one sidecar, from what is under `prefix`."""

    def __init__(self, keyspace: Keyspace, ref: LogLevelRef) -> None:
        self.prefix = keyspace.log_levels_of(ref.service)
        self.problem: Problem | None = None
        self._ref = ref
        self._key = keyspace.log_level(ref)
        self._newest: Order | None = None

    def take(self, event: Event, now: float, monotonic: float) -> None:
        """now: seconds since 1970. monotonic: seconds of the clock that nobody sets."""
        match event:
            case Listing(items=items):
                own = next((one for one in items if one.key == self._key), None)
                self._put(own, now, monotonic) if own is not None else self._forget()
            case Changes(events=events):
                for one in events:
                    if one.key == self._key:
                        self._put(one, now, monotonic) if isinstance(one, Put) else self._forget()
            case Dropped():
                self._forget()

    def current(self, monotonic: float) -> Order | None:
        newest = self._newest
        return newest if newest is not None and monotonic < newest.ends else None

    def _put(self, put: Put, now: float, monotonic: float) -> None:
        if self._newest is not None and self._newest.revision == put.revision:
            return  # listed again: it ends when it was to end
        self._forget()
        try:
            record = codec.decode(put.value, LogLevel, str(self._ref))
        except Corrupt as error:
            self.problem = error.problem
            return
        if (record.namespace, record.service, record.instance) != (*_names(self._ref), self._ref.instance):
            said = f"{record.namespace}/{record.service}/{record.instance}"
            self.problem = Problem(str(self._ref), f"the key holds the levels of {said}", remedy="delete the key")
            return
        left = min(max(0.0, record.levels.until - now), float(record.seconds))
        self._newest = Order(str(self._ref), record.levels, record.by, put.revision, monotonic + left)

    def _forget(self) -> None:
        self._newest, self.problem = None, None


def _names(ref: LogLevelRef) -> tuple[str, str]:
    return ref.service.namespace, ref.service.name
