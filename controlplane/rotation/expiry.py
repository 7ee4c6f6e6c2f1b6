"""[edge] Log lines before something ends, the more urgent the less time is left."""

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509

from controlplane.ca.expiry import DAY, Life, Urgency, life_of, urgency
from controlplane.log import event
from controlplane.rotation.look import Look
from schemas.records import HostAuthority
from spiffe.x509 import UNREADABLE

# The same is said again after so long; a log that is read once a day has it.
REPEAT_SECONDS = {
    Urgency.NOTICE: 7 * DAY,
    Urgency.WARNING: DAY,
    Urgency.URGENT: 3600,
    Urgency.EXPIRED: 600,
}
_LEVELS = {
    Urgency.NOTICE: logging.INFO,
    Urgency.WARNING: logging.WARNING,
    Urgency.URGENT: logging.ERROR,
    Urgency.EXPIRED: logging.CRITICAL,
}

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Watch:
    """files: certificates on this host that nothing of the mesh renews, as it does not those of host authorities, which
    are `vouching`. now: seconds since 1970."""

    files: tuple[Path, ...]
    now: Callable[[], float]
    vouching: Callable[[], Iterable[HostAuthority]] = tuple
    _said: dict[str, tuple[Urgency, float]] = field(default_factory=dict)

    def look(self, seen: Look) -> None:
        """Say what ends, where it has not been said lately."""
        now = self.now()
        for life in (*lives_of_keys(seen), *self.not_renewed()):
            level = urgency(life, now)
            before, at = self._said.get(life.what, (Urgency.FINE, 0.0))
            if level is Urgency.FINE:
                self._said.pop(life.what, None)
            elif level is not before or now - at >= REPEAT_SECONDS[level]:
                self._said[life.what] = (level, now)
                words = "has expired" if level is Urgency.EXPIRED else "ends soon"
                days = round((life.not_after - now) / DAY, 1)
                event(logger, _LEVELS[level], words, what=life.what, days_left=days, see="docs/ca.md")

    def not_renewed(self) -> Iterator[Life]:
        """What somebody else has to renew."""
        yield from lives_of_files(self.files)
        for authority in self.vouching():
            if (life := life_of(authority)) is not None:
                yield life


def lives_of_keys(seen: Look) -> Iterable[Life]:
    """Of the keys that are in use."""
    for key_id, key in sorted(seen.facts.keys.items()):
        if key.state == "active" and key.chain:
            yield Life(f"{key.role} {key_id}", seen.facts.starts[key_id], key.not_after, root=key.role == "mesh-root")


def lives_of_files(files: Iterable[Path]) -> Iterable[Life]:
    """Of those that are there and can be read."""
    for path in files:
        try:
            certificate = x509.load_pem_x509_certificate(path.read_bytes())
            starts, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        except (OSError, *UNREADABLE):
            continue
        yield Life(str(path), int(starts.timestamp()), int(ends.timestamp()))
