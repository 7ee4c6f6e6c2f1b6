"""May a port stop taking plaintext? Not while somebody still sends it, or a sidecar can't say. Pure.

What sidecars report (`SidecarStatus.plaintext`) is the evidence. It says who was seen, not who may come again: somebody
who sends once a day shows once a day.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from authz.peers import Decided, mode_of, ports_named
from controlplane.domain.change import Change
from controlplane.domain.known import After, Known
from schemas.names import SYSTEM_NAMESPACE, ObjectRef, ServiceRef
from schemas.objects import PeerAuthentication
from schemas.records import PlaintextPort, SidecarStatus

# Seconds. Who has been seen within them still sends: longer than the pauses of what calls each few minutes.
WINDOW_S = 600
_KIND = PeerAuthentication.__name__
_UNREPORTED = "has not reported who sends plaintext"


class Modes:
    """What there is to say of ports, and what of it nobody can read. Each port is decided once."""

    def __init__(self, objects: Iterable[PeerAuthentication], unreadable: Iterable[ObjectRef] = ()) -> None:
        self._of_service: defaultdict[ServiceRef, list[PeerAuthentication]] = defaultdict(list)
        self._of_namespace: defaultdict[str, list[PeerAuthentication]] = defaultdict(list)
        self._unreadable: defaultdict[str, list[ObjectRef]] = defaultdict(list)
        self._decided: dict[tuple[ServiceRef, int | None], Decided] = {}
        for one in objects:
            namespace, targets = one.metadata.namespace, one.spec.target_refs
            if targets is None:
                self._of_namespace[namespace].append(one)
            for name in {target.name for target in targets or ()}:
                self._of_service[ServiceRef(namespace, name)].append(one)
        for ref in unreadable:
            self._unreadable[ref.namespace].append(ref)

    def of(self, service: ServiceRef, port: int | None) -> Decided:
        found = self._decided.get((service, port))
        if found is None:
            near = dict.fromkeys((service.namespace, SYSTEM_NAMESPACE))
            wide = (one for name in near for one in self._of_namespace.get(name, ()))
            unreadable = [ref for name in near for ref in self._unreadable.get(name, ())]
            found = mode_of(service, port, (*self._of_service.get(service, ()), *wide), unreadable)
            self._decided[service, port] = found
        return found

    def ports(self, service: ServiceRef) -> set[int]:
        return ports_named(service, self._of_service.get(service, ()))


@dataclass(frozen=True, slots=True)
class Holdout:
    """Why a port can't refuse plaintext yet. port: None: any."""

    sidecar: str
    port: int | None
    why: str

    def __str__(self) -> str:
        return f"{self.sidecar}{f', port {self.port}' if self.port is not None else ''}: {self.why}"


def concerned_namespaces(changes: Iterable[Change]) -> frozenset[str] | None:
    """Of whose services ports may turn; None: of all."""
    found = frozenset(change.ref.namespace for change in changes if change.ref.kind == _KIND)
    return None if SYSTEM_NAMESPACE in found else found


@dataclass(frozen=True, slots=True)
class _Turn:
    before: Modes
    after: Modes

    @classmethod
    def by(cls, changes: Sequence[Change], known: Known) -> Self:
        """`known` must hold what `reads` asks for."""
        return cls(*(_modes(known, After(known, made)) for made in ((), changes)))

    def losing(self, service: ServiceRef, ports: Iterable[int | None]) -> set[int | None]:
        """Those that stop taking plaintext. None: those of which nothing is said apart."""
        return {
            one
            for one in ports
            if self.before.of(service, one).permissive and not self.after.of(service, one).permissive
        }

    def any_of(self, service: ServiceRef) -> bool:
        return bool(self.losing(service, {None, *self.before.ports(service), *self.after.ports(service)}))


def turning(changes: Sequence[Change], known: Known, services: Iterable[ServiceRef]) -> set[ServiceRef]:
    """Those of which `holdouts` wants to know the ports."""
    turn = _Turn.by(changes, known)
    namespaces = concerned_namespaces(changes)
    return {one for one in services if (namespaces is None or one.namespace in namespaces) and turn.any_of(one)}


def holdouts(
    changes: Sequence[Change],
    known: Known,
    statuses: Iterable[SidecarStatus],
    declared: Mapping[ServiceRef, Collection[int] | None],
    now: int,
) -> list[Holdout]:
    """What `changes` would cut off; now: seconds since 1970.

    declared: the ports of each Service that exists, None where nobody can read them; there what sidecars report counts.
    A sidecar without a Service takes nothing.
    """
    turn = _Turn.by(changes, known)
    found: list[Holdout] = []
    for status in statuses:
        service = ServiceRef(status.namespace, status.service)
        if service not in declared:
            continue
        ports = declared[service]
        if ports is None:
            ports = {one.port for one in status.plaintext}
            if not ports and turn.any_of(service):
                found.append(Holdout(_name(status), None, _UNREPORTED))
        losing = turn.losing(service, ports)
        said_by = (turn.before.of(service, port).by for port in losing)
        revision = max((known.mod_revision(ref) for ref in said_by if ref is not None), default=0)
        found += unready(status, {one for one in losing if one is not None}, revision, now)
    return sorted(found, key=str)


def unready(
    status: SidecarStatus, ports: Collection[int], revision: int, now: int, window: float = WINDOW_S
) -> Iterator[Holdout]:
    """Of one sidecar whose `ports` take plaintext since `revision`."""
    if not ports:
        return
    name = _name(status)
    is_late = status.acked_revision < revision
    if is_late:
        yield Holdout(name, None, "has not taken up yet that plaintext is let in, so nobody knows who sends it")
    said = {one.port: one for one in status.plaintext}
    for port in sorted(ports):
        if port in said:
            looked = max(0, now - said[port].since)
            if seen_lately(said[port], now, window):
                yield Holdout(name, port, seen_words(said[port], now))
            elif looked < window:
                why = f"nobody in {looked} s, and it has not looked for longer: wait {int(window) - looked} s"
                yield Holdout(name, port, why)
        elif not is_late:
            yield Holdout(name, port, _UNREPORTED)


def _name(status: SidecarStatus) -> str:
    return f"{status.namespace}/{status.service}.{status.instance}"


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
