"""An object with what belongs to it, for people and as plain values. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from authz.rules import applies
from controlplane.meshadm import jwks
from controlplane.meshadm import sidecars as judging
from controlplane.meshadm.render import plain_object
from controlplane.meshadm.table import Table, printable
from controlplane.meshadm.table import lines as table_lines
from controlplane.meshadm.values import Sidecars, Stored
from schemas import codec
from schemas.api import mesh_pb2 as pb
from schemas.names import ServiceRef
from schemas.objects import (
    AuthorizationPolicy,
    BackendTrafficPolicy,
    PeerAuthentication,
    RateLimitPolicy,
    RequestAuthentication,
    Service,
    Telemetry,
)
from schemas.objects.authorization import HeaderMatch, Operation, Rule, Source
from schemas.objects.rate_limit import LimitMatch, LimitSource, RateLimitRule

_POLICIES = (
    AuthorizationPolicy
    | BackendTrafficPolicy
    | PeerAuthentication
    | RateLimitPolicy
    | RequestAuthentication
    | Telemetry
)
POLICY_KINDS = tuple(kind.__name__ for kind in get_args(_POLICIES))


@dataclass(frozen=True, slots=True)
class Subject:
    """`services`: all of the mesh. `policies`: of the same namespace. Both only where the object is a Service."""

    stored: Stored
    services: tuple[Stored, ...] = ()
    policies: tuple[Stored, ...] = ()
    sidecars: Sidecars | None = None
    key_sets: tuple[pb.KeySet, ...] = ()
    """Of a RequestAuthentication: those that it has fetched."""


def lines(subject: Subject, at: float) -> list[str]:
    """`at`: seconds since 1970."""
    value = subject.stored.object
    found = [str(value.ref), f"revision {subject.stored.revision}", ""]
    found += codec.dump_yaml([plain_object(subject.stored)]).rstrip("\n").splitlines()
    if isinstance(value, AuthorizationPolicy | RateLimitPolicy):
        words = policy_words(value) if isinstance(value, AuthorizationPolicy) else limit_words(value)
        found += ["", "In words:", *(f"  {printable(text)}" for text in words)]
    if isinstance(value, RequestAuthentication):
        found += _section("Fetched keys", [line for one in subject.key_sets for line in jwks.words(one, at)])
    if isinstance(value, Service):
        found += _section("Policies", [_policy_line(one) for one in _policies_for(value, subject.policies)])
        found += _section("Depending services", [str(one.ref) for one in dependants(value, subject.services)])
        if subject.sidecars is not None:
            table = judging.status_table(
                _own_sidecars(value, subject.sidecars, at), subject.sidecars.config_revision, at
            )
            found += _section("Sidecars", _rows(table))
    return found


def _section(title: str, found: Sequence[str]) -> list[str]:
    return ["", f"{title}:", *(f"  {printable(text)}" for text in found or ["none"])]


def _rows(table: Table) -> list[str]:
    return table_lines(table) if table.rows else []


def plain(subject: Subject, at: float) -> dict[str, Any]:
    """``{object}``; of a RequestAuthentication ``keySets`` too, of a service ``{policies, dependants, sidecars}``."""
    value = subject.stored.object
    found: dict[str, Any] = {"object": plain_object(subject.stored)}
    if isinstance(value, RequestAuthentication):
        found["keySets"] = [jwks.plain_key_set(one) for one in subject.key_sets]
    if isinstance(value, Service):
        found["policies"] = [plain_object(one) for one in _policies_for(value, subject.policies)]
        found["dependants"] = [
            {"namespace": one.metadata.namespace, "name": one.metadata.name}
            for one in dependants(value, subject.services)
        ]
        if subject.sidecars is not None:
            found |= judging.plain_status(_own_sidecars(value, subject.sidecars, at), subject.sidecars.config_revision)
    return found


def dependants(service: Service, services: Sequence[Stored]) -> list[Service]:
    """The services that may call it by their own declaration; those that declare nothing may call all."""
    found: list[Service] = []
    for stored in services:
        one = stored.object
        if not isinstance(one, Service) or one.ref == service.ref:
            continue
        if one.spec.dependencies is None or any(
            dependency.name in ("*", service.metadata.name)
            and (
                dependency.name == "*" or (dependency.namespace or one.metadata.namespace) == service.metadata.namespace
            )
            for dependency in one.spec.dependencies
        ):
            found.append(one)
    return found


def _policies_for(service: Service, policies: Sequence[Stored]) -> list[Stored]:
    """Of the service's own namespace, those that name it or name nothing; and AuthorizationPolicies of the mesh."""
    found: list[Stored] = []
    for stored in policies:
        value = stored.object
        if not isinstance(value, _POLICIES):
            continue
        if isinstance(value, AuthorizationPolicy):
            if applies(value, ServiceRef(service.metadata.namespace, service.metadata.name)):
                found.append(stored)
            continue
        if value.metadata.namespace != service.metadata.namespace:
            continue
        refs = value.spec.target_refs
        if refs is None or any(ref.name == service.metadata.name for ref in refs):
            found.append(stored)
    return found


