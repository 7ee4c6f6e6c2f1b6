"""Verdicts offline: what decided, what came nearest, and what must hold of any policies."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from authz.judge import Lack, Miss, Outcome, Reason, Request, Verdict, judge
from authz.nearest import MAX_NEAR, near_misses
from authz.stored import policy_faults
from schemas.names import ObjectRef, SpiffeId
from schemas.objects import AuthorizationPolicy
from schemas.objects.authorization import HeaderMatch, Operation, Rule, Source
from schemas.objects.service import ServicePort
from tests.authz.rules import ALLOWING, OTHER_DOMAIN, first_near, rules_of
from tests.authz.strategies import DRESSES, METHODS, PORTS, WHO, policies
from tests.states.build import TRUST_DOMAIN, identity, policy, rule, who

HTTP, _, TCP = PORTS
_DRAWN = settings(deadline=None, max_examples=40)
WEB = SpiffeId.parse(identity("web"))
REQUESTS = [
    (port, Request(caller, method, path, dress.headers, dress.host, dress.address))
    for port in PORTS
    for caller in WHO
    for method, path, dress in (
        (METHODS[0], "/", DRESSES[0]),
        (METHODS[1], "/a", DRESSES[1]),
        (METHODS[0], "/a/b;c", DRESSES[2]),
        (METHODS[1], "/a/b", DRESSES[3]),
    )
]


def verdict(
    found: Iterable[AuthorizationPolicy],
    request: Request,
    port: ServicePort = HTTP,
    *,
    revoked: Iterable[str] = (),
    unread: Iterable[ObjectRef] = (),
) -> Verdict:
    return judge(rules_of(found, port, revoked=revoked, unread=unread), port, request)


def verdicts(found: Sequence[AuthorizationPolicy]) -> list[Verdict]:
    rules = {port: rules_of(found, port) for port in PORTS}
    return [judge(rules[port], port, request) for port, request in REQUESTS]


def allowed(found: Sequence[AuthorizationPolicy]) -> set[int]:
    return {number for number, one in enumerate(verdicts(found)) if one.allowed}


def test_what_decided() -> None:
    allow, deny = policy("a", "ALLOW", rule(who("cart")), rule(who("web"))), policy("d", "DENY", Rule())
    assert verdict([allow], Request(WEB)).policy == allow.ref
    assert verdict([allow], Request(WEB)).rule == 1
    found = verdict([allow, deny], Request(WEB))
    assert (found.reason, found.policy, found.rule) == (Reason.DENY, deny.ref, 0)
    assert verdict([allow], Request(WEB), revoked=["web"]).reason is Reason.REVOKED
    broken = policy("broken", "ALLOW").ref
    assert verdict([allow], Request(WEB), unread=[broken]).policy == broken
    assert verdict([allow], Request(WEB), unread=[policy("x.back", "ALLOW").ref]).allowed
    for stranger in (f"spiffe://{TRUST_DOMAIN}/operator/anna", "spiffe://third.test/ns/shop/svc/web"):
        assert (
            verdict([policy("all", "ALLOW", Rule())], Request(SpiffeId.parse(stranger))).reason is Reason.NOT_ADMITTED
        )


def test_a_mesh_that_allows_by_default() -> None:
    """Any workload of the mesh whom no DENY refuses: an ALLOW that comes or goes changes nothing."""
    named, other = policy("a", "ALLOW", rule(who("web"))), policy("a", "ALLOW", rule(who("cart")))
    for port in (HTTP, TCP):
        for found in ([], [other]):
            by_default = judge(rules_of(found, port, mesh=ALLOWING), port, Request(WEB))
            assert (by_default.allowed, by_default.policy) == (True, ALLOWING.ref)
        assert judge(rules_of([named], port, mesh=ALLOWING), port, Request(WEB)).policy == named.ref
        denied = judge(rules_of([policy("d", "DENY", rule())], port, mesh=ALLOWING), port, Request(WEB))
        assert denied.reason is Reason.DENY
        broken = rules_of([], port, unread=[policy("broken", "ALLOW").ref], mesh=ALLOWING)
        assert judge(broken, port, Request(WEB)).reason is Reason.UNREADABLE
        revoked = rules_of([], port, revoked=["web"], mesh=ALLOWING)
        assert judge(revoked, port, Request(WEB)).reason is Reason.REVOKED
        for stranger in (None, SpiffeId.parse(f"spiffe://{OTHER_DOMAIN}/ns/shop/svc/web")):
            assert not judge(rules_of([], port, mesh=ALLOWING), port, Request(stranger)).allowed


def test_who_shows_no_certificate_is_let_in_by_address_alone() -> None:
    here, there = Source(ip_blocks=("127.0.0.0/8",)), Source(ip_blocks=("10.0.0.0/8",))
    nobody = Request(None, address="127.0.0.1")
    let_in = policy("here", "ALLOW", rule(here))
    for port in (HTTP, TCP):
        assert verdict([let_in], nobody, port).allowed
        assert judge(rules_of([let_in], port, plaintext=False), port, nobody).reason is Reason.PLAINTEXT
        not_so = (
            there,
            Source(),
            Source(not_ip_blocks=("10.0.0.0/8",)),
            structs.replace(here, namespaces=("shop",)),
            structs.replace(here, not_identities=(identity("web"),)),
            structs.replace(here, not_trust_domains=("third.test",)),
        )
        for one in (rule(), *map(rule, not_so)):
            assert verdict([policy("p", "ALLOW", one)], nobody, port).reason is Reason.NOTHING_ALLOWS, one
        for one, denied in ((rule(), True), (rule(who("web")), False), (rule(here), True)):
            found = verdict([let_in, policy("d", "DENY", one)], nobody, port)
            assert (found.reason is Reason.DENY) is denied
        assert (
            verdict([let_in, policy("d", "DENY", rule(Source(not_identities=())))], nobody, port).reason is Reason.DENY
        )


def test_the_nearest_miss_is_the_rule_that_lacks_least() -> None:
    to = Operation(methods=("GET",), paths=("/orders/*",))
    near = policy("near", "ALLOW", rule(who("cart"), to=[to]), rule(who("web"), to=[to]))
    far = policy("far", "ALLOW", rule(who("cart"), to=[Operation(methods=("PUT",), paths=("/x",))]))
    found = verdict([far, near], Request(WEB, "DELETE", "/orders//7"))
    assert (found.reason, found.path) == (Reason.NOTHING_ALLOWS, "/orders/7")
    assert found.nearest == Miss(near.ref, 1, (Lack("methods", ("GET",), "DELETE"),))
    assert verdict([], Request(WEB)).nearest is None
    on_tcp = verdict([near], Request(WEB), TCP).nearest
    assert on_tcp is not None
    assert [(one.field, bool(one.never)) for one in on_tcp.lacks] == [("methods", True), ("paths", True)]
    elsewhere = verdict([policy("p", "ALLOW", rule(to=[Operation(ports=(1,))]))], Request(WEB)).nearest
    assert elsewhere is not None
    assert (elsewhere.lacks[0].field, elsewhere.lacks[0].never) == ("ports", "the call is to port 8080")


def test_the_nearest_miss_in_words() -> None:
    """What Envoy is asked beside the rules: nearer ones first, each but for one condition, and never all of a rule."""
    asked = Operation(methods=("GET",), not_paths=("/a",), headers=(HeaderMatch(name="X-Team"),))
    one = policy("p", "ALLOW", rule(who("web"), to=[asked]), rule(to=[Operation(ports=(1,), methods=("PUT",))]))
    near = near_misses(rules_of([one], HTTP).allow)
    assert [each.name for each in near] == [
        "but for headers x-team: shop/p[0]",
        "but for identities: shop/p[0]",
        "but for methods: shop/p[0]",
        "but for methods: shop/p[1]",
        "but for notPaths: shop/p[0]",
        "but for trustDomain: shop/p[1]",
        "only from: shop/p[0]",
        "only from: shop/p[1]",
        "only to: shop/p[0]",
        "only to: shop/p[1]",
    ]
    assert (
        first_near(rules_of([one], HTTP), HTTP, Request(WEB, "PUT", "/b", (("x-team", "a"),)))
        == "but for methods: shop/p[0]"
    )
    assert first_near(rules_of([one], HTTP), HTTP, Request(WEB, "PUT", "/a")) == "only from: shop/p[0]"
    many = [policy(f"p{number}", "ALLOW", rule(who("web"))) for number in range(MAX_NEAR)]
    assert not near_misses(rules_of(many, HTTP).allow)


@_DRAWN
@given(st.lists(policies(), min_size=1, max_size=4))
def test_one_lack_is_told_in_words_too(found: list[AuthorizationPolicy]) -> None:
    for port, request in REQUESTS:
        rules = rules_of(found, port)
        verdict = judge(rules, port, request)
        lacks = verdict.nearest.lacks if verdict.nearest is not None else ()
        if len(lacks) == 1 and not lacks[0].never and near_misses(rules.allow):
            words = first_near(rules, port, request)
            assert words.startswith("but for "), (verdict, words)


def test_a_foreigner_is_allowed_by_name_only() -> None:
    foreigner = SpiffeId.parse(identity("web", "other.test"))
    found = verdict([policy("all", "ALLOW", Rule())], Request(foreigner))
    assert found.nearest is not None
    assert [one.field for one in found.nearest.lacks] == ["trustDomain"]
    named = Source(identities=(str(foreigner),))
    assert verdict([policy("named", "ALLOW", rule(named))], Request(foreigner)).allowed


@pytest.mark.parametrize(
    ("block", "instead"),
    [
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::ffff:10.1.2.3", "10.1.2.3"),
        ("::FFFF:0a01:0/112", "10.1.0.0/16"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
        ("10.0.0.0/33", "10.1.0.0/16"),
        ("::ffff:0:0/95", ""),
        ("::/0", ""),
        ("2001:db8::/32", ""),
        ("10.1.2.3/8", ""),
    ],
)
def test_a_block_of_ipv4_is_written_as_one(block: str, instead: str) -> None:
    """Envoy compares addresses of one family only, and the peers of its sockets are IPv4's."""
    for source in (Source(ip_blocks=(block,)), Source(not_ip_blocks=(block,))):
        faults = [*policy_faults(policy("p", "DENY", rule(source)).spec)]
        assert [instead in (one.remedy or "") for one in faults] == [True] * bool(instead), faults


