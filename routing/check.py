"""What a route must hold beyond its schema, whatever else is in the mesh. Pure.

Replicas refuse what fails here with the path of each field; a sidecar that meets it in etcd all the same keeps the last
good value. So no route can make Envoy refuse a RouteConfiguration, which would hold up every other route in it.
"""

import re
from collections.abc import Iterator, Sequence

from routing import expressions
from routing.check_filters import filter_faults
from routing.table import AnyRule
from schemas.checking import Fault, Path
from schemas.durations import milliseconds
from schemas.objects import AnyRoute
from schemas.objects.grpc_route import GRPCBackendRef, GRPCMethodMatch, GRPCRouteRule
from schemas.objects.http_route import HTTPBackendRef, HTTPRouteMatch, HTTPRouteRule, PathMatch
from schemas.objects.route_filters import HeaderMatch
from schemas.objects.route_parts import Retry, SessionPersistence, Timeouts

_GRPC_SERVICE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")
_GRPC_METHOD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# What normalisation takes out of a path before it is matched: such a value would never match anything.
_NEVER_IN_A_PATH = ("//", "/./", "/../", "%2f", "%2F", "#", "?", "\\")


def route_faults(route: AnyRoute) -> Iterator[Fault]:
    """In the order of the fields; paths from the object on, ``("spec", "rules", 0, …)``."""
    for index, parent in enumerate(route.spec.parent_refs):
        if parent in route.spec.parent_refs[:index]:
            yield Fault(("spec", "parentRefs", index), "the same parent a second time", "name it once")
    rules: tuple[AnyRule, ...] = route.spec.rules
    names = [rule.name for rule in rules]
    for index, rule in enumerate(rules):
        path: Path = ("spec", "rules", index)
        if rule.name is not None and rule.name in names[:index]:
            yield Fault((*path, "name"), f"a second rule of the name {rule.name!r}", "give each a name of its own")
        match rule:
            case HTTPRouteRule():
                for number, match in enumerate(rule.matches):
                    yield from _http_match((*path, "matches", number), match)
                yield from _http_rule(path, rule)
            case GRPCRouteRule():
                for number, call in enumerate(rule.matches):
                    if call.method is not None:
                        yield from _grpc_method((*path, "matches", number, "method"), call.method)
                    yield from header_faults((*path, "matches", number, "headers"), call.headers)
                yield from _rule(path, rule)


def _http_match(path: Path, match: HTTPRouteMatch) -> Iterator[Fault]:
    yield from _path((*path, "path", "value"), match.path)
    yield from header_faults((*path, "headers"), match.headers)
    for index, one in enumerate(match.query_params):
        if one.name in [other.name for other in match.query_params[:index]]:
            yield Fault((*path, "queryParams", index, "name"), f"{one.name!r} a second time", "name it once")
        if one.type == "RegularExpression":
            yield from _expression((*path, "queryParams", index, "value"), one.value)


def _path(path: Path, match: PathMatch) -> Iterator[Fault]:
    if match.type == "RegularExpression":
        yield from _expression(path, match.value)
        return
    if not match.value.startswith("/"):
        yield Fault(path, f"expected a path that starts with /, got {match.value[:80]!r}", "write it from the root")
    found = next((part for part in _NEVER_IN_A_PATH if part in match.value), None)
    if found is not None or match.value.endswith(("/.", "/..")):
        what = repr(found) if found else "a last segment of dots"
        yield Fault(path, f"{what} in a path never matches: paths are normalised first", "write it normalised")


def header_faults(path: Path, headers: Sequence[HeaderMatch]) -> Iterator[Fault]:
    """Also of the headers that a fault is for."""
    names = [one.name.lower() for one in headers]
    for index, one in enumerate(headers):
        if names[index] in names[:index]:
            yield Fault((*path, index, "name"), f"{one.name!r} a second time", "name it once")
        if one.type == "RegularExpression":
            yield from _expression((*path, index, "value"), one.value)


def _grpc_method(path: Path, match: GRPCMethodMatch) -> Iterator[Fault]:
    if match.service is None and match.method is None:
        yield Fault(path, "names neither a service nor a method", "name one of them, or leave `method` out")
    for field, value, form in (("service", match.service, _GRPC_SERVICE), ("method", match.method, _GRPC_METHOD)):
        if value is None:
            continue
        if match.type == "RegularExpression":
            # It becomes part of a longer one, where (?i) may not stand.
            yield from _expression((*path, field), f"(?:{value})")
        elif not form.fullmatch(value):
            yield Fault(
                (*path, field), f"{value[:80]!r} is no name of a gRPC {field}", "write it as in the .proto file"
            )


