"""Which tokens a real Envoy lets to the app, by what the app really saw, and what it answers to the others."""

from __future__ import annotations

import http.client
import itertools
import json
import ssl
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import grpc
import pytest
from msgspec.structs import replace

from authz.judge import Request, judge
from authz.key_sources import keys_in_force
from authz.rules import port_rules
from authz.verify import Refusal, verify
from schemas.names import SpiffeId
from schemas.objects.authorization import ClaimMatch, Operation, Rule, Source
from schemas.objects.service import ServicePort
from tests.dataplane.compile.conftest import EnvoyFactory
from tests.dataplane.compile.envoys import wait_until
from tests.dataplane.compile.shop import HTTP, Shop, apps
from tests.states.build import ORDERS, TRUST_DOMAIN, authentication, identity, key_set, policy, rule, unreadable, who
from tests.support.tokens import Issuer, rsa_key

LET_WEB = policy("let-web", "ALLOW", rule(who("web")))
NOW = int(time.time())
ONE, OTHER = Issuer("https://one.example"), Issuer("https://other.example", 1)
GOOD: dict[str, object] = {"sub": "anna", "aud": "orders", "exp": NOW + 3600}
BEARER = {"issuer": ONE.name, "jwks": ONE.jwks(), "audiences": ["orders"], "forwardOriginalToken": True}
IN_HEADER = {
    "issuer": OTHER.name,
    "jwks": OTHER.jwks(),
    "fromHeaders": [{"name": "X-Token"}, {"name": "X-Other-Token", "prefix": "Token "}],
}

Lines = Sequence[tuple[str, str]]


@dataclass
class Got:
    status: int
    body: str
    challenge: str | None

    @property
    def headers(self) -> dict[str, str]:
        """What the app saw."""
        return {name.lower(): value for name, value in json.loads(self.body)["headers"]}


@pytest.fixture(scope="module")
def shop(envoys: EnvoyFactory, own_address: Callable[[], str]) -> Iterator[Shop]:
    with apps() as ports:
        made = Shop(envoys("web"), envoys("orders"), own_address(), own_address(), ports)
        made.set(authentication("tokens", BEARER, IN_HEADER), LET_WEB)
        yield made


class Caller:
    """Calls orders straight, as web, over one connection."""

    def __init__(self, secured: ssl.SSLSocket) -> None:
        self._connection = http.client.HTTPConnection("orders.shop")
        self._connection.sock = secured

    def ask(self, lines: Lines = (), path: str = "/") -> Got:
        assert self._connection.sock is not None, "the connection has ended"
        self._connection.putrequest("GET", path, skip_accept_encoding=True)
        for name, value in lines:
            self._connection.putheader(name, value)
        self._connection.endheaders()
        answer = self._connection.getresponse()
        return Got(answer.status, answer.read().decode(), answer.getheader("www-authenticate"))


@contextmanager
def calling(shop: Shop, name: str = "web") -> Iterator[Caller]:
    with shop.peer(shop.leaves[name], HTTP) as secured:
        yield Caller(secured)


def ask(shop: Shop, *lines: tuple[str, str], path: str = "/") -> Got:
    with calling(shop) as caller:
        return caller.ask(lines, path)


def bearer(token: str) -> tuple[str, str]:
    return "authorization", f"Bearer {token}"


def one(algorithm: str = "ES256", kid: str | None = "e", **claims: object) -> tuple[str, str]:
    return bearer(ONE.token({**GOOD, **claims}, algorithm, kid))


def taken() -> dict[str, Lines]:
    now = int(time.time())
    return {
        "no token": [],
        "ES256": [one()],
        "RS256": [one("RS256", "r")],
        "EdDSA": [one("EdDSA", "d")],
        "no kid": [one(kid=None)],
        "no kid, RS256": [one("RS256", None)],
        "one of several audiences": [one(aud=["stock", "orders"])],
        "ended within the skew": [one(exp=now - 20)],
        "begins within the skew": [one(nbf=now + 20)],
        "a part of a second": [one(exp=now + 100.5)],
        "of the other issuer": [("x-token", OTHER.token({**GOOD, "aud": None}))],
        "after a word": [("x-other-token", "Token " + OTHER.token(GOOD))],
        "another scheme": [("authorization", "Basic YTpi")],
        "another scheme, and a token": [("authorization", "Basic YTpi"), ("x-token", OTHER.token(GOOD))],
        "a token where nobody looks": [("x-elsewhere", "nonsense")],
        "as much as headers hold": [one(pad="x" * 30_000)],
        "what else a header says": [bearer(ONE.token(GOOD, typ="JWT", cty="x"))],
    }


