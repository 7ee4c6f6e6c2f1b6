"""AuthorizationPolicy ▸ Envoy RBAC, for one port of the workload's own service.

Two filters in a row: any DENY that matches refuses, then some ALLOW must match. The second one's own configuration
allows nothing, so where no policy reaches it nothing passes. What can't be judged on a port (an HTTP condition on a TCP
port) never allows and always denies. An identity of another trust domain is allowed only where a policy names it.
A revoked one is refused whatever policies say.
"""

from collections.abc import Callable, Iterable, Sequence

from envoy.config.rbac.v3 import rbac_pb2
from envoy.config.route.v3 import route_components_pb2
from envoy.type.matcher.v3 import path_pb2, string_pb2

from dataplane.snapshot.state import MeshState
from schemas.errors import InvalidInput
from schemas.names import ServiceRef, SpiffeId
from schemas.objects import AuthorizationPolicy
from schemas.objects.authorization import Operation, Rule, Source
from schemas.objects.service import ServicePort

ANY_PERMISSION = rbac_pb2.Permission(any=True)
ANY_PRINCIPAL = rbac_pb2.Principal(any=True)


def applies(policy: AuthorizationPolicy, service: ServiceRef) -> bool:
    if policy.metadata.namespace != service.namespace:
        return False
    targets = policy.spec.target_refs
    return targets is None or any(target.name == service.name for target in targets)


def rules_for(
    state: MeshState, service: ServiceRef, trust_domain: str, port: ServicePort
) -> tuple[rbac_pb2.RBAC, rbac_pb2.RBAC]:
    """(deny, allow) for one port. `allow` without policies refuses everything."""
    deny = rbac_pb2.RBAC(action=rbac_pb2.RBAC.DENY)
    revoked = [_identity(exact=str(SpiffeId.of_service(trust_domain, one))) for one in state.revoked.services()]
    if revoked:
        deny.policies["revoked"].CopyFrom(rbac_pb2.Policy(permissions=[ANY_PERMISSION], principals=revoked))
    allow = rbac_pb2.RBAC(action=rbac_pb2.RBAC.ALLOW)
    for ref in sorted(state.unreadable_policies):
        if ref.namespace == service.namespace:
            # It may have been a DENY of anything: until it can be read, nothing of its namespace is let in.
            deny.policies[f"{ref.namespace}/{ref.name}: unreadable"].CopyFrom(_everything())
    for policy in state.authorization_policies(service.namespace):
        if not applies(policy, service):
            continue
        denies = policy.spec.action == "DENY"
        for index, rule in enumerate(policy.spec.rules):
            compiled = _rule(state, rule, trust_domain, port, denies=denies)
            if compiled is not None:
                name = f"{policy.metadata.namespace}/{policy.metadata.name}[{index}]"
                (deny if denies else allow).policies[name].CopyFrom(compiled)
    return deny, allow


def closed() -> tuple[rbac_pb2.RBAC, rbac_pb2.RBAC]:
    """(deny, allow) that let nobody in."""
    deny = rbac_pb2.RBAC(action=rbac_pb2.RBAC.DENY)
    deny.policies["closed"].CopyFrom(_everything())
    return deny, rbac_pb2.RBAC(action=rbac_pb2.RBAC.ALLOW)


def _everything() -> rbac_pb2.Policy:
    return rbac_pb2.Policy(permissions=[ANY_PERMISSION], principals=[ANY_PRINCIPAL])


def _rule(
    state: MeshState, rule: Rule, trust_domain: str, port: ServicePort, *, denies: bool
) -> rbac_pb2.Policy | None:
    """One rule; None where it can match nothing on this port."""
    permissions = _any_of([ANY_PERMISSION] if rule.to is None else _operations(rule.to, port, denies=denies))
    # Federated peers pass TLS too. Who names nobody lets in anybody of the own mesh; a denial means all there are.
    anybody = ANY_PRINCIPAL if denies else _identity(prefix=f"spiffe://{trust_domain}/ns/")
    # And who is not trusted any more, may be so on a connection that is still open.
    believed = (lambda one: True) if denies else (lambda one: one == trust_domain or state.is_trusted(one))
    sources = [anybody] if rule.from_ is None else [_source(one, trust_domain, anybody, believed) for one in rule.from_]
    principals = [source for source in sources if source is not None]
    if not permissions or not principals:
        return None
    return rbac_pb2.Policy(permissions=permissions, principals=principals)


def _any_of(permissions: Iterable[rbac_pb2.Permission | None]) -> list[rbac_pb2.Permission]:
    return [permission for permission in permissions if permission is not None]


def _operations(
    operations: Sequence[Operation], port: ServicePort, *, denies: bool
) -> Iterable[rbac_pb2.Permission | None]:
    for operation in operations:
        if operation.ports is not None and port.port not in operation.ports:
            continue  # the port is known here: it needs no matcher
        if port.protocol == "tcp":
            if denies or (operation.methods is None and operation.paths is None):
                yield ANY_PERMISSION
            continue
        parts = []
        if operation.methods is not None:
            parts.append([_method(method) for method in operation.methods])
        if operation.paths is not None:
            parts.append([_path(pattern) for pattern in operation.paths])
        if not all(parts):
            continue  # an empty list matches nothing
        if not parts:
            yield ANY_PERMISSION
            continue
        either = [rbac_pb2.Permission(or_rules=rbac_pb2.Permission.Set(rules=rules)) for rules in parts]
        yield rbac_pb2.Permission(and_rules=rbac_pb2.Permission.Set(rules=either))


def _method(method: str) -> rbac_pb2.Permission:
    matcher = string_pb2.StringMatcher(exact=method)
    return rbac_pb2.Permission(header=route_components_pb2.HeaderMatcher(name=":method", string_match=matcher))


def _path(pattern: str) -> rbac_pb2.Permission:
    """On the path as the HTTP connection manager normalised it, without the query."""
    exact, star, _ = pattern.partition("*")
    matcher = string_pb2.StringMatcher(prefix=exact) if star else string_pb2.StringMatcher(exact=exact)
    return rbac_pb2.Permission(url_path=path_pb2.PathMatcher(path=matcher))


def _source(
    source: Source, trust_domain: str, anybody: rbac_pb2.Principal, believed: Callable[[str], bool]
) -> rbac_pb2.Principal | None:
    parts = []
    if source.identities is not None:
        spelled = [_spelled(identity) for identity in source.identities]
        parts.append([_identity(exact=text) for text, domain in spelled if believed(domain)])
    if source.namespaces is not None:
        parts.append([_identity(prefix=f"spiffe://{trust_domain}/ns/{namespace}/") for namespace in source.namespaces])
    if not all(parts):
        return None
    if not parts:
        return anybody
    either = [rbac_pb2.Principal(or_ids=rbac_pb2.Principal.Set(ids=ids)) for ids in parts]
    return rbac_pb2.Principal(and_ids=rbac_pb2.Principal.Set(ids=either))


def _spelled(identity: str) -> tuple[str, str]:
    """As it stands in certificates, scheme and trust domain in lower case; and its trust domain.

    What is no SPIFFE ID matches nobody's.
    """
    try:
        parsed = SpiffeId.parse(identity)
    except InvalidInput:
        return identity, ""
    return str(parsed), parsed.trust_domain


def _identity(**how: str) -> rbac_pb2.Principal:
    authenticated = rbac_pb2.Principal.Authenticated(principal_name=string_pb2.StringMatcher(**how))
    return rbac_pb2.Principal(authenticated=authenticated)