def _expression(path: Path, value: str) -> Iterator[Fault]:
    try:
        expressions.check(value)
    except expressions.BadExpression as error:
        yield Fault(path, f"not a regular expression that sidecars take: {error}", "see docs/routing.md, Expressions")


def _http_rule(path: Path, rule: HTTPRouteRule) -> Iterator[Fault]:
    yield from _rule(path, rule)
    redirects = any(one.request_redirect for one in rule.filters)
    if redirects and rule.backend_refs:
        yield Fault(
            (*path, "backendRefs"), "a redirect is an answer: nothing goes to a backend", "leave one of them out"
        )
    prefixes = all(match.path.type == "PathPrefix" for match in rule.matches)
    for index, one in enumerate(rule.filters):
        for field, found in (("requestRedirect", one.request_redirect), ("urlRewrite", one.url_rewrite)):
            if (
                found is not None
                and found.path is not None
                and found.path.type == "ReplacePrefixMatch"
                and not prefixes
            ):
                where: Path = (*path, "filters", index, field, "path")
                yield Fault(where, "replaces a prefix, and a match of the rule has none", "match by PathPrefix only")


def _rule(path: Path, rule: HTTPRouteRule | GRPCRouteRule) -> Iterator[Fault]:
    yield from filter_faults((*path, "filters"), rule.filters)
    if not rule.backend_refs and not any(getattr(one, "request_redirect", None) for one in rule.filters):
        yield Fault((*path, "backendRefs"), "leads nowhere: every request would be answered 500", "name a backend")
    backends: Sequence[HTTPBackendRef | GRPCBackendRef] = rule.backend_refs
    for index, backend in enumerate(backends):
        yield from filter_faults((*path, "backendRefs", index, "filters"), backend.filters, of_backend=True)
    yield from _timeouts((*path, "timeouts"), rule.timeouts)
    if rule.retry is not None:
        yield from _retry((*path, "retry"), rule.retry)
    if rule.session_persistence is not None:
        yield from _session((*path, "sessionPersistence"), rule.session_persistence)
        if rule.session_persistence.type == "Header" and sum(1 for one in backends if one.weight) > 1:
            message = "a session by header can't keep one of several backends"
            yield Fault((*path, "sessionPersistence", "type"), message, "use type: Cookie, or one backend")


def _timeouts(path: Path, timeouts: Timeouts) -> Iterator[Fault]:
    whole = milliseconds(timeouts.request) if timeouts.request else 0
    each = milliseconds(timeouts.backend_request) if timeouts.backend_request else 0
    if whole and each > whole:
        message = f"{timeouts.backend_request} for a try is longer than {timeouts.request} for all of them"
        yield Fault((*path, "backendRequest"), message, "make it shorter than `request`")


def _retry(path: Path, retry: Retry) -> Iterator[Fault]:
    base = milliseconds(retry.backoff) if retry.backoff is not None else 25
    if base == 0:
        yield Fault((*path, "backoff"), "no time at all between tries", "write 1ms or more")
    if retry.max_backoff is not None and milliseconds(retry.max_backoff) < base:
        yield Fault((*path, "maxBackoff"), f"{retry.max_backoff} is shorter than the first one", "make it longer")


def _session(path: Path, session: SessionPersistence) -> Iterator[Fault]:
    permanent = session.cookie_config.lifetime_type == "Permanent"
    if session.type == "Header" and (permanent or session.absolute_timeout is not None):
        field = "cookieConfig" if permanent else "absoluteTimeout"
        yield Fault((*path, field), "a header has no lifetime", "leave it out, or use type: Cookie")
    elif permanent != (session.absolute_timeout is not None):
        message = "a Permanent cookie lives for `absoluteTimeout`, a Session cookie until the browser ends"
        yield Fault((*path, "absoluteTimeout"), message, "give both lifetimeType: Permanent and it, or neither")
    elif session.absolute_timeout is not None and milliseconds(session.absolute_timeout) < 1000:
        yield Fault((*path, "absoluteTimeout"), "shorter than a second", "cookies count in seconds")
