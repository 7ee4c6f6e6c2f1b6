"""What a change of policies would do to flows that were seen: judged, for people and as plain values. Pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from authz.judge import Request
from authz.preview import Changed, Effect, Flow, changes
from authz.rules import applies
from controlplane.meshadm.authz import plain_verdict, verdict_lines
from controlplane.meshadm.evidence import Evidence
from controlplane.meshadm.sidecars import timestamp
from controlplane.meshadm.why import NOT_LOGGED
from schemas.errors import InvalidInput
from schemas.names import ObjectRef, ServiceRef, SpiffeId
from schemas.objects import AuthorizationPolicy
from schemas.objects.service import ServicePort
from schemas.questions import Answer, FlowRecord


@dataclass(frozen=True, slots=True)
class Preview:
    """answers: of the sidecars that were asked; silent: those that have not answered."""

    services: tuple[ServiceRef, ...]
    """That the change is about."""
    changed: tuple[tuple[ServiceRef, Changed[FlowRecord]], ...]
    answers: tuple[Answer, ...]
    silent: tuple[str, ...]
    unseen: tuple[ServiceRef, ...]
    """Of `services`, those without any flow: nothing is known of what they would lose."""
    unseen_ports: tuple[tuple[ServiceRef, str], ...] = ()
    """The same, of ports of the others, by name."""
    uncounted: tuple[tuple[ServiceRef, str], ...] = ()
    """Ports at which plaintext is judged by AUDIT policies, and Envoy does not count it by rule."""

    @property
    def flows(self) -> int:
        return sum(len(one.flows) for one in self.answers)

    @property
    def denies(self) -> bool:
        """Whether anything would be denied that is let in now, or may be."""
        return any(
            one.effect is Effect.DENIED or (one.effect is Effect.UNSURE and one.flow.allowed) for _, one in self.changed
        )


def policies_after(
    before: Sequence[AuthorizationPolicy], written: Sequence[AuthorizationPolicy], deleted: Iterable[ObjectRef]
) -> list[AuthorizationPolicy]:
    kept = {one.ref: one for one in before}
    kept |= {one.ref: one for one in written}
    for ref in deleted:
        kept.pop(ref, None)
    return list(kept.values())


def concerned(
    services: Iterable[ServiceRef],
    before: Sequence[AuthorizationPolicy],
    written: Sequence[AuthorizationPolicy],
    deleted: Sequence[ObjectRef],
) -> list[ServiceRef]:
    """The services that a changed policy is, or was, for."""
    refs = {one.ref for one in written} | set(deleted)
    changed = [*written, *(one for one in before if one.ref in refs)]
    return [service for service in services if any(applies(one, service) for one in changed)]


def preview(
    services: Sequence[ServiceRef],
    evidence: Mapping[ServiceRef, Evidence],
    written: Sequence[AuthorizationPolicy],
    deleted: Sequence[ObjectRef],
    answers: Sequence[Answer],
    silent: Sequence[str],
) -> Preview:
    """services: that the change is about. evidence: of those of them that have answered with flows or counts."""
    gone = {*(one.ref for one in written), *deleted}  # also where nobody could read what there was
    found: list[tuple[ServiceRef, Changed[FlowRecord]]] = []
    seen: set[tuple[ServiceRef, str]] = set()
    for answer in answers:
        service = ServiceRef(answer.namespace, answer.service)
        if service not in evidence:
            continue
        seen |= {(service, one.port) for one in answer.flows}
        after = policies_after(evidence[service].policies, written, deleted)
        found += [(service, one) for one in _changed(evidence[service], after, gone, answer.flows)]
    unseen = tuple(sorted(set(services) - {service for service, _ in seen}))
    ports = [(to, one) for to, known in sorted(evidence.items()) for one in known.service.spec.ports]
    return Preview(
        tuple(services),
        _merged(found),
        tuple(answers),
        tuple(silent),
        unseen,
        tuple((to, one.name) for to, one in ports if to not in unseen and (to, one.name) not in seen),
        tuple((to, one.name) for to, one in ports if _hides_audits(evidence[to], one)),
    )


def _hides_audits(known: Evidence, port: ServicePort) -> bool:
    """Bytes that come in plaintext are judged by Envoy's network RBAC, which has one count for all rules."""
    audited = any(one.spec.action == "AUDIT" and applies(one, known.to) for one in known.policies)
    return audited and port.protocol == "tcp" and known.takes_plaintext(port)


def _changed(
    known: Evidence, after: Sequence[AuthorizationPolicy], gone: set[ObjectRef], flows: Sequence[FlowRecord]
) -> Iterator[Changed[FlowRecord]]:
    for port in known.service.spec.ports:
        of_port = [flow for one in flows if one.port == port.name and (flow := _flow(one)) is not None]
        yield from changes(known.rules(port, known.policies), known.rules(port, after, gone), port, of_port)


def _flow(record: FlowRecord) -> Flow[FlowRecord] | None:
    """None where the caller's identity is none of SPIFFE: such are denied in any case."""
    try:
        caller = SpiffeId.parse(record.source) if record.source else None
    except InvalidInput:
        return None
    request = Request(
        caller, record.method, record.path, host=record.authority, address=record.address, unknown=NOT_LOGGED
    )
    return Flow(request, not record.denied, record)


