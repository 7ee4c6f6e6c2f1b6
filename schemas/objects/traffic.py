"""`BackendTrafficPolicy`: how callers spread their requests over the instances of a service, and what they spare them.

Field names as Envoy Gateway has them; where it has none, Envoy's own (success rate) or Istio's (ring hash, failover).
Callers' sidecars act on it, each for itself: a limit of 10 is 10 a caller.
"""

from typing import Annotated, Literal

import msgspec

from schemas.durations import PositiveDuration
from schemas.objects.common import Label, Object, Part, TargetRef

Count = Annotated[int, msgspec.Meta(ge=1, le=2**32 - 1)]
CountOrNone = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
Percent = Annotated[int, msgspec.Meta(ge=0, le=100)]
HeaderName = Annotated[
    str, msgspec.Meta(pattern=r"^[A-Za-z0-9!#$%&'*+.^_|~-]{1,256}\Z", description="the name of an HTTP header")
]
CookieName = Annotated[
    str, msgspec.Meta(pattern=r"^[A-Za-z0-9!#$%&'*+.^_|~-]{1,256}\Z", description="the name of a cookie")
]


# -- load balancing


class SlowStart(Part, frozen=True, kw_only=True):
    window: PositiveDuration
    """A new instance's share grows from a tenth to the whole in that time."""


class HashHeader(Part, frozen=True, kw_only=True):
    name: HeaderName


class HashCookie(Part, frozen=True, kw_only=True):
    name: CookieName
    ttl: PositiveDuration | None = None
    """Where given, a request without the cookie gets one that lives so long; else it goes anywhere."""


class RingHash(Part, frozen=True, kw_only=True):
    """Envoy's ring; more entries spread more evenly, and cost memory for each caller."""

    minimum_ring_size: Annotated[int, msgspec.Meta(ge=1, le=8_388_608)] = 1024
    maximum_ring_size: Annotated[int, msgspec.Meta(ge=1, le=8_388_608)] = 8_388_608


class ConsistentHash(Part, frozen=True, kw_only=True):
    """The same key goes to the same instance for as long as that one is there. Maglev, or a ring where asked for."""

    type: Literal["SourceIP", "Header", "Cookie"]
    header: HashHeader | None = None
    cookie: HashCookie | None = None
    table_size: Annotated[int, msgspec.Meta(ge=2, le=5_000_011)] | None = None
    """Of Maglev; a prime number, 65,537 where absent."""
    ring_hash: RingHash | None = None


class Force(Part, frozen=True, kw_only=True):
    min_endpoints_in_zone_threshold: Count = 1


class PreferLocal(Part, frozen=True, kw_only=True):
    """As much as possible stays in the caller's zone, as long as no zone's instances get more than their share."""

    min_endpoints_threshold: Count = 6
    """With fewer instances than that the requests are spread evenly."""
    percentage_enabled: Percent = 100
    """How many of the requests it is about; the others are spread evenly."""
    force: Force | None = None
    """All stays in the zone, whatever share it has, as long as so many instances are in it."""


class ZoneFailover(Part, frozen=True, kw_only=True, rename={"from_": "from"}):
    from_: Label
    to: Annotated[tuple[Label, ...], msgspec.Meta(min_length=1, max_length=64)]


class Failover(Part, frozen=True, kw_only=True):
    """The caller's own zone; then, as instances fail, the zones listed for it, its region, the rest."""

    zones: tuple[ZoneFailover, ...] = ()


class ZoneAware(Part, frozen=True, kw_only=True):
    """One of the two."""

    prefer_local: PreferLocal | None = None
    failover: Failover | None = None


class LoadBalancer(Part, frozen=True, kw_only=True):
    type: Literal["LeastRequest", "RoundRobin", "Random", "ConsistentHash"] = "LeastRequest"
    slow_start: SlowStart | None = None
    consistent_hash: ConsistentHash | None = None
    zone_aware: ZoneAware | None = None


# -- limits


class PerEndpoint(Part, frozen=True, kw_only=True):
    max_connections: Count | None = None


