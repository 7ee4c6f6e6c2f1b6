"""What is open is judged by the agent as Envoy judged it when it began: by any policy, of any request."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from authz.judge import Request, judge
from dataplane.compile.inbound import inbound_routes
from dataplane.compile.open_streams import Connection, OpenStream
from dataplane.compile.resources import Resource
from dataplane.compile.verdict import Judge
from schemas.objects import AuthorizationPolicy
from schemas.objects.authorization import HeaderMatch, Operation
from tests.authz.rules import OTHER_DOMAIN, rules_of
from tests.authz.strategies import PORTS, policies
from tests.authz.test_differential import FIXED
from tests.authz.test_judge import HTTP, REQUESTS, WEB
from tests.states.build import ORDERS, ROOT_DER, TRUST_DOMAIN, bundle, mesh_of, policy, rule, state, workload

_DRAWN = settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
HERE = ("192.0.2.1", 8080)
KNOWN = ("x-other", "x-role")


def stream_of(request: Request, known: Sequence[str] = KNOWN) -> OpenStream:
    joined: dict[str, str] = {}
    for name, value in request.headers:
        if name.lower() in known:
            joined[name.lower()] = ",".join(filter(None, (joined.get(name.lower()), value.strip())))
    return OpenStream(
        Connection(HERE, (request.address, 4711)),
        () if request.caller is None else (str(request.caller),),
        request.method,
        request.target,
        request.host,
        tuple(known),
        tuple(sorted(joined.items())),
    )


def routes(found: Sequence[AuthorizationPolicy]) -> dict[str, Resource]:
    """By the name of the port."""
    roots = [bundle(1, ROOT_DER, trust_domain=one) for one in (TRUST_DOMAIN, OTHER_DOMAIN)]
    mesh = mesh_of(state("now", "", *FIXED, *roots, *found).values)
    return {one.key.name.removeprefix("inbound|"): one for one in inbound_routes(mesh, workload(ORDERS))}


@_DRAWN
@given(st.lists(policies(), min_size=1, max_size=5))
def test_the_agent_judges_as_envoy_does(found: list[AuthorizationPolicy]) -> None:
    last = list({one.ref: one for one in found}.values())
    made = routes(last)
    rules = {port: rules_of(last, port) for port in PORTS}
    agent = Judge()
    for port, request in REQUESTS:
        allowed = judge(rules[port], port, request).allowed
        assert agent.denies(made[port.name], stream_of(request)) is not allowed, (port.name, request)


@pytest.mark.parametrize("value", ["guest,  admin", "admin\t ,x", "guest,\u2003admin", "guest,\xa0admin"])
def test_a_list_is_read_in_whatever_blanks_are_around_its_commas(value: str) -> None:
    deny = policy("p", "DENY", rule(to=[Operation(headers=(HeaderMatch(name="x-role", values=("admin",)),))]))
    made = routes([deny, policy("all", "ALLOW", rule())])[HTTP.name]
    assert Judge().denies(made, stream_of(Request(WEB, headers=(("x-role", value),))))
    assert not Judge().denies(made, stream_of(Request(WEB, headers=(("x-role", value.replace("admin", "a")),))))


def test_a_header_that_is_not_reported_closes() -> None:
    """Until the listener that reports it has taken over from the one before."""
    asks = Operation(headers=(HeaderMatch(name="x-role", values=("admin",)),))
    admin = Request(WEB, headers=(("x-role", "admin"),))
    for one, allowed in ((policy("p", "ALLOW", rule(to=[asks])), True), (policy("p", "DENY", rule(to=[asks])), False)):
        made = routes([one, policy("all", "ALLOW", rule())] if one.spec.action == "DENY" else [one])[HTTP.name]
        assert Judge().denies(made, stream_of(admin)) is not allowed
        assert Judge().denies(made, stream_of(admin, ()))
