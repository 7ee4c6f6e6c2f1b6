"""AuthorizationPolicy ▸ the rules of one port, in the form that both are made of: Envoy's RBAC and offline verdicts.

What is known when the rules are made is decided here: the port, whether HTTP can be judged on it, who is trusted. A
condition that can't hold there stays in its rule with the reason, for explanations; nothing is compiled of it.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from authz.claims import claim_path, value_text
from authz.patterns import Text, grpc_pattern, header_texts, host_texts, path_texts
from schemas.errors import InvalidInput
from schemas.names import SYSTEM_NAMESPACE, ObjectRef, ServiceRef, SpiffeId
from schemas.objects import AuthorizationPolicy, Mesh
from schemas.objects.authorization import GrpcMatch, HeaderMatch, Operation, Rule, Source
from schemas.objects.service import ServicePort

Field = Literal[
    "from", "identities", "namespaces", "trustDomains", "ipBlocks", "trustDomain", "requestPrincipals", "when",
    "to", "methods", "paths", "hosts", "headers", "grpc", "ports",
]  # fmt: skip
"""Where in a rule a condition stands. `trustDomain` stands nowhere: it is what a rule means that names nobody."""

OF_REQUEST: frozenset[Field] = frozenset({"methods", "paths", "hosts", "headers", "grpc"})
"""What only HTTP has."""

MESH = ObjectRef(Mesh.__name__, SYSTEM_NAMESPACE, "mesh")
"""In place of a policy: its default action allows."""
BY_DEFAULT = "~default"
"""No name of a policy begins so, and it comes after all of them: Envoy asks in the order of names."""

_EMPTY = "an empty list matches nothing"


class Condition(NamedTuple):
    """Holds where any of `values` does, of what `field` is about; if `negated`, where none does.

    never: why it can't hold on this port, else empty. said: the values as the policy has them. header: the name, of
    `headers`. claim: the way to it, of `when`.
    """

    field: Field
    values: tuple[Text, ...]
    said: tuple[str, ...] = ()
    never: str = ""
    negated: bool = False
    header: str = ""
    claim: tuple[str, ...] = ()
    or_nobody: bool = False
    """Holds of a caller without an identity too."""

    def holds(self, *texts: str | None) -> bool:
        """texts: of what has several, a claim, all of them; of what is not there, none, or None."""
        if self.or_nobody and texts == (None,):
            return True
        return not self.never and any(value.holds(text) for value in self.values for text in texts) != self.negated


Alternative = tuple[Condition, ...]
"""All of them must hold; none: it always does."""


@dataclass(frozen=True, slots=True)
class PortRule:
    """Rule `index` of a policy, on one port: any of `sources`, and any of `operations`."""

    policy: ObjectRef
    index: int
    sources: tuple[Alternative, ...]
    operations: tuple[Alternative, ...]

    @property
    def name(self) -> str:
        """``shop/web-may-order[0]``: as Envoy's policies are called."""
        if self.policy == MESH:
            return BY_DEFAULT
        return f"{self.policy.namespace}/{self.policy.name}[{self.index}]"


@dataclass(frozen=True, slots=True)
class PortRules:
    """All that judges calls to one port, in the order of names. Any of `revoked`, `unreadable` and `deny` refuses; then
    any of `allow` must match. `audit` decides nothing."""

    trust_domain: str
    """The mesh's own."""
    is_trusted: Callable[[str], bool]
    """Whether anybody of another trust domain can be believed now."""
    revoked: tuple[SpiffeId, ...]
    unreadable: tuple[ObjectRef, ...]
    """Policies for it that nobody could read. One may be a DENY of anything: nobody is let in."""
    deny: tuple[PortRule, ...]
    allow: tuple[PortRule, ...]
    audit: tuple[PortRule, ...] = ()
    plaintext: bool = False
    """Whether the port takes callers without mTLS, who have no identity."""

    def admits(self, caller: SpiffeId | None) -> bool:
        """Whether the port takes the caller at all: any workload of the mesh, anybody of a federated trust domain; and
        None, who comes in plaintext, where it takes that."""
        if caller is None:
            return self.plaintext
        if caller.trust_domain == self.trust_domain:
            return caller.path.startswith("/ns/")
        return self.is_trusted(caller.trust_domain)


