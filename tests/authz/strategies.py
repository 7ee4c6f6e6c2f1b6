"""Random policies that meet the requests of `QUESTIONS`, and requests whose paths are written in odd ways."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st

from schemas.names import SpiffeId
from schemas.objects import AuthorizationPolicy
from schemas.objects.authorization import AuthorizationPolicySpec, GrpcMatch, HeaderMatch, Operation, Rule, Source
from schemas.objects.common import TargetRef
from schemas.objects.service import ServicePort
from tests.states.build import TRUST_DOMAIN, identity, policy, port

PORTS: tuple[ServicePort, ...] = (port("http", 8080), port("more", 8081, "http2"), port("raw", 7000, "tcp"))
CALLERS = tuple(
    SpiffeId.parse(one)
    for one in (
        *(identity(name) for name in ("web", "cart", "web.back")),
        *(identity(name, "other.test") for name in ("web", "cart")),
    )
)
WHO: tuple[SpiffeId | None, ...] = (*CALLERS[:-1], None)
"""Who shows no certificate asks as well, of ports that take plaintext."""
METHODS = ("GET", "POST", "DELETE")

_IDENTITIES = st.sampled_from(
    [
        *map(str, CALLERS),
        identity("web").replace(TRUST_DOMAIN, "MESH.test"),
        f"spiffe://{TRUST_DOMAIN}/ns//svc",
        "spiffe://third.test/ns/shop/svc/web",
    ]
)
_PATHS = st.sampled_from(
    [
        "/",
        "/*",
        "/a",
        "/a/*",
        "/a/b",
        "/a/b/*",
        "/b",
        "/b/*",
        "/a.b",
        "/a%20b",
        "/a b",
        "/a/..",
        "//",
        "*b",
        "*/b",
        "*.b",
        "/{*}",
        "/a/{*}",
        "/{*}/b",
        "/a/{**}",
        "/{**}/c",
        "/a:b",
        "/a%3Ab/*",
        "/a|b",
        "/café",
    ]
)


def _few(values: st.SearchStrategy[object], least: int = 0) -> st.SearchStrategy[tuple[object, ...]]:
    return st.lists(values, min_size=least, max_size=3).map(tuple)


def _maybe(values: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    return st.none() | values


_NAMESPACES = st.sampled_from(["shop", "back", "sh"])
_DOMAINS = st.sampled_from([TRUST_DOMAIN, "other.test", "third.test"])
_BLOCKS = st.sampled_from(["127.0.0.1", "127.0.0.0/30", "127.0.0.9/32", "127.0.0.0/8", "10.0.0.0/8", "::/0", "::1"])
_HOSTS = st.sampled_from(["orders.shop", "*.shop", "api.example.com", "*.example.com", "ORDERS.shop", "*.com"])
_VALUES = st.sampled_from(["admin", "adm*", "*min", "*dm*", "*", "user", "a b"])
_HEADERS = st.builds(
    HeaderMatch, name=st.sampled_from(["x-role", "X-Role", "x-other"]), values=_maybe(_few(_VALUES, 1))
)
_GRPC = st.builds(
    GrpcMatch, service=_maybe(st.sampled_from(["a", "a.b", "b"])), method=_maybe(st.sampled_from(["b", "c"]))
)
_NUMBERS = st.sampled_from([one.port for one in PORTS])


def _rarely(values: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    """Many conditions at once never hold."""
    return st.one_of(*[st.none()] * 5, values)


_sources = st.builds(
    Source,
    identities=_maybe(_few(_IDENTITIES)),
    not_identities=_rarely(_few(_IDENTITIES)),
    namespaces=_rarely(_few(_NAMESPACES)),
    not_namespaces=_rarely(_few(_NAMESPACES)),
    trust_domains=_rarely(_few(_DOMAINS)),
    not_trust_domains=_rarely(_few(_DOMAINS)),
    ip_blocks=_rarely(_few(_BLOCKS)),
    not_ip_blocks=_rarely(_few(_BLOCKS)),
)
# What lets in who shows no certificate, or all but does.
_addresses = st.builds(
    Source,
    not_identities=_rarely(_few(_IDENTITIES)),
    not_trust_domains=_rarely(_few(_DOMAINS)),
    ip_blocks=_few(_BLOCKS, 1),
    not_ip_blocks=_rarely(_few(_BLOCKS)),
)
_operations = st.builds(
    Operation,
    methods=_rarely(_few(st.sampled_from(METHODS))),
    not_methods=_rarely(_few(st.sampled_from(METHODS))),
    paths=_maybe(_few(_PATHS)),
    not_paths=_rarely(_few(_PATHS)),
    hosts=_rarely(_few(_HOSTS)),
    not_hosts=_rarely(_few(_HOSTS)),
    headers=_rarely(_few(_HEADERS)),
    not_headers=_rarely(_few(_HEADERS)),
    grpc=_rarely(_few(_GRPC)),
    ports=_rarely(_few(_NUMBERS)),
    not_ports=_rarely(_few(_NUMBERS)),
)
_rules = st.builds(Rule, from_=_maybe(_few(st.one_of(_sources, _sources, _addresses))), to=_maybe(_few(_operations)))


@st.composite
def policies(draw: st.DrawFn, action: str | None = None) -> AuthorizationPolicy:
    name = draw(st.sampled_from(["p1", "p2", "p3", "p4", "p1.back", "p1.mesh-system"]))
    verb = draw(st.sampled_from(["ALLOW", "ALLOW", "ALLOW", "DENY", "AUDIT"])) if action is None else action
    targets = draw(st.none() | _few(st.builds(TargetRef, name=st.sampled_from(["orders", "cart"]))))
    spec = AuthorizationPolicySpec(target_refs=targets, action=verb, rules=draw(_few(_rules)))  # type: ignore[arg-type]  # of the strategies' wide types
    made: AuthorizationPolicy = policy(name, "ALLOW")
    return AuthorizationPolicy(api_version=made.api_version, metadata=made.metadata, spec=spec)


@dataclass(frozen=True)
class Dress:
    """What a request has beside caller, method and target. `address`: of the caller's host."""

    host: str = "orders.shop"
    headers: tuple[tuple[str, str], ...] = ()
    address: str = "127.0.0.1"


