"""The rules of one port ▸ Envoy RBAC.

Two filters in a row: any DENY that matches refuses, then some ALLOW must match. The second one's own configuration
allows nothing, so where no policy reaches it nothing passes. What the policies mean is `authz.rules`' to say; here it
is only put into Envoy's words.
"""

from collections.abc import Iterable

from envoy.config.rbac.v3 import rbac_pb2
from envoy.config.route.v3 import route_components_pb2
from envoy.type.matcher.v3 import path_pb2, regex_pb2, string_pb2

from authz.patterns import Text
from authz.rules import Alternative, Condition, PortRule, port_rules, possible
from dataplane.snapshot.state import MeshState
from schemas.names import ServiceRef
from schemas.objects.service import ServicePort

ANY_PERMISSION = rbac_pb2.Permission(any=True)
ANY_PRINCIPAL = rbac_pb2.Principal(any=True)


def rules_for(
    state: MeshState, service: ServiceRef, trust_domain: str, port: ServicePort
) -> tuple[rbac_pb2.RBAC, rbac_pb2.RBAC]:
    """(deny, allow) for one port. `allow` without policies refuses everything."""
    rules = port_rules(
        service,
        port,
        state.authorization_policies(service.namespace),
        trust_domain=trust_domain,
        is_trusted=state.is_trusted,
        unreadable=state.unreadable_policies,
        revoked=state.revoked.services(),
    )
    deny = rbac_pb2.RBAC(action=rbac_pb2.RBAC.DENY)
    if rules.revoked:
        revoked = [_identity(Text("exact", str(one))) for one in rules.revoked]
        deny.policies["revoked"].CopyFrom(rbac_pb2.Policy(permissions=[ANY_PERMISSION], principals=revoked))
    for ref in rules.unreadable:
        deny.policies[f"{ref.namespace}/{ref.name}: unreadable"].CopyFrom(_everything())
    _add(deny, rules.deny)
    allow = rbac_pb2.RBAC(action=rbac_pb2.RBAC.ALLOW)
    _add(allow, rules.allow)
    return deny, allow


def closed() -> tuple[rbac_pb2.RBAC, rbac_pb2.RBAC]:
    """(deny, allow) that let nobody in."""
    deny = rbac_pb2.RBAC(action=rbac_pb2.RBAC.DENY)
    deny.policies["closed"].CopyFrom(_everything())
    return deny, rbac_pb2.RBAC(action=rbac_pb2.RBAC.ALLOW)


def _everything() -> rbac_pb2.Policy:
    return rbac_pb2.Policy(permissions=[ANY_PERMISSION], principals=[ANY_PRINCIPAL])


def _add(to: rbac_pb2.RBAC, rules: Iterable[PortRule]) -> None:
    """A rule that can match nothing on this port is left out: Envoy refuses an empty list."""
    for rule in rules:
        permissions = [_permission(one) for one in possible(rule.operations)]
        principals = [_principal(one) for one in possible(rule.sources)]
        if permissions and principals:
            to.policies[rule.name].CopyFrom(rbac_pb2.Policy(permissions=permissions, principals=principals))


def _permission(conditions: Alternative) -> rbac_pb2.Permission:
    if not conditions:
        return ANY_PERMISSION
    either = [
        rbac_pb2.Permission(or_rules=rbac_pb2.Permission.Set(rules=[_called(one, text) for text in one.values]))
        for one in conditions
    ]
    return rbac_pb2.Permission(and_rules=rbac_pb2.Permission.Set(rules=either))


def _called(condition: Condition, text: Text) -> rbac_pb2.Permission:
    if condition.field == "methods":
        header = route_components_pb2.HeaderMatcher(name=":method", string_match=_matcher(text))
        return rbac_pb2.Permission(header=header)
    if condition.field != "paths":
        raise AssertionError(f"no RBAC for the condition {condition.field}")
    asked = _path(_matcher(text))
    if not text.hints:
        return asked
    hints = [_path(string_pb2.StringMatcher(contains=hint)) for hint in text.hints]
    either = rbac_pb2.Permission(or_rules=rbac_pb2.Permission.Set(rules=hints))
    return rbac_pb2.Permission(and_rules=rbac_pb2.Permission.Set(rules=[either, asked]))


def _path(matcher: string_pb2.StringMatcher) -> rbac_pb2.Permission:
    """Asked of the path without the query."""
    return rbac_pb2.Permission(url_path=path_pb2.PathMatcher(path=matcher))


def _principal(conditions: Alternative) -> rbac_pb2.Principal:
    match conditions:
        case ():
            return ANY_PRINCIPAL
        case (Condition(field="trustDomain", values=(text,)),):
            return _identity(text)
    either = [
        rbac_pb2.Principal(or_ids=rbac_pb2.Principal.Set(ids=[_identity(text) for text in one.values]))
        for one in conditions
    ]
    return rbac_pb2.Principal(and_ids=rbac_pb2.Principal.Set(ids=either))


def _identity(text: Text) -> rbac_pb2.Principal:
    return rbac_pb2.Principal(authenticated=rbac_pb2.Principal.Authenticated(principal_name=_matcher(text)))


def _matcher(text: Text) -> string_pb2.StringMatcher:
    if text.how == "regex":
        return string_pb2.StringMatcher(safe_regex=regex_pb2.RegexMatcher(regex=text.value))
    return string_pb2.StringMatcher(**{text.how: text.value})