def applies(policy: AuthorizationPolicy, service: ServiceRef) -> bool:
    """A policy is for services of its namespace, without targets for all; in mesh-system for all of the mesh."""
    namespace, targets = policy.metadata.namespace, policy.spec.target_refs
    if targets is None:
        return namespace in (service.namespace, SYSTEM_NAMESPACE)
    return namespace == service.namespace and any(target.name == service.name for target in targets)


def _may_apply(unreadable: ObjectRef, service: ServiceRef) -> bool:
    """Whatever stands in it. A RequestAuthentication of mesh-system is for the services there only."""
    everywhere = unreadable.kind == AuthorizationPolicy.__name__ and unreadable.namespace == SYSTEM_NAMESPACE
    return everywhere or unreadable.namespace == service.namespace


def port_rules(
    service: ServiceRef,
    port: ServicePort,
    policies: Iterable[AuthorizationPolicy],
    *,
    trust_domain: str,
    is_trusted: Callable[[str], bool],
    unreadable: Collection[ObjectRef] = (),
    revoked: Collection[ServiceRef] = (),
    plaintext: bool = False,
    mesh: Mesh | None = None,
) -> PortRules:
    """For one port of `service`; `policies` may be those of other services too. plaintext: as in `PortRules`.
    mesh: says what holds by default; None: nothing is allowed."""
    by_action: dict[str, list[PortRule]] = {"ALLOW": [], "DENY": [], "AUDIT": []}
    for policy in sorted(policies, key=lambda one: one.ref):
        if not applies(policy, service):
            continue
        reading = _Reading(port, trust_domain, is_trusted, policy.spec.action != "ALLOW", plaintext)
        for index, rule in enumerate(policy.spec.rules):
            made = PortRule(policy.ref, index, tuple(reading.sources(rule)), tuple(reading.operations(rule)))
            by_action[policy.spec.action].append(made)
    if mesh is not None and mesh.spec.authorization.default_action == "ALLOW":
        reading = _Reading(port, trust_domain, is_trusted, denies=False, plaintext=plaintext)
        everything = PortRule(MESH, 0, tuple(reading.sources(Rule())), tuple(reading.operations(Rule())))
        by_action["ALLOW"].append(everything)  # the last: the name of a policy says more
    return PortRules(
        trust_domain=trust_domain,
        is_trusted=is_trusted,
        revoked=tuple(SpiffeId.of_service(trust_domain, one) for one in sorted(revoked)),
        unreadable=tuple(ref for ref in sorted(unreadable) if _may_apply(ref, service)),
        deny=tuple(by_action["DENY"]),
        allow=tuple(by_action["ALLOW"]),
        audit=tuple(by_action["AUDIT"]),
        plaintext=plaintext,
    )


def possible(alternatives: Iterable[Alternative]) -> list[Alternative]:
    """Those without a condition that never holds: what there is to compile."""
    return [one for one in alternatives if not any(condition.never for condition in one)]