_NO_FORM = "Jwt is malformed: authorization is not 'Bearer HEADER.PAYLOAD.SIGNATURE', once"
_TWO = "Jwt is malformed: there are two tokens"
_HEADER, _PAYLOAD, _SIGNATURE = one()[1].removeprefix("Bearer ").split(".")


def refused() -> dict[str, tuple[Lines, int, str]]:
    now = int(time.time())
    return {
        "ended": ([one(exp=now - 120)], 401, "Jwt is expired"),
        "without an end": ([one(exp=None)], 401, "Jwt verification fails"),
        "not begun": ([one(nbf=now + 120)], 401, "Jwt not yet valid"),
        "for somebody else": ([one(aud="stock")], 403, "Audiences in Jwt are not allowed"),
        "for others": ([one(aud=["stock", "web"])], 403, "Audiences in Jwt are not allowed"),
        "for nobody": ([one(aud=None)], 403, "Audiences in Jwt are not allowed"),
        "of an unknown issuer": ([one(iss="https://third.example")], 401, "Jwt issuer is not configured"),
        "of no issuer": ([one(iss=None)], 401, "Jwt issuer is not configured"),
        "of the issuer elsewhere": ([bearer(OTHER.token(GOOD))], 401, "Jwt issuer is not configured"),
        "signed by another": ([bearer(OTHER.token({**GOOD, "iss": ONE.name}))], 401, "Jwt verification fails"),
        "without kid, by another": (
            [bearer(OTHER.token({**GOOD, "iss": ONE.name}, kid=None))],
            401,
            "Jwt verification",
        ),
        "an unknown key": ([one(kid="f")], 401, "Jwks doesn't have key to match kid or alg from Jwt"),
        "the key of another algorithm": ([one("RS256", "e")], 401, "Jwt verification fails"),
        "HS256 with the public key": ([one("HS256", "r")], 401, "Jwt verification fails"),
        "HS256 without kid": ([one("HS256", None)], 401, "Jwt verification fails"),
        "alg none": ([one("none")], 401, _NO_FORM),
        "alg none, and a signature": ([bearer(one("none")[1].removeprefix("Bearer ") + "eA")], 401, "Jwt header [alg]"),
        "alg a list": ([bearer(ONE.token(GOOD, alg=[]))], 401, "Jwt header [alg]"),
        "alg an object": ([bearer(ONE.token(GOOD, alg={}))], 401, "Jwt header [alg]"),
        "kid a list": ([bearer(ONE.token(GOOD, kid=[]))], 401, "Jwt header [kid]"),
        "kid a number": ([bearer(ONE.token(GOOD, kid=0))], 401, "Jwt header [kid]"),
        "sub a number": ([one(sub=7)], 401, "Jwt"),
        "jti a number": ([one(jti=7)], 401, "Jwt"),
        "iat a text": ([one(iat="now")], 401, "Jwt"),
        "iat below 0": ([one(iat=-1)], 401, "Jwt"),
        "nbf below 0": ([one(nbf=-1)], 401, "Jwt"),
        "aud a number": ([one(aud=["orders", 7])], 401, "Jwt"),
        "another payload": ([bearer(f"{_HEADER}.{_PAYLOAD[:-2]}AA.{_SIGNATURE}")], 401, "Jwt"),
        "nothing": ([("authorization", "Bearer")], 401, _NO_FORM),
        "no token at all": ([("authorization", "Bearer nonsense")], 401, _NO_FORM),
        "three parts of nonsense": ([("authorization", "Bearer a.b.c")], 401, "Jwt header is an invalid Base64url"),
        "another case": ([("authorization", one()[1].replace("Bearer", "bearer"))], 401, _NO_FORM),
        "a tab": ([("authorization", one()[1].replace(" ", "\t"))], 401, _NO_FORM),
        "two spaces": ([("authorization", one()[1].replace(" ", "  "))], 401, _NO_FORM),
        "more after it": ([("authorization", one()[1] + " x")], 401, _NO_FORM),
        "within another scheme": ([("authorization", "Basic x " + one()[1])], 401, _NO_FORM),
        "part of a word": ([("authorization", "x" + one()[1])], 401, _NO_FORM),
        "twice the same": ([one(), one()], 401, _NO_FORM),
        "a good one first": ([one(), ("authorization", "Bearer x.y.z")], 401, _NO_FORM),
        "a bad one first": ([("authorization", "Bearer x.y.z"), one()], 401, _NO_FORM),
        "after another scheme": ([("authorization", "Basic YTpi"), one()], 401, _NO_FORM),
        "in two headers": ([one(), ("x-token", OTHER.token(GOOD))], 401, _TWO),
        "in two headers, one nonsense": ([one(), ("x-token", "nonsense")], 401, "Jwt is malformed: x-token"),
        "without its word": ([("x-other-token", OTHER.token(GOOD))], 401, "Jwt is malformed: x-other-token"),
        "with a word too many": ([("x-token", "Bearer " + OTHER.token(GOOD))], 401, "Jwt is malformed: x-token"),
        "an empty header": ([("x-token", "")], 401, "Jwt is malformed: x-token"),
    }


