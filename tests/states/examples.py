"""The states. Each adds one thing that the others do not show; keep them small enough to read their golden files."""

from __future__ import annotations

import ipaddress
from dataclasses import replace

from dataplane.compile.workload import VirtualNetwork
from schemas import codec
from schemas.objects.authorization import ClaimMatch, GrpcMatch, HeaderMatch
from schemas.objects.service import VirtualAddress
from tests.states.backends import BACKENDS
from tests.states.build import (
    KEYS,
    ORDERS,
    ROOT_DER,
    WEB,
    Operation,
    Rule,
    Source,
    State,
    at,
    authentication,
    balance,
    bundle,
    epoch,
    external,
    federates,
    identity,
    instance,
    key_set,
    mesh_saying,
    need,
    need_external,
    peers,
    policy,
    port,
    rate_limit,
    ref,
    revocation,
    rule,
    service,
    state,
    telemetry,
    unreadable,
    who,
    workload,
)
from tests.states.edges import EDGE_STATES
from tests.states.routes import ROUTE_STATES
from tests.support.tokens import NOBODYS

TRUST = bundle(1, ROOT_DER)

# The shop: web → orders over HTTP; orders → payments over gRPC by a bound port, → inventory over TCP.
_WEB = service("web", port("http", 80, target=8080), needs=[need("orders")])
_ORDERS = service(
    "orders",
    port("http", 8080),
    needs=[need("payments", bind=9101), need("inventory", port=5432, bind=9102)],
)
_PAYMENTS = service("payments", port("grpc", 9000, "grpc"))
_INVENTORY = service("inventory", port("tcp", 5432, "tcp"))
_INSTANCES = (
    instance("web", "w1", "10.0.0.1", http=80),
    instance("orders", "o1", "10.0.0.2", http=8080),
    instance("orders", "o2", "10.0.0.3", http=18080),
    instance("payments", "p1", "10.0.0.4", grpc=9000),
    instance("inventory", "i1", "10.0.0.5", tcp=5432),
)
_SHOP = (_WEB, _ORDERS, _PAYMENTS, _INVENTORY, *_INSTANCES, TRUST, epoch("first"))
_LET_WEB_IN = policy("web-to-orders", "ALLOW", rule(who("web")), on=["orders"])

# A service with a port of each protocol, for policies to act on.
_MIXED = service(
    "orders", port("http", 8080), port("grpc", 9000, "grpc"), port("h2", 8443, "http2"), port("raw", 7, "tcp")
)

# Ports whose app is not told who calls.
_PASSING = service(
    "orders", port("http", 80, identity_header=False), port("h2", 81, "http2", identity_header=False), needs=()
)
_PASSED_ON = (
    service("web", port("http", 80), needs=[need("orders")]),
    _PASSING,
    instance("orders", "o1", "10.0.0.2", http=80, h2=81),
    TRUST,
)

_NEWER = codec.encode(_LET_WEB_IN).replace(b"mesh/v1", b"mesh/v9")


# A partner's trust domain, whose `billing` may call orders, and whose `stock` orders calls.
_PARTNER = "partner.example"
_BILLING, _STOCK = f"spiffe://{_PARTNER}/ns/back/svc/billing", f"spiffe://{_PARTNER}/ns/back/svc/stock"

