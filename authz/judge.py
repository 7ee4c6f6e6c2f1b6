"""The rules of one port and a request ▸ what decided, or which ALLOW came nearest and what it lacked. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from authz.claims import principal, texts
from authz.rules import Alternative, Condition, Field, PortRule, PortRules
from schemas.http_requests import Refused, check_head, header_value, normalised
from schemas.names import ObjectRef, SpiffeId
from schemas.objects.service import ServicePort


@dataclass(frozen=True, slots=True)
class Request:
    """What reaches the sidecar of the service that is called. On a tcp port only `caller` and `address` count.

    caller: None: who comes in plaintext, and so has no identity. target: path and query. headers: names and values.
    host: the authority, with or without port. address: of the host that the caller is on; empty where it is not known.
    claims: of a token that a RequestAuthentication of the service proves; None: the request has none. unknown: what
    nobody knows of a request that is judged afterwards: no condition about it is taken to hold, nor a negated one; if
    `assumed`, all of them are.
    """

    caller: SpiffeId | None
    method: str = "GET"
    target: str = "/"
    headers: tuple[tuple[str, str], ...] = ()
    host: str = ""
    address: str = ""
    claims: Mapping[str, Any] | None = None
    unknown: frozenset[Field] = frozenset()
    assumed: bool = False


class Outcome(Enum):
    ALLOWED = "allowed"
    DENIED = "denied"
    """403; of a TCP connection, nothing reaches the app; of who is not admitted, no connection."""
    REFUSED = "refused"
    """400, or 403 for a CONNECT to a port of HTTP: not a request that any policy is asked about."""


class Reason(Enum):
    ALLOW = "ALLOW rule"
    DENY = "DENY rule"
    NOT_ADMITTED = "not admitted by mTLS"
    PLAINTEXT = "plaintext to a port that takes mTLS only"
    REVOKED = "revoked identity"
    UNREADABLE = "unreadable policy"
    NOTHING_ALLOWS = "nothing allows it"
    MALFORMED = "malformed request"
    BAD_TOKEN = "bad token"  # noqa: S105  (a reason)
    """Told by who verified it: what is judged here has the claims of a good one."""


@dataclass(frozen=True, slots=True)
class Lack:
    """A condition that failed. `wanted`: any of it, as the policy has it; `never`: why it can't hold on this port."""

    field: Field
    wanted: tuple[str, ...]
    got: str
    never: str = ""
    negated: bool = False
    """None of `wanted` is what it wants."""
    claim: tuple[str, ...] = ()
    """Of a `when`, which one."""
    known: bool = True
    """False: it is not known whether it failed, see `Request.unknown`."""