@pytest.mark.fault(22)
def test_good_tokens_and_requests_without_one_reach_the_app(shop: Shop) -> None:
    with calling(shop) as caller:
        for name, lines in taken().items():
            got = caller.ask(lines)
            assert got.status == 200, (name, got)
            kept = [(one, value) for one, value in lines if "token" not in one]
            assert [(one, got.headers.get(one)) for one, _ in kept] == kept, f"{name}: the token was to be left"
            assert not {"x-token", "x-other-token"} & got.headers.keys(), f"{name}: the token was to be taken out"


@pytest.mark.fault(22)
def test_every_other_token_is_refused_with_the_reason(shop: Shop) -> None:
    with calling(shop) as caller:
        for name, (lines, status, says) in refused().items():
            got = caller.ask(lines)
            assert (got.status, got.body[: len(says)]) == (status, says), name
            assert got.challenge is not None, name
            assert 'error="invalid_token"' in got.challenge, name
    answers = Counter(status for _, status, _ in refused().values())
    wait_until("each is logged once", lambda: statuses(shop) == answers)


def test_a_refused_token_of_a_grpc_call_is_logged_too(shop: Shop) -> None:
    """Its status is 200, as of every answer over gRPC."""
    for token, details in (("nonsense", "direct_response"), ("a.b.c", "jwt_authn_access_denied")):
        path = f"/shop.Payments/{details}"
        assert shop.pay(path, ("authorization", f"Bearer {token}")) is grpc.StatusCode.UNAUTHENTICATED
        wait_until("it is logged", partial(logged_as, shop, path, details))


def logged_as(shop: Shop, path: str, details: str) -> bool:
    lines = map(json.loads, shop.orders.access_log.read_text().splitlines())
    return [one["details"].partition("{")[0] for one in lines if one["path"] == path] == [details]


def statuses(shop: Shop) -> Counter[int]:
    """Of what the sidecar has refused, by its log."""
    lines = map(json.loads, shop.orders.access_log.read_text().splitlines())
    return Counter(one["status"] for one in lines if one["status"] in (401, 403))


