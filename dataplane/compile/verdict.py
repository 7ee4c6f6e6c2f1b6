"""Would Envoy still let this stream in? By the very rules that it was sent, so that the two can't disagree.

Knows what `authorization` makes and nothing else. What it does not know is closed: it denies in a DENY, and allows
nothing in an ALLOW.

Of a connection whose bytes are passed on nobody knows what is asked over it. It is denied where nothing that could be
asked is allowed; a rule that tells requests apart does not reach it, and Envoy ends it by its drain time (`passing`).
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from envoy.config.rbac.v3 import rbac_pb2
from envoy.config.route.v3 import route_components_pb2, route_pb2
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as http_rbac_pb2
from envoy.type.matcher.v3 import metadata_pb2, string_pb2
from google.protobuf import struct_pb2

from authz.patterns import Text
from dataplane.compile import tokens
from dataplane.compile.inbound import ALLOW, DENY
from dataplane.compile.open_streams import OpenStream
from dataplane.compile.resources import Resource

# Different streams of one port whose verdicts are kept: peers are few, paths may be many.
_KEPT = 10_000
# Characters of a stream whose verdict is kept: who asks for what is longer is judged anew at each report.
_KEPT_LENGTH = 2_000


class _Unknown(Exception):
    """A form that `authorization` never makes."""


@dataclass(slots=True)
class Judge:
    """Holds the rules of each port as read last, and what they say of those who asked."""

    _rules: dict[str, "_Rules"] = field(default_factory=dict)

    def denies(self, routes: Resource, stream: OpenStream) -> bool:
        """routes: the RouteConfiguration in force for the stream's port."""
        rules = self._rules.get(routes.key.name)
        if rules is None or rules.version != routes.version:
            rules = self._rules[routes.key.name] = _read(routes)
        return not rules.allows(stream)


@dataclass(slots=True)
class _Rules:
    version: str
    deny: rbac_pb2.RBAC | None
    """Without policies where the route has none of it."""
    allow: rbac_pb2.RBAC | None
    """None, of either: not read, or there is no ALLOW: then nobody is let in."""
    _said: dict[tuple[object, ...], bool] = field(default_factory=dict)

    def allows(self, stream: OpenStream) -> bool:
        asked = (stream.connection.remote[0], *stream[1:])  # all but the port of the peer
        said = (stream.path, stream.authority, stream.claims, *(value for _, value in stream.headers))
        if sum(map(len, said)) > _KEPT_LENGTH:
            return self._judge(stream)
        if asked not in self._said:
            if len(self._said) >= _KEPT:
                self._said.clear()
            self._said[asked] = self._judge(stream)
        return self._said[asked]

    def _judge(self, stream: OpenStream) -> bool:
        if self.deny is None or self.allow is None or len(stream.identities) > 1:
            return False
        if any(_policy(one, stream, denies=True) for one in self.deny.policies.values()):
            return False
        return any(_policy(one, stream, denies=False) for one in self.allow.policies.values())


def _read(routes: Resource) -> _Rules:
    nothing_denied = rbac_pb2.RBAC(action=rbac_pb2.RBAC.DENY)
    found: dict[str, rbac_pb2.RBAC | None] = {DENY: nothing_denied}
    for host in route_pb2.RouteConfiguration.FromString(routes.body).virtual_hosts:
        for name, packed in host.typed_per_filter_config.items():
            if name in (DENY, ALLOW):
                per_route = http_rbac_pb2.RBACPerRoute()
                found[name] = per_route.rbac.rules if packed.Unpack(per_route) else None
    return _Rules(routes.version, found.get(DENY), found.get(ALLOW))


def _policy(policy: rbac_pb2.Policy, stream: OpenStream, *, denies: bool) -> bool:
    try:
        if policy.HasField("condition") or policy.HasField("checked_condition"):
            raise _Unknown
        principals = any(_principal(one, stream) for one in policy.principals)
        return principals and any(_permission(one, stream, denies=denies) for one in policy.permissions)
    except _Unknown:
        return denies


