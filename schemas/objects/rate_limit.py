"""`RateLimitPolicy`: how often a service is called, by each of its callers or by all together.

The sidecar of the service that is called acts on it, each instance for itself. `matches` as in Gateway API's HTTPRoute,
`from` as in an AuthorizationPolicy, in part, `limit` as Envoy Gateway has it.
"""

from typing import Annotated, Literal

import msgspec

from schemas.objects.authorization import Identity
from schemas.objects.common import Name, Object, Part, Port, TargetRef
from schemas.objects.route_filters import HttpMethod
from schemas.objects.route_parts import HeaderName

# Each is a condition that is evaluated for each request.
MAX_RULES = 16
MAX_MATCHES = 16
MAX_HEADERS = 8
MAX_SOURCES = 64

Requests = Annotated[int, msgspec.Meta(ge=1, le=10_000_000)]
# RFC 3986, 3.3: what Envoy leaves as it is when it normalises a path.
PlainPath = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^/[A-Za-z0-9._~!$&'()*+,;=:@%/-]{0,1023}\Z",
        description="a path of at most 1024 characters, from / on, without a query",
    ),
]
HeaderText = Annotated[
    str, msgspec.Meta(pattern=r"^[ -~]{1,1024}\Z", description="1 to 1024 printable ASCII characters")
]


class LimitPath(Part, frozen=True, kw_only=True):
    """`PathPrefix` goes by whole segments: /a matches /a and /a/b, not /ab. Neither sees the query."""

    type: Literal["Exact", "PathPrefix"] = "PathPrefix"
    value: PlainPath = "/"


class LimitHeader(Part, frozen=True, kw_only=True):
    type: Literal["Exact"] = "Exact"
    name: HeaderName
    value: HeaderText


class LimitMatch(Part, frozen=True, kw_only=True):
    """Everything that is given must match. A gRPC call's path is ``/package.Service/Method``."""

    path: LimitPath = LimitPath()
    method: HttpMethod | None = None
    headers: Annotated[tuple[LimitHeader, ...], msgspec.Meta(max_length=MAX_HEADERS)] = ()

    @property
    def is_any(self) -> bool:
        return self == LimitMatch()


class Limit(Part, frozen=True, kw_only=True):
    """A bucket that is refilled evenly, with `requests` for each `unit`."""

    requests: Requests
    unit: Literal["Second", "Minute", "Hour", "Day"]
    burst: Requests | None = None
    """What the bucket holds, and so what may come at once; `requests` where absent."""


class LimitSource(Part, frozen=True, kw_only=True):
    """Who calls. Every field that is given must match; within a field, any value."""

    identities: tuple[Identity, ...] | None = None
    namespaces: tuple[Name, ...] | None = None


class RateLimitRule(Part, frozen=True, kw_only=True, rename={"from_": "from"}):
    """For requests that any of `matches` matches and that come from any of `from`; absent: all."""

    from_: Annotated[tuple[LimitSource, ...], msgspec.Meta(min_length=1, max_length=MAX_SOURCES)] | None = None
    matches: Annotated[tuple[LimitMatch, ...], msgspec.Meta(max_length=MAX_MATCHES)] = ()
    ports: Annotated[tuple[Port, ...], msgspec.Meta(min_length=1)] | None = None
    """The service's ports; all where absent. Each has buckets of its own. On a ``tcp`` port connections are counted."""
    per: Literal["Client", "All"] = "Client"
    """`Client`: each identity that calls has a bucket of its own."""
    limit: Limit


class RateLimitPolicySpec(Part, frozen=True, kw_only=True):
    target_refs: Annotated[tuple[TargetRef, ...], msgspec.Meta(min_length=1)]
    rules: Annotated[tuple[RateLimitRule, ...], msgspec.Meta(min_length=1, max_length=MAX_RULES)]
    """A request must have a place in the bucket of each rule that it matches."""


class RateLimitPolicy(Object, frozen=True, kw_only=True, tag="RateLimitPolicy"):
    spec: RateLimitPolicySpec
