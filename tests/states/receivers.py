"""States of what a receiver demands beside policies: limits, tokens, mTLS or not."""

from __future__ import annotations

import ssl

from schemas.objects.authorization import ClaimMatch
from tests.states.build import (
    ROOT_DER,
    Operation,
    Rule,
    Source,
    State,
    authentication,
    identity,
    key_set,
    peers,
    policy,
    port,
    rate_limit,
    rule,
    service,
    state,
    unreadable,
    who,
)
from tests.states.shop import LET_WEB_IN, PASSING, TRUST
from tests.support.tokens import NOBODYS

_CA = ssl.DER_cert_to_PEM_cert(ROOT_DER)
_ANOTHERS = NOBODYS.replace('"kty"', '"kid":"other","kty"')

RECEIVER_STATES: tuple[State, ...] = (
    state(
        "rate-limits",
        "by caller, for some callers, by path, on one port; on tcp what counts connections; and policies for others",
        service("orders", port("http", 80), port("grpc", 9000, "grpc"), port("raw", 7000, "tcp")),
        TRUST,
        LET_WEB_IN,
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
        PASSING,
        TRUST,
        LET_WEB_IN,
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
                "fromHeaders": [{"name": "X-Token"}, {"name": "x-signed", "prefix": "Token "}],
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
            Rule(
                from_=(Source(request_principals=("https://two.example/*",), not_request_principals=("*/guest",)),),
                when=(ClaimMatch(key="request.auth.claims[groups]", not_values=("retired",)),),
            ),
        ),
        policy("not-guests", "DENY", Rule(from_=(Source(request_principals=("https://one.example/guest-*",)),))),
    ),
    state(
        "tokens-read",
        "bytes are passed on where there is no token to prove; where there may be, HTTP is read",
        PASSING,
        TRUST,
        LET_WEB_IN,
        authentication("issuer", {"issuer": "https://one.example", "jwks": NOBODYS}),
    ),
    state(
        "tokens-fetched",
        "keys that replicas have fetched, by whom they believed; an issuer whose keys nobody knows yet: answered 401",
        service("orders"),
        TRUST,
        LET_WEB_IN,
        authentication(
            "issuers",
            {"issuer": "https://one.example", "jwksUri": "https://one.example/keys", "jwksCa": _CA},
            {"issuer": "https://two.example", "jwksUri": "https://two.example/keys", "jwksRefreshInterval": "5m"},
        ),
        authentication(
            "of-web", {"issuer": "https://two.example", "jwksUri": "https://three.example/keys"}, on=["web"]
        ),
        key_set("https://one.example/keys", NOBODYS, _CA),
        key_set("https://one.example/keys", _ANOTHERS),
        key_set("https://three.example/keys", NOBODYS),
    ),
    state(
        "tokens-unreadable",
        "a RequestAuthentication that nobody can read closes its namespace",
        service("orders"),
        TRUST,
        LET_WEB_IN,
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
        PASSING,
        TRUST,
        LET_WEB_IN,
        peers("orders", "PERMISSIVE", ["orders"]),
    ),
    state(
        "permissive-unreadable",
        "what nobody can read may be STRICT of anything in its namespace",
        service("orders"),
        TRUST,
        LET_WEB_IN,
        peers("orders", "PERMISSIVE", ["orders"]),
        unreadable(peers("other", "PERMISSIVE")),
    ),
)
