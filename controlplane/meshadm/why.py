"""What became of a request, by the log lines of the sidecars that it passed: for people and as plain values. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from authz.judge import Reason, Request, Verdict
from authz.rules import BY_DEFAULT, MESH, Field
from controlplane.meshadm.authz import plain_verdict, verdict_lines
from controlplane.meshadm.authz_cases import PLAINTEXT
from schemas.http_requests import REFUSED, REFUSED_METHODS_SAY
from schemas.names import SpiffeId
from schemas.request_log import LoggedRequest, rule_of, unreadable_of

NOT_LOGGED: frozenset[Field] = frozenset({"headers", "requestPrincipals", "when"})
"""What of a request no log holds: it may be secret."""


@dataclass(frozen=True, slots=True)
class Explained:
    """Why nothing allowed it, as judged afterwards. revision: of the policies that it was judged by; verdict: None
    where `note` says why there is none."""

    verdict: Verdict | None
    revision: int = 0
    note: str = ""


@dataclass(frozen=True, slots=True)
class Passed:
    """A sidecar, or file, whose log has the request."""

    where: str
    entry: LoggedRequest
    explained: Explained | None = None


@dataclass(frozen=True, slots=True)
class Looked:
    """Where it was looked for. silent: sidecars that did not answer; problems: why one could not look, by its name."""

    places: tuple[str, ...]
    silent: tuple[str, ...] = ()
    problems: tuple[tuple[str, str], ...] = ()


def request_of(entry: LoggedRequest) -> Request:
    """As far as the log has it. Raises InvalidInput where it does not say who called."""
    return Request(
        None if entry.source == PLAINTEXT else SpiffeId.parse(entry.source),
        entry.method or "GET",
        entry.path or "/",
        host=entry.authority,
        address=entry.address,
        unknown=NOT_LOGGED,
    )


def needs_judging(entry: LoggedRequest) -> bool:
    """Whether the log alone doesn't say why: what exactly the nearest rule lacked is in no log."""
    return entry.denied_by == "none"


def explained(then: tuple[Verdict, int] | None, now: tuple[Verdict, int], gone: str) -> Explained:
    """then: by the policies at the revision that the sidecar named, None where `gone` says why they can't be had; now:
    by those of now. Each with its revision."""
    if then is not None and then[0].reason is Reason.NOTHING_ALLOWS:
        return Explained(*then)
    if then is not None:
        by = f"rule {then[0].rule} of {then[0].policy}" if then[0].policy is not None else then[0].reason.value
        note = f"the policies at revision {then[1]} give another verdict, {then[0].outcome.value} by {by}: "
        if now[0].reason is Reason.NOTHING_ALLOWS:
            return Explained(*now, note + "what that was had been deleted when the request came; judged as of now")
        return Explained(None, 0, note + "it depends on what no log holds, or has changed since")
    note = f"judged by the policies of now: {gone}"
    if now[0].reason is not Reason.NOTHING_ALLOWS:
        return Explained(*now, f"{note}; by them it would have another answer")
    return Explained(*now, note)


def passed_lines(one: Passed) -> Iterator[str]:
    entry = one.entry
    refused = entry.denied_by is not None or entry.bad_token is not None
    word = "denied" if refused else f"answered {entry.status}" if entry.status else "no answer"
    yield f"{word} at {entry.time or 'an unknown time'}, by the log of {one.where}, {entry.side or 'side unknown'}"
    yield f"  from      {entry.source or 'nobody with an identity'}" + (
        f" ({entry.downstream})" if entry.downstream else ""
    )
    yield f"  to        {entry.destination or 'nobody known'}" + (f", port {entry.port}" if entry.port else "")
    if entry.method:
        yield f"  request   {entry.method} {entry.authority}{entry.path}"
    answer = " ".join(filter(None, (str(entry.status or ""), entry.grpc_status, entry.details)))
    yield f"  answer    {answer or entry.flags or '-'}, after {entry.duration_ms} ms"
    yield from (f"  verdict   {text}" for text in _verdict(entry))
    if entry.revision:
        yield f"  revision  {entry.revision}, of the newest object that decided"
    if one.explained is not None:
        yield from (f"  {text}" for text in _explanation(one.explained))


