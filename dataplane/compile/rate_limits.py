"""`RateLimitPolicy` ▸ Envoy's local rate limit, as configuration of a port's virtual host.

The filters stand in every inbound listener, switched off; the virtual host switches them on. So neither the first
policy nor a change of one touches a listener and its connections. Requests are told apart by expressions (CEL) over
what Envoy itself knows: the identity is that of the certificate which it verified, never a header.

A request takes a token from the bucket of each rule that it matches. Where it matches none it takes one from a bucket
that Envoy insists on, which is never empty; the headers that would tell of that one are taken away again.
"""

from collections.abc import Iterable, Sequence

from envoy.config.common.mutation_rules.v3 import mutation_rules_pb2
from envoy.config.core.v3 import base_pb2
from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.common.ratelimit.v3 import ratelimit_pb2
from envoy.extensions.filters.http.header_mutation.v3 import header_mutation_pb2
from envoy.extensions.filters.http.local_ratelimit.v3 import local_rate_limit_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.extensions.rate_limit_descriptors.expr.v3 import expr_pb2
from envoy.type.v3 import token_bucket_pb2
from google.protobuf import wrappers_pb2

from dataplane.compile.stamps import NAMESPACE, stamp
from dataplane.compile.tls import packed
from schemas.errors import InvalidInput
from schemas.names import ServiceRef, SpiffeId
from schemas.objects.rate_limit import LimitMatch, LimitSource, RateLimitPolicy, RateLimitRule
from schemas.objects.service import ServicePort

FILTER = "mesh.rate_limit"
HEADERS = "mesh.rate_limit.headers"
_STATS = "mesh"
# Buckets of clients of one port, of which the least lately used gives way: more than any service has callers.
MAX_CLIENTS = 10_000
_UNIT_SECONDS = {"Second": 1, "Minute": 60, "Hour": 3600, "Day": 24 * 3600}
_ENDLESS = 2**32 - 1
_CLIENT = "client"
_MATCHES = "true"
_IDENTITY = "connection.uri_san_peer_certificate"
# Without a certificate there is no such attribute, and a rule with a descriptor that gives nothing limits nobody.
_WHO = f"(connection.mtls ? {_IDENTITY} : 'plaintext')"
# draft-ietf-httpapi-ratelimit-headers-03
_RATE_HEADERS = ("x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset")
_BY_SIZE = "limits"
_ROOM = f"response.headers['{_RATE_HEADERS[0]}']"
LIMITED_BY = f"%CEL(xds.virtual_host_metadata.filter_metadata['{NAMESPACE}']['{_BY_SIZE}'][{_ROOM}])%"
"""For a log: the rule that refused. Envoy says of its bucket only how large it is, so rules that are alike in that are
named together."""
# What CEL takes in a string literal as it stands; all else is written by its number.
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~:/?#[]@!$&()*+,;=% ")


def rules_of(
    policies: Iterable[RateLimitPolicy], service: ServiceRef, port: ServicePort
) -> list[tuple[str, RateLimitRule]]:
    """Those that limit what comes to the port, by their names, in order: ``shop/orders[0]``."""
    found = []
    for policy in sorted(policies, key=lambda one: one.ref):
        if not targets(policy, service):
            continue
        for index, rule in enumerate(policy.spec.rules):
            if _is_for(rule, port):
                found.append((f"{policy.ref.namespace}/{policy.ref.name}[{index}]", rule))
    return found


def targets(policy: RateLimitPolicy, service: ServiceRef) -> bool:
    return policy.metadata.namespace == service.namespace and any(
        target.name == service.name for target in policy.spec.target_refs
    )


def _is_for(rule: RateLimitRule, port: ServicePort) -> bool:
    if rule.ports is not None and port.port not in rule.ports:
        return False
    # Of a tunnel nothing is known but who opens it.
    return port.protocol != "tcp" or not rule.matches or any(one.is_any for one in rule.matches)


def filters() -> list[hcm_pb2.HttpFilter]:
    """In the order of the chain, after those that authorize: who is refused takes nobody's tokens."""
    mutation = header_mutation_pb2.HeaderMutation()
    limit = local_rate_limit_pb2.LocalRateLimit(stat_prefix=_STATS)
    return [
        hcm_pb2.HttpFilter(name=HEADERS, typed_config=packed(mutation), disabled=True),
        hcm_pb2.HttpFilter(name=FILTER, typed_config=packed(limit), disabled=True),
    ]


def limit(
    host: route_components_pb2.VirtualHost, rules: Sequence[tuple[str, RateLimitRule]], trust_domain: str
) -> None:
    """Let `host` take no more than `rules` allow. trust_domain: the mesh's own."""
    if not rules:
        return
    config = local_rate_limit_pb2.LocalRateLimit(
        stat_prefix=_STATS,
        token_bucket=_bucket(_ENDLESS, _ENDLESS, 1),
        always_consume_default_token_bucket=wrappers_pb2.BoolValue(value=False),
        filter_enabled=_always(),
        filter_enforced=_always(),
        enable_x_ratelimit_headers=ratelimit_pb2.DRAFT_VERSION_03,
        rate_limited_as_resource_exhausted=True,
        max_dynamic_descriptors=wrappers_pb2.UInt32Value(value=MAX_CLIENTS),
    )
    by_size: dict[str, str] = {}
    for name, rule in rules:
        actions = config.rate_limits.add().actions
        descriptor = config.descriptors.add()
        condition = _condition(rule, trust_domain)
        if condition:
            actions.append(_expression(name, condition))
        else:
            actions.add().generic_key.CopyFrom(
                route_components_pb2.RateLimit.Action.GenericKey(descriptor_key=name, descriptor_value=_MATCHES)
            )
        descriptor.entries.add(key=name, value=_MATCHES)
        if rule.per == "Client":
            actions.append(_expression(_CLIENT, _WHO))
            descriptor.entries.add(key=_CLIENT)  # no value: a bucket for each that comes
        said = rule.limit
        size = said.burst or said.requests
        descriptor.token_bucket.CopyFrom(_bucket(size, said.requests, _UNIT_SECONDS[said.unit]))
        by_size[str(size)] = f"{by_size[str(size)]} or {name}" if str(size) in by_size else name
    stamp(host.metadata, **{_BY_SIZE: by_size})
    host.typed_per_filter_config[FILTER].CopyFrom(packed(config))
    per_route = header_mutation_pb2.HeaderMutationPerRoute()
    per_route.mutations.response_mutations.extend(_response_mutations())
    host.typed_per_filter_config[HEADERS].CopyFrom(packed(per_route))


