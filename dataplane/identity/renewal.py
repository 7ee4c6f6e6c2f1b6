"""When to renew, how long to wait after a failure, when to raise the alarm: pure decisions about one certificate.

    not_before ──────── half-life (± jitter) ─────────────── last sixth ────── expires
    NOT_YET   │  GOOD         │ GOOD, renewing at each retry │ EXPIRING │      EXPIRED

All times are seconds since 1970 as the host's clock tells them; random numbers are fractions in [0, 1].
"""

import math
from dataclasses import dataclass
from enum import Enum

from schemas.errors import MeshError, Overloaded
from spiffe import lifetimes

# Replicas judge by these too: who could not have renewed before an outage began.
JITTER = lifetimes.RENEWAL_JITTER
FIRST_RETRY_SECONDS = lifetimes.FIRST_RETRY_SECONDS
MAX_RETRY_SECONDS = lifetimes.MAX_RETRY_SECONDS
# From the last sixth on (10 min of an hour) somebody should look: eight or more retries have failed by then.
ALARM_FRACTION = 1 / 6
# When the mesh issues with another key, all sidecars renew: spread over a sixtieth of the lifetime (1 min of an hour),
# which is no storm for the replicas, and soon enough for the old key to be taken out of use while somebody watches.
HURRY_FRACTION = 1 / 60
MAX_HURRY_SECONDS = 60.0
# A wait is never longer than this before the clock is read again: the host's clock may have been set meanwhile.
MAX_WAIT_SECONDS = 60.0
# A certificate that was made just now is backdated by up to a minute, and took seconds to arrive. Beyond five minutes
# (what Kerberos tolerates too) somebody's clock is wrong.
MAX_CLOCK_APART_SECONDS = 300.0


class Health(Enum):
    """What the certificate is worth at this moment."""

    NOT_YET = "not yet valid"
    GOOD = "good"
    EXPIRING = "expiring"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Validity:
    """Of a certificate: seconds since 1970."""

    not_before: float
    expires: float


@dataclass(frozen=True, slots=True)
class Attempts:
    """Renewals that failed since the last one that did not; `last` is when the latest of them ended.

    retry_after: seconds, what a replica with too much to do asked for then; 0: nothing.
    """

    failures: int = 0
    last: float = 0.0
    retry_after: float = 0.0

    def failed(self, now: float, error: MeshError | None = None) -> "Attempts":
        return Attempts(self.failures + 1, now, error.retry_after if isinstance(error, Overloaded) else 0.0)

    def delay(self, fraction: float, most: float = MAX_RETRY_SECONDS) -> float:
        """Seconds from `last` to the next attempt, after one failure or more; at most `most`, if nobody asks for more.

        Who was asked to come again later does so within as long again: all who were asked must not come at once.
        """
        return max(min(retry_delay(self.failures, fraction), most), self.retry_after * (1 + fraction))


@dataclass(frozen=True, slots=True)
class Decision:
    """`wait` seconds before deciding again; 0 means: renew now."""

    wait: float
    health: Health

    @property
    def renew(self) -> bool:
        return self.wait == 0


def renew_at(validity: Validity, fraction: float) -> float:
    """Half-life ± JITTER of the lifetime; `fraction` is drawn once a certificate."""
    return lifetimes.renewal_at(validity.not_before, validity.expires, fraction)


def hurry_at(validity: Validity, now: float, fraction: float) -> float:
    """When to renew a certificate that another key than the mesh's present one has signed."""
    lifetime = max(0.0, validity.expires - validity.not_before)
    return now + fraction * min(MAX_HURRY_SECONDS, lifetime * HURRY_FRACTION)


def retry_delay(failures: int, fraction: float) -> float:
    """Seconds to wait after that many failures in a row (≥ 1): doubling, capped, the upper half of it random."""
    full = min(MAX_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2.0 ** min(failures - 1, 16))
    return full * (0.5 + fraction / 2)


def health(validity: Validity, now: float) -> Health:
    if now >= validity.expires:
        return Health.EXPIRED
    if now < validity.not_before:
        return Health.NOT_YET
    if now >= validity.expires - (validity.expires - validity.not_before) * ALARM_FRACTION:
        return Health.EXPIRING
    return Health.GOOD


def decide(validity: Validity, attempts: Attempts, now: float, fraction: float, hurry: float = math.inf) -> Decision:
    """What to do at `now`; `hurry`: renew then, however good the certificate is.

    An expired or not yet valid certificate is renewed too: the clock may be what is wrong.
    """
    state = health(validity, now)
    due = renew_at(validity, fraction) if state in (Health.GOOD, Health.EXPIRING) else now
    due = min(due, hurry)
    # A clock that was set back must not make the retry wait for the hour it went back: then it comes at once.
    if attempts.failures and attempts.last <= now:
        most = lifetimes.longest_retry(validity.expires - validity.not_before)
        due = max(due, attempts.last + attempts.delay(fraction, most))
    return Decision(min(max(0.0, due - now), seconds_to_change(validity, now), MAX_WAIT_SECONDS), state)


def seconds_to_change(validity: Validity, now: float) -> float:
    """Until `health` will say something else; infinite once it has ended."""
    lifetime = validity.expires - validity.not_before
    moments = (validity.not_before, validity.expires - lifetime * ALARM_FRACTION, validity.expires)
    return min((moment - now for moment in moments if moment > now), default=math.inf)


def clock_off_by(not_before: float, now: float) -> float:
    """Seconds by which this host's clock is ahead of the replica's that has just made a certificate (negative: behind);
    0 where they agree as far as a certificate can tell, which is backdated by up to a minute."""
    apart = now - not_before
    if apart > MAX_CLOCK_APART_SECONDS:
        return apart
    return min(apart, 0.0)


def worse(before: Health, after: Health) -> bool:
    """Whether to say so: health got worse, or is still bad in another way."""
    return after is not before and after is not Health.GOOD