def _policy_line(stored: Stored) -> str:
    value = stored.object
    if isinstance(value, AuthorizationPolicy):
        return f"{value.ref}: {'; '.join(policy_words(value))}"
    if isinstance(value, RateLimitPolicy):
        return f"{value.ref}: {'; '.join(limit_words(value))}"
    return str(value.ref)


def _own_sidecars(service: Service, sidecars: Sidecars, at: float) -> list[judging.Sidecar]:
    return [
        one
        for one in judging.judged(sidecars.statuses, sidecars.config_revision, at)
        if (one.status.namespace, one.status.service) == (service.metadata.namespace, service.metadata.name)
    ]


def policy_words(policy: AuthorizationPolicy) -> list[str]:
    """A sentence a rule."""
    verb = {"ALLOW": "allow", "DENY": "deny", "AUDIT": "count"}[policy.spec.action]
    return [f"{verb} {_who(rule)} to {_what(rule)}" for rule in policy.spec.rules] or [f"{verb} nothing: no rules"]


def limit_words(policy: RateLimitPolicy) -> list[str]:
    """A sentence a rule."""
    return [" ".join(_limit(rule)) for rule in policy.spec.rules]


def _limit(rule: RateLimitRule) -> Iterator[str]:
    said = rule.limit
    yield f"{said.requests} a {said.unit.lower()}"
    if said.burst is not None:
        yield f"({said.burst} at once)"
    yield "for each caller" if rule.per == "Client" else "for all callers together"
    if rule.from_ is not None:
        yield f"of {' or '.join(' and '.join(_limited(source)) or 'anyone' for source in rule.from_)}"
    if rule.matches:
        yield f"at {' or '.join(' '.join(_match(one)) for one in rule.matches)}"
    if rule.ports is not None:
        yield f"on port {' | '.join(map(str, rule.ports))}"


def _match(match: LimitMatch) -> Iterator[str]:
    if match.method is not None:
        yield match.method
    yield match.path.value if match.path.type == "Exact" else f"{match.path.value.rstrip('/')}/*"
    yield from (f"{header.name}={header.value}" for header in match.headers)


def _who(rule: Rule) -> str:
    when = [text for one in rule.when for text in _listed(one.key, one.values, one.not_values, "nothing")]
    return " and ".join([_callers(rule), *when])


def _callers(rule: Rule) -> str:
    if rule.from_ is None:
        return "anyone"
    return " or ".join(" and ".join(_source(source)) or "anyone" for source in rule.from_) or "nobody"


def _limited(source: LimitSource) -> Iterator[str]:
    yield from _listed("identity", source.identities, None, "nobody")
    yield from _listed("namespace", source.namespaces, None, "none")


def _source(source: Source) -> Iterator[str]:
    yield from _listed("identity", source.identities, source.not_identities, "nobody")
    yield from _listed("namespace", source.namespaces, source.not_namespaces, "none")
    yield from _listed("trust domain", source.trust_domains, source.not_trust_domains, "none")
    yield from _listed("address", source.ip_blocks, source.not_ip_blocks, "none")
    yield from _listed("token", source.request_principals, source.not_request_principals, "none")


def _listed(
    what: str, values: Sequence[object] | None, excluded: Sequence[object] | None, nothing: str
) -> Iterator[str]:
    if values is not None:
        yield f"{what} {' | '.join(map(str, values)) or nothing}"
    if excluded:
        yield f"not {what} {' | '.join(map(str, excluded))}"


def _what(rule: Rule) -> str:
    if rule.to is None:
        return "do anything"
    return " or ".join(" ".join(_operation(one)) or "do anything" for one in rule.to) or "do nothing"


def _operation(one: Operation) -> Iterator[str]:
    if one.methods is not None:
        yield " | ".join(one.methods) or "use no method"
    if one.not_methods:
        yield f"not {' | '.join(one.not_methods)}"
    yield from _listed("at", one.paths, one.not_paths, "no path")
    yield from _listed("at host", one.hosts, one.not_hosts, "none")
    headers, without = ([_header(each) for each in found or ()] for found in (one.headers, one.not_headers))
    yield from _listed("with header", headers if one.headers is not None else None, without, "none")
    grpc = [f"{each.service or '*'}/{each.method or '*'}" for each in one.grpc or ()]
    yield from _listed("call", grpc if one.grpc is not None else None, None, "nothing")
    yield from _listed("on port", one.ports, one.not_ports, "none")


def _header(match: HeaderMatch) -> str:
    return f"{match.name}: {' or '.join(match.values or ('*',))}"
