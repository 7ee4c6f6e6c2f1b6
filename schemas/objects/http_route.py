"""`HTTPRoute`: which HTTP requests to a service go where, and what is done with them (Gateway API v1)."""

from typing import Annotated, Literal

import msgspec

from schemas.objects.common import Name, Object, Part
from schemas.objects.route_filters import BackendFilter, HeaderMatch, HttpFilter, HttpMethod, MatchText, MatchType
from schemas.objects.route_parts import (
    MAX_BACKENDS,
    MAX_CONDITIONS,
    MAX_FILTERS,
    MAX_HOSTNAMES,
    MAX_MATCHES,
    MAX_PARENTS,
    MAX_RULES,
    HeaderName,
    Hostname,
    ParentRef,
    Retry,
    SessionPersistence,
    Timeouts,
    WeightedBackendRef,
)

PathText = Annotated[
    str,
    msgspec.Meta(pattern=r"^[!-~]{1,1024}\Z", description="a path (or expression) of 1 to 1024 ASCII characters"),
]


class PathMatch(Part, frozen=True, kw_only=True):
    """`PathPrefix` goes by whole segments: /a matches /a and /a/b, not /ab. None of them sees the query."""

    type: Literal["Exact", "PathPrefix", "RegularExpression"] = "PathPrefix"
    value: PathText = "/"


class QueryParamMatch(Part, frozen=True, kw_only=True):
    """Of a parameter that stands there several times the first counts."""

    type: MatchType = "Exact"
    name: HeaderName
    value: MatchText


class HTTPRouteMatch(Part, frozen=True, kw_only=True):
    """Everything that is given must match."""

    path: PathMatch = PathMatch()
    headers: Annotated[tuple[HeaderMatch, ...], msgspec.Meta(max_length=MAX_CONDITIONS)] = ()
    query_params: Annotated[tuple[QueryParamMatch, ...], msgspec.Meta(max_length=MAX_CONDITIONS)] = ()
    method: HttpMethod | None = None


class HTTPBackendRef(WeightedBackendRef, frozen=True, kw_only=True):
    filters: Annotated[tuple[BackendFilter, ...], msgspec.Meta(max_length=MAX_FILTERS)] = ()


class HTTPRouteRule(Part, frozen=True, kw_only=True):
    """For requests that any of `matches` matches; without matches, for all."""

    name: Name | None = None
    matches: Annotated[tuple[HTTPRouteMatch, ...], msgspec.Meta(max_length=MAX_MATCHES)] = ()
    filters: Annotated[tuple[HttpFilter, ...], msgspec.Meta(max_length=MAX_FILTERS)] = ()
    backend_refs: Annotated[tuple[HTTPBackendRef, ...], msgspec.Meta(max_length=MAX_BACKENDS)] = ()
    timeouts: Timeouts = Timeouts()
    retry: Retry | None = None
    session_persistence: SessionPersistence | None = None


class HTTPRouteSpec(Part, frozen=True, kw_only=True):
    parent_refs: Annotated[tuple[ParentRef, ...], msgspec.Meta(min_length=1, max_length=MAX_PARENTS)]
    hostnames: Annotated[tuple[Hostname, ...], msgspec.Meta(max_length=MAX_HOSTNAMES)] = ()
    """Only requests whose Host is one of these; all where absent."""
    rules: Annotated[tuple[HTTPRouteRule, ...], msgspec.Meta(min_length=1, max_length=MAX_RULES)]


class HTTPRoute(Object, frozen=True, kw_only=True, tag="HTTPRoute"):
    spec: HTTPRouteSpec