def test_offline_the_same_is_taken_and_refused_for_the_same_reason() -> None:
    """Of what is one token where its issuer's rule looks."""
    rules = [
        (rule, keys_in_force(rule, lambda _: None)) for rule in authentication("t", BEARER, IN_HEADER).spec.jwt_rules
    ]
    now = int(time.time())

    def verified(lines: Lines) -> dict[str, object] | Refusal | None:
        if len(lines) != 1:
            return None
        (name, value), prefixes = lines[0], {"authorization": "Bearer ", "x-token": "", "x-other-token": "Token "}
        prefix = prefixes.get(name)
        if prefix is None or not value.startswith(prefix) or " " in value.removeprefix(prefix):
            return None
        looking = [(rule, keys) for rule, keys in rules if (name == "authorization") == (not rule.from_headers)]
        return verify(value.removeprefix(prefix), looking, now)

    answers = [(name, verified(lines)) for name, lines in taken().items()]
    assert all(not isinstance(answer, Refusal) for _, answer in answers), answers
    assert sum(answer is not None for _, answer in answers) > 8
    compared = 0
    for name, (lines, status, says) in refused().items():
        answer = verified(lines)
        if answer is not None:
            assert isinstance(answer, Refusal), name
            assert answer.status == status, name
            of_a_form = says == "Jwt" or says.startswith(("Jwt header", "Jwt is malformed"))
            assert answer.says.startswith("Jwt" if of_a_form else says), name
            compared += 1
    assert compared > 15


# -- what policies make of them

CLAIMS: tuple[dict[str, object] | None, ...] = (
    None,
    {},
    {"sub": "anna/b"},
    {"sub": ""},
    {"groups": "admin", "scope": "read write"},
    {"groups": ["guest", "admin-of-x"], "realm": {"roles": ["ops"]}, "sub": None},
    {"groups": [["admin"], 7, {"admin": "admin"}], "realm": "ops", "scope": "write  x"},
    {"groups": True, "scope": ["read"], "realm": {"roles": {"ops": "ops"}}, "permission": "read"},
)
_KEYS = ("groups", "realm][roles", "scope", "permission")
_PATTERNS = ("*", "admin", "admin*", "*in", "ops", "write", "read", "x")
_PRINCIPALS = ("*", f"{ONE.name}/anna", f"{ONE.name}/*", "https:*", "*/anna", "*anna/b", "*b", "https://one*", "x/anna")


def _rules() -> Iterator[tuple[str, Rule]]:
    for number, value in enumerate(_PRINCIPALS):
        yield f"is-{number}", Rule(from_=(Source(request_principals=(value,)),))
        yield f"is-not-{number}", Rule(from_=(Source(not_request_principals=(value,)),))
    for number, (key, value) in enumerate(itertools.product(_KEYS, _PATTERNS)):
        yield f"has-{number}", Rule(when=(ClaimMatch(key=f"request.auth.claims[{key}]", values=(value, "nobody")),))
        yield f"has-not-{number}", Rule(when=(ClaimMatch(key=f"request.auth.claims[{key}]", not_values=(value,)),))


@pytest.mark.fault(21)
def test_the_offline_verdict_is_what_envoy_answers_to_tokens(shop: Shop) -> None:
    """Each rule has a path of its own, once in an ALLOW and once in a DENY of what another one allows."""
    rules = dict(_rules())
    of = [
        *(
            policy(f"{action.lower()}-{name}", action, replace(one, to=(Operation(paths=(f"/{action}/{name}",)),)))
            for name, one in rules.items()
            for action in ("ALLOW", "DENY")
        ),
        policy("rest", "ALLOW", rule(to=[Operation(paths=("/DENY/*",))])),
    ]
    shop.set(authentication("tokens", BEARER), *of)
    port = ServicePort(name="http", port=HTTP, protocol="http")
    made = port_rules(ORDERS, port, of, trust_domain=TRUST_DOMAIN, is_trusted=lambda _: False)
    web = SpiffeId.parse(identity("web"))
    with calling(shop) as caller:
        for more in CLAIMS:
            claims = None if more is None else {**GOOD, "iss": ONE.name, **more}
            claims = claims and {key: value for key, value in claims.items() if value is not None}
            lines = [] if claims is None else [bearer(ONE.token(claims))]
            for name, action in itertools.product(rules, ("ALLOW", "DENY")):
                path = f"/{action}/{name}"
                verdict = judge(made, port, Request(web, target=path, claims=claims))
                status = caller.ask(lines, path).status
                assert (status == 200) is verdict.allowed, (rules[name], action, claims, status, verdict)
    shop.set(authentication("tokens", BEARER, IN_HEADER), LET_WEB)


# -- what a change does


