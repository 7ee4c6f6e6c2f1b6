"""`RequestAuthentication` ▸ Envoy's JWT filter, as configuration of a port's virtual host; and claims in RBAC.

The JWT filter has its keys and rules in the filter chain only, where a change would be one of the listener and leave
open connections on the old ones. So it is made by a composite filter, which takes what it makes from the route:
switched off in every inbound listener, switched on by the virtual host, in one resource with the rules that rely upon
it. What is new is in force for the next request of connections that are open.

A request that has what might be a token and is not of the form that it must be, or has two, is answered by a route of
its own before any filter has looked at it: see `authz.tokens`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from envoy.config.rbac.v3 import rbac_pb2
from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.common.matching.v3 import extension_matcher_pb2
from envoy.extensions.filters.http.composite.v3 import composite_pb2
from envoy.extensions.filters.http.jwt_authn.v3 import config_pb2 as jwt_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.type.matcher.v3 import metadata_pb2, regex_pb2, string_pb2, value_pb2

from authz.claims import SPACED, value_text
from authz.key_sources import Fetched, fetched_from, keys_in_force
from authz.patterns import Text
from authz.tokens import Place, applies, headers_of, pairs, places
from authz.verify import CLOCK_SKEW_S
from dataplane.compile.tls import packed
from dataplane.snapshot.state import MeshState
from schemas.checking import json_path
from schemas.errors import Problem
from schemas.keys import KeySetRef
from schemas.names import ServiceRef
from schemas.objects import RequestAuthentication
from schemas.objects.request_authentication import JwtRule

FILTER = "mesh.tokens"
METADATA, PAYLOAD = "envoy.filters.http.jwt_authn", "payload"
"""Where Envoy has the claims of a token that it proved."""
NO_KEYS = "keys|not known"
"""A cluster without instances, in place of keys: Envoy asks it for them, and answers 401 to tokens of that issuer with
words of its own. It refuses a route whole for an empty key set, and nobody's key would not tell the reason."""
_ANYTHING = value_text("*")


def filters() -> list[hcm_pb2.HttpFilter]:
    """Before those that authorize, which ask for what it has found."""
    made = extension_matcher_pb2.ExtensionWithMatcher()
    made.extension_config.name = "envoy.filters.http.composite"
    made.extension_config.typed_config.CopyFrom(packed(composite_pb2.Composite()))
    return [hcm_pb2.HttpFilter(name=FILTER, typed_config=packed(made), disabled=True)]


def authentications_of(state: MeshState, service: ServiceRef) -> list[RequestAuthentication]:
    """Those for the service, in the order of their names."""
    return [one for one in state.request_authentications(service.namespace) if applies(one, service)]


def places_of_keys(state: MeshState, service: ServiceRef) -> frozenset[KeySetRef]:
    """What the sidecar has to know of the keys that replicas fetch."""
    rules = (rule for one in authentications_of(state, service) for rule in one.spec.jwt_rules)
    return frozenset(where for rule in rules if (where := fetched_from(rule)) is not None)


def without_keys(state: MeshState, service: ServiceRef) -> list[Problem]:
    """The rules whose tokens are all refused, since nobody knows the issuer's keys (yet)."""
    return [
        Problem(
            str(one.ref),
            f"the keys of {rule.issuer} are not known: they have yet to be fetched from {rule.jwks_uri}",
            json_path(("spec", "jwtRules", index)),
            "see `meshadm jwks status`; until then its tokens are answered 401",
        )
        for one in authentications_of(state, service)
        for index, rule in enumerate(one.spec.jwt_rules)
        if keys_in_force(rule, state.key_set) is None
    ]


@dataclass(frozen=True, slots=True)
class Proof:
    """How tokens by one rule, ``namespace/name[index]``, are proved at any port: its keys are read once."""

    name: str
    rule: JwtRule
    provider: jwt_pb2.JwtProvider
    has_keys: bool
    """Where nobody knows any, `provider` names the cluster NO_KEYS."""


def proofs_by(authentications: Iterable[RequestAuthentication], fetched: Fetched) -> list[Proof]:
    found = []
    for one in authentications:
        for index, rule in enumerate(one.spec.jwt_rules):
            keys, name = keys_in_force(rule, fetched), f"{one.metadata.namespace}/{one.metadata.name}[{index}]"
            found.append(Proof(name, rule, _provider(rule, keys), keys is not None))
    return found


def authenticate(host: route_components_pb2.VirtualHost, proofs: Sequence[Proof], unjudged: Iterable[str]) -> None:
    """Let `host` take no token but good ones. unjudged: filters that have no say about what is answered 401
    before all."""
    if not proofs:
        return
    config = jwt_pb2.JwtAuthentication()
    requirement = config.rules.add()
    requirement.match.prefix = "/"
    either = requirement.requires.requires_any.requirements
    for one in proofs:
        config.providers[one.name].CopyFrom(one.provider)
        either.add(provider_name=one.name)
    either.add().allow_missing.SetInParent()
    per_route = extension_matcher_pb2.ExtensionWithMatcherPerRoute()
    action = composite_pb2.ExecuteFilterAction()
    action.typed_config.name = METADATA
    action.typed_config.typed_config.CopyFrom(packed(config))
    made = per_route.xds_matcher.on_no_match.action
    made.name = FILTER
    made.typed_config.CopyFrom(packed(action))
    host.typed_per_filter_config[FILTER].CopyFrom(packed(per_route))
    refusals = list(_refusals(places(one.rule for one in proofs), unjudged))
    kept = list(host.routes)
    del host.routes[:]
    host.routes.extend([*refusals, *kept])


