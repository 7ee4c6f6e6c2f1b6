"""States that show each field of a BackendTrafficPolicy, and what zones make of it."""

from __future__ import annotations

from dataclasses import replace

from dataplane.compile.workload import Workload
from tests.states.build import (
    ORDERS,
    ROOT_DER,
    Item,
    State,
    bundle,
    instance,
    locality,
    need,
    port,
    service,
    state,
    traffic,
    workload,
)

_TRUST = bundle(1, ROOT_DER)


def _called(*names: str, protocol: str = "http") -> tuple[Item, ...]:
    """Services of that name, and orders, which depends on them."""
    found = [service(name, port("main", 80, protocol)) for name in names]  # type: ignore[arg-type]
    return (service("orders", needs=[need(name) for name in names]), *found, _TRUST)


def _hashed(**consistent_hash: object) -> dict[str, object]:
    return {"type": "ConsistentHash", "consistentHash": consistent_hash}


def _at(zone: str) -> Workload:
    return replace(workload(ORDERS), locality=locality(zone))


def _zones(policy: Item, callers: tuple[str, ...] = (), of: str = "eu/a") -> tuple[tuple[Item, ...], Workload]:
    """payments with four instances in eu/a, two in eu/b, one in eu/c and one in us/d; callers: instances of orders."""
    where = ["eu/a"] * 4 + ["eu/b"] * 2 + ["eu/c", "us/d"]
    instances = [instance("payments", f"p{n}", f"10.0.1.{n}", zone, main=80) for n, zone in enumerate(where, 1)]
    calling = [instance("orders", f"o{n}", f"10.0.2.{n}", zone, http=80) for n, zone in enumerate(callers, 1)]
    return (*_called("payments"), policy, *instances, *calling), _at(of)


def _in_zones(name: str, about: str, zone_aware: object, callers: tuple[str, ...] = (), of: str = "eu/a") -> State:
    policy = traffic("zones", "payments", loadBalancer={"zoneAware": zone_aware})
    items, where = _zones(policy, callers, of)
    return state(name, about, *items, of=where)


