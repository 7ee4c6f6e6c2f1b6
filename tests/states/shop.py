"""What several states have: a shop, the policy that lets web in, and services for policies to act on."""

from __future__ import annotations

from tests.states.build import (
    ROOT_DER,
    bundle,
    epoch,
    instance,
    need,
    policy,
    port,
    rule,
    service,
    who,
)

TRUST = bundle(1, ROOT_DER)

# The shop: web → orders over HTTP; orders → payments over gRPC by a bound port, → inventory over TCP.
WEB_SERVICE = service("web", port("http", 80, target=8080), needs=[need("orders")])
ORDERS_SERVICE = service(
    "orders",
    port("http", 8080),
    needs=[need("payments", bind=9101), need("inventory", port=5432, bind=9102)],
)
PAYMENTS_SERVICE = service("payments", port("grpc", 9000, "grpc"))
INVENTORY_SERVICE = service("inventory", port("tcp", 5432, "tcp"))
_INSTANCES = (
    instance("web", "w1", "10.0.0.1", http=80),
    instance("orders", "o1", "10.0.0.2", http=8080),
    instance("orders", "o2", "10.0.0.3", http=18080),
    instance("payments", "p1", "10.0.0.4", grpc=9000),
    instance("inventory", "i1", "10.0.0.5", tcp=5432),
)
SHOP = (WEB_SERVICE, ORDERS_SERVICE, PAYMENTS_SERVICE, INVENTORY_SERVICE, *_INSTANCES, TRUST, epoch("first"))
LET_WEB_IN = policy("web-to-orders", "ALLOW", rule(who("web")), on=["orders"])

# A service with a port of each protocol, for policies to act on.
MIXED = service(
    "orders", port("http", 8080), port("grpc", 9000, "grpc"), port("h2", 8443, "http2"), port("raw", 7, "tcp")
)

# Ports whose app is not told who calls.
PASSING = service(
    "orders", port("http", 80, identity_header=False), port("h2", 81, "http2", identity_header=False), needs=()
)
PASSED_ON = (
    service("web", port("http", 80), needs=[need("orders")]),
    PASSING,
    instance("orders", "o1", "10.0.0.2", http=80, h2=81),
    TRUST,
)
