"""Random policies that meet the requests of `QUESTIONS`, and requests whose paths are written in odd ways."""

from __future__ import annotations

from hypothesis import strategies as st

from schemas.names import SpiffeId
from schemas.objects import AuthorizationPolicy
from schemas.objects.authorization import AuthorizationPolicySpec, Operation, Rule, Source
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
METHODS = ("GET", "POST", "DELETE")

_IDENTITIES = st.sampled_from(
    [
        *map(str, CALLERS),
        identity("web").replace(TRUST_DOMAIN, "MESH.test"),
        f"spiffe://{TRUST_DOMAIN}/ns//svc",
        "spiffe://third.test/ns/shop/svc/web",
    ]
)
_PATHS = st.sampled_from(["/", "/*", "/a", "/a/*", "/a/b", "/a/b/*", "/b", "/b/*", "/a.b", "/a%20b", "/a/..", "//"])


def _few(values: st.SearchStrategy[object], least: int = 0) -> st.SearchStrategy[tuple[object, ...]]:
    return st.lists(values, min_size=least, max_size=3).map(tuple)


def _maybe(values: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    return st.none() | values


_sources = st.builds(
    Source, identities=_maybe(_few(_IDENTITIES)), namespaces=_maybe(_few(st.sampled_from(["shop", "back", "sh"])))
)
_operations = st.builds(
    Operation,
    methods=_maybe(_few(st.sampled_from(METHODS))),
    paths=_maybe(_few(_PATHS)),
    ports=_maybe(_few(st.sampled_from([one.port for one in PORTS]))),
)
_rules = st.builds(Rule, from_=_maybe(_few(_sources)), to=_maybe(_few(_operations)))


@st.composite
def policies(draw: st.DrawFn, action: str | None = None) -> AuthorizationPolicy:
    name = draw(st.sampled_from(["p1", "p2", "p3", "p4", "p1.back"]))
    verb = draw(st.sampled_from(["ALLOW", "ALLOW", "DENY"])) if action is None else action
    targets = draw(st.none() | _few(st.builds(TargetRef, name=st.sampled_from(["orders", "cart"]))))
    spec = AuthorizationPolicySpec(target_refs=targets, action=verb, rules=draw(_few(_rules)))  # type: ignore[arg-type]  # of the strategies' wide types
    made: AuthorizationPolicy = policy(name, "ALLOW")
    return AuthorizationPolicy(api_version=made.api_version, metadata=made.metadata, spec=spec)


_SEGMENTS = st.sampled_from(
    [
        *("a", "b", "c", "a.b", "a b".replace(" ", "%20"), "", ".", "..", "...", ";", "a;x=1"),
        *("%2e", "%2E%2e", ".%2e", "..;", "..;x", ".;", "%2e%2e;", "a\\..", "..\\", "a\\", "%61", "%41", "%7e", "%2D"),
        *("%2f", "a%5Cb", "%00", "%", "%zz", "%252e", "a|b", "<a>", '"', "a*", "a%c3%a9"),
    ]
)
_QUERIES = st.sampled_from(["", "", "", "?", "?b=/../c", "?%2f", "?a\\b", "?x#y", "?..;/a"])


@st.composite
def _odd_target(draw: st.DrawFn) -> str:
    return "/" + "/".join(draw(st.lists(_SEGMENTS, max_size=4))) + draw(_QUERIES)


targets = st.sampled_from(["/", "/a", "/a/", "/a/b", "/ab", "/b/c", "/a%20b"]) | _odd_target()
