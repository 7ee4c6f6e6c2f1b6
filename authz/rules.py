"""AuthorizationPolicy ▸ the rules of one port, in the form that both are made of: Envoy's RBAC and offline verdicts.

What is known when the rules are made is decided here: the port, whether HTTP can be judged on it, who is trusted. A
condition that can't hold there stays in its rule with the reason, for explanations; nothing is compiled of it.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

from authz.patterns import Text, path_texts
from schemas.errors import InvalidInput
from schemas.names import ObjectRef, ServiceRef, SpiffeId
from schemas.objects import AuthorizationPolicy
from schemas.objects.authorization import Operation, Rule, Source
from schemas.objects.service import ServicePort

Field = Literal["from", "identities", "namespaces", "trustDomain", "to", "methods", "paths", "ports"]
"""Where in a rule a condition stands. `trustDomain` stands nowhere: it is what a rule means that names nobody."""


@dataclass(frozen=True, slots=True)
class Condition:
    """Holds where any of `values` does: of the caller's identity, of the method, of the path. With none it never does,
    for the reason `never`. `said`: the values as the policy has them."""

    field: Field
    values: tuple[Text, ...]
    said: tuple[str, ...] = ()
    never: str = ""

    def holds(self, text: str) -> bool:
        return any(value.holds(text) for value in self.values)


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
        return f"{self.policy.namespace}/{self.policy.name}[{self.index}]"


@dataclass(frozen=True, slots=True)
class PortRules:
    """All that judges calls to one port, in the order of names. Any of `revoked`, `unreadable` and `deny` refuses; then
    any of `allow` must match."""

    trust_domain: str
    """The mesh's own."""
    is_trusted: Callable[[str], bool]
    """Whether anybody of another trust domain can be believed now."""
    revoked: tuple[SpiffeId, ...]
    unreadable: tuple[ObjectRef, ...]
    """Policies of the namespace that nobody could read: one of them may be a DENY of anything, so nothing is let in."""
    deny: tuple[PortRule, ...]
    allow: tuple[PortRule, ...]

    def admits(self, caller: SpiffeId) -> bool:
        """Whether mTLS takes the caller at all: any workload of the mesh, anybody of a federated trust domain."""
        if caller.trust_domain == self.trust_domain:
            return caller.path.startswith("/ns/")
        return self.is_trusted(caller.trust_domain)


def applies(policy: AuthorizationPolicy, service: ServiceRef) -> bool:
    if policy.metadata.namespace != service.namespace:
        return False
    targets = policy.spec.target_refs
    return targets is None or any(target.name == service.name for target in targets)


def port_rules(
    service: ServiceRef,
    port: ServicePort,
    policies: Iterable[AuthorizationPolicy],
    *,
    trust_domain: str,
    is_trusted: Callable[[str], bool],
    unreadable: Collection[ObjectRef] = (),
    revoked: Collection[ServiceRef] = (),
) -> PortRules:
    """For one port of `service`; `policies` may be those of other services too."""
    deny: list[PortRule] = []
    allow: list[PortRule] = []
    for policy in sorted(policies, key=lambda one: one.ref):
        if not applies(policy, service):
            continue
        denies = policy.spec.action == "DENY"
        for index, rule in enumerate(policy.spec.rules):
            made = PortRule(
                policy.ref,
                index,
                tuple(_sources(rule, trust_domain, is_trusted, denies=denies)),
                tuple(_operations(rule, port, denies=denies)),
            )
            (deny if denies else allow).append(made)
    return PortRules(
        trust_domain=trust_domain,
        is_trusted=is_trusted,
        revoked=tuple(SpiffeId.of_service(trust_domain, one) for one in sorted(revoked)),
        unreadable=tuple(ref for ref in sorted(unreadable) if ref.namespace == service.namespace),
        deny=tuple(deny),
        allow=tuple(allow),
    )


def possible(alternatives: Iterable[Alternative]) -> list[Alternative]:
    """Those without a condition that never holds: what there is to compile."""
    return [one for one in alternatives if all(condition.values for condition in one)]


# -- who


def _sources(
    rule: Rule, trust_domain: str, is_trusted: Callable[[str], bool], *, denies: bool
) -> Iterator[Alternative]:
    # Federated peers pass TLS too. Who names nobody lets in anybody of the own mesh; a denial means all there are.
    of_the_mesh = (Text("prefix", f"spiffe://{trust_domain}/ns/"),)
    anybody: Alternative = () if denies else (Condition("trustDomain", of_the_mesh, (trust_domain,)),)
    if rule.from_ is None:
        yield anybody
    elif not rule.from_:
        yield (_empty("from"),)
    for source in rule.from_ or ():
        conditions = []
        if source.identities is not None:
            conditions.append(_identities(source, trust_domain, is_trusted, denies=denies))
        if source.namespaces is not None:
            prefixes = (Text("prefix", f"spiffe://{trust_domain}/ns/{one}/") for one in source.namespaces)
            conditions.append(_any_of("namespaces", prefixes, source.namespaces))
        yield tuple(conditions) or anybody


def _identities(source: Source, trust_domain: str, is_trusted: Callable[[str], bool], *, denies: bool) -> Condition:
    said = source.identities or ()
    if not said:
        return _empty("identities")
    spelled = [_spelled(identity) for identity in said]
    # Who is not trusted any more may still have a connection open: nothing of it is let in.
    believed = [text for text, domain in spelled if denies or domain == trust_domain or is_trusted(domain)]
    never = "" if believed else "none of their trust domains is trusted"
    return Condition("identities", tuple(Text("exact", one) for one in believed), said, never)


def _spelled(identity: str) -> tuple[str, str]:
    """As it stands in certificates, scheme and trust domain in lower case; and its trust domain.

    What is no SPIFFE ID matches nobody's.
    """
    try:
        parsed = SpiffeId.parse(identity)
    except InvalidInput:
        return identity, ""
    return str(parsed), parsed.trust_domain


# -- what


def _operations(rule: Rule, port: ServicePort, *, denies: bool) -> Iterator[Alternative]:
    if rule.to is None:
        yield ()
    elif not rule.to:
        yield (_empty("to"),)
    for operation in rule.to or ():
        if operation.ports is not None and port.port not in operation.ports:
            said = tuple(map(str, operation.ports))
            other = (Condition("ports", (), said, f"the call is to port {port.port}"),)
            yield other if port.protocol == "tcp" and denies else (*other, *_http(operation, port, denies=denies))
        else:
            yield _http(operation, port, denies=denies)


def _http(operation: Operation, port: ServicePort, *, denies: bool) -> Alternative:
    fields: list[tuple[Field, tuple[str, ...] | None, Callable[[str], tuple[Text, ...]]]] = [
        ("methods", operation.methods, lambda method: (Text("exact", method),)),
        ("paths", operation.paths, partial(path_texts, wide=denies)),
    ]
    if port.protocol == "tcp":
        # What can't be judged never allows, and always denies.
        never = "HTTP can't be judged on a tcp port"
        return tuple(Condition(name, (), said, never) for name, said, _ in fields if said is not None and not denies)
    return tuple(
        _any_of(name, (text for one in said for text in texts(one)), said)
        for name, said, texts in fields
        if said is not None
    )


def _any_of(field: Field, values: Iterable[Text], said: tuple[str, ...]) -> Condition:
    return Condition(field, tuple(values), said) if said else _empty(field)


def _empty(field: Field) -> Condition:
    return Condition(field, (), (), "an empty list matches nothing")
