"""Random policies and random requests: the offline verdict is what a real Envoy with the compiled rules answers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from authz.judge import Outcome, Reason, Request, judge
from schemas.names import SpiffeId
from schemas.objects import AuthorizationPolicy, Mesh
from schemas.objects.authorization import HeaderMatch, Operation, Rule
from schemas.objects.service import ServicePort
from tests.authz.judge_envoy import APP, HEAD, JudgeEnvoy, judge_envoy
from tests.authz.rules import ALLOWING, OTHER_DOMAIN, TELLING, first_near, rules_of
from tests.authz.strategies import CALLERS, DRESSES, HEADER_LISTS, METHODS, PORTS, WHO, Dress, policies, targets
from tests.dataplane.compile.conftest import EnvoyFactory
from tests.states.build import (
    Item,
    federates,
    identity,
    mesh_saying,
    peers,
    policy,
    revocation,
    rule,
    service,
    unreadable,
    who,
)

STATUS = {Outcome.ALLOWED: APP, Outcome.DENIED: 403, Outcome.REFUSED: 400}
FIXED: tuple[Item, ...] = (
    service("orders", *PORTS),
    federates("other", OTHER_DOMAIN),
    peers("orders", "PERMISSIVE"),
)
HTTP_PORTS = tuple(one for one in PORTS if one.protocol != "tcp")
TCP_PORT = PORTS[-1]
ALL_PORTS = [one.port for one in HTTP_PORTS]

LET_ALL = policy("all", "ALLOW", Rule())

Question = tuple[SpiffeId | None, ServicePort, str, str, Dress]
Answer = tuple[int, str]
"""The status, and which ALLOW came nearest, where that is told."""


@pytest.fixture(scope="module")
def envoy(envoys: EnvoyFactory, own_address: Callable[[], str]) -> Iterator[JudgeEnvoy]:
    with judge_envoy(envoys("orders"), own_address()) as started:
        yield started


def by_envoy(envoy: JudgeEnvoy, asked: Sequence[str]) -> dict[Question, Answer]:
    """Everybody asks everything. What Envoy answers 400 is asked once: it ends the connection, and is about nobody."""
    answers: dict[Question, Answer] = {}

    def ask(*question: *Question) -> int:
        caller, port, method, target, dress = question
        lines = [f"{method} {target} HTTP/1.1", f"Host: {dress.host}", *map(": ".join, dress.headers), "", ""]
        status = envoy.ask(caller, port.port, "\r\n".join(lines).encode("latin-1"), dress.address)
        answers[question] = status, envoy.told("x-mesh-nearest")
        return status

    plain = DRESSES[0]
    good = [one for one in dict.fromkeys(asked) if ask(CALLERS[0], HTTP_PORTS[0], METHODS[0], one, plain) != 400]
    pairs = list(zip(itertools.cycle(METHODS), (*DRESSES, *DRESSES[:2]), strict=False))
    for caller, port, target, (method, dress) in itertools.product(WHO, HTTP_PORTS, good, pairs):
        ask(caller, port, method, target, dress)
    for caller, dress in itertools.product(CALLERS, DRESSES):
        ask(caller, TCP_PORT, "CONNECT", "orders.shop:7000", dress)
    return answers


def check(
    envoy: JudgeEnvoy,
    found: Sequence[AuthorizationPolicy],
    asked: Sequence[str],
    *,
    revoked: Sequence[str] = (),
    unread: Sequence[AuthorizationPolicy] = (),
    mesh: Mesh | None = None,
) -> int:
    """How many verdicts were compared."""
    items = [*FIXED, *found, *map(revocation, revoked), *map(unreadable, unread)]
    envoy.run(*items, TELLING if mesh is None else mesh, ports=ALL_PORTS)
    answers = by_envoy(envoy, asked)
    refs = [one.ref for one in unread]
    rules = {port: rules_of(found, port, revoked=revoked, unread=refs, mesh=mesh) for port in PORTS}
    for question, (status, nearest) in answers.items():
        caller, port, method, target, dress = question
        request = Request(caller, method, target, dress.headers, dress.host, dress.address)
        verdict = judge(rules[port], port, request)
        assert STATUS[verdict.outcome] == status, (str(caller), port.name, method, target, dress, verdict)
        if mesh is None:
            asks = verdict.reason is Reason.NOTHING_ALLOWS
            first = first_near(rules[port], port, request) if asks else ""
            assert first == nearest, (str(caller), port.name, method, target, dress, verdict)
    return len(answers)


_DRAWN = settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)


@_DRAWN
@given(
    st.lists(policies(), min_size=1, max_size=5),
    st.lists(targets, min_size=2, max_size=5),
    st.lists(st.sampled_from(["web", "web.back"]), max_size=1),
    st.just([]) | st.just([]) | st.just([policy("broken", "ALLOW")]) | st.just([policy("broken.back", "ALLOW")]),
    st.sampled_from([None, None, None, ALLOWING]),
)
@pytest.mark.fault(21)
@pytest.mark.fault(22)
def test_the_offline_verdict_is_what_envoy_answers(
    envoy: JudgeEnvoy,
    found: list[AuthorizationPolicy],
    asked: list[str],
    revoked: list[str],
    unread: list[AuthorizationPolicy],
    mesh: Mesh | None,
) -> None:
    """HTTP/1.1 on both kinds of port, and connections to the tcp port."""
    last = list({one.ref: one for one in found}.values())
    check(envoy, last, asked, revoked=revoked, unread=unread, mesh=mesh)


def test_paths_one_by_one(envoy: JudgeEnvoy) -> None:
    """Every byte, raw and escaped, and what dots, slashes and parameters can be made of: does /a/b/* match it?"""
    dots = ("..", ".", "..;", "..;x", ".;", "%2e%2e", ".%2e", "%2E.", "%2e%2e;", "..%2f", "..%5c")
    odd = (*dots, "a\\..", "..\\", "", ";")
    asked = [
        *(f"/a/b/{chr(code)}" for code in range(0x21, 0x7F)),
        *(f"/a/%{code:02{case}}/c" for code in range(256) for case in "xX"),
        *(f"/a/b/{one}/{two}{last}" for one in odd for two in odd for last in ("", "/", "?q")),
        *(f"/x/{one}/a/b/{two}" for one in odd for two in odd),
    ]
    letters = "".join(map(chr, range(0x21, 0x7F)))
    exact = [f"/a/{one}/c" for one in letters if one not in "?#*%"]
    allow = policy("paths", "ALLOW", rule(to=[Operation(paths=("/a/b/*", *exact))]))
    envoy.run(*FIXED, allow, ports=ALL_PORTS)
    rules = rules_of([allow], HTTP_PORTS[0])
    for target in dict.fromkeys(asked):
        verdict = judge(rules, HTTP_PORTS[0], Request(CALLERS[0], "GET", target))
        head = f"GET {target} HTTP/1.1\r\nHost: orders\r\n\r\n".encode()
        assert STATUS[verdict.outcome] == envoy.ask(CALLERS[0], HTTP_PORTS[0].port, head), (target, verdict)


@pytest.mark.parametrize(
    "header", [("x-user", "anna"), ("X_User", "anna"), ("x-user", "a\x01b"), ("x user", "a"), ("x-\xe9", "a")]
)
def test_headers(envoy: JudgeEnvoy, header: tuple[str, str]) -> None:
    envoy.run(*FIXED, LET_ALL, ports=ALL_PORTS)
    verdict = judge(rules_of([LET_ALL], HTTP_PORTS[0]), HTTP_PORTS[0], Request(CALLERS[0], headers=(header,)))
    head = f"GET / HTTP/1.1\r\nHost: orders\r\n{': '.join(header)}\r\n\r\n".encode("latin-1")
    assert STATUS[verdict.outcome] == envoy.ask(CALLERS[0], HTTP_PORTS[0].port, head)


def test_lists_in_headers_one_by_one(envoy: JudgeEnvoy) -> None:
    """A DENY names what any reading of the value has, an ALLOW what all of them have; of `notHeaders` the other way.

    In one line, or in several, of which apps take the first, the last or all.
    """
    patterns = {"x-exact": "admin", "x-prefix": "adm*", "x-suffix": "*min", "x-blank": "a b", "x-list": "a,b"}
    matches = [HeaderMatch(name=name, values=(value,)) for name, value in patterns.items()]
    found = [
        policy("all", "ALLOW", rule(to=[Operation(paths=("/deny", "/deny-but"))])),
        policy("deny", "DENY", *(rule(to=[Operation(paths=("/deny",), headers=(one,))]) for one in matches)),
        policy(
            "deny-but", "DENY",
            *(rule(to=[Operation(paths=("/deny-but",), headers=(HeaderMatch(name=one.name),), not_headers=(one,))])
              for one in matches),
        ),
        policy("allow", "ALLOW", *(rule(to=[Operation(paths=("/allow",), headers=(one,))]) for one in matches)),
        policy("but", "ALLOW", rule(to=[Operation(paths=("/allow-but",), not_headers=tuple(matches))])),
    ]  # fmt: skip
    envoy.run(*FIXED, *found, ports=ALL_PORTS)
    rules = rules_of(found, HTTP_PORTS[0])
    for (name, pattern), value in itertools.product(patterns.items(), HEADER_LISTS):
        for lines in dict.fromkeys(((value,), tuple(value.split(",")))):
            several, every = readings(",".join(one.strip(" \t") for one in lines), pattern)
            headers = tuple((name, one) for one in lines)
            written = "".join(f"{name}: {one}\r\n" for one in lines)
            for path, allowed in (
                ("/deny", not several), ("/deny-but", every), ("/allow", every), ("/allow-but", not several)
            ):  # fmt: skip
                verdict = judge(rules, HTTP_PORTS[0], Request(CALLERS[0], "GET", path, headers))
                head = f"GET {path} HTTP/1.1\r\nHost: orders\r\n{written}\r\n".encode("latin-1")
                status = envoy.ask(CALLERS[0], HTTP_PORTS[0].port, head)
                assert STATUS[verdict.outcome] == status, (path, lines, verdict)
                assert verdict.allowed is allowed, (path, lines, verdict)


def readings(value: str, pattern: str) -> tuple[bool, bool]:
    """Whether any app may see `pattern` in a header, as it is or split and stripped; and whether all of them do."""
    wanted = [one.strip() for one in pattern.split(",")]
    members = [one.strip() for one in value.split(",")]
    lists = [members[at : at + len(wanted)] for at in range(len(members) - len(wanted) + 1)]
    found = [fnmatchcase(",".join(one), pattern) for one in lists]
    whole = value.strip(" \t")
    literally = fnmatchcase(whole, pattern)
    return any(found) or literally, (literally and all(found)) if "*" in pattern else whole == pattern


def test_connect_to_an_http_port(envoy: JudgeEnvoy) -> None:
    envoy.run(*FIXED, LET_ALL, ports=ALL_PORTS)
    head = b"CONNECT orders:8080 HTTP/1.1\r\nHost: orders:8080\r\n\r\n"
    status = envoy.ask(CALLERS[0], HTTP_PORTS[0].port, head)
    verdict = judge(rules_of([LET_ALL], HTTP_PORTS[0]), HTTP_PORTS[0], Request(CALLERS[0], "CONNECT"))
    assert (verdict.outcome, status) == (Outcome.REFUSED, 403)


def test_an_audit_counts_what_it_would_deny_rule_by_rule(envoy: JudgeEnvoy) -> None:
    reads, writes = (Operation(methods=(one,)) for one in ("GET", "POST"))
    shadow = policy("shadow.mesh-system", "AUDIT", rule(who("cart"), to=[reads]), rule(to=[writes]))
    envoy.run(*FIXED, LET_ALL, shadow, ports=ALL_PORTS)
    web, cart = CALLERS[:2]
    port = HTTP_PORTS[0]
    asked = [(web, "GET"), (cart, "GET"), (cart, "GET"), (web, "POST"), (cart, "DELETE")]
    rules = rules_of([LET_ALL, shadow], port)
    expected = dict.fromkeys((0, 1), 0)
    for caller, method in asked:
        assert envoy.ask(caller, port.port, f"{method} / HTTP/1.1\r\nHost: orders\r\n\r\n".encode()) == APP
        for _, index in judge(rules, port, Request(caller, method)).audits:
            expected[index] += 1
    assert expected == {0: 2, 1: 1}
    counts = envoy.envoy.admin("/stats?filter=shadow_denied")
    found = {}
    for line in counts.splitlines():
        name, _, count = line.rpartition(": ")
        for index in expected:
            if f"|{port.name}" in name and f"mesh-system/shadow[{index}]" in name:
                found[index] = int(count)
    assert found == expected, counts


def test_who_is_denied_is_told_by_which_rule_if_the_mesh_says_so(envoy: JudgeEnvoy) -> None:
    deny = policy("no-cart", "DENY", rule(who("web")), rule(who("cart")))
    for spec, told in ((None, {}), ({"denialHeader": True}, {"cart": "shop/no-cart[1]", "web.back": "none"}), ({}, {})):
        items = [] if spec is None else [mesh_saying(**spec)]
        envoy.run(*FIXED, deny, *items, ports=ALL_PORTS)
        for name in ("cart", "web.back"):
            head = envoy.head(SpiffeId.parse(identity(name)), HTTP_PORTS[0].port, HEAD)
            said = f"x-mesh-denied-by: rbac_access_denied_matched_policy[{told.get(name)}]".encode()
            assert b" 403 " in head
            assert (said in head.split(b"\r\n"), b"x-mesh-denied-by" in head) == (name in told, name in told), head
