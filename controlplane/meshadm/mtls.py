"""Which ports take plaintext, who sends it, and whether they may stop: for people and as plain values. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from controlplane.domain.strictness import Holdout, Modes, seen_lately, seen_words, unready
from controlplane.meshadm.sidecars import timestamp
from controlplane.meshadm.table import Table, duration, printable
from controlplane.meshadm.values import Stored
from schemas.names import ObjectRef, ServiceRef
from schemas.objects import Service
from schemas.objects.peer_authentication import Mode
from schemas.objects.service import ServicePort
from schemas.records import PlaintextPort, SidecarStatus


@dataclass(frozen=True, slots=True)
class PortReadiness:
    """by: the object that says so; None: nobody does. said: by sidecar, what it reports of the port."""

    service: ServiceRef
    port: ServicePort
    mode: Mode
    by: ObjectRef | None
    said: tuple[tuple[str, PlaintextPort], ...] = ()
    sidecars: int = 0
    holdouts: tuple[Holdout, ...] = ()
    """Why it can't become STRICT; of a STRICT port none."""

    @property
    def ready(self) -> bool:
        return not self.holdouts


def readiness(
    services: Iterable[Service],
    modes: Modes,
    revisions: dict[ObjectRef, int],
    statuses: Sequence[SidecarStatus],
    now: int,
    window: float,
) -> Iterator[PortReadiness]:
    """Of each port. revisions: of the PeerAuthentications."""
    for service in services:
        ref = ServiceRef(service.metadata.namespace, service.metadata.name)
        own = [one for one in statuses if (one.namespace, one.service) == (ref.namespace, ref.name)]
        for port in service.spec.ports:
            decided = modes.of(ref, port.port)
            if not decided.permissive:
                yield PortReadiness(ref, port, decided.mode, decided.by, sidecars=len(own))
                continue
            revision = revisions.get(decided.by, 0) if decided.by is not None else 0
            held = [one for status in own for one in unready(status, {port.port}, revision, now, window)]
            said = [
                (f"{status.namespace}/{status.service}.{status.instance}", one)
                for status in own
                for one in status.plaintext
                if one.port == port.port
            ]
            yield PortReadiness(ref, port, decided.mode, decided.by, tuple(said), len(own), tuple(held))


def table(found: Sequence[PortReadiness], now: int, nothing: str) -> Table:
    rows = tuple(
        (
            str(one.service),
            f"{one.port.port}/{one.port.protocol}",
            one.mode,
            printable(str(one.by)) if one.by is not None else "-",
            f"{len(one.said)} of {one.sidecars}" if one.mode == "PERMISSIVE" else "-",
            _last(one, now),
            "-" if one.mode == "STRICT" else "ready" if one.ready else "NOT READY",
        )
        for one in found
    )
    return Table(("SERVICE", "PORT", "MODE", "BY", "REPORTED", "PLAINTEXT", "STRICT"), rows, nothing)


def _last(one: PortReadiness, now: int) -> str:
    last = max((said.last_seen for _, said in one.said if said.last_seen is not None), default=None)
    return "-" if one.mode == "STRICT" else "none seen" if last is None else f"{duration(max(0, now - last))} ago"


def details(found: Sequence[PortReadiness], now: int) -> Iterator[str]:
    """What holds each port back; and what was seen of those that nothing does."""
    for one in found:
        yield from (printable(str(held)) for held in one.holdouts)
        told = {held.sidecar for held in one.holdouts}
        for sidecar, said in one.said:
            if sidecar not in told:
                yield printable(f"{sidecar}, port {said.port}: {seen_words(said, now)}")


def plain(found: Sequence[PortReadiness], now: int, window: float) -> dict[str, Any]:
    """As in docs/meshadm.md."""
    return {
        "ready": all(one.ready for one in found),
        "windowSeconds": int(window),
        "ports": [
            {
                "namespace": one.service.namespace,
                "service": one.service.name,
                "port": one.port.port,
                "name": one.port.name,
                "mode": one.mode,
                "by": one.by and {"namespace": one.by.namespace, "name": one.by.name},
                "ready": one.ready,
                "sidecars": [
                    {
                        "sidecar": sidecar,
                        "since": timestamp(said.since),
                        "lastSeen": None if said.last_seen is None else timestamp(said.last_seen),
                        "lately": seen_lately(said, now, window),
                        "signs": said.signs,
                        "sources": [
                            {"address": each.address, "lastSeen": timestamp(each.last_seen)} for each in said.sources
                        ],
                    }
                    for sidecar, said in one.said
                ],
                "holdouts": [{"sidecar": held.sidecar, "port": held.port, "why": held.why} for held in one.holdouts],
            }
            for one in found
        ],
    }


def of_services(stored: Iterable[Stored]) -> list[Service]:
    return [one.object for one in stored if isinstance(one.object, Service)]
