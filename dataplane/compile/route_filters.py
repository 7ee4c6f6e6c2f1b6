"""The filters of a rule ▸ the fields of an Envoy route, and the configuration of HTTP filters for that route alone.

Those filters stand in every outbound chain, switched off: a route that needs one switches it on, so that no change of
a route changes a listener.
"""

import hashlib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from envoy.config.core.v3 import base_pb2, extension_pb2
from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.filters.common.fault.v3 import fault_pb2 as common_fault_pb2
from envoy.extensions.filters.http.cors.v3 import cors_pb2
from envoy.extensions.filters.http.fault.v3 import fault_pb2
from envoy.extensions.filters.http.stateful_session.v3 import stateful_session_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.extensions.http.stateful_session.cookie.v3 import cookie_pb2 as session_cookie_pb2
from envoy.extensions.http.stateful_session.header.v3 import header_pb2 as session_header_pb2
from envoy.type.matcher.v3 import regex_pb2, string_pb2
from envoy.type.v3 import percent_pb2
from google.protobuf import duration_pb2

from dataplane.compile import tls
from dataplane.compile.route_match import header, regex
from routing.conditions import Path, Text
from schemas.durations import milliseconds
from schemas.objects.route_filters import AnyFilter, Cors, Fault, PathModifier, RequestRedirect, UrlRewrite
from schemas.objects.route_parts import SessionPersistence

CORS = "mesh.cors"
FAULT = "mesh.fault"
SESSION = "mesh.session"

_Append = base_pb2.HeaderValueOption
_Redirect = route_components_pb2.RedirectAction
_MILLION = 1_000_000
_REDIRECT_CODES = {
    301: _Redirect.MOVED_PERMANENTLY,
    302: _Redirect.FOUND,
    303: _Redirect.SEE_OTHER,
    307: _Redirect.TEMPORARY_REDIRECT,
    308: _Redirect.PERMANENT_REDIRECT,
}
_WELL_KNOWN = {"http": 80, "https": 443}


def dormant_filters() -> list[hcm_pb2.HttpFilter]:
    """In the order in which a request meets them: a preflight is answered before a fault could hit it."""
    found = (
        (CORS, cors_pb2.Cors()),
        (FAULT, fault_pb2.HTTPFault()),
        (SESSION, stateful_session_pb2.StatefulSession()),
    )
    return [hcm_pb2.HttpFilter(name=name, typed_config=tls.packed(one), disabled=True) for name, one in found]


def apply_filters(route: route_components_pb2.Route, filters: Sequence[AnyFilter], path: Path) -> None:
    """All but redirects and mirrors, which are part of the route's action. `path`: what the route matches by."""
    for one in filters:
        header_modifier(route, one)
        rewrite = getattr(one, "url_rewrite", None)
        if rewrite is not None and route.WhichOneof("action") == "route":
            _rewrite(route.route, rewrite, path)
        cors, fault = getattr(one, "cors", None), getattr(one, "fault", None)
        if cors is not None:
            route.typed_per_filter_config[CORS].CopyFrom(tls.packed(_cors(cors)))
        if fault is not None:
            route.typed_per_filter_config[FAULT].CopyFrom(tls.packed(_fault(fault)))


def header_modifier(to: Any, one: AnyFilter) -> None:
    """to: a Route, or a ClusterWeight, which have the same fields."""
    for modifier, added, removed in (
        (one.request_header_modifier, to.request_headers_to_add, to.request_headers_to_remove),
        (one.response_header_modifier, to.response_headers_to_add, to.response_headers_to_remove),
    ):
        if modifier is None:
            continue
        for values, how in (
            (modifier.set, _Append.OVERWRITE_IF_EXISTS_OR_ADD),
            (modifier.add, _Append.APPEND_IF_EXISTS_OR_ADD),
        ):
            for value in values:
                option = added.add(append_action=how, keep_empty_value=True)
                option.header.key, option.header.value = value.name, _literal(value.value)
        removed.extend(modifier.remove)


