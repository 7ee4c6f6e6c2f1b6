"""How soon something ends, in words and levels. Pure: times are seconds since 1970."""

import enum
from dataclasses import dataclass

from cryptography import x509

from schemas.records import HostAuthority
from spiffe.x509 import UNREADABLE

DAY = 24 * 3600


class Urgency(enum.IntEnum):
    """How much it matters that something ends; the shares are of its whole life."""

    FINE = 0
    NOTICE = 1
    """Its replacement should have begun."""
    WARNING = 2
    """Somebody should look: replacing it does not get on."""
    URGENT = 3
    """The mesh will stop."""
    EXPIRED = 4


# Shares of a life that are left. A root of 10 years: notice 2 years, warning 1 year, urgent 3 months before its end.
# An issuing key of 90 days: 36 days (its rotation begins at 45), 18, 4. A file of 5 years: 2 years, 1, 3 months.
NOTICE_LEFT, WARNING_LEFT, URGENT_LEFT = 0.4, 0.2, 0.05
# Of a root that is replaced at a fifth of its life: later.
ROOT_NOTICE_LEFT, ROOT_WARNING_LEFT, ROOT_URGENT_LEFT = 0.18, 0.1, 0.025
# However long a life: this near to the end somebody must look.
URGENT_SECONDS = 3 * DAY


@dataclass(frozen=True, slots=True)
class Life:
    """What ends. `what`: for people."""

    what: str
    not_before: int
    not_after: int
    root: bool = False


def life_of(authority: HostAuthority) -> Life | None:
    """Of the certificate that hosts can join by for longest; None where one can't be read."""
    try:
        certificates = [x509.load_der_x509_certificate(der) for der in authority.x509_authorities]
        last = max(certificates, key=lambda one: one.not_valid_after_utc)
        starts, ends = last.not_valid_before_utc, last.not_valid_after_utc
    except UNREADABLE:
        return None
    return Life(f"host authority {authority.name}", int(starts.timestamp()), int(ends.timestamp()))


def urgency(life: Life, now: float) -> Urgency:
    left, whole = life.not_after - now, max(1, life.not_after - life.not_before)
    if left <= 0:
        return Urgency.EXPIRED
    shares = (NOTICE_LEFT, WARNING_LEFT, URGENT_LEFT)
    if life.root:
        shares = (ROOT_NOTICE_LEFT, ROOT_WARNING_LEFT, ROOT_URGENT_LEFT)
    notice, warning, urgent = (share * whole for share in shares)
    if left < urgent or left < min(URGENT_SECONDS, warning):
        return Urgency.URGENT
    if left < warning:
        return Urgency.WARNING
    return Urgency.NOTICE if left < notice else Urgency.FINE