class RetryBudget(Part, frozen=True, kw_only=True):
    percent: Percent = 20
    """Of the requests in flight, so many may be retries."""
    min_retry_concurrency: CountOrNone = 10
    """So many may be in any case."""


class CircuitBreaker(Part, frozen=True, kw_only=True):
    """What is above a limit fails at once with 503. Absent: no limit."""

    max_connections: CountOrNone | None = None
    max_pending_requests: CountOrNone | None = None
    max_parallel_requests: CountOrNone | None = None
    max_parallel_retries: CountOrNone | None = None
    max_requests_per_connection: Count | None = None
    """Then the connection is replaced by a new one."""
    per_endpoint: PerEndpoint | None = None
    retry_budget: RetryBudget | None = None


# -- health, as callers see it


class PassiveHealthCheck(Part, frozen=True, kw_only=True):
    """Instances that fail are left out for a while (Envoy: outlier detection). 0 turns a condition off."""

    consecutive_5xx_errors: CountOrNone = msgspec.field(default=5, name="consecutive5XxErrors")
    consecutive_gateway_errors: CountOrNone = 0
    """502, 503 and 504 only."""
    consecutive_local_origin_failures: CountOrNone = 5
    """No connection, or none in time. Counted apart where `splitExternalLocalOriginErrors` is true."""
    split_external_local_origin_errors: bool = False
    interval: PositiveDuration = "3s"
    """Between two looks at the rates, and at whose time outside is over."""
    base_ejection_time: PositiveDuration = "30s"
    """Times how often it was left out already."""
    max_ejection_time: PositiveDuration | None = None
    """300s where absent, and never below `baseEjectionTime`."""
    max_ejection_percent: Percent = 10
    always_eject_one_endpoint: bool = False
    """Also where one is more than `maxEjectionPercent`."""
    success_rate_stdev_factor: CountOrNone | None = None
    """Left out below mean - factor/1000 standard deviations of the success rates. Absent: not looked at."""
    success_rate_minimum_hosts: CountOrNone = 5
    success_rate_request_volume: CountOrNone = 100
    failure_percentage_threshold: Percent | None = None
    """Left out at so many per cent of failures. Absent: not looked at."""
    failure_percentage_minimum_hosts: CountOrNone = 5
    failure_percentage_request_volume: CountOrNone = 50


class HealthCheck(Part, frozen=True, kw_only=True):
    panic_threshold: Percent | None = None
    """With fewer healthy instances than that, in per cent, all are called. 50 where absent."""
    passive: PassiveHealthCheck | None = None


# -- connections


class TcpKeepalive(Part, frozen=True, kw_only=True):
    """Absent: as the operating system does."""

    probes: Count | None = None
    idle_time: PositiveDuration | None = None
    interval: PositiveDuration | None = None


class TcpTimeout(Part, frozen=True, kw_only=True):
    connect_timeout: PositiveDuration | None = None
    idle_timeout: PositiveDuration | None = None
    """Of connections over which no byte goes, in neither direction."""
    max_connection_duration: PositiveDuration | None = None
    """Connections end then, whatever is under way."""


class HttpTimeout(Part, frozen=True, kw_only=True):
    connection_idle_timeout: PositiveDuration | None = None
    max_connection_duration: PositiveDuration | None = None
    """Requests that are under way then are finished."""


class Timeout(Part, frozen=True, kw_only=True):
    tcp: TcpTimeout | None = None
    http: HttpTimeout | None = None


class Http2(Part, frozen=True, kw_only=True):
    max_concurrent_streams: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)] | None = None


class BackendTrafficPolicySpec(Part, frozen=True, kw_only=True):
    target_refs: Annotated[tuple[TargetRef, ...], msgspec.Meta(min_length=1)]
    load_balancer: LoadBalancer = LoadBalancer()
    circuit_breaker: CircuitBreaker | None = None
    health_check: HealthCheck | None = None
    tcp_keepalive: TcpKeepalive | None = None
    timeout: Timeout | None = None
    http2: Http2 | None = None


class BackendTrafficPolicy(Object, frozen=True, kw_only=True, tag="BackendTrafficPolicy"):
    spec: BackendTrafficPolicySpec