def _merged(found: list[tuple[ServiceRef, Changed[FlowRecord]]]) -> tuple[tuple[ServiceRef, Changed[FlowRecord]], ...]:
    """The same flow at several instances is told once, the newest of it; what is denied first."""
    kept: dict[tuple[object, ...], tuple[ServiceRef, Changed[FlowRecord]]] = {}
    for service, one in found:
        about = one.flow.about
        key = (service, about.source, about.port, about.method, about.route, about.denied, one.effect)
        if key not in kept or kept[key][1].flow.about.last < about.last:
            kept[key] = (service, one)
    order = list(Effect)
    return tuple(
        sorted(kept.values(), key=lambda each: (order.index(each[1].effect), each[0], -each[1].flow.about.last))
    )


def preview_lines(said: Preview, now: int) -> Iterator[str]:
    for service, one in said.changed:
        about = one.flow.about
        what = f"{about.method} {about.route}" + (f" (such as {about.path})" if about.path != about.route else "")
        yield f"{one.effect.value}: {about.source or 'plaintext'} to {service}, port {about.port}: {what}"
        verdict = list(verdict_lines(one.after))
        yield (
            f"  would be {verdict[0]}"
            if one.effect is not Effect.UNSURE
            else f"  unless a header or token says otherwise, {verdict[0]}"
        )
        yield from (f"  {text}" for text in verdict[1:])
        was = "denied" if about.denied else "let in"
        by = f" by {about.rule}" if about.rule else ""
        yield f"  seen {_ago(now - about.last)} ago, {was}{by}; {about.samples} samples since {timestamp(about.first)}"
    if not said.changed:
        yield "nothing that was seen lately would be judged otherwise"
    yield from _coverage(said, now)


def _coverage(said: Preview, now: int) -> Iterator[str]:
    yield f"judged: {said.flows} flows, seen by {len(said.answers)} sidecars of {len(said.services)} services"
    if said.answers:
        latest = max(one.since for one in said.answers)
        yield f"  back to {timestamp(latest)} at all of them, {_ago(now - latest)}: since their agents run"
    omitted = sum(one.omitted for one in said.answers)
    if omitted:
        why = "too many, too long, or of a caller without one identity"
        yield f"  left out, samples of requests and whole flows: {omitted} times; {why}"
    if said.silent:
        yield f"  not reported: {', '.join(said.silent)}"
    blind = [*map(str, said.unseen), *map(_port, said.unseen_ports)]
    if blind:
        yield f"  without any flow, so nothing is known of: {', '.join(blind)}"
    counts = audits(said.answers)
    for rule, count in sorted(counts.items()):
        yield f"audit: {rule} would have denied {count} requests since those sidecars' Envoys have started"
    if said.uncounted:
        yield f"audit: not counted: plaintext at {', '.join(map(_port, said.uncounted))}"
    yield "  flows are samples: a rare request may be missing, and nothing is known of headers and tokens"


def audits(answers: Iterable[Answer]) -> dict[str, int]:
    """Of all sidecars together, by rule."""
    total: dict[str, int] = {}
    for answer in answers:
        for rule, count in answer.audits.items():
            total[rule] = total.get(rule, 0) + count
    return total


def _port(which: tuple[ServiceRef, str]) -> str:
    return f"port {which[1]} of {which[0]}"


def _plain_port(which: tuple[ServiceRef, str]) -> dict[str, str]:
    return {"service": str(which[0]), "port": which[1]}


def _ago(seconds: int) -> str:
    if seconds < 120:
        return f"{max(0, seconds)} s"
    return f"{seconds // 60} min" if seconds < 7200 else f"{seconds // 3600} h"


def plain_preview(said: Preview) -> dict[str, Any]:
    """As in docs/meshadm.md."""
    return {
        "wouldDeny": said.denies,
        "changes": [
            {
                "effect": one.effect.name,
                "from": one.flow.about.source,
                "to": str(service),
                "port": one.flow.about.port,
                "method": one.flow.about.method,
                "route": one.flow.about.route,
                "path": one.flow.about.path,
                "allowed": one.flow.allowed,
                "rule": one.flow.about.rule or None,
                "samples": one.flow.about.samples,
                "first": timestamp(one.flow.about.first),
                "last": timestamp(one.flow.about.last),
                "verdict": plain_verdict(one.after),
            }
            for service, one in said.changed
        ],
        "flows": said.flows,
        "services": list(map(str, said.services)),
        "withoutFlows": list(map(str, said.unseen)),
        "portsWithoutFlows": list(map(_plain_port, said.unseen_ports)),
        "sidecars": [
            {
                "namespace": one.namespace,
                "service": one.service,
                "instance": one.instance,
                "since": timestamp(one.since),
                "flows": len(one.flows),
                "omitted": one.omitted,
                "problem": one.problem or None,
            }
            for one in said.answers
        ],
        "notReported": list(said.silent),
        "audits": audits(said.answers),
        "auditsWithout": list(map(_plain_port, said.uncounted)),
    }