def _literal(text: str) -> str:
    """% begins a command in Envoy's header values."""
    return text.replace("%", "%%")


# -- rewrites and redirects


def _rewrite(action: route_components_pb2.RouteAction, rewrite: UrlRewrite, path: Path) -> None:
    if rewrite.hostname is not None:
        action.host_rewrite_literal = rewrite.hostname
    if rewrite.path is None:
        return
    if rewrite.path.type == "ReplaceFullPath":
        action.regex_rewrite.CopyFrom(_substitute("^/.*$", rewrite.path.replace_full_path or "/"))
        return
    _replace_prefix(action, rewrite.path, path)


class Way(NamedTuple):
    """How requests come that a route is for."""

    scheme: str
    port: int


def redirect_of(redirect: RequestRedirect, path: Path, way: Way) -> route_components_pb2.RedirectAction:
    """Where nothing says otherwise the way stays. A port that the scheme means anyhow is left out of the answer, as far
    as Envoy can: it knows no port that `Host` has not (Gateway API, HTTPRequestRedirectFilter.port: SHOULD NOT)."""
    action = _Redirect(response_code=_REDIRECT_CODES[redirect.status_code])
    if redirect.scheme is not None:
        action.scheme_redirect = redirect.scheme
    if redirect.hostname is not None:
        action.host_redirect = redirect.hostname
    port = redirect.port or (_WELL_KNOWN[redirect.scheme] if redirect.scheme is not None else way.port)
    is_meant = port == _WELL_KNOWN[redirect.scheme or way.scheme]
    # Else the port of the request's `Host` would stay, but for one that the former scheme means.
    bare = redirect.hostname is not None or way.port == _WELL_KNOWN[way.scheme]
    says_nothing = redirect.hostname is None and redirect.scheme is None and redirect.port is None
    if not says_nothing and not (is_meant and bare):
        action.port_redirect = port
    if redirect.path is not None and redirect.path.type == "ReplaceFullPath":
        action.path_redirect = redirect.path.replace_full_path or "/"
    elif redirect.path is not None:
        _replace_prefix(action, redirect.path, path)
    return action


def _replace_prefix(action: Any, modifier: PathModifier, path: Path) -> None:
    """action: a RouteAction or a RedirectAction. What is left behind the prefix begins with a slash, or is nothing."""
    by = (modifier.replace_prefix_match or "").rstrip("/")
    if by and path.value:
        action.prefix_rewrite = by
    elif by:  # the prefix / is all paths
        action.regex_rewrite.CopyFrom(_substitute("^/", f"{by}/"))
    elif path.value:
        action.regex_rewrite.CopyFrom(_substitute(f"^{_quoted(path.value)}/?", "/"))


def _substitute(pattern: str, by: str) -> regex_pb2.RegexMatchAndSubstitute:
    return regex_pb2.RegexMatchAndSubstitute(pattern=regex(pattern), substitution=by.replace("\\", r"\\"))


def _quoted(text: str) -> str:
    return re.sub(r"([^A-Za-z0-9_/])", r"\\\1", text)


# -- HTTP filters


def _fraction(percentage: float) -> percent_pb2.FractionalPercent:
    return percent_pb2.FractionalPercent(
        numerator=round(percentage * _MILLION / 100), denominator=percent_pb2.FractionalPercent.MILLION
    )


def _fault(fault: Fault) -> fault_pb2.HTTPFault:
    config = fault_pb2.HTTPFault()
    if fault.delay is not None:
        config.delay.CopyFrom(
            common_fault_pb2.FaultDelay(
                fixed_delay=_duration(fault.delay.fixed_delay), percentage=_fraction(fault.delay.percentage)
            )
        )
    if fault.abort is not None:
        config.abort.percentage.CopyFrom(_fraction(fault.abort.percentage))
        if fault.abort.http_status is not None:
            config.abort.http_status = fault.abort.http_status
        else:
            config.abort.grpc_status = fault.abort.grpc_status or 0
    config.headers.extend(
        header(Text(one.name.lower(), one.value, one.type == "RegularExpression")) for one in fault.headers
    )
    return config