@dataclass(frozen=True, slots=True)
class Miss:
    """An ALLOW rule that would have allowed the request but for `lacks`."""

    policy: ObjectRef
    rule: int
    lacks: tuple[Lack, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """`rule`: its index in `policy`. `path`: as it was judged; empty on a tcp port. `nearest`: only where nothing
    allows it, and None where no ALLOW has a rule for the service. `detail`: what is wrong with a malformed request."""

    outcome: Outcome
    reason: Reason
    policy: ObjectRef | None = None
    rule: int | None = None
    path: str = ""
    nearest: Miss | None = None
    detail: str = ""
    audits: tuple[tuple[ObjectRef, int], ...] = ()
    """Rules of AUDIT policies that match, whatever was decided."""

    @property
    def allowed(self) -> bool:
        return self.outcome is Outcome.ALLOWED


def judge(rules: PortRules, port: ServicePort, request: Request) -> Verdict:
    """What the sidecar answers. Of several rules that match, the first by name is told."""
    path = ""
    if not rules.admits(request.caller):
        return Verdict(Outcome.DENIED, Reason.PLAINTEXT if request.caller is None else Reason.NOT_ADMITTED)
    if port.protocol != "tcp":
        try:
            path = _checked(request)
        except Refused as error:
            return Verdict(Outcome.REFUSED, Reason.MALFORMED, detail=str(error))
    facts = _Facts(request, path)
    audits = tuple((rule.policy, rule.index) for rule in rules.audit if facts.match(rule))
    return replace(_decided(rules, facts, request.caller), path=path, audits=audits)


def certain(rules: PortRules, port: ServicePort, request: Request) -> Verdict | None:
    """The verdict, whatever is unknown of the request; None where it depends on that."""
    low = judge(rules, port, request)
    if not request.unknown or low.reason not in (Reason.ALLOW, Reason.NOTHING_ALLOWS):
        return low
    assumed = replace(request, assumed=True)
    if low.allowed:
        return low if judge(replace(rules, allow=()), port, assumed).reason is not Reason.DENY else None
    return low if not judge(replace(rules, deny=()), port, assumed).allowed else None


def deciding(rules: PortRules, port: ServicePort, request: Request) -> frozenset[object]:
    """All that the verdict can depend on, whatever is unknown of the request: the same, the same verdict."""
    low = judge(rules, port, request)
    if low.reason not in (Reason.ALLOW, Reason.DENY, Reason.NOTHING_ALLOWS):
        return frozenset({low.reason})
    facts = _Facts(replace(request, assumed=True), low.path)
    return frozenset(
        (denies, rule.sources, rule.operations)
        for denies, several in ((True, rules.deny), (False, rules.allow))
        for rule in several
        if facts.match(rule)
    )


def _decided(rules: PortRules, facts: "_Facts", caller: SpiffeId | None) -> Verdict:
    if caller in rules.revoked:
        return Verdict(Outcome.DENIED, Reason.REVOKED)
    if rules.unreadable:
        return Verdict(Outcome.DENIED, Reason.UNREADABLE, rules.unreadable[0])
    for outcome, reason, several in (
        (Outcome.DENIED, Reason.DENY, rules.deny),
        (Outcome.ALLOWED, Reason.ALLOW, rules.allow),
    ):
        for rule in several:
            if facts.match(rule):
                return Verdict(outcome, reason, rule.policy, rule.index)
    return Verdict(Outcome.DENIED, Reason.NOTHING_ALLOWS, nearest=_nearest(facts, rules.allow))


def _checked(request: Request) -> str:
    """The normalised path. Raises Refused."""
    if request.method == "CONNECT":
        raise Refused("CONNECT is answered on tcp ports only")
    check_head(request.method, request.headers)
    return normalised(request.target)


@dataclass(frozen=True, slots=True)
class _Facts:
    request: Request
    path: str

    def match(self, rule: PortRule) -> bool:
        return all(
            any(all(map(self._holds, one)) for one in alternatives) for alternatives in (rule.sources, rule.operations)
        )

    def _holds(self, condition: Condition) -> bool:
        if condition.field in self.request.unknown:
            return self.request.assumed and not condition.never
        return condition.holds(*self._texts(condition))

    def lacks(self, rule: PortRule) -> tuple[Lack, ...]:
        """The fewest conditions that would have to change for the rule to match; none: it does."""
        return self._fewest(rule.sources) + self._fewest(rule.operations)

    def _fewest(self, alternatives: Iterable[Alternative]) -> tuple[Lack, ...]:
        return min((tuple(self._failed(one)) for one in alternatives), key=_weight)

    def _failed(self, conditions: Alternative) -> Iterable[Lack]:
        for condition in conditions:
            if condition.field in self.request.unknown:
                if self.request.assumed and not condition.never:
                    continue
                lack = Lack(condition.field, condition.said, "", condition.never, condition.negated, condition.claim)
                yield replace(lack, known=False)
                continue
            got = self._texts(condition)
            if not condition.holds(*got):
                text = ", ".join(filter(None, got))
                yield Lack(condition.field, condition.said, text, condition.never, condition.negated, condition.claim)

    def _texts(self, condition: Condition) -> tuple[str | None, ...]:
        match condition.field:
            case "requestPrincipals":
                return principal(self.request.claims)
            case "when":
                return texts(self.request.claims, condition.claim)
        return (self._text(condition),)

    def _text(self, condition: Condition) -> str | None:
        """None: the request has no such thing."""
        match condition.field:
            case "methods":
                return self.request.method
            case "paths" | "grpc":
                return self.path
            case "hosts":
                return self.request.host
            case "headers":
                return header_value(self.request.headers, condition.header)
            case "ipBlocks":
                return self.request.address or None
            case "identities" | "namespaces" | "trustDomains" | "trustDomain":
                return None if self.request.caller is None else str(self.request.caller)
            case "from" | "to" | "ports" | "requestPrincipals" | "when":
                return ""  # they have no values: what fails them is no part of the request


def _weight(lacks: tuple[Lack, ...]) -> tuple[int, int]:
    """What can never hold is farther away than what another request would fulfil."""
    return len(lacks), sum(1 for one in lacks if one.never)


def _nearest(facts: _Facts, allow: Iterable[PortRule]) -> Miss | None:
    misses = [Miss(rule.policy, rule.index, facts.lacks(rule)) for rule in allow]
    return min(misses, key=lambda one: _weight(one.lacks), default=None)
