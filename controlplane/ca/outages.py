"""When issuing was impossible, and which SVIDs that excuses. Pure.

While some replica can issue, one of them writes so every few seconds, and with it a key under a lease of etcd, the
*pulse*. A replica that finds the last word too old, and the pulse ended, puts the time between on record as an outage.
Both have to agree: a replica whose own clock is wrong must not make up an outage that never was, and etcd measures
leases by a clock of its own.

An SVID that ended in an outage can be renewed after its end, for as long as one lives; one that could have been renewed
can't. Times are seconds since 1970.
"""

import datetime
import math
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from schemas.errors import Unauthenticated
from schemas.records import IssuingTimes, Outage
from spiffe import lifetimes

# Of a life of 10 min and more. An outage that matters is longer than 40 % of a life.
BEAT_SECONDS = 20.0
BEAT_SHARE = 1 / 30
MIN_BEAT_SECONDS = 1.0
# A replica that is restarted, an election of etcd, a host that is busy: no outage.
QUIET_BEATS = 3
# At 25 bytes each. Even a mesh whose only replica keeps dying has an hour until the first that counts is dropped.
MAX_OUTAGES = 64
REMEDY = "put a new join file in its place (`meshadm token create`)"


def beat_seconds(svid_ttl: float) -> float:
    """Between two words that issuing is possible."""
    return max(MIN_BEAT_SECONDS, min(BEAT_SECONDS, svid_ttl * BEAT_SHARE))


def quiet_seconds(svid_ttl: float) -> int:
    """So long may nobody have said so before it counts as an outage; the life of the pulse."""
    return math.ceil(QUIET_BEATS * beat_seconds(svid_ttl))


@dataclass(frozen=True, slots=True)
class Found:
    """What etcd holds, at one revision."""

    times: IssuingTimes | None
    pulse: bool
    """A replica said that it can issue, not long ago by etcd's own clock."""
    epoch: str


@dataclass(frozen=True, slots=True)
class Own:
    """What this process knows of itself."""

    until: float
    """When it last could issue: cut off from etcd too, until its fence (`controlplane.ca.facts`)."""
    looked: float
    """Its last look at etcd, by the clock on the wall."""
    ago: float
    """Seconds since then, by a clock that nobody sets."""
    pending: Outage | None = None
    """What the last look left to be recorded."""


@dataclass(frozen=True, slots=True)
class Beat:
    """What is to be written: nothing where `times` is None. `outage`: the one that is new in it."""

    times: IssuingTimes | None = None
    pulse: bool = True
    outage: Outage | None = None
    pending: Outage | None = None
    """To be recorded when etcd's clock agrees: for the next look."""


def next_beat(found: Found, own: Own | None, now: float, svid_ttl: float) -> Beat:
    """For a replica that can issue. own: None at the first look of this process."""
    times, moment = found.times, int(now)
    if times is None or times.epoch != found.epoch:
        return Beat(IssuingTimes(epoch=found.epoch, seen=moment))
    if times.seen > now + quiet_seconds(svid_ttl) and not found.pulse:
        # The clock of somebody was ahead: nobody could say for how long nobody issued.
        return Beat(msgspec.structs.replace(times, seen=moment))
    if now - times.seen < beat_seconds(svid_ttl) / 2:
        return Beat()  # another one has just said so
    pending = own.pending if own is not None else None
    if pending is None:
        until = max(times.seen, min(moment, int(own.until))) if own is not None else times.seen
        if now - until <= quiet_seconds(svid_ttl) or (found.pulse and _clock_was_set(times, own, svid_ttl)):
            return Beat(msgspec.structs.replace(times, seen=moment))
        pending = Outage(start=until, end=moment)
    if not found.pulse:
        return _recorded(times, pending, moment)
    if pending.start > times.seen:
        # Before a replica that knows less records too much.
        return Beat(msgspec.structs.replace(times, seen=pending.start), pulse=False, pending=pending)
    return Beat(pending=pending)


def _recorded(times: IssuingTimes, pending: Outage, moment: int) -> Beat:
    fresh = msgspec.structs.replace(times, seen=moment)
    if times.seen >= pending.end:
        return Beat(fresh)  # others could issue meanwhile: it was this replica's clock
    outage = Outage(start=max(pending.start, times.seen), end=pending.end)
    return Beat(msgspec.structs.replace(fresh, outages=(*times.outages, outage)[-MAX_OUTAGES:]), outage=outage)


def _clock_was_set(times: IssuingTimes, own: Own | None, svid_ttl: float) -> bool:
    """This process was there all the time, and all was well when it last looked: nobody was away."""
    quiet = quiet_seconds(svid_ttl)
    return own is not None and own.ago <= quiet and 0 <= own.looked - times.seen <= quiet


def excuse(not_before: int, expires: int, times: IssuingTimes | None, epoch: str, now: float, svid_ttl: int) -> Outage:
    """The outage (of several that follow close upon each other: all of it) for which an SVID could not be renewed.

    It has to have begun before the sidecar was to renew, or another SVID may have taken this one's place; and have
    lasted until its end, but for the time that a sidecar takes to notice that replicas are back.
    Raises Unauthenticated.
    """
    if now < expires:
        raise Unauthenticated("this SVID has not expired, by the clock of this replica: renew with it")
    notice = 2 * lifetimes.longest_retry(expires - not_before) + MIN_BEAT_SECONDS
    due = lifetimes.renewal_at(not_before, expires, 1.0)
    on_record = times.outages if times is not None and times.epoch == epoch else ()
    for outage in _joined(on_record, notice):
        if not outage.start <= due <= expires <= outage.end + notice:
            continue
        if now > outage.end + svid_ttl:
            raise Unauthenticated(
                f"this SVID expired at {_utc(expires)}, when nothing could be issued; but since {_utc(outage.end)} it "
                f"could be renewed, and that counts for {svid_ttl} s only: {REMEDY}"
            )
        return outage
    raise Unauthenticated(
        f"this SVID expired at {_utc(expires)}, and the mesh knows of no time without a replica that could issue, from "
        f"{_utc(due)} (when its sidecar was to renew) until then: {REMEDY}"
    )


def _joined(outages: Iterable[Outage], notice: float) -> list[Outage]:
    """Two that leave a sidecar no time to notice what was between are one."""
    result: list[Outage] = []
    for one in outages:
        if result and one.start <= result[-1].end + notice:
            result[-1] = Outage(start=result[-1].start, end=max(one.end, result[-1].end))
        else:
            result.append(one)
    return result


def _utc(moment: float) -> str:
    return f"{datetime.datetime.fromtimestamp(moment, datetime.UTC):%Y-%m-%d %H:%M:%S} UTC"
