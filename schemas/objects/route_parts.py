"""What the route kinds share: parents, backends, timeouts, retries, session affinity. Names as in Gateway API v1."""

from typing import Annotated, Literal

import msgspec

from schemas.durations import Duration
from schemas.objects.common import Label, Name, Part, Port

# Gateway API's bounds; they also bound what one object can make of an Envoy's route table.
MAX_PARENTS = 32
MAX_HOSTNAMES = 16
MAX_RULES = 16
MAX_MATCHES = 64
MAX_BACKENDS = 16
MAX_CONDITIONS = 16
MAX_FILTERS = 16

CoreGroup = Literal["", "core"]
"""Gateway API's API group of a Service. Taken so that its manifests can be; it says nothing here."""
ParentGroup = Literal["", "core", "gateway.networking.k8s.io"]
DestinationKind = Literal["Service", "ExternalService"]
Weight = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]
# RFC 9110, 5.1 and 5.6.2: a field name is a token.
HeaderName = Annotated[
    str,
    msgspec.Meta(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,256}\Z", description="a header name"),
]
_LABELS = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*"
Hostname = Annotated[
    str,
    msgspec.Meta(
        pattern=rf"^(\*\.)?{_LABELS}\Z",
        max_length=253,
        description="a host name in lower case, without a port; *.example.com for all below example.com",
    ),
]
PreciseHostname = Annotated[
    str,
    msgspec.Meta(pattern=rf"^{_LABELS}\Z", max_length=253, description="a host name in lower case, without a port"),
]


class ParentRef(Part, frozen=True, kw_only=True):
    """Whose requests the route is for. Of a Service of another namespace: those of callers in the route's own."""

    group: ParentGroup = ""
    kind: Literal["Service", "ExternalService", "Gateway"]
    name: Name
    namespace: Name | None = None
    """The route's own where absent."""
    section_name: Name | None = None
    """A port by its name; of a Gateway a listener."""
    port: Port | None = None
    """Absent, with `sectionName` absent too: every port whose protocol fits."""


class BackendRef(Part, frozen=True, kw_only=True):
    """Where requests go."""

    group: CoreGroup = ""
    kind: DestinationKind = "Service"
    name: Name
    namespace: Name | None = None
    """The route's own where absent."""
    port: Port | None = None
    """Needed where the service has several."""
    match_labels: dict[Label, Label] = msgspec.field(default_factory=dict)
    """A subset: only instances that carry all of these labels."""


class WeightedBackendRef(BackendRef, frozen=True, kw_only=True):
    weight: Weight = 1
    """Its share is this part of the sum of all weights; 0: nothing."""


class Timeouts(Part, frozen=True, kw_only=True):
    """0s: no limit."""

    request: Duration | None = None
    """For the whole answer, retries included."""
    backend_request: Duration | None = None
    """For each try."""


RetryTrigger = Literal[
    "5xx", "gateway-error", "reset", "reset-before-request", "connect-failure", "refused-stream", "retriable-4xx",
    "cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable",
]  # fmt: skip
RetryCode = Annotated[int, msgspec.Meta(ge=400, le=599)]


class Retry(Part, frozen=True, kw_only=True):
    """What else is tried again, beside what never reached an app (that always is, twice)."""

    codes: tuple[RetryCode, ...] = ()
    """HTTP status codes."""
    triggers: tuple[RetryTrigger, ...] = ()
    """Envoy's conditions (its `retry_on`); the last five are gRPC statuses. Absent: lost connections and resets."""
    attempts: Annotated[int, msgspec.Meta(ge=0, le=20)] = 2
    """Retries, beside the first try."""
    backoff: Duration | None = None
    """Before the first retry at most; it grows twofold with each, with jitter. 25ms where absent."""
    max_backoff: Duration | None = None
    """Ten times `backoff` where absent."""


class CookieConfig(Part, frozen=True, kw_only=True):
    lifetime_type: Literal["Session", "Permanent"] = "Session"


CookieName = Annotated[
    str, msgspec.Meta(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}\Z", description="a cookie or header name")
]


class SessionPersistence(Part, frozen=True, kw_only=True):
    """Requests of one session go to one instance, for as long as it lives."""

    session_name: CookieName = "mesh-session"
    type: Literal["Cookie", "Header"] = "Cookie"
    absolute_timeout: Duration | None = None
    """How long a Permanent cookie lives."""
    cookie_config: CookieConfig = CookieConfig()