STATES: tuple[State, ...] = (
    state("empty", "nothing in etcd: the proxy port answers 503, and nothing comes in"),
    state("trust-only", "a bundle and no services", TRUST),
    state("nobody-trusted", "an empty bundle means that every peer is untrusted", bundle(1), service("orders")),
    state("one-service", "the own service and nothing else; no policy: nothing is let in", service("orders"), TRUST),
    state("shop", "three protocols, bound ports, two instances", *_SHOP),
    state("shop-web", "the same as web's sidecar has it", *_SHOP, of=workload(WEB)),
    state("shop-allowed", "the same, with web let in", *_SHOP, _LET_WEB_IN),
    state(
        "shop-allowed-by-default",
        "no policy, and a mesh that lets in whom none refuses: its own workloads",
        *_SHOP,
        mesh_saying(authorization={"defaultAction": "ALLOW"}),
    ),
    state(
        "policies",
        "each form that a policy can have, on ports of each protocol",
        _MIXED,
        TRUST,
        _LET_WEB_IN,
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
                        not_headers=(HeaderMatch(name="x-debug"),),
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
        _PASSING,
        TRUST,
        _LET_WEB_IN,
        policy("deny-mallory", "DENY", rule(who("mallory"))),
    ),
    state("passed-on-web", "the same as web's sidecar has it: the app's protocol", *_PASSED_ON, of=workload(WEB)),
    state(
        "passed-on-not",
        "a rule of HTTP at one of the ports: that one is read; the rule for the other port concerns it alone",
        _PASSING,
        TRUST,
        policy("reads", "ALLOW", rule(who("web"), to=[Operation(methods=("GET",), ports=(80,))])),
        policy("all", "ALLOW", rule(who("web"), to=[Operation(ports=(81,))])),
    ),
    state(
        "passed-on-told",
        "the called side is asked to tell of requests: HTTP is read",
        _PASSING,
        TRUST,
        _LET_WEB_IN,
        telemetry("told", {"accessLogging": [{"match": {"mode": "SERVER"}}]}, ["orders"]),
    ),
    state(
        "passed-on-untold",
        "callers are asked to tell, and nobody to count: bytes are passed on",
        _PASSING,
        TRUST,
        _LET_WEB_IN,
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
    state(
        "quarantined",
        "what can't be read is absent; an unreadable policy closes its namespace",
        *_SHOP,
        _LET_WEB_IN,
        unreadable(policy("broken", "ALLOW")),
        unreadable(_PAYMENTS),
        unreadable(balance("broken", "RoundRobin", "orders")),
        (KEYS.data() + b"config/Gateway/shop/edge", b"\x80"),
        (KEYS.data() + b"surprise", b"\xff"),
    ),
    state(
        "newer-schema",
        "a policy of an unknown version closes its namespace",
        *_SHOP,
        (KEYS.object(_LET_WEB_IN.ref), _NEWER),
    ),
    state(
        "unreadable-elsewhere",
        "an unreadable policy of another namespace closes nothing here",
        *_SHOP,
        _LET_WEB_IN,
        unreadable(policy("broken.back", "DENY")),
    ),
    state("own-service-unreadable", "then there is no way in", *_SHOP, _LET_WEB_IN, unreadable(_ORDERS)),
    state(
        "missing-references",
        "dependencies and bound ports that lead nowhere",
        service(
            "orders",
            port("http", 8080),
            needs=[
                need("ghost"),
                need("ghost", bind=9101),
                need("several", bind=9102),
                need("several", port=99, bind=9103),
                need("several", port=81, bind=9104),
            ],
        ),
        service("several", port("a", 81), port("b", 82, "tcp")),
        instance("ghost", "g1", "10.0.0.9", http=80),
        balance("ghosts", "RoundRobin", "ghost"),
        policy("ghost", "ALLOW", Rule(), on=["ghost"]),
        TRUST,
    ),
    state(
        "contradictory",
        "services that name a port twice are not believed",
        service("orders", port("http", 8080), needs=[need("*")]),
        service("twice", port("a", 80), port("b", 80)),
        service("same-name", port("a", 80), port("a", 81)),
        service("fine", port("a", 80)),
        TRUST,
    ),
    state(
        "bound-ports-taken",
        "a bound port that the sidecar itself needs, or that two want, is not opened",
        service("orders", port("http", 8080), needs=[need("payments", bind=15001), need("inventory", bind=8080)]),
        _PAYMENTS,
        _INVENTORY,
        TRUST,
        of=replace(workload(ORDERS), inbound_address="127.0.0.1"),
    ),
    state(
        "virtual-addresses",
        "listeners for the dependencies only, in a network of the host's own; routes count there too",
        service("orders", needs=[need("payments"), need("inventory"), need_external("fax.east")]),
        at(_PAYMENTS, 0x0304),
        at(_INVENTORY, 0x0A05),
        at(service("cart.front"), 0x0106),
        at(external("fax.east", "spiffe://east.test/ns/x/svc/fax", at=["192.0.2.7"]), 0xFF01),
        TRUST,
        of=replace(workload(ORDERS), virtual=VirtualNetwork(ipv4=ipaddress.IPv4Network("127.250.0.0/16"), ipv6=True)),
    ),
    state(
        "virtual-addresses-of-all",
        "of everything only what the app has asked for by name has listeners",
        service("orders", needs=[need("*")]),
        at(_PAYMENTS, 0x0304),
        at(_INVENTORY, 0x0A05),
        TRUST,
        of=replace(workload(ORDERS), virtual=VirtualNetwork()),
        learnt=["payments.shop.mesh"],
    ),
    state(
        "virtual-addresses-unusable",
        "one that another service has, one of no range, one that is the sidecar's own: none is opened, all are told",
        service("orders", needs=[need("payments"), need("inventory"), need("cart"), need("mail"), need("fax")]),
        at(_PAYMENTS, 0x0304),
        at(_INVENTORY, 0x0304),
        at(service("cart"), VirtualAddress(ipv4="127.0.0.1", ipv6="::1")),
        at(service("mail"), 0x0909),
        service("fax"),
        TRUST,
        of=replace(workload(ORDERS), virtual=VirtualNetwork(), local_address="127.240.9.9"),
    ),
    state(
        "several-ports",
        "80 is what a URL without a port means, else the first HTTP port",
        service("orders", port("raw", 7, "tcp"), port("admin", 8081), port("http", 80), needs=[need("cart.front")]),
        service("cart.front", port("raw", 7, "tcp"), port("b", 8082, "grpc"), port("a", 8081)),
        instance("cart.front", "c1", "10.0.1.1", raw=7, a=8081, b=8082),
        instance("cart.front", "c2", "10.0.1.2", raw=7, a=18081),
        instance("cart.front", "c3", "10.0.1.3"),
        TRUST,
    ),
    state(
        "on-demand",
        "no dependencies said, and none learnt yet",
        service("orders", needs=None),
        service("orders.back"),
        service("cart.front"),
        instance("orders.back", "o1", "10.0.2.1", http=80),
        TRUST,
    ),
    state(
        "on-demand-learnt",
        "what the app turned out to call, by whatever name; one of them does not exist",
        service("orders", needs=None),
        service("orders.back"),
        service("cart.front", port("http", 80), port("tcp", 6379, "tcp")),
        service("not-called"),
        instance("orders.back", "o1", "10.0.2.1", http=80),
        instance("cart.front", "c1", "10.0.3.1", http=80, tcp=6379),
        instance("not-called", "n1", "10.0.4.1", http=80),
        TRUST,
        learnt=["orders.back", "CART.front.mesh:6379", "cart.front", "nobody", "not a host"],
    ),
    state(
        "whole-mesh-by-star",
        "every service of the mesh, of every namespace, and a bound port beside it",
        service("orders", needs=[need("*"), need("cart.front", bind=9101)]),
        service("cart.front", port("tcp", 6379, "tcp")),
        instance("cart.front", "c1", "10.0.3.1", tcp=6379),
        TRUST,
    ),
    state(
        "addresses",
        "IPv6; two instances at one address; what is no address of a host",
        service("orders", needs=[need("cart.front")]),
        service("cart.front"),
        instance("cart.front", "c1", "2001:db8::7", http=80),
        instance("cart.front", "c2", "10.0.4.1", http=80),
        instance("cart.front", "c3", "10.0.4.1", http=80),
        instance("cart.front", "c4", "fe80::1%eth0", http=80),
        instance("cart.front", "c5", "cart.example", http=80),
        instance("cart.front", "c6", "::ffff:10.0.4.2", http=80),
        TRUST,
    ),
    state(
        "odd-keys",
        "keys that no replica would write",
        service("orders", needs=[need("*")]),
        (KEYS.endpoints() + b"a.b/c/d", instance("x", "y", "10.0.5.1", http=80)[1]),
        (KEYS.endpoints() + b"UPPER/c/d", instance("x", "y", "10.0.5.1", http=80)[1]),
        (KEYS.endpoints() + b"shop/orders/o 1", instance("x", "y", "10.0.5.1", http=80)[1]),
        (KEYS.config() + b"Service/shop/other-name", codec.encode(service("orders"))),
        (KEYS.config() + b"Service/shop/", b""),
        (KEYS.trust() + b"other.test", TRUST[1]),
        TRUST,
    ),
    state(
        "untrustworthy-bundle",
        "a bundle that holds what is no certificate is not believed",
        service("orders"),
        bundle(2, ROOT_DER, b"no certificate"),
    ),
    state(
        "load-balancing",
        "of two policies for one service the first by name counts",
        service("orders", needs=[need("payments"), need("inventory")]),
        _PAYMENTS,
        _INVENTORY,
        balance("b-least", "LeastRequest", "payments"),
        balance("a-round", "RoundRobin", "payments", "inventory"),
        balance("other.back", "RoundRobin", "orders"),
        TRUST,
    ),
    state(
        "federation",
        "a partner is trusted by its own bundle; let in are the one identity that is named, and all of the own mesh",
        service("orders", needs=[need_external("stock", bind=9101), need_external("cache", port=6379, bind=9102)]),
        external("stock", _STOCK, port("http", 8080), at=["192.0.2.7", "2001:db8::7"]),
        external("cache", _STOCK, port("tcp", 6379, "tcp"), at=["192.0.2.8"], numbers={"tcp": 16379}),
        federates("partner", _PARTNER),
        federates("not-yet-fetched", "late.example"),
        policy("partner", "ALLOW", rule(Source(identities=(_BILLING,))), on=["orders"]),
        policy("reads", "ALLOW", rule(to=[Operation(methods=("GET",))]), on=["orders"]),
        policy("not-deletes", "DENY", rule(to=[Operation(methods=("DELETE",))]), on=["orders"]),
        TRUST,
        bundle(7, ROOT_DER, trust_domain=_PARTNER),
    ),
    state(
        "federation-ended",
        "nothing names the trust domain any more: its bundle, still in etcd, is nobody's to trust",
        service("orders"),
        TRUST,
        bundle(7, ROOT_DER, trust_domain=_PARTNER),
    ),
    state(
        "federation-empty",
        "the partner has published an empty bundle: nobody of it is let in or called, and the sidecar says so",
        service("orders", needs=[need_external("stock")]),
        external("stock", _STOCK, port("http", 8080), at=["192.0.2.7"]),
        federates("partner", _PARTNER),
        policy("partner", "ALLOW", rule(Source(identities=(_BILLING,))), on=["orders"]),
        policy("not-theirs", "DENY", rule(Source(identities=(_STOCK,))), on=["orders"]),
        TRUST,
        bundle(8, trust_domain=_PARTNER),
    ),
    state(
        "external-beside-service",
        "two of one name: the service of the mesh is what callers reach",
        service("orders", needs=[need("stock")]),
        service("stock"),
        instance("stock", "s1", "10.0.0.1", http=80),
        external("stock", _STOCK, port("http", 8080), at=["192.0.2.7"]),
        TRUST,
    ),
    state(
        "external-unusable",
        "an external service without a server's identity, or at no address, is absent",
        service("orders", needs=[need("*")]),
        external("nobody", f"spiffe://{_PARTNER}", at=["192.0.2.7"]),
        external("nowhere", _STOCK, at=["stock.example"]),
        external("twice", _STOCK, port("http", 80), port("http", 81), at=["192.0.2.7"]),
        TRUST,
    ),
    state(
        "revoked",
        "who is revoked is refused before any policy is asked, and nobody sends it a request",
        service("orders", port("http", 8080), port("raw", 7000, "tcp"), needs=[need("payments")]),
        service("payments", port("grpc", 9000, "grpc")),
        instance("payments", "p1", "10.0.0.4", grpc=9000),
        _LET_WEB_IN,
        revocation("web", 3),
        revocation("payments", 2),
        revocation("billing", 4, revoked=False),
        (KEYS.revocation(ref("unreadable")), b"\xc1"),
        TRUST,
    ),
    state(
        "rate-limits",
        "by caller, for some callers, by path, on one port; on tcp what counts connections; and policies for others",
        service("orders", port("http", 80), port("grpc", 9000, "grpc"), port("raw", 7000, "tcp")),
        TRUST,
        _LET_WEB_IN,
        rate_limit(
            "orders",
            {"limit": {"requests": 100, "unit": "Second", "burst": 200}},
            {"limit": {"requests": 5000, "unit": "Minute"}, "per": "All", "ports": [9000]},
            {
                "from": [
                    {"identities": [identity("web"), "spiffe://MESH.test/ns/back/svc/cart"]},
                    {"namespaces": ["back"], "identities": []},
                    {"namespaces": ["other", "third"]},
                ],
                "matches": [
                    {"method": "POST", "path": {"value": "/orders/"}},
                    {
                        "path": {"type": "Exact", "value": "/it's"},
                        "headers": [{"name": "X-Batch", "value": '"quoted"\\'}],
                    },
                ],
                "limit": {"requests": 1, "unit": "Hour"},
            },
            {"matches": [{}], "limit": {"requests": 7, "unit": "Day"}, "ports": [7000]},
        ),
        rate_limit("another", {"limit": {"requests": 1, "unit": "Day"}}, on=["orders", "web"]),
        rate_limit("of-web", {"limit": {"requests": 1, "unit": "Day"}}, on=["web"]),
        rate_limit("elsewhere.back", {"limit": {"requests": 1, "unit": "Day"}}),
    ),
    state(
        "rate-limits-passed-on",
        "bytes are passed on where nothing is limited; where something is, HTTP is read",
        _PASSING,
        TRUST,
        _LET_WEB_IN,
        rate_limit("http-only", {"limit": {"requests": 5, "unit": "Second"}, "ports": [80]}),
    ),
    state(
        "tokens",
        "two issuers, one of them in a header of its own; and what asks for their tokens",
        service("orders", port("http", 80), port("raw", 7000, "tcp")),
        TRUST,
        authentication(
            "issuers",
            {"issuer": "https://one.example", "jwks": NOBODYS, "audiences": ["orders"], "forwardOriginalToken": True},
            {
                "issuer": "https://two.example",
                "jwks": NOBODYS,
                "fromHeaders": [{"name": "X-Token"}],
            },
        ),
        authentication("of-web", {"issuer": "https://three.example", "jwks": NOBODYS}, on=["web"]),
        authentication("elsewhere.back", {"issuer": "https://three.example", "jwks": NOBODYS}),
        policy(
            "anna",
            "ALLOW",
            Rule(
                from_=(Source(namespaces=("shop",), request_principals=("https://one.example/anna", "*/s/b")),),
                to=(Operation(methods=("GET",)),),
            ),
            Rule(when=(ClaimMatch(key="request.auth.claims[realm][roles]", values=("admin", "ops-*")),)),
        ),
        policy("not-guests", "DENY", Rule(from_=(Source(request_principals=("https://one.example/guest-*",)),))),
    ),
    state(
        "tokens-read",
        "bytes are passed on where there is no token to prove; where there may be, HTTP is read",
        _PASSING,
        TRUST,
        _LET_WEB_IN,
        authentication("issuer", {"issuer": "https://one.example", "jwks": NOBODYS}),
    ),
    state(
        "tokens-fetched",
        "keys that replicas have fetched, and an issuer whose keys nobody knows yet: its tokens are answered 401",
        service("orders"),
        TRUST,
        _LET_WEB_IN,
        authentication(
            "issuers",
            {"issuer": "https://one.example", "jwksUri": "https://one.example/keys"},
            {"issuer": "https://two.example", "jwksUri": "https://two.example/keys", "jwksRefreshInterval": "5m"},
        ),
        authentication(
            "of-web", {"issuer": "https://two.example", "jwksUri": "https://three.example/keys"}, on=["web"]
        ),
        key_set("https://one.example/keys", NOBODYS),
        key_set("https://three.example/keys", NOBODYS),
    ),
    state(
        "tokens-unreadable",
        "a RequestAuthentication that nobody can read closes its namespace",
        service("orders"),
        TRUST,
        _LET_WEB_IN,
        unreadable(authentication("issuer", {"issuer": "https://one.example", "jwks": NOBODYS})),
    ),
    state(
        "permissive",
        "two ports take plaintext too, one does not; whom an address lets in, and whom the mesh's own",
        service("orders", port("http", 80), port("raw", 7000, "tcp"), port("more", 81)),
        TRUST,
        peers("of-all.mesh-system", "STRICT"),
        peers("shop", "PERMISSIVE"),
        peers("orders", on=["orders"], p81="STRICT"),
        policy(
            "who",
            "ALLOW",
            rule(Source(ip_blocks=("10.1.0.0/16",))),
            rule(Source(ip_blocks=("10.2.0.0/16",), not_identities=(identity("web"),))),
            rule(who("web"), Source(not_ip_blocks=("10.1.9.0/24",))),
        ),
        policy("not", "DENY", rule(Source(not_identities=(identity("web"),), not_ip_blocks=("10.1.0.0/16",)))),
        policy("count", "AUDIT", rule(Source(ip_blocks=("10.1.9.0/24",)))),
    ),
    state(
        "permissive-passed-on",
        "beside the chain that reads no HTTP: of plaintext it is always read",
        _PASSING,
        TRUST,
        _LET_WEB_IN,
        peers("orders", "PERMISSIVE", ["orders"]),
    ),
    state(
        "permissive-unreadable",
        "what nobody can read may be STRICT of anything in its namespace",
        service("orders"),
        TRUST,
        _LET_WEB_IN,
        peers("orders", "PERMISSIVE", ["orders"]),
        unreadable(peers("other", "PERMISSIVE")),
    ),
    state(
        "telemetry",
        "what the service says goes before its namespace, that before the mesh; each side by the first that matches",
        *_SHOP,
        telemetry("mesh.mesh-system", {"accessLogging": [{}]}),
        telemetry("namespace", {"accessLogging": [{"disabled": True}]}),
        telemetry(
            "slow",
            {
                "accessLogging": [
                    {"match": {"mode": "SERVER"}, "filter": {"minStatusCode": 400, "minDuration": "1s500ms"}},
                    {"match": {"mode": "CLIENT_AND_SERVER"}, "randomSamplingPercentage": 25},
                ]
            },
            ["orders"],
        ),
        telemetry("of-another", {"accessLogging": []}, ["web"]),
    ),
    state(
        "telemetry-of-the-mesh",
        "what nobody narrower says; a section that is there and has nothing for a side leaves that side as it is",
        *_SHOP,
        telemetry("mesh.mesh-system", {"accessLogging": [{"match": {"mode": "CLIENT"}, "filter": {}}]}),
        telemetry("elsewhere.back", {"accessLogging": [{"disabled": True}]}),
        telemetry("says-nothing", {}),
    ),
    state(
        "telemetry-traces",
        "spans go to a service that nobody depends on; who is traced is in the routes; one side counts nothing",
        *_SHOP,
        service("otel", port("otlp", 4317, "grpc")),
        instance("otel", "c1", "10.0.0.9", otlp=4317),
        telemetry(
            "traces",
            {
                "metrics": [{"match": {"mode": "CLIENT"}, "disabled": True}],
                "tracing": {
                    "provider": {"backendRef": {"name": "otel", "port": 4317}},
                    "randomSamplingPercentage": 12.5,
                    "customTags": [
                        {"name": "shop.region", "literal": "north"},
                        {"name": "shop.tenant", "requestHeader": "x-tenant"},
                    ],
                },
            },
        ),
    ),
    state(
        "telemetry-http",
        "a collector by its address, that takes HTTP; the mesh says so, and the namespace otherwise of its logs alone",
        *_SHOP,
        telemetry(
            "mesh.mesh-system",
            {"tracing": {"provider": {"protocol": "http", "address": "otel.example:4318"}}, "metrics": []},
        ),
        telemetry("namespace", {"accessLogging": []}),
    ),
    state(
        "telemetry-unusable",
        "a collector that is not there is a problem; one that contradicts itself is put aside; narrower says nothing",
        *_SHOP,
        telemetry("narrow", {"tracing": {"provider": {"backendRef": {"name": "gone", "port": 1}}}}, ["orders"]),
        telemetry("both", {"tracing": {"provider": {"backendRef": {"name": "otel", "port": 1}, "address": "a:1"}}}),
        telemetry("off.mesh-system", {"tracing": {"disabled": True, "provider": {"address": "127.0.0.1:4317"}}}),
    ),
    *BACKENDS,
    *ROUTE_STATES,
    *EDGE_STATES,
)

BY_NAME = {one.name: one for one in STATES}
assert len(BY_NAME) == len(STATES), "two states have the same name"

__all__ = ["BY_NAME", "ORDERS", "STATES", "TRUST"]
