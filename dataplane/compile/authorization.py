"""The rules of one port ▸ Envoy RBAC.

Two filters in a row: any DENY that matches refuses, then some ALLOW must match. The second one's own configuration
allows nothing, so where no policy reaches it nothing passes. What the policies mean is `authz.rules`' to say; here it
is only put into Envoy's words.
"""

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import ip_network
from typing import NamedTuple

from envoy.config.core.v3 import address_pb2
from envoy.config.rbac.v3 import rbac_pb2
from envoy.config.route.v3 import route_components_pb2
from envoy.type.matcher.v3 import path_pb2, regex_pb2, string_pb2

from authz.nearest import near_misses
from authz.patterns import Text
from authz.peers import mode_of
from authz.rules import Alternative, Condition, PortRule, applies, port_rules, possible
from dataplane.compile import tokens
from dataplane.snapshot.state import MeshState
from schemas.names import ServiceRef
from schemas.objects import PeerAuthentication
from schemas.objects.service import ServicePort

ANY_PERMISSION = rbac_pb2.Permission(any=True)
ANY_PRINCIPAL = rbac_pb2.Principal(any=True)
# What matches nothing, since Envoy takes no empty list.
NO_PERMISSION = rbac_pb2.Permission(not_rule=ANY_PERMISSION)
NO_PRINCIPAL = rbac_pb2.Principal(not_id=ANY_PRINCIPAL)
# Who has shown no certificate: on such a connection `authenticated` never holds, whatever it asks for.
NOBODY = rbac_pb2.Principal(not_id=rbac_pb2.Principal(authenticated=rbac_pb2.Principal.Authenticated()))


class Judging(NamedTuple):
    """What judges the requests to one port. `allow` without policies refuses everything."""

    deny: rbac_pb2.RBAC
    allow: rbac_pb2.RBAC
    audit: rbac_pb2.RBAC | None = None
    """What is to be counted, as if it were denied; None where there is nothing."""
    nearest: rbac_pb2.RBAC | None = None
    """Which ALLOW came nearest, to be told with a denial; None where that is not to be known, or known already."""
    always_nearest: str = ""
    """Its name, where that is the same for whatever no ALLOW matches."""


def rules_for(state: MeshState, service: ServiceRef, trust_domain: str, port: ServicePort) -> Judging:
    rules = port_rules(
        service,
        port,
        state.authorization_policies(service.namespace),
        trust_domain=trust_domain,
        is_trusted=state.is_trusted,
        unreadable=[one for one in state.unreadable_policies if one.kind != PeerAuthentication.__name__],
        revoked=state.revoked.services(),
        plaintext=is_permissive(state, service, port),
        mesh=state.mesh(),
    )
    deny = rbac_pb2.RBAC(action=rbac_pb2.RBAC.DENY)
    if rules.revoked:
        revoked = [_caller(Text("exact", str(one))) for one in rules.revoked]
        deny.policies["revoked"].CopyFrom(rbac_pb2.Policy(permissions=[ANY_PERMISSION], principals=revoked))
    for ref in rules.unreadable:
        deny.policies[f"{ref.namespace}/{ref.name}: unreadable"].CopyFrom(_everything())
    _add(deny, rules.deny)
    allow = rbac_pb2.RBAC(action=rbac_pb2.RBAC.ALLOW)
    _add(allow, rules.allow)
    audit = rbac_pb2.RBAC(action=rbac_pb2.RBAC.DENY)
    _add(audit, rules.audit)
    nearest, always = _nearest(rules.allow)
    return Judging(deny, allow, audit if audit.policies else None, nearest if nearest.policies else None, always)


def _nearest(allow: Iterable[PortRule]) -> tuple[rbac_pb2.RBAC, str]:
    """Without policies where one name would be told of all: most ports ask who calls and no more, and Envoy would spend
    some 3 us on it with each request that is let in."""
    rules = rbac_pb2.RBAC(action=rbac_pb2.RBAC.ALLOW)
    for near in near_misses(allow):
        if near.matches_all and not rules.policies:
            return rules, near.name
        _add_policy(rules, near.name, near.sources, near.operations)
        if near.matches_all:
            break  # none of the others would be reached
    return rules, ""


def headers_judged(state: MeshState, service: ServiceRef) -> list[str]:
    """The headers that rules for the service ask for, in order."""
    operations = (
        operation
        for policy in state.authorization_policies(service.namespace)
        if applies(policy, service) and policy.spec.action != "AUDIT"
        for rule in policy.spec.rules
        for operation in rule.to or ()
    )
    return sorted(
        {one.name.lower() for each in operations for one in (*(each.headers or ()), *(each.not_headers or ()))}
    )


def is_permissive(state: MeshState, service: ServiceRef, port: ServicePort) -> bool:
    """Whether the port takes plaintext beside mTLS."""
    objects = state.peer_authentications(service.namespace)
    return mode_of(service, port.port, objects, state.unreadable_policies).permissive


def closed() -> Judging:
    """What lets nobody in."""
    deny = rbac_pb2.RBAC(action=rbac_pb2.RBAC.DENY)
    deny.policies["closed"].CopyFrom(_everything())
    return Judging(deny, rbac_pb2.RBAC(action=rbac_pb2.RBAC.ALLOW))


