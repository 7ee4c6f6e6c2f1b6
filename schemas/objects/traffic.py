"""`BackendTrafficPolicy`: how callers spread their requests over the instances of a service."""

from typing import Annotated, Literal

import msgspec

from schemas.objects.common import Object, Part, TargetRef


class LoadBalancer(Part, frozen=True, kw_only=True):
    type: Literal["LeastRequest", "RoundRobin"] = "LeastRequest"


class BackendTrafficPolicySpec(Part, frozen=True, kw_only=True):
    target_refs: Annotated[tuple[TargetRef, ...], msgspec.Meta(min_length=1)]
    load_balancer: LoadBalancer = LoadBalancer()


class BackendTrafficPolicy(Object, frozen=True, kw_only=True, tag="BackendTrafficPolicy"):
    spec: BackendTrafficPolicySpec