def test_other_keys_judge_the_next_request_of_a_connection_that_is_open(shop: Shop) -> None:
    with calling(shop) as caller:
        assert caller.ask([one()]).status == 200
        shop.set(authentication("tokens", {**BEARER, "jwks": OTHER.jwks()}), LET_WEB)
        assert (caller.ask([one()]).status, caller.ask().status) == (401, 200)
        shop.set(authentication("tokens", {**BEARER, "audiences": ["stock"]}), LET_WEB)
        assert caller.ask([one()]).status == 403
        shop.set(authentication("tokens", BEARER, IN_HEADER), LET_WEB)
        assert caller.ask([one()]).status == 200


@pytest.mark.fault(21)
def test_keys_that_replicas_fetch(shop: Shop) -> None:
    """An issuer whose keys nobody knows has answers of its own, beside one whose keys are known."""
    three, uri = Issuer("https://three.example"), "https://three.example/keys"
    fetched = authentication("tokens", BEARER, {"issuer": three.name, "jwksUri": uri})
    with calling(shop) as caller:

        def answers() -> list[tuple[int, str]]:
            tokens = [bearer(issuer.token(claims)) for issuer in (three, ONE) for claims in (GOOD, {**GOOD, "exp": 1})]
            return [(got.status, got.body[:30]) for got in (caller.ask([one]) for one in tokens)]

        known = [(200, '{"method": "GET", "path": "/", '[:30]), (401, "Jwt is expired")]
        shop.set(fetched, LET_WEB)
        assert answers() == [(401, "Jwks remote fetch is failed"), (401, "Jwt is expired"), *known]
        shop.set(fetched, LET_WEB, key_set(uri, three.jwks()))
        assert answers() == known * 2
        shop.set(fetched, LET_WEB, key_set(uri, OTHER.jwks()))  # rotated
        assert answers() == [(401, "Jwt verification fails"), known[1], *known]
        shop.set(fetched, LET_WEB, key_set(uri, three.jwks(), "other CAs"))
        assert answers()[0] == (401, "Jwks remote fetch is failed")
        shop.set(fetched, LET_WEB, (key_set(uri, "")[0], b"\xc1"))
        assert answers()[0] == (401, "Jwks remote fetch is failed")
        shop.set(authentication("tokens", BEARER, IN_HEADER), LET_WEB)
        assert answers()[0] == (401, "Jwt issuer is not configured")


def test_keys_that_envoy_takes_none_of_hold_up_no_policy(shop: Shop) -> None:
    """What a stranger serves: had Envoy refused it, it had refused the rules that came with it."""
    uri, n = f"{ONE.name}/keys", ONE.rsa.public_key().public_numbers().n
    fetched = authentication("tokens", {"issuer": ONE.name, "jwksUri": uri})
    denied = policy("no-web", "DENY", rule(who("web")))
    taken = [(n, 65537), (n, 3), (2**8191 + 1, 3)]
    refused = [(n, 17), (n, 2**31 + 1), (n - 1, 65537), (2**8192 + 1, 3)]
    with calling(shop) as caller:
        for of in (taken, *([one] for one in refused)):
            keys = key_set(uri, json.dumps({"keys": [{**rsa_key(*one), "kid": "ключ"} for one in of]}))
            shop.set(fetched, LET_WEB, keys)
            assert caller.ask([one("RS256", "ключ")]).status == (200 if of is taken else 401), of
            shop.set(fetched, LET_WEB, keys, denied)
            assert caller.ask().status == 403, of
        shop.set(fetched, denied, key_set(uri, json.dumps({"keys": [rsa_key(*taken[-1])]})))
        shop.set(authentication("tokens", BEARER, IN_HEADER), LET_WEB)


@pytest.mark.fault(21)
def test_what_nobody_can_read_opens_no_door(shop: Shop) -> None:
    good = authentication("tokens", BEARER)
    with calling(shop) as caller:
        assert caller.ask([one()]).status == 200
        secret = authentication("tokens", {**BEARER, "jwks": '{"keys": [{"kty": "oct", "k": "AAAA"}]}'})
        for bad in (unreadable(good), secret, unreadable(authentication("another", BEARER))):
            shop.set(bad, LET_WEB)
            assert (caller.ask([one()]).status, caller.ask().status) == (403, 403)
        shop.set(authentication("tokens", BEARER, IN_HEADER), LET_WEB)
        assert caller.ask([one()]).status == 200