def _verdict(entry: LoggedRequest) -> Iterator[str]:
    by = entry.denied_by
    if entry.bad_token is not None:
        yield f"refused before any policy is asked, for its token: {entry.bad_token}"
    elif by is None:
        if entry.authorization_policy:
            yield f"allowed by {_rule(entry.authorization_policy)}"
        if entry.rate_limit:
            yield f"refused by a rate limit: RateLimitPolicy {entry.rate_limit}"
    elif by == "none":
        yield "denied: no policy allows it"
        if entry.nearest:
            yield f"nearest, as the sidecar saw it: {_near(entry.nearest)}"
    elif by == "revoked":
        yield "denied: the caller's identity is revoked"
    elif by == "closed":
        yield "denied: the identity of the sidecar that was called has expired, and it lets nobody in"
    elif rule_of(by) is not None:
        yield f"denied by {_rule(by)}"
    elif (name := unreadable_of(by)) is not None:
        yield f"denied: AuthorizationPolicy {name[0]}/{name[1]} can't be read, and nothing of its namespace is let in"
    else:
        says = {f"path|{one.name}": f"the path has {one.says}" for one in REFUSED} | {"method": REFUSED_METHODS_SAY}
        yield f"refused before any policy is asked: {says.get(by, by)}"
    if entry.authorization_audit:
        yield f"{_rule(entry.authorization_audit)} would deny it: it is of an AUDIT policy, and only counts"


def _near(said: str) -> str:
    """As of `authz.nearest`: what is missing, or how far it holds, and of which rule."""
    what, _, name = said.rpartition(": ")
    return f"{_rule(name)}, {what}" if what else said


def _rule(name: str) -> str:
    if name == BY_DEFAULT:
        return f"authorization.defaultAction of {MESH}"
    found = rule_of(name)
    return name if found is None else f"rule {found[2]} of AuthorizationPolicy {found[0]}/{found[1]}"


def _explanation(said: Explained) -> Iterator[str]:
    if said.verdict is not None:
        if said.verdict.reason is Reason.NOTHING_ALLOWS:
            yield from list(verdict_lines(said.verdict))[1:]
        else:
            yield from verdict_lines(said.verdict)
        yield f"  by the policies at revision {said.revision}"
    if said.note:
        yield f"  note: {said.note}"


def looked_lines(looked: Looked) -> Iterator[str]:
    yield f"looked at {len(looked.places)} logs" if len(looked.places) != 1 else f"looked at {looked.places[0]}"
    yield from (f"  could not look: {who}: {why}" for who, why in looked.problems)
    if looked.silent:
        yield f"  no answer from {', '.join(looked.silent)}: the request may be in their logs"


def not_found(request_id: str, looked: Looked) -> str:
    """What to tell who finds nothing."""
    lines = [f"request {request_id} is in no access log that could be looked at", *looked_lines(looked)]
    lines += [f"  {place}" for place in looked.places] if len(looked.places) > 1 else []
    lines.append(
        "Logged is what was denied or failed, and what a Telemetry asks for; not while one says `disabled`. A log "
        "reaches back over its last 64 to 128 MiB; `--log` looks into files that were kept elsewhere. Who is not "
        "served as HTTP, as on ports with `identityHeader: false`, has no id: docs/observability.md"
    )
    return "\n".join(lines)


def plain_why(request_id: str, passed: list[Passed], looked: Looked) -> dict[str, Any]:
    """As in docs/meshadm.md."""
    return {
        "requestId": request_id,
        "records": [_plain(one) for one in passed],
        "lookedAt": list(looked.places),
        "silent": list(looked.silent),
        "problems": [{"sidecar": who, "problem": why} for who, why in looked.problems],
    }


def _plain(one: Passed) -> dict[str, Any]:
    entry, by = one.entry, one.entry.denied_by
    rule = rule_of(by if by is not None else entry.authorization_policy)
    return {
        "sidecar": one.where,
        "side": entry.side,
        "time": entry.time,
        "from": entry.source,
        "address": entry.downstream,
        "to": entry.destination,
        "port": entry.port or None,
        "method": entry.method,
        "authority": entry.authority,
        "path": entry.path,
        "status": entry.status or None,
        "details": entry.details,
        "denied": by is not None or entry.bad_token is not None,
        "deniedBy": by,
        "badToken": entry.bad_token,
        "nearest": entry.nearest or None,
        "policy": {"namespace": rule[0], "name": rule[1]} if rule is not None else None,
        "rule": rule[2] if rule is not None else None,
        "revision": entry.revision or None,
        "explained": one.explained
        and {
            "verdict": one.explained.verdict and plain_verdict(one.explained.verdict),
            "revision": one.explained.revision or None,
            "note": one.explained.note,
        },
    }
