"""A route's condition ▸ Envoy's RouteMatch. What the two mean is the same: routing/conditions.py."""

from envoy.config.route.v3 import route_components_pb2
from envoy.type.matcher.v3 import regex_pb2, string_pb2

from routing.conditions import Condition, Text


def route_match(condition: Condition) -> route_components_pb2.RouteMatch:
    match = route_components_pb2.RouteMatch()
    path = condition.path
    if path.kind == "exact":
        match.path = path.value
    elif path.kind == "regex":
        match.safe_regex.CopyFrom(regex(path.value))
    elif path.value:
        match.path_separated_prefix = path.value
    else:
        match.prefix = "/"
    if condition.host is not None:
        match.headers.append(_host(condition.host))
    if condition.grpc:
        match.grpc.SetInParent()
    if condition.method is not None:
        match.headers.append(header(Text(":method", condition.method)))
    match.headers.extend(header(one) for one in condition.headers)
    for one in condition.query:
        match.query_parameters.add(name=one.name, string_match=_string(one))
    return match


def header(text: Text) -> route_components_pb2.HeaderMatcher:
    return route_components_pb2.HeaderMatcher(name=text.name, string_match=_string(text))


def regex(expression: str) -> regex_pb2.RegexMatcher:
    return regex_pb2.RegexMatcher(regex=expression)


def _string(text: Text) -> string_pb2.StringMatcher:
    if text.regex:
        return string_pb2.StringMatcher(safe_regex=regex(text.value))
    return string_pb2.StringMatcher(exact=text.value)


def _host(host: str) -> route_components_pb2.HeaderMatcher:
    """Host names know no case, and a port may stand behind them."""
    name = host.removeprefix("*").replace(".", r"\.")
    any_label = "[^:]+" if host.startswith("*") else ""
    return header(Text(":authority", f"(?i){any_label}{name}(?::[0-9]*)?", regex=True))