def _cors(cors: Cors) -> cors_pb2.CorsPolicy:
    policy = cors_pb2.CorsPolicy(
        allow_origin_string_match=[_origin(one) for one in cors.allow_origins],
        allow_methods=",".join(cors.allow_methods),
        allow_headers=",".join(cors.allow_headers),
        expose_headers=",".join(cors.expose_headers),
        max_age=str(cors.max_age),
    )
    policy.allow_credentials.value = cors.allow_credentials
    policy.forward_not_matching_preflights.value = False
    return policy


def _origin(origin: str) -> string_pb2.StringMatcher:
    if "*" not in origin:
        return string_pb2.StringMatcher(exact=origin)
    if origin == "*":
        return string_pb2.StringMatcher(safe_regex=regex(".*"))
    scheme, _, rest = origin.partition("://")
    if rest == "*":
        return string_pb2.StringMatcher(safe_regex=regex(f"{_quoted(scheme)}://.+"))
    host, _, port = rest.partition(":")
    host = f"[^/:]+{_quoted(host[1:])}" if host.startswith("*.") else _quoted(host)
    port = "" if not port else "(?::[0-9]+)?" if port == "*" else f":{port}"
    return string_pb2.StringMatcher(safe_regex=regex(f"{_quoted(scheme)}://{host}{port}"))


def session_config(route: route_components_pb2.Route, session: SessionPersistence) -> None:
    """A request that names an instance goes there while it lives; else one is chosen, and named in the answer."""
    if session.type == "Header":
        state: Any = session_header_pb2.HeaderBasedSessionState(name=session.session_name)
        kind = "header"
    else:
        state = session_cookie_pb2.CookieBasedSessionState()
        state.cookie.name, state.cookie.path = session.session_name, "/"
        if session.absolute_timeout is not None:
            state.cookie.ttl.seconds = milliseconds(session.absolute_timeout) // 1000
        kind = "cookie"
    config = stateful_session_pb2.StatefulSessionPerRoute()
    config.stateful_session.session_state.CopyFrom(
        extension_pb2.TypedExtensionConfig(name=f"envoy.http.stateful_session.{kind}", typed_config=tls.packed(state))
    )
    route.typed_per_filter_config[SESSION].CopyFrom(tls.packed(config))


def keep_backend(share: route_components_pb2.WeightedCluster.ClusterWeight, session: SessionPersistence) -> None:
    """An answer of that backend says so in a cookie of its own."""
    how = "; Path=/; HttpOnly"
    if session.absolute_timeout is not None:
        how += f"; Max-Age={milliseconds(session.absolute_timeout) // 1000}"
    option = share.response_headers_to_add.add(append_action=_Append.APPEND_IF_EXISTS_OR_ADD)
    option.header.key = "set-cookie"
    option.header.value = _literal(f"{session.session_name}-backend={_token(share.name)}{how}")


def kept_backend(cluster: str, session: SessionPersistence) -> route_components_pb2.HeaderMatcher:
    """A request that carries that cookie."""
    cookie = f"{_quoted(session.session_name)}-backend={_token(cluster)}"
    return header(Text("cookie", f"(?:.*[;,] *)?{cookie}(?:[;,].*)?", regex=True))


def _token(cluster: str) -> str:
    """Tells a backend from others, and nobody what it is."""
    return hashlib.blake2b(cluster.encode(), digest_size=6).hexdigest()


def _duration(text: str) -> duration_pb2.Duration:
    result = duration_pb2.Duration()
    result.FromMilliseconds(milliseconds(text))
    return result