BACKENDS: tuple[State, ...] = (
    state(
        "balancers",
        "each way to choose an instance that needs no hash, and slow start",
        *_called("plain", "random", "round", "least"),
        traffic("random", "random", loadBalancer={"type": "Random"}),
        traffic("round", "round", loadBalancer={"type": "RoundRobin", "slowStart": {"window": "1m30s"}}),
        traffic("least", "least", loadBalancer={"type": "LeastRequest", "slowStart": {"window": "250ms"}}),
    ),
    state(
        "consistent-hash",
        "ring and Maglev, by header, cookie and source: the routes say by what",
        *_called("by-header", "by-cookie", "by-given-cookie", "by-source"),
        traffic("by-header", "by-header", loadBalancer=_hashed(type="Header", header={"name": "x-user"})),
        traffic(
            "by-cookie",
            "by-cookie",
            loadBalancer=_hashed(type="Cookie", cookie={"name": "s", "ttl": "1h"}, tableSize=1009),
        ),
        traffic(
            "by-given-cookie",
            "by-given-cookie",
            loadBalancer=_hashed(type="Cookie", cookie={"name": "s"}, ringHash={}),
        ),
        traffic(
            "by-source",
            "by-source",
            loadBalancer=_hashed(type="SourceIP", ringHash={"minimumRingSize": 64, "maximumRingSize": 128}),
        ),
    ),
    state(
        "consistent-hash-bound",
        "the same at bound ports: TCP by its source, whatever else is asked; and how long its connections live",
        service("orders", needs=[need("db", bind=9101), need("web", bind=9102)]),
        service("db", port("main", 5432, "tcp")),
        service("web", port("main", 80)),
        traffic(
            "header",
            "db",
            "web",
            loadBalancer=_hashed(type="Header", header={"name": "x-user"}),
            timeout={"tcp": {"idleTimeout": "5m", "maxConnectionDuration": "1h"}},
        ),
        _TRUST,
    ),
    state(
        "circuit-breaker",
        "every limit; those of connections are limits of streams where the port is TCP",
        service("orders", needs=[need("http"), need("tcp"), need("budget")]),
        service("http", port("main", 80)),
        service("tcp", port("main", 7, "tcp")),
        service("budget", port("main", 80)),
        traffic(
            "all",
            "http",
            "tcp",
            circuitBreaker={
                "maxConnections": 5,
                "maxPendingRequests": 0,
                "maxParallelRequests": 7,
                "maxParallelRetries": 3,
                "maxRequestsPerConnection": 100,
                "perEndpoint": {"maxConnections": 2},
            },
        ),
        traffic("budget", "budget", circuitBreaker={"retryBudget": {"percent": 50, "minRetryConcurrency": 1}}),
        _TRUST,
    ),
    state(
        "outliers",
        "who is left out: without a policy who can't be reached; each condition, its defaults, and all of it off",
        *_called("no-policy", "defaults", "everything", "nothing"),
        traffic("defaults", "defaults", healthCheck={"passive": {}}),
        traffic(
            "everything",
            "everything",
            healthCheck={
                "panicThreshold": 10,
                "passive": {
                    "consecutive5XxErrors": 3,
                    "consecutiveGatewayErrors": 4,
                    "consecutiveLocalOriginFailures": 2,
                    "splitExternalLocalOriginErrors": True,
                    "interval": "1s",
                    "baseEjectionTime": "10m",
                    "maxEjectionPercent": 50,
                    "alwaysEjectOneEndpoint": True,
                    "successRateStdevFactor": 1900,
                    "successRateMinimumHosts": 3,
                    "successRateRequestVolume": 10,
                    "failurePercentageThreshold": 40,
                    "failurePercentageMinimumHosts": 2,
                    "failurePercentageRequestVolume": 20,
                },
            },
        ),
        traffic(
            "nothing",
            "nothing",
            healthCheck={"panicThreshold": 0, "passive": {"consecutive5XxErrors": 0, "maxEjectionTime": "40s"}},
        ),
    ),
    state(
        "connections",
        "how long connections live, how they are kept, how much one carries",
        *_called("web"),
        traffic(
            "web",
            "web",
            timeout={
                "tcp": {"connectTimeout": "500ms"},
                "http": {"connectionIdleTimeout": "5m", "maxConnectionDuration": "1h"},
            },
            tcpKeepalive={"probes": 3, "idleTime": "1m", "interval": "1500ms"},
            http2={"maxConcurrentStreams": 50},
        ),
    ),
    state(
        "keepalive-defaults",
        "keep-alive as the operating system does it",
        *_called("web"),
        traffic("web", "web", tcpKeepalive={}, timeout={}, http2={}, circuitBreaker={}, healthCheck={}),
    ),
    _in_zones(
        "zones-all-local",
        "half of the instances are here, and half of the callers: all stays, the other zones stand by",
        {"preferLocal": {}},
        ("eu/a", "eu/b"),
    ),
    _in_zones(
        "zones-spill",
        "all callers are in a zone with a quarter of the instances: what is too much goes to who has room",
        {"preferLocal": {}},
        ("eu/b", "eu/b"),
        "eu/b",
    ),
    _in_zones(
        "zones-percentage",
        "half of the requests stay, half are spread evenly",
        {"preferLocal": {"percentageEnabled": 50}},
        ("eu/a",),
    ),
    _in_zones(
        "zones-too-few",
        "fewer instances than the threshold: evenly",
        {"preferLocal": {"minEndpointsThreshold": 9}},
    ),
    _in_zones(
        "zones-forced",
        "enough in the zone: all stays there, whatever share it is",
        {"preferLocal": {"force": {"minEndpointsInZoneThreshold": 2}}},
        ("eu/b", "eu/b", "eu/b"),
        "eu/b",
    ),
    _in_zones("zones-none-here", "no instance where the caller is: evenly", {"preferLocal": {}}, of="eu/z"),
    _in_zones("zones-unknown", "a caller that does not know where it is: evenly", {"preferLocal": {}}, of=""),
    _in_zones(
        "zones-failover",
        "the own zone first, then the listed one, the region, the rest",
        {"failover": {"zones": [{"from": "a", "to": ["d"]}, {"from": "x", "to": ["c"]}]}},
    ),
    _in_zones("zones-failover-away", "a caller where no instance is: its region first", {"failover": {}}, of="eu/z"),
)
