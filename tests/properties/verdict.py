"""What Envoy would say to a request, by the compiled resources; and what the policies mean, read by themselves.

Two readings that share no code: where they differ, one of them is wrong. Only what the compiler emits is known here;
any other field of the protos is an error, so that nothing passes because it was not looked at.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from envoy.config.core.v3 import extension_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.rbac.v3 import rbac_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as http_rbac_pb2
from envoy.extensions.filters.network.rbac.v3 import rbac_pb2 as network_rbac_pb2

from dataplane.compile.one_identity import one_identity
from dataplane.compile.resources import EXTENSION, LISTENER, ROUTES, Resource, ResourceKey
from schemas.errors import InvalidInput
from schemas.names import SpiffeId
from schemas.objects import AuthorizationPolicy
from schemas.objects.authorization import Operation, Rule, Source
from schemas.objects.service import ServicePort
from tests.states.build import TRUST_DOMAIN, identity

DENY, ALLOW = "mesh.authorization.deny", "mesh.authorization.allow"
NEAREST = "mesh.authorization.nearest"
LIMITS = {"mesh.rate_limit", "mesh.rate_limit.headers"}
TOKENS = "mesh.tokens"
HEADERS = "mesh.judged_headers"
PLAINTEXT = {"plaintext", "plaintext traced"}


@dataclass(frozen=True)
class Request:
    """`path` without a query; on a TCP port method and path mean nothing."""

    caller: str
    port: ServicePort
    method: str
    path: str


def requests(ports: Iterable[ServicePort]) -> list[Request]:
    """One of each kind that the policies of `strategies` can tell apart."""
    callers = [
        *(identity(name) for name in ("web", "orders", "web.back", "mallory.other")),
        *(identity(name, "other.test") for name in ("web", "orders")),
    ]
    return [
        Request(*parts)
        for parts in itertools.product(callers, ports, ("GET", "POST"), ("/", "/a", "/a/b", "/ab", "/b/c"))
    ]


# -- by the compiled resources


def passes(resources: Mapping[ResourceKey, Resource], request: Request) -> bool:
    """Whether the request reaches the app."""
    name = f"inbound|{request.port.name}"
    routes = resources.get(ResourceKey(ROUTES, name))
    if ResourceKey(LISTENER, name) not in resources or routes is None:
        return False
    deny, allow = _rules(routes.body)
    passed = not _matches(deny, request) and _matches(allow, request)
    if passes_on(resources, request.port):
        assert request.port.passes_bytes
        denies, allows = (
            _apart(resources[ResourceKey(EXTENSION, f"{name}|{what}")].body) for what in ("deny", "allow")
        )
        assert denies == deny, f"{name}: who is passed on is denied by other rules"
        assert _matches(allows, request) == passed, f"{name}: the filter that allows is not all of it"
        assert _asked(routes.body) <= {"any"}, f"{name}: bytes pass a rule that asks for more than the identity"
    return passed


@lru_cache(maxsize=64)
def _asked(body: bytes) -> set[str | None]:
    """The kinds of what rules of a RouteConfiguration ask of requests."""
    policies = [policy for rules in _rules(body) for policy in rules.policies.values()]
    return {one.WhichOneof("rule") for policy in policies for one in policy.permissions}


def passes_on(resources: Mapping[ResourceKey, Resource], port: ServicePort) -> bool:
    """Whether the port takes connections of which it reads no HTTP."""
    listener = resources.get(ResourceKey(LISTENER, f"inbound|{port.name}"))
    return listener is not None and _reads_nothing(listener.body)


@lru_cache(maxsize=64)
def _apart(body: bytes) -> Any:
    """The rules of a filter that comes apart from its listener."""
    judge = network_rbac_pb2.RBAC()
    assert extension_pb2.TypedExtensionConfig.FromString(body).typed_config.Unpack(judge)
    _only(judge, "rules", "stat_prefix")
    return judge.rules


@lru_cache(maxsize=64)
def _reads_nothing(body: bytes) -> bool:
    """Whether it has a chain that reads no HTTP. In all chains for mTLS a peer's identities are counted first."""
    listener = listener_pb2.Listener.FromString(body)
    chains = listener.filter_chains
    first = one_identity(listener.name)
    of_tls = [chain for chain in chains if chain.HasField("transport_socket")]
    assert all(chain.filters[0] == first for chain in of_tls), "a chain takes peers with several identities"
    assert all(chain.name in PLAINTEXT for chain in chains if chain not in of_tls)
    judging = [[one.name for one in chain.filters[1:-1]] for chain in chains if chain.name == "bytes"]
    assert judging in ([], [[f"{listener.name}|deny", f"{listener.name}|allow"]]), "bytes pass unjudged"
    return bool(judging)


@lru_cache(maxsize=64)
def _rules(body: bytes) -> tuple[Any, Any]:
    """(deny, allow) of a RouteConfiguration, which has them nowhere else."""
    (host,) = route_pb2.RouteConfiguration.FromString(body).virtual_hosts
    filters = host.typed_per_filter_config
    # Neither a limit nor a token's proof lets anybody in, nor what is only to be told or kept.
    assert {ALLOW} <= set(filters) - LIMITS - {TOKENS, NEAREST, HEADERS} <= {DENY, ALLOW}
    if NEAREST in filters:
        telling = http_rbac_pb2.RBACPerRoute()
        assert filters[NEAREST].Unpack(telling)
        _only(telling.rbac, "shadow_rules", "shadow_rules_stat_prefix")
    assert list(host.domains) == ["*"]
    assert all(
        not route.typed_per_filter_config or route.WhichOneof("action") == "direct_response" for route in host.routes
    ), "a route of its own is judged by other rules"
    deny = _unpacked(filters[DENY], "DENY") if DENY in filters else rbac_pb2.RBAC(action=rbac_pb2.RBAC.DENY)
    return deny, _unpacked(filters[ALLOW], "ALLOW")


