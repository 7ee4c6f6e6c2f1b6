"""A route of Envoy's ▸ which requests it is for, and what is done with them, in words. Pure."""

from collections.abc import Iterator
from typing import Any

from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.filters.http.cors.v3 import cors_pb2
from envoy.extensions.filters.http.fault.v3 import fault_pb2

from dataplane.compile.route_actions import RETRY_ON
from dataplane.compile.route_filters import CORS, FAULT, SESSION
from dataplane.inspection.numbers import share, span

# What others of `retry_on` are said by.
_SAID_OTHERWISE = {*RETRY_ON, "retriable-headers", "retriable-status-codes"}


def route_words(route: Any) -> str:
    return " ".join((_match(route), "→", ", ".join((_action(route), *_filters(route)))))


def _match(route: Any) -> str:
    match = route.match
    kind = match.WhichOneof("path_specifier")
    text = {
        "prefix": f"{match.prefix}*",
        "path": match.path,
        "path_separated_prefix": f"{match.path_separated_prefix} and below",
        "safe_regex": f"~{match.safe_regex.regex}",
        "connect_matcher": "CONNECT",
    }.get(kind, str(kind))
    headers = [f"{'no ' if one.invert_match else ''}{one.name}" for one in match.headers]
    headers += [f"?{one.name}" for one in match.query_parameters]
    named = f" ({route.name})" if route.name else ""
    return str(text) + (f" with {', '.join(headers)}" if headers else "") + named


def _action(route: Any) -> str:
    match route.WhichOneof("action"):
        case "direct_response":
            body = route.direct_response.body.inline_string.strip()
            return f"answers {route.direct_response.status}{f' {body!r}' if body else ''}"
        case "redirect":
            return _redirect(route.redirect)
    return ", ".join((_where(route.route), *_how(route.route)))


def _redirect(redirect: Any) -> str:
    code = route_components_pb2.RedirectAction.RedirectResponseCode.Name(redirect.response_code)
    parts = (
        ("scheme", redirect.scheme_redirect or ("https" if redirect.https_redirect else "")),
        ("host", redirect.host_redirect),
        ("port", redirect.port_redirect or ""),
        ("path", redirect.path_redirect),
        ("prefix", redirect.prefix_rewrite),
        ("path by", _substitution(redirect.regex_rewrite)),
    )
    to = ", ".join(f"{name} {value}" for name, value in parts if value)
    return f"redirects ({code.lower().replace('_', ' ')}) to {to or 'the same'}"


def _where(action: Any) -> str:
    match action.WhichOneof("cluster_specifier"):
        case "weighted_clusters":
            parts = [
                f"{one.name} ({', '.join((str(one.weight.value), *_changes(one)))})"
                for one in action.weighted_clusters.clusters
            ]
            return f"one of {', '.join(parts)}"
        case "cluster_header":
            return f"the cluster that {action.cluster_header} names, learnt if need be"
        case _:
            return str(action.cluster)


def _how(action: Any) -> Iterator[str]:
    if action.host_rewrite_literal:
        yield f"as host {action.host_rewrite_literal}"
    if action.prefix_rewrite:
        yield f"with prefix {action.prefix_rewrite} instead"
    if action.HasField("regex_rewrite"):
        yield f"with path by {_substitution(action.regex_rewrite)}"
    if action.timeout.ToNanoseconds():
        yield f"within {span(action.timeout)}"
    if action.HasField("idle_timeout"):
        yield f"closed after {span(action.idle_timeout)} without a byte"
    if action.HasField("max_stream_duration"):
        yield f"ended after {span(action.max_stream_duration.max_stream_duration)}"
    if action.HasField("retry_policy"):
        yield from _retries(action.retry_policy)
    for mirror in action.request_mirror_policies:
        yield f"copies {share(mirror.runtime_fraction.default_value)}them to {mirror.cluster}"
    for one in action.hash_policy:
        kind = one.WhichOneof("policy_specifier")
        named = {"header": one.header.header_name, "cookie": one.cookie.name}.get(kind, "")
        yield f"to one instance by {kind.replace('_properties', '').replace('connection', 'source')} {named}".rstrip()


def _retries(policy: Any) -> Iterator[str]:
    if policy.per_try_timeout.ToNanoseconds():
        yield f"each try within {span(policy.per_try_timeout)}"
    if not policy.num_retries.value:
        yield "never tried again"
        return
    on = [one for one in policy.retry_on.split(",") if one not in _SAID_OTHERWISE]
    on += map(str, policy.retriable_status_codes)
    text = f"up to {policy.num_retries.value} retries if no app was reached" + (
        f", or on {', '.join(on)}" if on else ""
    )
    if policy.HasField("retry_back_off"):
        text += f", after {span(policy.retry_back_off.base_interval)} to {span(policy.retry_back_off.max_interval)}"
    yield text


def _substitution(rewrite: Any) -> str:
    return f"{rewrite.pattern.regex} ⇒ {rewrite.substitution}" if rewrite.pattern.regex else ""


def _filters(route: Any) -> Iterator[str]:
    yield from _changes(route)
    own = route.typed_per_filter_config
    if FAULT in own:
        fault = fault_pb2.HTTPFault.FromString(own[FAULT].value)
        only = f" where {', '.join(one.name for one in fault.headers)}" if fault.headers else ""
        if fault.HasField("delay"):
            yield f"delays {share(fault.delay.percentage)}them by {span(fault.delay.fixed_delay)}{only}"
        if fault.HasField("abort"):
            status = fault.abort.http_status or f"gRPC {fault.abort.grpc_status}"
            yield f"aborts {share(fault.abort.percentage)}them with {status}{only}"
    if CORS in own:
        policy = cors_pb2.CorsPolicy.FromString(own[CORS].value)
        origins = (one.exact or f"~{one.safe_regex.regex}" for one in policy.allow_origin_string_match)
        yield f"CORS for {', '.join(origins)}"
    if SESSION in own:
        yield "keeps sessions"


def _changes(to: Any) -> Iterator[str]:
    """to: a route, or one of the shares of a route."""
    for of in ("request", "response"):
        added, removed = getattr(to, f"{of}_headers_to_add"), getattr(to, f"{of}_headers_to_remove")
        if added or removed:
            names = [*(f"+{one.header.key}" for one in added), *(f"-{name}" for name in removed)]
            yield f"{of} headers {' '.join(names)}"
