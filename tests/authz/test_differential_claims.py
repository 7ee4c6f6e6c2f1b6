"""Random tokens and random rules about them: the offline verdict is what a real Envoy answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from authz.judge import Request, judge
from schemas.objects.authorization import ClaimMatch, Operation, Rule, Source
from tests.authz.judge_envoy import APP, JudgeEnvoy, judge_envoy
from tests.authz.rules import rules_of
from tests.authz.strategies import CALLERS
from tests.authz.test_differential import ALL_PORTS, FIXED, HTTP_PORTS
from tests.dataplane.compile.conftest import EnvoyFactory
from tests.states.build import authentication, policy, rule
from tests.support.tokens import Issuer

ISSUER = Issuer("https://one.example")
TOKENS = authentication("tokens", {"issuer": ISSUER.name, "jwks": ISSUER.jwks()})
PORT = HTTP_PORTS[0]

_TEXTS = st.sampled_from(["", "admin", "ad", "a b", "read", "é", "7", "true", "a/b"]) | st.text(
    st.characters(codec="utf-8", exclude_characters="*\x00"), max_size=4
)
_NAMES = st.sampled_from(["groups", "realm", "roles", "scope", "permission", "a.b", "é"])
_SCALARS = st.none() | st.booleans() | st.integers(-5, 5) | _TEXTS | st.lists(_TEXTS, max_size=3).map(" ".join)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=3),
    max_leaves=6,
)
_claims = st.fixed_dictionaries({}, optional={"sub": _TEXTS}).flatmap(
    lambda own: st.dictionaries(_NAMES, _VALUES, max_size=4).map(lambda more: {**more, **own})
)
_tokens = st.lists(st.none() | _claims, min_size=3, max_size=6)


def _patterns(texts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    some = texts.filter(bool)
    return st.just("*") | some | some.map("{}*".format) | some.map("*{}".format)


_keys = st.lists(_NAMES, min_size=1, max_size=3).map(
    lambda steps: "request.auth.claims" + "".join(map("[{}]".format, steps))
)
_some = st.lists(_patterns(_TEXTS), min_size=1, max_size=2).map(tuple)
_matches = st.builds(ClaimMatch, key=_keys, values=_some) | st.builds(ClaimMatch, key=_keys, not_values=_some)
_NAMED = ("*", f"{ISSUER.name}/*", "https:*", "*/admin", "*n", f"{ISSUER.name}/a/b", f"{ISSUER.name}/a*", "x/ad")
_people = st.lists(st.sampled_from(_NAMED), min_size=1, max_size=2).map(tuple)
_sources = st.none() | st.just((Source(),)) | st.one_of(
    st.builds(Source, request_principals=_people), st.builds(Source, not_request_principals=_people)
).map(lambda one: (one,))  # fmt: skip
_rules = st.lists(
    st.builds(Rule, from_=_sources, when=st.lists(_matches, max_size=2).map(tuple)), min_size=6, max_size=12
)


@pytest.fixture(scope="module")
def envoy(envoys: EnvoyFactory, own_address: Callable[[], str]) -> Iterator[JudgeEnvoy]:
    with judge_envoy(envoys("orders"), own_address()) as started:
        yield started


@settings(deadline=None, max_examples=8, suppress_health_check=list(HealthCheck))
@given(_rules, _tokens)
@pytest.mark.fault(21)
def test_the_offline_verdict_of_claims_is_what_envoy_answers(
    envoy: JudgeEnvoy, rules: list[Rule], tokens: list[dict[str, Any] | None]
) -> None:
    """Each rule has a path of its own in an ALLOW, and one in a DENY of what another allows."""

    def at(action: str) -> list[Rule]:
        return [replace(one, to=(Operation(paths=(f"/{action}/{n}",)),)) for n, one in enumerate(rules)]

    found = [
        policy("allow", "ALLOW", *at("allow")),
        policy("deny", "DENY", *at("deny")),
        policy("rest", "ALLOW", rule(to=[Operation(paths=("/deny/*",))])),
    ]
    envoy.run(*FIXED, TOKENS, *found, ports=ALL_PORTS)
    made = rules_of(found, PORT)
    for more in tokens:
        claims = None if more is None else {**more, "iss": ISSUER.name, "exp": int(time.time()) + 3600}
        claims = claims and {name: value for name, value in claims.items() if value is not None}
        token = "" if claims is None else f"Authorization: Bearer {ISSUER.token(claims)}\r\n"
        for path in (f"/{action}/{number}" for action in ("allow", "deny") for number in range(len(rules))):
            head = f"GET {path} HTTP/1.1\r\nHost: orders.shop\r\n{token}\r\n".encode()
            verdict = judge(made, PORT, Request(CALLERS[0], target=path, claims=claims))
            status = envoy.ask(CALLERS[0], PORT.port, head)
            assert (status, verdict.allowed) in ((APP, True), (403, False)), (
                status,
                path,
                rules[int(path.rpartition("/")[2])],
                claims,
                verdict,
            )
