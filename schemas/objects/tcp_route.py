"""`TCPRoute`: where the connections to a TCP port of a service go (Gateway API v1alpha2)."""

from typing import Annotated

import msgspec

from schemas.objects.common import Name, Object, Part
from schemas.objects.route_parts import MAX_BACKENDS, MAX_PARENTS, ParentRef, WeightedBackendRef


class TCPRouteRule(Part, frozen=True, kw_only=True):
    name: Name | None = None
    backend_refs: Annotated[tuple[WeightedBackendRef, ...], msgspec.Meta(min_length=1, max_length=MAX_BACKENDS)]


class TCPRouteSpec(Part, frozen=True, kw_only=True):
    parent_refs: Annotated[tuple[ParentRef, ...], msgspec.Meta(min_length=1, max_length=MAX_PARENTS)]
    rules: Annotated[tuple[TCPRouteRule, ...], msgspec.Meta(min_length=1, max_length=1)]
    """One: nothing tells one TCP connection from another."""


class TCPRoute(Object, frozen=True, kw_only=True, tag="TCPRoute"):
    spec: TCPRouteSpec