def _unpacked(packed: Any, action: str) -> Any:
    per_route = http_rbac_pb2.RBACPerRoute()
    assert packed.Unpack(per_route)
    beside = {"DENY": "track_per_rule_stats", "ALLOW": "shadow_rules_stat_prefix"}  # shadow rules decide nothing
    _only(per_route.rbac, "rules", "shadow_rules", beside[action])
    rules = per_route.rbac.rules
    _only(rules, "action", "policies")
    assert type(rules).Action.Name(rules.action) == action
    return rules


def _matches(rules: Any, request: Request) -> bool:
    return any(_policy(policy, request) for policy in rules.policies.values())


def _policy(policy: Any, request: Request) -> bool:
    _only(policy, "permissions", "principals")
    permitted = any(_permission(one, request) for one in policy.permissions)
    return permitted and any(_principal(one, request) for one in policy.principals)


def _permission(permission: Any, request: Request) -> bool:
    match permission.WhichOneof("rule"):
        case "any":
            return bool(permission.any)
        case "and_rules":
            return all(_permission(one, request) for one in permission.and_rules.rules)
        case "or_rules":
            return any(_permission(one, request) for one in permission.or_rules.rules)
        case "header":
            _only(permission.header, "name", "string_match")
            assert permission.header.name == ":method"
            assert request.port.protocol != "tcp", "an HTTP condition on a TCP port"
            return _string(permission.header.string_match, request.method)
        case "url_path":
            _only(permission.url_path, "path")
            assert request.port.protocol != "tcp", "an HTTP condition on a TCP port"
            return _string(permission.url_path.path, request.path)
        case other:
            raise AssertionError(f"no reading of the permission {other}")


def _principal(principal: Any, request: Request) -> bool:
    match principal.WhichOneof("identifier"):
        case "any":
            return bool(principal.any)
        case "and_ids":
            return all(_principal(one, request) for one in principal.and_ids.ids)
        case "or_ids":
            return any(_principal(one, request) for one in principal.or_ids.ids)
        case "not_id":
            return not _principal(principal.not_id, request)
        case "authenticated":
            _only(principal.authenticated, "principal_name")
            return _string(principal.authenticated.principal_name, request.caller)
        case "metadata":
            assert request.port.protocol != "tcp", "a token on a TCP port"
            return False  # no request here has one
        case other:
            raise AssertionError(f"no reading of the principal {other}")


def _string(matcher: Any, value: str) -> bool:
    assert not matcher.ignore_case
    match matcher.WhichOneof("match_pattern"):
        case "exact":
            return bool(matcher.exact == value)
        case "prefix":
            assert matcher.prefix, "an empty prefix matches everything"
            return value.startswith(matcher.prefix)
        case "contains":
            assert matcher.contains, "an empty part is in everything"
            return matcher.contains in value
        case "safe_regex":
            return re.fullmatch(matcher.safe_regex.regex, value) is not None
        case other:
            raise AssertionError(f"no reading of the string matcher {other}")


def _only(message: Any, *known: str) -> None:
    others = {field.name for field, _ in message.ListFields()} - set(known)
    assert not others, f"no reading of {sorted(others)} in {message.DESCRIPTOR.name}"


# -- by the policies themselves


def means(policies: Iterable[AuthorizationPolicy], service: str, request: Request) -> bool:
    """Whether `policies`, all of the service's namespace or of the mesh, let the request through to `service`."""
    mine = [
        one
        for one in policies
        if one.spec.target_refs is None
        or (one.metadata.namespace != "mesh-system" and service in [to.name for to in one.spec.target_refs])
    ]
    denied = any(_rule(rule, request, "DENY") for one in mine if one.spec.action == "DENY" for rule in one.spec.rules)
    return not denied and any(
        _rule(rule, request, "ALLOW") for one in mine if one.spec.action == "ALLOW" for rule in one.spec.rules
    )


def _rule(rule: Rule, request: Request, action: str) -> bool:
    if rule.when and (request.port.protocol != "tcp" or action == "ALLOW"):
        return False  # no request here has a token; on a tcp port nobody can tell
    called = rule.to is None or any(_operation(one, request, action) for one in rule.to)
    return called and any(
        _source(one, request, action) for one in (rule.from_ if rule.from_ is not None else (Source(),))
    )


def _operation(operation: Operation, request: Request, action: str) -> bool:
    if operation.ports is not None and request.port.port not in operation.ports:
        return False
    if request.port.protocol == "tcp" and (operation.methods is not None or operation.paths is not None):
        return action == "DENY"  # can't be judged
    if operation.methods is not None and request.method not in operation.methods:
        return False
    return operation.paths is None or any(
        request.path.startswith(path[:-1]) if path.endswith("*") else request.path == path for path in operation.paths
    )


def _source(source: Source, request: Request, action: str) -> bool:
    caller = SpiffeId.parse(request.caller)
    assert caller.service is not None
    if source.request_principals is not None and (request.port.protocol != "tcp" or action == "ALLOW"):
        return False
    if source.identities is None and action == "ALLOW" and caller.trust_domain != TRUST_DOMAIN:
        return False  # a foreigner is let in by name only
    if source.identities is not None and caller not in [_parsed(one) for one in source.identities]:
        return False
    return source.namespaces is None or (
        caller.trust_domain == TRUST_DOMAIN and caller.service.namespace in source.namespaces
    )


def _parsed(identity: str) -> SpiffeId | None:
    try:
        return SpiffeId.parse(identity)
    except InvalidInput:
        return None
