"""States of what policies say, and of what the app is told of who was let in."""

from __future__ import annotations

from schemas.objects.authorization import GrpcMatch, HeaderMatch
from tests.states.build import (
    ROOT_DER,
    WEB,
    Operation,
    Rule,
    Source,
    State,
    bundle,
    federates,
    identity,
    mesh_saying,
    policy,
    port,
    rule,
    service,
    state,
    telemetry,
    who,
    workload,
)
from tests.states.shop import LET_WEB_IN, MIXED, PASSED_ON, PASSING, TRUST

POLICY_STATES: tuple[State, ...] = (
    state(
        "policies",
        "each form that a policy can have, on ports of each protocol",
        MIXED,
        TRUST,
        LET_WEB_IN,
        policy("a-namespace", "ALLOW", rule(Source(namespaces=("front", "back")))),
        policy("both-conditions", "ALLOW", rule(Source(identities=(identity("web"),), namespaces=("shop",)))),
        policy("two-sources", "ALLOW", rule(who("web"), who("cart.front"))),
        policy("reads", "ALLOW", rule(to=[Operation(methods=("GET", "HEAD"), paths=("/orders/*", "/health"))])),
        policy("one-port", "ALLOW", rule(who("cart.front"), to=[Operation(ports=(9000,))])),
        policy(
            "either-operation",
            "ALLOW",
            rule(to=[Operation(methods=("POST",)), Operation(paths=("/*",), ports=(8080,))]),
        ),
        policy("everything", "ALLOW", Rule(), on=["inventory"]),
        policy("no-rules", "ALLOW"),
        mesh_saying(denialHeader=True),
        policy("for-nothing", "ALLOW", Rule(), on=[]),
        policy("from-nobody", "ALLOW", Rule(from_=())),
        policy("to-nothing", "ALLOW", Rule(to=())),
        policy("of-no-identity", "ALLOW", rule(Source(identities=()))),
        policy("by-no-method", "ALLOW", rule(to=[Operation(methods=(), paths=("/x",))])),
        policy("deny-admin", "DENY", rule(to=[Operation(paths=("/admin/*",))]), on=["orders"]),
        policy("deny-mallory", "DENY", rule(who("mallory"))),
        policy("another-namespace.back", "ALLOW", Rule()),
    ),
    state(
        "policy-conditions",
        "every condition that a rule may have; what only counts; what is for the whole mesh",
        service("orders", port("http", 8080), port("raw", 7000, "tcp")),
        federates("partner", "other.test"),
        bundle(1, ROOT_DER, trust_domain="other.test"),
        policy(
            "who",
            "ALLOW",
            rule(Source(trust_domains=("other.test", "unknown.test"), namespaces=("front",))),
            rule(Source(ip_blocks=("10.1.2.3/16", "2001:db8::1"), not_identities=(identity("web"),))),
            rule(Source(namespaces=("front",), not_ip_blocks=("10.9.0.0/16",), not_trust_domains=("other.test",))),
        ),
        policy(
            "what",
            "ALLOW",
            rule(to=[Operation(paths=("*.css", "/a/{*}/b", "/a:b/*", "/{**}"), not_paths=("/admin/*",))]),
            rule(to=[Operation(hosts=("*.example.com",), not_methods=("DELETE",), not_ports=(7000,))]),
            rule(to=[Operation(grpc=(GrpcMatch(service="shop.Orders", method="Get"), GrpcMatch(service="shop.Ping")))]),
            rule(
                to=[
                    Operation(
                        headers=(HeaderMatch(name="X-Role", values=("admin", "team-*")),),
                        not_headers=(HeaderMatch(name="x-debug"), HeaderMatch(name="x-mode", values=("dry-*", "none"))),
                        not_hosts=("internal.example.com",),
                    )
                ]
            ),
        ),
        policy(
            "doubt",
            "DENY",
            rule(to=[Operation(paths=("/secret/*",), headers=(HeaderMatch(name="x-role", values=("guest",)),))]),
            rule(Source(not_namespaces=("shop",)), to=[Operation(hosts=("internal.shop",))]),
        ),
        policy("would-deny", "AUDIT", rule(who("web"), to=[Operation(methods=("POST",))])),
        policy("nobody-from-there.mesh-system", "DENY", rule(Source(ip_blocks=("192.0.2.0/24",)))),
        policy("of-another-service.mesh-system", "DENY", Rule(), on=["orders"]),
    ),
    state(
        "passed-on",
        "the app is not told who calls, and no rule is of HTTP: callers that know it get past HTTP",
        PASSING,
        TRUST,
        LET_WEB_IN,
        policy("deny-mallory", "DENY", rule(who("mallory"))),
    ),
    state("passed-on-web", "the same as web's sidecar has it: the app's protocol", *PASSED_ON, of=workload(WEB)),
    state(
        "passed-on-not",
        "a rule of HTTP at one of the ports: that one is read; the rule for the other port concerns it alone",
        PASSING,
        TRUST,
        policy("reads", "ALLOW", rule(who("web"), to=[Operation(methods=("GET",), ports=(80,))])),
        policy("all", "ALLOW", rule(who("web"), to=[Operation(ports=(81,))])),
    ),
    state(
        "passed-on-told",
        "the called side is asked to tell of requests: HTTP is read",
        PASSING,
        TRUST,
        LET_WEB_IN,
        telemetry("told", {"accessLogging": [{"match": {"mode": "SERVER"}}]}, ["orders"]),
    ),
    state(
        "passed-on-untold",
        "callers are asked to tell, and nobody to count: bytes are passed on",
        PASSING,
        TRUST,
        LET_WEB_IN,
        telemetry(
            "untold", {"accessLogging": [{"match": {"mode": "CLIENT"}}], "metrics": [{"disabled": True}], "tracing": {}}
        ),
    ),
    state(
        "tcp-with-http-conditions",
        "on a TCP port an HTTP condition never allows and always denies",
        service("orders", port("raw", 7, "tcp")),
        TRUST,
        policy("allow-get", "ALLOW", rule(who("web"), to=[Operation(methods=("GET",))])),
        policy("allow-port", "ALLOW", rule(who("cart"), to=[Operation(ports=(7,))])),
        policy("deny-path", "DENY", rule(who("mallory"), to=[Operation(paths=("/x",))])),
        policy("deny-other-port", "DENY", rule(to=[Operation(ports=(8,))])),
    ),
    state(
        "identity-spelling",
        "scheme and trust domain are compared without regard to case, as SPIFFE IDs are",
        service("orders"),
        policy(
            "odd", "DENY", rule(Source(identities=("spiffe://MESH.test/ns/shop/svc/web", "spiffe://mesh.test/ns//x")))
        ),
    ),
)