def _provider(rule: JwtRule, keys: str | None) -> jwt_pb2.JwtProvider:
    provider = jwt_pb2.JwtProvider(
        issuer=rule.issuer,
        audiences=rule.audiences,
        forward=rule.forward_original_token,
        require_expiration=True,  # what never ends can't be taken back
        payload_in_metadata=PAYLOAD,
        clock_skew_seconds=CLOCK_SKEW_S,
    )
    provider.normalize_payload_in_metadata.space_delimited_claims.extend(SPACED)
    if keys is not None:
        provider.local_jwks.inline_string = keys
    else:
        provider.remote_jwks.http_uri.cluster = NO_KEYS
        provider.remote_jwks.http_uri.uri = "http://nowhere.invalid"
        provider.remote_jwks.http_uri.timeout.seconds = 1
    for header in headers_of(rule):
        provider.from_headers.add(name=header.name.lower(), value_prefix=header.prefix)
    return provider


# -- what is answered before any filter


def _refusals(found: Sequence[Place], unjudged: Iterable[str]) -> Iterator[route_components_pb2.Route]:
    off = list(unjudged)
    for place in found:
        form = " or ".join(f"'{prefix}HEADER.PAYLOAD.SIGNATURE'" for prefix in place.prefixes)
        yield _refusal(f"{place.name} is not {form}, once", [_has(place), _bad(place)], off)
    for one, other in pairs(found):
        yield _refusal(f"there are two tokens, in {one.name} and {other.name}", [_has(one), _has(other)], off)


def _refusal(
    says: str, matchers: Sequence[route_components_pb2.HeaderMatcher], off: Iterable[str]
) -> route_components_pb2.Route:
    route = route_components_pb2.Route()
    route.match.prefix = "/"
    route.match.headers.extend(matchers)
    route.direct_response.status = 401
    route.direct_response.body.inline_string = f"Jwt is malformed: {says}\n"
    told = route.response_headers_to_add.add().header
    told.key, told.value = "www-authenticate", 'Bearer error="invalid_token"'  # RFC 6750, 3
    unasked = packed(route_components_pb2.FilterConfig(disabled=True))
    for name in (FILTER, *off):
        route.typed_per_filter_config[name].CopyFrom(unasked)
    return route


def _has(place: Place) -> route_components_pb2.HeaderMatcher:
    return _header(place.name, place.holds_a_token)


def _bad(place: Place) -> route_components_pb2.HeaderMatcher:
    matcher = _header(place.name, place.form)
    matcher.invert_match = True
    return matcher


def _header(name: str, expression: str) -> route_components_pb2.HeaderMatcher:
    regex = regex_pb2.RegexMatcher(regex=expression)
    return route_components_pb2.HeaderMatcher(name=name, string_match=string_pb2.StringMatcher(safe_regex=regex))


# -- claims in RBAC


def request_principals(text: Text, matcher: Callable[[Text], string_pb2.StringMatcher]) -> Iterator[rbac_pb2.Principal]:
    """Any of them holds where `text` holds of ``issuer/subject``, which Envoy has in two.

    A slash may belong to either: each place where they may meet is tried.
    """
    value = text.value
    if text == _ANYTHING:
        yield _both(_ANYTHING, _ANYTHING, matcher)
        return
    for index in (at for at, character in enumerate(value) if character == "/"):
        left, right = value[:index], value[index + 1 :]
        match text.how:
            case "exact" if left and right:
                yield _both(Text("exact", left), Text("exact", right), matcher)
            case "prefix" if left:
                yield _both(Text("exact", left), Text("prefix", right) if right else _ANYTHING, matcher)
            case "suffix" if right:
                yield _both(Text("suffix", left) if left else _ANYTHING, Text("exact", right), matcher)
    if text.how == "prefix":
        yield _both(text, _ANYTHING, matcher)
    elif text.how == "suffix":
        yield _both(_ANYTHING, text, matcher)


def _both(issuer: Text, subject: Text, matcher: Callable[[Text], string_pb2.StringMatcher]) -> rbac_pb2.Principal:
    ids = [
        _metadata((name,), value_pb2.ValueMatcher(string_match=matcher(text)))
        for name, text in (("iss", issuer), ("sub", subject))
    ]
    return rbac_pb2.Principal(and_ids=rbac_pb2.Principal.Set(ids=ids))


def claim(
    path: tuple[str, ...], text: Text, matcher: Callable[[Text], string_pb2.StringMatcher]
) -> Iterator[rbac_pb2.Principal]:
    """Any of them holds where `text` holds of the claim, or of one of the texts in it."""
    value = value_pb2.ValueMatcher(string_match=matcher(text))
    yield _metadata(path, value)
    in_list = value_pb2.ValueMatcher()
    in_list.list_match.one_of.CopyFrom(value)
    yield _metadata(path, in_list)


def _metadata(path: Iterable[str], value: value_pb2.ValueMatcher) -> rbac_pb2.Principal:
    found = metadata_pb2.MetadataMatcher(filter=METADATA, value=value)
    for step in (PAYLOAD, *path):
        found.path.add(key=step)
    return rbac_pb2.Principal(metadata=found)