@dataclass(frozen=True, slots=True)
class _Reading:
    """How the rules of a policy are read on `port`. `denies`: a doubt is for it, else against it."""

    port: ServicePort
    trust_domain: str
    is_trusted: Callable[[str], bool]
    denies: bool
    plaintext: bool = False

    # -- who

    def sources(self, rule: Rule) -> Iterator[Alternative]:
        when = tuple(self._when(rule))
        if rule.from_ is None:
            yield (*self._anybody(), *when)
        elif not rule.from_:
            yield (_empty("from"),)
        for source in rule.from_ or ():
            conditions = tuple(self._source(source))
            named = source.identities is not None or source.namespaces is not None or source.trust_domains is not None
            # A token says who asks, not who calls: whom it does not name is anybody still.
            yield (*(() if named else self._anybody(by_address=_goes_by_address(source))), *conditions, *when)

    def _anybody(self, *, by_address: bool = False) -> Alternative:
        """Federated peers pass TLS too. Who names nobody lets in anybody of the own mesh; a denial means all.

        by_address: the rule names addresses and no identity: the one way to let in who shows none.
        """
        of_the_mesh = (Text("prefix", f"spiffe://{self.trust_domain}/ns/"),)
        nobody = by_address and self.plaintext
        return () if self.denies else (Condition("trustDomain", of_the_mesh, (self.trust_domain,), or_nobody=nobody),)

    def _source(self, source: Source) -> Iterator[Condition]:
        if source.identities is not None:
            spelled = [_spelled(identity) for identity in source.identities]
            yield self._believed("identities", [(Text("exact", one), td) for one, td in spelled], source.identities)
        if source.not_identities is not None:
            texts = [Text("exact", _spelled(identity)[0]) for identity in source.not_identities]
            yield _none_of("identities", texts, source.not_identities)
        if source.namespaces is not None:
            domains = (self.trust_domain,) if source.trust_domains is None else source.trust_domains
            within = [(_within(td, one), td) for td in domains for one in source.namespaces]
            yield self._believed("namespaces", within, source.namespaces)
        if source.not_namespaces is not None:
            domains = (self.trust_domain,) if source.trust_domains is None else source.trust_domains
            texts = [_within(td, one) for td in domains for one in source.not_namespaces]
            yield _none_of("namespaces", texts, source.not_namespaces)
        if source.trust_domains is not None:
            yield self._believed("trustDomains", [(_of(td), td) for td in source.trust_domains], source.trust_domains)
        if source.not_trust_domains is not None:
            yield _none_of("trustDomains", map(_of, source.not_trust_domains), source.not_trust_domains)
        if source.ip_blocks is not None:
            yield _any_of("ipBlocks", map(_block, source.ip_blocks), source.ip_blocks)
        if source.not_ip_blocks is not None:
            yield _none_of("ipBlocks", map(_block, source.not_ip_blocks), source.not_ip_blocks)
        principals, others = source.request_principals, source.not_request_principals
        if principals is not None:
            yield from self._of_token(_any_of("requestPrincipals", map(value_text, principals), principals))
        if others is not None:
            yield from self._of_token(_none_of("requestPrincipals", map(value_text, others), others))

    def _when(self, rule: Rule) -> Iterator[Condition]:
        for one in rule.when:
            path = claim_path(one.key)
            if one.values is not None:
                asked = _any_of("when", map(value_text, one.values), one.values)
                yield from self._of_token(asked._replace(claim=path))
            if one.not_values is not None:
                asked = _none_of("when", map(value_text, one.not_values), one.not_values)
                yield from self._of_token(asked._replace(claim=path))

    def _of_token(self, condition: Condition) -> Iterator[Condition]:
        """As `_http`: of a TCP connection nobody has seen a token."""
        if self.port.protocol != "tcp":
            yield condition
        elif not self.denies:
            yield condition._replace(values=(), never=condition.never or "a token can't be judged on a tcp port")

    def _believed(self, field: Field, texts: Iterable[tuple[Text, str]], said: tuple[str, ...]) -> Condition:
        """texts: with the trust domain that each is of. Who is not trusted any more may still have a connection open:
        nothing of it is let in."""
        if not said:
            return _empty(field)
        kept = [text for text, td in texts if self.denies or td == self.trust_domain or self.is_trusted(td)]
        return Condition(field, tuple(kept), said, "" if kept else "none of their trust domains is trusted")

    # -- what

    def operations(self, rule: Rule) -> Iterator[Alternative]:
        if rule.to is None:
            yield ()
        elif not rule.to:
            yield (_empty("to"),)
        for operation in rule.to or ():
            yield (*self._ports(operation), *self._http(operation))

    def _ports(self, operation: Operation) -> Iterator[Condition]:
        never = f"the call is to port {self.port.port}"
        if operation.ports is not None and self.port.port not in operation.ports:
            yield Condition("ports", (), tuple(map(str, operation.ports)), never)
        if operation.not_ports is not None and self.port.port in operation.not_ports:
            yield Condition("ports", (), tuple(map(str, operation.not_ports)), never, negated=True)

    def _http(self, operation: Operation) -> Iterator[Condition]:
        for condition in self._asked(operation):
            if self.port.protocol != "tcp":
                yield condition
            elif not self.denies:  # what can't be judged never allows, and always denies
                never = condition.never or "HTTP can't be judged on a tcp port"
                yield Condition(condition.field, (), condition.said, never, condition.negated, condition.header)

    def _asked(self, operation: Operation) -> Iterator[Condition]:
        wide, narrow = self.denies, not self.denies
        if operation.methods is not None:
            yield _any_of("methods", map(_method, operation.methods), operation.methods)
        if operation.not_methods is not None:
            yield _none_of("methods", map(_method, operation.not_methods), operation.not_methods)
        if operation.paths is not None:
            yield _any_of("paths", _all(operation.paths, path_texts, wide), operation.paths)
        if operation.not_paths is not None:
            yield _none_of("paths", _all(operation.not_paths, path_texts, narrow), operation.not_paths)
        if operation.hosts is not None:
            yield _any_of("hosts", _all(operation.hosts, host_texts, wide), operation.hosts)
        if operation.not_hosts is not None:
            yield _none_of("hosts", _all(operation.not_hosts, host_texts, narrow), operation.not_hosts)
        if operation.headers is not None:
            yield from [_header(one, wide=wide) for one in operation.headers] or [_empty("headers")]
        for one in operation.not_headers or ():
            yield _header(one, wide=narrow, negated=True)
        if operation.grpc is not None:
            patterns = [grpc_pattern(one.service, one.method) for one in operation.grpc]
            yield _any_of("grpc", _all(patterns, path_texts, wide), tuple(map(_grpc, operation.grpc)))


