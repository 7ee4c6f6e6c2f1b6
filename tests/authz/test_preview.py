"""What a change of policies would do to flows: exactly what the judge says, and never less than may happen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from authz.judge import Request, judge
from authz.preview import Changed, Effect, Flow, changes
from authz.rules import Field
from schemas.objects import AuthorizationPolicy
from schemas.objects.authorization import HeaderMatch, Operation, Rule
from schemas.objects.service import ServicePort
from tests.authz.rules import rules_of
from tests.authz.strategies import PORTS, policies
from tests.authz.test_judge import HTTP, REQUESTS, WEB
from tests.states.build import policy, rule, who

_DRAWN = settings(deadline=None, max_examples=12)  # of each several hundred verdicts
_SETS = st.lists(policies(), max_size=4)
UNKNOWN: frozenset[Field] = frozenset({"headers", "requestPrincipals", "when"})
Policies = Sequence[AuthorizationPolicy]


def previewed(
    before: Policies, after: Policies, port: ServicePort, flows: Sequence[Flow[int]]
) -> dict[int, Changed[int]]:
    found = changes(rules_of(before, port), rules_of(after, port), port, flows)
    return {one.flow.about: one for one in found}


@given(_SETS, _SETS)
@_DRAWN
def test_of_known_requests_it_is_what_the_judge_says(before: Policies, after: Policies) -> None:
    for port in PORTS:
        old, new = rules_of(before, port), rules_of(after, port)
        requests = [request for of, request in REQUESTS if of is port]
        verdicts = [(judge(old, port, one).allowed, judge(new, port, one).allowed) for one in requests]
        flows = [Flow(one, was, number) for number, (one, (was, _)) in enumerate(zip(requests, verdicts, strict=True))]
        expected = {
            number: Effect.ALLOWED if will else Effect.DENIED
            for number, (was, will) in enumerate(verdicts)
            if was != will
        }
        assert {number: one.effect for number, one in previewed(before, after, port, flows).items()} == expected


@given(_SETS, _SETS)
@_DRAWN
def test_what_would_be_denied_is_told_whatever_is_not_known(before: Policies, after: Policies) -> None:
    for port in PORTS:
        old, new = rules_of(before, port), rules_of(after, port)
        requests = [request for of, request in REQUESTS if of is port]
        known = [(judge(old, port, one), judge(new, port, one)) for one in requests]
        flows = [
            Flow(replace(one, headers=(), unknown=UNKNOWN), was.allowed, number)
            for number, (one, (was, _)) in enumerate(zip(requests, known, strict=True))
        ]
        told = previewed(before, after, port, flows)
        for number, (was, will) in enumerate(known):
            if was.allowed != will.allowed:
                expected = Effect.ALLOWED if will.allowed else Effect.DENIED
                assert told[number].effect in (expected, Effect.UNSURE), (was, will)


@given(_SETS)
@_DRAWN
def test_no_change_changes_nothing(found: Policies) -> None:
    for port in PORTS:
        flows = [
            Flow(replace(one, unknown=UNKNOWN), allowed, 0)
            for of, one in REQUESTS
            for allowed in (True, False)
            if of is port
        ]
        assert not previewed(found, list(reversed(found)), port, flows)


def test_what_depends_on_a_header() -> None:
    """A rule that stays does not become doubtful; one that is new may."""
    tenant = policy("tenant", "ALLOW", rule(who("web"), to=[Operation(headers=(HeaderMatch(name="x-tenant"),))]))
    seen = [Flow(Request(WEB, unknown=UNKNOWN), True, 0)]
    everybody = policy("all", "ALLOW", Rule())
    assert not previewed([tenant], [tenant, policy("no-cart", "DENY", rule(who("cart")))], HTTP, seen)
    assert previewed([everybody], [tenant], HTTP, seen)[0].effect is Effect.UNSURE
    assert previewed([tenant], [], HTTP, seen)[0].effect is Effect.DENIED
    assert not previewed([tenant], [tenant, everybody], HTTP, seen)