@_DRAWN
@given(st.lists(policies(), max_size=4), policies("DENY"), policies("ALLOW"), policies("AUDIT"))
def test_a_deny_never_allows_more_nor_an_allow_that_goes_and_an_audit_decides_nothing(
    found: list[AuthorizationPolicy],
    deny: AuthorizationPolicy,
    allow: AuthorizationPolicy,
    audit: AuthorizationPolicy,
) -> None:
    """Of the same policies: to draw them costs more than to judge."""
    before = allowed(found)
    assert allowed([*found, deny]) <= before
    assert before <= allowed([*found, allow])
    assert allowed([*found, audit]) == before


@_DRAWN
@given(st.lists(policies(), max_size=4), st.randoms(use_true_random=False))
def test_the_order_does_not_matter(found: list[AuthorizationPolicy], order: random.Random) -> None:
    last = list({one.ref: one for one in found}.values())
    shuffled = list(last)
    order.shuffle(shuffled)
    assert verdicts(last) == verdicts(shuffled)


@given(st.lists(policies("ALLOW"), max_size=4), st.sampled_from(REQUESTS), st.sampled_from(REQUESTS))
@_DRAWN
def test_what_is_not_known_never_allows(
    found: list[AuthorizationPolicy], one: tuple[ServicePort, Request], other: tuple[ServicePort, Request]
) -> None:
    """What allows a request of which the headers are not known allows it with any."""
    (port, request), (_, another) = one, other
    rules = rules_of(found, port)
    if judge(rules, port, replace(request, headers=(), unknown=frozenset({"headers"}))).allowed:
        for headers in (request.headers, another.headers, ()):
            assert judge(rules, port, replace(request, headers=headers)).outcome is not Outcome.DENIED


def test_what_is_not_known_is_said() -> None:
    negated = policy("p", "ALLOW", rule(who("web"), to=[Operation(not_headers=(HeaderMatch(name="x-a"),))]))
    request = Request(WEB, unknown=frozenset({"headers"}))
    miss = verdict([negated], request).nearest
    assert miss is not None
    assert [(lack.field, lack.negated, lack.known) for lack in miss.lacks] == [("headers", True, False)]
