"""May a port stop taking plaintext? Not while somebody still sends it, or a sidecar has not said. Pure.

What sidecars report (`SidecarStatus.plaintext`) is the evidence. It says who was seen, not who may come again: somebody
who sends once a day shows once a day.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from authz.peers import Decided, mode_of, ports_named
from controlplane.domain.change import Change
from controlplane.domain.known import After, Known
from schemas.names import ObjectRef, ServiceRef
from schemas.objects import PeerAuthentication
from schemas.records import PlaintextPort, SidecarStatus

# Seconds. Who has been seen within them still sends: longer than the pauses of what calls each few minutes.
WINDOW_S = 600
_KIND = PeerAuthentication.__name__


@dataclass(frozen=True, slots=True)
class Modes:
    """What there is to say of ports, and what of it nobody can read."""

    objects: tuple[PeerAuthentication, ...]
    unreadable: tuple[ObjectRef, ...] = ()

    def of(self, service: ServiceRef, port: int | None) -> Decided:
        return mode_of(service, port, self.objects, self.unreadable)

    def ports(self, service: ServiceRef) -> set[int]:
        return ports_named(service, self.objects)


@dataclass(frozen=True, slots=True)
class Holdout:
    """Why a port can't refuse plaintext yet. port: None: any."""

    sidecar: str
    port: int | None
    why: str

    def __str__(self) -> str:
        return f"{self.sidecar}{f', port {self.port}' if self.port is not None else ''}: {self.why}"


def concerns_modes(changes: Iterable[Change]) -> bool:
    return any(change.ref.kind == _KIND for change in changes)


def holdouts(changes: Sequence[Change], known: Known, statuses: Iterable[SidecarStatus], now: int) -> list[Holdout]:
    """What `changes` would cut off; now: seconds since 1970. `known` must hold what `reads` asks for."""
    before, after = (_modes(known, After(known, made)) for made in ((), changes))
    found: list[Holdout] = []
    for status in statuses:
        service = ServiceRef(status.namespace, status.service)
        ports = {None, *before.ports(service), *after.ports(service), *(one.port for one in status.plaintext)}
        losing = {one for one in ports if before.of(service, one).permissive and not after.of(service, one).permissive}
        said_by = (before.of(service, port).by for port in losing)
        revision = max((known.mod_revision(ref) for ref in said_by if ref is not None), default=0)
        if losing:
            found += unready(status, losing, revision, now)
    return sorted(found, key=str)


def unready(
    status: SidecarStatus, ports: Collection[int | None], revision: int, now: int, window: float = WINDOW_S
) -> Iterator[Holdout]:
    """Of one sidecar whose `ports` take plaintext since `revision`; None: those of which nothing is said apart."""
    name = f"{status.namespace}/{status.service}.{status.instance}"
    if status.acked_revision < revision:
        yield Holdout(name, None, "has not taken up yet that plaintext is let in, so nobody knows who sends it")
    elif not status.plaintext:
        yield Holdout(name, None, "has not reported who sends plaintext")
    for one in status.plaintext:
        if one.port in ports and seen_lately(one, now, window):
            yield Holdout(name, one.port, seen_words(one, now))


def seen_lately(one: PlaintextPort, now: int, window: float = WINDOW_S) -> bool:
    return one.last_seen is not None and now - one.last_seen < window


def seen_words(one: PlaintextPort, now: int) -> str:
    if one.last_seen is None:
        return f"nobody in {max(0, now - one.since)} s"
    sources = ", ".join(source.address for source in one.sources) or "an address that is not known"
    return f"plaintext {max(0, now - one.last_seen)} s ago, from {sources}"


def _modes(known: Known, after: After) -> Modes:
    objects = tuple(one for one in after if isinstance(one, PeerAuthentication))
    unreadable = tuple(ref for ref in known.objects if ref.kind == _KIND and after.is_unreadable(ref))
    return Modes(objects, unreadable)
