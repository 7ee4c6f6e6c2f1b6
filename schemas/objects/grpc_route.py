"""`GRPCRoute`: which gRPC calls to a service go where, and what is done with them (Gateway API v1)."""

from typing import Annotated

import msgspec

from schemas.objects.common import Name, Object, Part
from schemas.objects.route_filters import BackendFilter, GrpcFilter, HeaderMatch, MatchType
from schemas.objects.route_parts import (
    MAX_BACKENDS,
    MAX_CONDITIONS,
    MAX_FILTERS,
    MAX_HOSTNAMES,
    MAX_MATCHES,
    MAX_PARENTS,
    MAX_RULES,
    Hostname,
    ParentRef,
    Retry,
    SessionPersistence,
    Timeouts,
    WeightedBackendRef,
)

GrpcName = Annotated[
    str, msgspec.Meta(pattern=r"^[!-.0-~]{1,1024}\Z", description="1 to 1024 ASCII characters without '/'")
]


class GRPCMethodMatch(Part, frozen=True, kw_only=True):
    """At least one of the two; the other is any."""

    type: MatchType = "Exact"
    service: GrpcName | None = None
    """With its package: ``shop.v1.Payments``."""
    method: GrpcName | None = None


class GRPCRouteMatch(Part, frozen=True, kw_only=True):
    """Everything that is given must match."""

    method: GRPCMethodMatch | None = None
    headers: Annotated[tuple[HeaderMatch, ...], msgspec.Meta(max_length=MAX_CONDITIONS)] = ()


class GRPCBackendRef(WeightedBackendRef, frozen=True, kw_only=True):
    filters: Annotated[tuple[BackendFilter, ...], msgspec.Meta(max_length=MAX_FILTERS)] = ()


class GRPCRouteRule(Part, frozen=True, kw_only=True):
    """For calls that any of `matches` matches; without matches, for all."""

    name: Name | None = None
    matches: Annotated[tuple[GRPCRouteMatch, ...], msgspec.Meta(max_length=MAX_MATCHES)] = ()
    filters: Annotated[tuple[GrpcFilter, ...], msgspec.Meta(max_length=MAX_FILTERS)] = ()
    backend_refs: Annotated[tuple[GRPCBackendRef, ...], msgspec.Meta(max_length=MAX_BACKENDS)] = ()
    timeouts: Timeouts = Timeouts()
    retry: Retry | None = None
    session_persistence: SessionPersistence | None = None


class GRPCRouteSpec(Part, frozen=True, kw_only=True):
    parent_refs: Annotated[tuple[ParentRef, ...], msgspec.Meta(min_length=1, max_length=MAX_PARENTS)]
    hostnames: Annotated[tuple[Hostname, ...], msgspec.Meta(max_length=MAX_HOSTNAMES)] = ()
    """Only calls whose :authority is one of these; all where absent."""
    rules: Annotated[tuple[GRPCRouteRule, ...], msgspec.Meta(min_length=1, max_length=MAX_RULES)]


class GRPCRoute(Object, frozen=True, kw_only=True, tag="GRPCRoute"):
    spec: GRPCRouteSpec