def _goes_by_address(source: Source) -> bool:
    """And not by identity, not even to exclude one: who shows none may be anybody."""
    excluded = (source.not_identities, source.not_namespaces, source.not_trust_domains)
    return source.ip_blocks is not None and not any(excluded)


def _spelled(identity: str) -> tuple[str, str]:
    """As it stands in certificates, scheme and trust domain in lower case; and its trust domain.

    What is no SPIFFE ID matches nobody's.
    """
    try:
        parsed = SpiffeId.parse(identity)
    except InvalidInput:
        return identity, ""
    return str(parsed), parsed.trust_domain


def _of(trust_domain: str) -> Text:
    return Text("prefix", f"spiffe://{trust_domain}/")


def _within(trust_domain: str, namespace: str) -> Text:
    return Text("prefix", f"spiffe://{trust_domain}/ns/{namespace}/")


def _block(block: str) -> Text:
    return Text("cidr", block)


def _method(method: str) -> Text:
    return Text("exact", method)


def _all(patterns: Iterable[str], texts: Callable[..., tuple[Text, ...]], wide: bool) -> Iterator[Text]:
    return (text for pattern in patterns for text in texts(pattern, wide=wide))


def _header(match: HeaderMatch, *, wide: bool, negated: bool = False) -> Condition:
    name = match.name.lower()
    said = tuple(f"{name}: {value}" for value in match.values or ("*",))
    return Condition(
        "headers", tuple(_all(match.values or ("*",), header_texts, wide)), said, negated=negated, header=name
    )


def _grpc(match: GrpcMatch) -> str:
    return f"{match.service or '*'}/{match.method or '*'}"


def _any_of(field: Field, values: Iterable[Text], said: tuple[str, ...]) -> Condition:
    return Condition(field, tuple(values), said) if said else _empty(field)


def _none_of(field: Field, values: Iterable[Text], said: tuple[str, ...]) -> Condition:
    return Condition(field, tuple(values), said, negated=True)


def _empty(field: Field) -> Condition:
    return Condition(field, (), (), _EMPTY)