def _everything() -> rbac_pb2.Policy:
    return rbac_pb2.Policy(permissions=[ANY_PERMISSION], principals=[ANY_PRINCIPAL])


def _add(to: rbac_pb2.RBAC, rules: Iterable[PortRule]) -> None:
    for rule in rules:
        _add_policy(to, rule.name, rule.sources, rule.operations)


def _add_policy(
    to: rbac_pb2.RBAC, name: str, sources: tuple[Alternative, ...], operations: tuple[Alternative, ...]
) -> None:
    """What can match nothing on this port is left out: Envoy refuses an empty list."""
    permissions, principals = _permissions(operations), _principals(sources)
    if permissions and principals:
        policy = to.policies[name]
        policy.permissions.extend(permissions)
        policy.principals.extend(principals)


# A rule and its near misses have most of their alternatives in common, and all but one of their conditions.
# Read-only: a message that was made once is in many policies.
@lru_cache(maxsize=1024)
def _permissions(operations: tuple[Alternative, ...]) -> tuple[rbac_pb2.Permission, ...]:
    return tuple(map(_permission, possible(operations)))


@lru_cache(maxsize=1024)
def _principals(sources: tuple[Alternative, ...]) -> tuple[rbac_pb2.Principal, ...]:
    return tuple(map(_principal, possible(sources)))


def _permission(conditions: Alternative) -> rbac_pb2.Permission:
    if not conditions:
        return ANY_PERMISSION
    return _all_permissions(map(_asked, conditions))


@lru_cache(maxsize=1024)
def _asked(condition: Condition) -> rbac_pb2.Permission:
    permission = _any_permission([_called(condition, text) for text in condition.values])
    return rbac_pb2.Permission(not_rule=permission) if condition.negated else permission


def _any_permission(rules: Iterable[rbac_pb2.Permission]) -> rbac_pb2.Permission:
    found = list(rules) or [NO_PERMISSION]
    return rbac_pb2.Permission(or_rules=rbac_pb2.Permission.Set(rules=found))


def _all_permissions(rules: Iterable[rbac_pb2.Permission]) -> rbac_pb2.Permission:
    return rbac_pb2.Permission(and_rules=rbac_pb2.Permission.Set(rules=rules))


def _called(condition: Condition, text: Text) -> rbac_pb2.Permission:
    match condition.field:
        case "methods":
            return _header(":method", text)
        case "hosts":
            return _header(":authority", text)
        case "headers":
            return _header(condition.header, text)
        case "paths" | "grpc":
            asked = _path(_matcher(text))
            if not text.hints:
                return asked
            hints = [_path(string_pb2.StringMatcher(contains=hint)) for hint in text.hints]
            return _all_permissions([_any_permission(hints), asked])
    raise AssertionError(f"no RBAC for the condition {condition.field}")


def _header(name: str, text: Text) -> rbac_pb2.Permission:
    if text.how == "present":
        matcher = route_components_pb2.HeaderMatcher(name=name, present_match=True)
    else:
        matcher = route_components_pb2.HeaderMatcher(name=name, string_match=_matcher(text))
    return rbac_pb2.Permission(header=matcher)


def _path(matcher: string_pb2.StringMatcher) -> rbac_pb2.Permission:
    """Asked of the path without the query."""
    return rbac_pb2.Permission(url_path=path_pb2.PathMatcher(path=matcher))


def _principal(conditions: Alternative) -> rbac_pb2.Principal:
    match conditions:
        case ():
            return ANY_PRINCIPAL
        case (Condition(field="trustDomain", values=(text,), or_nobody=False),):
            return _caller(text)
    return rbac_pb2.Principal(and_ids=rbac_pb2.Principal.Set(ids=[_calling(one) for one in conditions]))


@lru_cache(maxsize=1024)
def _calling(condition: Condition) -> rbac_pb2.Principal:
    ids = [one for text in condition.values for one in _callers(condition, text)] or [NO_PRINCIPAL]
    if condition.or_nobody:
        ids.append(NOBODY)
    principal = rbac_pb2.Principal(or_ids=rbac_pb2.Principal.Set(ids=ids))
    return rbac_pb2.Principal(not_id=principal) if condition.negated else principal


def _callers(condition: Condition, text: Text) -> Iterable[rbac_pb2.Principal]:
    """Any of them."""
    match condition.field:
        case "requestPrincipals":
            return tokens.request_principals(text, _matcher)
        case "when":
            return tokens.claim(condition.claim, text, _matcher)
    return [_caller(text)]


def _caller(text: Text) -> rbac_pb2.Principal:
    if text.how == "cidr":
        return rbac_pb2.Principal(direct_remote_ip=_range(text.value))
    return rbac_pb2.Principal(authenticated=rbac_pb2.Principal.Authenticated(principal_name=_matcher(text)))


def _range(block: str) -> address_pb2.CidrRange:
    network = ip_network(block, strict=False)
    made = address_pb2.CidrRange(address_prefix=str(network.network_address))
    made.prefix_len.value = network.prefixlen
    return made


def _matcher(text: Text) -> string_pb2.StringMatcher:
    if text.how == "regex":
        return string_pb2.StringMatcher(safe_regex=regex_pb2.RegexMatcher(regex=text.value))
    return string_pb2.StringMatcher(**{text.how: text.value})