DRESSES = (
    Dress(),
    Dress("api.example.com:80", (("x-role", "admin"),)),
    Dress("ORDERS.shop.", (("X-Role", "user"), ("x-role", " admin "), ("x-other", "")), "127.0.0.9"),
    Dress("orders.shop:1", (("x-role", "a b\t ,  adm"), ("x-other", "\xe9,\tadmin ,x"))),
)

_BEFORE, _AFTER = ("", ",", ", ", ",  ", ",\t", ", \t ", ",\xa0"), ("", ",", " ,", "\t ,", "  , ")
HEADER_LISTS = (
    *("admin", "user", "administrator", "badmin", "user admin", "guest;admin", "\xff", "a b", "a  b", "", ","),
    *(f"guest{before}admin" for before in _BEFORE),
    *(f"admin{after}guest" for after in _AFTER),
    *(f"\xe9{before}adm{after}\xff" for before in _BEFORE[1:] for after in _AFTER[1:]),
    *("adm, admin", "min,\tadmin", "admin,admin", "adm,", ",min", "a,b", "a ,  b", "x,\ta,b"),
)
"""Values of a header that apps read as a list (RFC 9110, 5.6.1), and some that they do not."""

_SEGMENTS = st.sampled_from(
    [
        *("a", "b", "c", "a.b", "a b".replace(" ", "%20"), "", ".", "..", "...", ";", "a;x=1"),
        *("%2e", "%2E%2e", ".%2e", "..;", "..;x", ".;", "%2e%2e;", "a\\..", "..\\", "a\\", "%61", "%41", "%7e", "%2D"),
        *(
            "%2f",
            "a%5Cb",
            "%00",
            "%",
            "%zz",
            "%252e",
            "a|b",
            "a:b",
            "a%3ab",
            "a%3Bx",
            ";x",
            "b;",
            "<a>",
            '"',
            "a*",
            "a%c3%a9",
        ),
    ]
)
_QUERIES = st.sampled_from(["", "", "", "?", "?b=/../c", "?%2f", "?a\\b", "?x#y", "?..;/a"])


@st.composite
def _odd_target(draw: st.DrawFn) -> str:
    return "/" + "/".join(draw(st.lists(_SEGMENTS, max_size=4))) + draw(_QUERIES)


targets = st.sampled_from(["/", "/a", "/a/", "/a/b", "/ab", "/b/c", "/a%20b"]) | _odd_target()