def _bucket(holds: int, tokens: int, seconds: int) -> token_bucket_pb2.TokenBucket:
    bucket = token_bucket_pb2.TokenBucket(max_tokens=holds)
    bucket.tokens_per_fill.value = tokens
    bucket.fill_interval.seconds = seconds
    return bucket


def _always() -> base_pb2.RuntimeFractionalPercent:
    percent = base_pb2.RuntimeFractionalPercent()
    percent.default_value.numerator = 100
    return percent


def _expression(key: str, text: str) -> route_components_pb2.RateLimit.Action:
    action = route_components_pb2.RateLimit.Action()
    action.extension.name = "envoy.rate_limit_descriptors.expr"
    action.extension.typed_config.CopyFrom(packed(expr_pb2.Descriptor(descriptor_key=key, text=text)))
    return action


# -- who and what, as expressions


def _condition(rule: RateLimitRule, trust_domain: str) -> str:
    """Empty: it always holds."""
    parts = []
    if rule.from_ is not None:
        parts.append(_any(_source(one, trust_domain) for one in rule.from_))
    if rule.matches and not any(one.is_any for one in rule.matches):
        parts.append(_any(_match(one) for one in rule.matches))
    return " && ".join(parts)


def _any(alternatives: Iterable[str]) -> str:
    return f"({' || '.join(dict.fromkeys(alternatives))})"


def _source(source: LimitSource, trust_domain: str) -> str:
    parts = []
    if source.identities is not None:
        listed = ", ".join(_quoted(_spelled(one)) for one in source.identities)
        parts.append(f"{_IDENTITY} in [{listed}]" if listed else "false")
    if source.namespaces is not None:
        prefixes = (_quoted(f"spiffe://{trust_domain}/ns/{one}/") for one in source.namespaces)
        held = [f"{_IDENTITY}.startsWith({prefix})" for prefix in prefixes]
        parts.append(_any(held) if held else "false")
    return f"({' && '.join(parts)})" if parts else "true"


def _spelled(identity: str) -> str:
    """As it stands in certificates: scheme and trust domain in lower case."""
    try:
        return str(SpiffeId.parse(identity))
    except InvalidInput:
        return identity  # nobody's


def _match(match: LimitMatch) -> str:
    parts = []
    path, value = "request.url_path", match.path.value.rstrip("/")
    if match.path.type == "Exact":
        parts.append(f"{path} == {_quoted(match.path.value)}")
    elif value:
        parts.append(f"({path} == {_quoted(value)} || {path}.startsWith({_quoted(value + '/')}))")
    if match.method is not None:
        parts.append(f"request.method == {_quoted(match.method)}")
    for header in match.headers:
        name = _quoted(header.name.lower())
        parts.append(f"({name} in request.headers && request.headers[{name}] == {_quoted(header.value)})")
    return f"({' && '.join(parts)})" if parts else "true"


def _quoted(text: str) -> str:
    """A string literal of CEL (language definition, Values)."""
    return '"' + "".join(one if one in _PLAIN else f"\\U{ord(one):08x}" for one in text) + '"'


# -- what the caller is told


def _response_mutations() -> list[mutation_rules_pb2.HeaderMutation]:
    """``retry-after`` with what a limit refused; and no headers of a bucket that limits nobody.

    Nothing here can be done on a condition but what an expression gives, which where it is empty adds nothing: so what
    is to stay goes by another name while the rest is taken away.
    """
    limit, _, reset = _RATE_HEADERS
    refused = "response.code_details == 'local_rate_limited'"
    limited = f"response.headers['{limit}'] != '{_ENDLESS}'"
    made = [_set("retry-after", f"%CEL({refused} ? response.headers['{reset}'] : '')%")]
    for name in _RATE_HEADERS:
        made.append(_set(f"x-mesh-{name}", f"%CEL({limited} ? response.headers['{name}'] : '')%"))
    for name in _RATE_HEADERS:
        made += [_drop(name), _set(name, f"%RESP(x-mesh-{name})%"), _drop(f"x-mesh-{name}")]
    return made


def _drop(name: str) -> mutation_rules_pb2.HeaderMutation:
    return mutation_rules_pb2.HeaderMutation(remove=name)


def _set(name: str, value: str) -> mutation_rules_pb2.HeaderMutation:
    option = base_pb2.HeaderValueOption(append_action=base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD)
    option.header.key, option.header.value = name, value
    return mutation_rules_pb2.HeaderMutation(append=option)