def _permission(permission: rbac_pb2.Permission, stream: OpenStream, *, denies: bool) -> bool:
    match permission.WhichOneof("rule"):
        case "any":
            return bool(permission.any)
        case "and_rules":
            return all(_permission(one, stream, denies=denies) for one in permission.and_rules.rules)
        case "or_rules":
            return any(_permission(one, stream, denies=denies) for one in permission.or_rules.rules)
        case "not_rule":
            return not _permission(permission.not_rule, stream, denies=not denies)
        case "header" if not permission.header.invert_match:
            if stream.method is None:
                return not denies  # something that is asked may match, and something not
            return _header(permission.header, stream)
        case "url_path":
            if stream.method is None:
                return not denies
            return _string(permission.url_path.path, [stream.path.partition("?")[0].partition("#")[0]])
    raise _Unknown


def _header(matcher: route_components_pb2.HeaderMatcher, stream: OpenStream) -> bool:
    known = {":method": stream.method, ":authority": stream.authority, **dict(stream.headers)}
    if matcher.name not in known and matcher.name not in stream.known:
        raise _Unknown
    value = known.get(matcher.name)
    match matcher.WhichOneof("header_match_specifier"):
        case "present_match" if matcher.present_match:
            return value is not None
        case "string_match":
            return value is not None and _string(matcher.string_match, [value])
    raise _Unknown


def _principal(principal: rbac_pb2.Principal, stream: OpenStream) -> bool:
    match principal.WhichOneof("identifier"):
        case "any":
            return bool(principal.any)
        case "and_ids":
            return all(_principal(one, stream) for one in principal.and_ids.ids)
        case "or_ids":
            return any(_principal(one, stream) for one in principal.or_ids.ids)
        case "not_id":
            return not _principal(principal.not_id, stream)
        case "authenticated" if not principal.authenticated.HasField("principal_name"):
            return bool(stream.identities)
        case "authenticated":
            return _string(principal.authenticated.principal_name, stream.identities)
        case "direct_remote_ip" if stream.connection.remote[0]:
            block = f"{principal.direct_remote_ip.address_prefix}/{principal.direct_remote_ip.prefix_len.value}"
            return Text("cidr", block).holds(stream.connection.remote[0])
        case "metadata":
            return _claim(principal.metadata, stream.claims)
    raise _Unknown


def _claim(matcher: metadata_pb2.MetadataMatcher, claims: bytes) -> bool:
    if (matcher.filter, matcher.path[0].key, matcher.invert) != (tokens.METADATA, tokens.PAYLOAD, False):
        raise _Unknown
    value = struct_pb2.Value(struct_value=struct_pb2.Struct.FromString(claims))
    for step in matcher.path[1:]:
        if step.key not in value.struct_value.fields:
            return False
        value = value.struct_value.fields[step.key]
    wanted, found = matcher.value, [value]
    if wanted.WhichOneof("match_pattern") == "list_match":
        wanted, found = wanted.list_match.one_of, list(value.list_value.values)
    if wanted.WhichOneof("match_pattern") != "string_match":
        raise _Unknown
    return _string(wanted.string_match, [one.string_value for one in found if one.HasField("string_value")])


def _string(matcher: string_pb2.StringMatcher, values: Iterable[str]) -> bool:
    match matcher.WhichOneof("match_pattern"):
        case "exact" if not matcher.ignore_case:
            return any(value == matcher.exact for value in values)
        case "prefix" if not matcher.ignore_case:
            return any(value.startswith(matcher.prefix) for value in values)
        case "suffix" if not matcher.ignore_case:
            return any(value.endswith(matcher.suffix) for value in values)
        case "contains" if not matcher.ignore_case:
            return any(matcher.contains in value for value in values)
        case "safe_regex" if not matcher.ignore_case:
            return any(Text("regex", matcher.safe_regex.regex).holds(value) for value in values)
    raise _Unknown
