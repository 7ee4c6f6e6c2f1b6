"""BackendTrafficPolicy and RateLimitPolicy, through a whole mesh: HTTP/1.1, HTTP/2, gRPC with streams, TCP."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import trio

from schemas.objects import AnyObject
from tests.e2e.app import TCP
from tests.e2e.asking import WEB_WAYS, Ask, Way, ways_of
from tests.e2e.mesh import E2eMesh
from tests.e2e.rows import EVERY, ONE, Table, all_hold
from tests.e2e.test_route_parents import connected, tcp_route
from tests.states.build import rate_limit, traffic
from tests.support.net import eventually

BOTH = {"api-1", "api-2"}
# Seconds; without the policy a connection lasts for an hour at least.
TCP_END_S = 20
ONE_OF_PORT: tuple[Way, ...] = (*WEB_WAYS, "chat")
"""The two ways of gRPC are one cluster, and one bucket."""


async def tcp_served(mesh: E2eMesh, count: int) -> Counter[str]:
    return Counter([await connected(mesh) for _ in range(count)])


# -- BackendTrafficPolicy


@dataclass(frozen=True)
class Case:
    spec: Mapping[str, Any]
    check: Callable[[Ask], Awaitable[None]]
    ways: tuple[Way, ...]
    check_tcp: Callable[[E2eMesh], Awaitable[None]] | None


CASES: list[Case] = []
RULES = Table()
"""For all cases; the names of its rows are what they ask."""


@RULES.row(EVERY, {})
async def anywhere(ask: Ask) -> None:
    """As without any route."""


@RULES.row(EVERY, {"retry": {"codes": [503], "triggers": ["unavailable"], "attempts": 1, "backoff": "1ms"},
                   "backendRefs": [ONE]})  # fmt: skip
async def retried(ask: Ask) -> None:
    """At api-1 alone."""


def case(
    ways: tuple[Way, ...] = EVERY, tcp: Callable[[E2eMesh], Awaitable[None]] | None = None, **spec: Any
) -> Callable[[Callable[[Ask], Awaitable[None]]], None]:
    def add(check: Callable[[Ask], Awaitable[None]]) -> None:
        CASES.append(Case(spec, check, ways, tcp))

    return add


def balancer(**fields: Any) -> dict[str, Any]:
    return {"loadBalancer": fields}


def hashed(**fields: Any) -> dict[str, Any]:
    return balancer(type="ConsistentHash", consistentHash=fields)


async def tcp_in_turns(mesh: E2eMesh) -> None:
    assert await tcp_served(mesh, 8) == dict.fromkeys(BOTH, 4)


@case(ONE_OF_PORT, **balancer(type="RoundRobin"), tcp=tcp_in_turns)
async def turns(ask: Ask) -> None:
    assert await ask.served(8) == dict.fromkeys(BOTH, 4)


@case(**balancer(type="Random"))
async def at_random(ask: Ask) -> None:
    """One after the other, or always one, once in 10,000 times."""
    found = [answer.instance for answer in await ask.times(16)]
    assert set(found) == BOTH
    assert found != found[:2] * 8


USERS = [f"u{number}" for number in range(12)]


async def asked_by(ask: Ask, header: str, value: str) -> dict[str, str]:
    return {user: (await ask(**{header: value % user})).instance for user in USERS}


@case(**hashed(type="Header", header={"name": "x-user"}, tableSize=1009))
async def by_header(ask: Ask) -> None:
    found = await asked_by(ask, "x_user", "%s")
    assert set(found.values()) == BOTH
    assert await asked_by(ask, "x_user", "%s") == found


@case(**hashed(type="Cookie", cookie={"name": "stick", "ttl": "60s"},
               ringHash={"minimumRingSize": 64, "maximumRingSize": 128}))  # fmt: skip
async def by_cookie_that_is_given(ask: Ask) -> None:
    first = await ask()
    (cookie,) = first.header("set-cookie")
    assert cookie.startswith("stick=")
    assert "Max-Age=60" in cookie
    assert await ask.served(6, cookie=cookie.partition(";")[0]) == {first.instance: 6}


@case(ONE_OF_PORT, **hashed(type="Cookie", cookie={"name": "stick"}))
async def by_cookie_that_is_there(ask: Ask) -> None:
    found = await asked_by(ask, "cookie", "stick=%s")
    assert set(found.values()) == BOTH
    assert await asked_by(ask, "cookie", "stick=%s") == found
    without = await ask.times(16)
    assert {answer.instance for answer in without} == BOTH
    assert not any(answer.header("set-cookie") for answer in without)


async def tcp_to_one(mesh: E2eMesh) -> None:
    assert len(await tcp_served(mesh, 6)) == 1


@case(**hashed(type="SourceIP"), tcp=tcp_to_one)
async def by_source(ask: Ask) -> None:
    assert len(await ask.served(6)) == 1


async def tcp_limit(mesh: E2eMesh) -> None:
    async with await mesh.tcp() as first:
        assert await first.receive_some(100)
        assert await connected(mesh) == ""


@case(ONE_OF_PORT, circuitBreaker={"maxConnections": 1, "maxParallelRequests": 1}, tcp=tcp_limit)
async def parallel_requests(ask: Ask) -> None:
    codes = Counter(answer.code for answer in await ask.together(3, plan="pause"))
    assert codes == {ask.well: 1, "UNAVAILABLE" if ask.is_grpc else "503": 2}


def budget(percent: int, number: int) -> dict[str, Any]:
    return {"circuitBreaker": {"retryBudget": {"percent": percent, "minRetryConcurrency": number}}}


async def failing_once(ask: Ask) -> str:
    return (await Ask(ask.ways, ask.way, "retried")(plan="UNAVAILABLE" if ask.is_grpc else "503")).code


async def failing_beside_others(ask: Ask, number: int) -> str:
    """With so many requests in flight."""
    there = Ask(ask.ways, ask.way, "retried")
    plan = f"beside-{ask.way}-{number}"
    async with trio.open_nursery() as nursery:
        for _ in range(number):
            nursery.start_soon(lambda: there(plan=f"{plan}:{','.join(['pause'] * number)}"))
        await there.arrive(plan, {"api-1": number})
        return await failing_once(ask)


@case(ONE_OF_PORT, **budget(0, 1))
async def retries_of_a_number(ask: Ask) -> None:
    assert await failing_once(ask) == ask.well


@case(ONE_OF_PORT, **budget(50, 0))
async def retries_of_a_share(ask: Ask) -> None:
    assert await failing_once(ask) != ask.well
    assert await failing_beside_others(ask, 3) == ask.well


@case(ONE_OF_PORT, healthCheck={"panicThreshold": 0, "passive": {
    "consecutive5XxErrors": 3, "maxEjectionPercent": 100, "baseEjectionTime": "60s"}})  # fmt: skip
async def left_out(ask: Ask) -> None:
    there = Ask(ask.ways, ask.way, "retried")
    word = "INTERNAL" if ask.is_grpc else "500"
    assert [(await there(plan=word)).code for _ in range(3)] == [word] * 3

    async def nobody_is_left() -> bool:  # Envoy's worker learns it a little later
        return (await there()).code == ("UNAVAILABLE" if ask.is_grpc else "503")

    await eventually("nobody is left to be called", nobody_is_left)


async def tcp_goes_on(mesh: E2eMesh) -> None:
    async with await mesh.tcp() as stream:
        assert await stream.receive_some(100)
        await trio.sleep(0.5)
        await stream.send_all(b"x")
        assert await stream.receive_some(100) == b"x"


@case(
    timeout={
        "http": {"maxConnectionDuration": "300ms", "connectionIdleTimeout": "1s"},
        "tcp": {"connectTimeout": "5s"},
    },
    http2={"maxConcurrentStreams": 2},
    tcpKeepalive={"probes": 3, "idleTime": "100s", "interval": "10s"},
    tcp=tcp_goes_on,
)
async def connections(ask: Ask) -> None:
    """What they say of connections takes nothing along that is under way; that they are heeded, others show
    (`test_no_field_is_left_out.ELSEWHERE`)."""
    assert {answer.code for answer in await ask.together(5, plan="pause")} == {ask.well}


async def tcp_ends_in_silence(mesh: E2eMesh) -> None:
    """Not while bytes go."""
    async with await mesh.tcp() as stream:
        assert await stream.receive_some(100)
        for _ in range(3):
            await trio.sleep(0.5)
            await stream.send_all(b"x")
            assert await stream.receive_some(100) == b"x"
        with trio.fail_after(TCP_END_S):
            assert await stream.receive_some(100) == b""


async def tcp_ends_in_time(mesh: E2eMesh) -> None:
    """Also while bytes go."""
    async with await mesh.tcp() as stream:
        with trio.fail_after(TCP_END_S), contextlib.suppress(trio.BrokenResourceError):
            while await stream.receive_some(100):
                await trio.sleep(0.02)
                await stream.send_all(b"x")


async def well(ask: Ask) -> None:
    assert (await ask()).code == ask.well


case(ONE_OF_PORT, timeout={"tcp": {"idleTimeout": "1s"}}, tcp=tcp_ends_in_silence)(well)
case(ONE_OF_PORT, timeout={"tcp": {"maxConnectionDuration": "300ms"}}, tcp=tcp_ends_in_time)(well)


def policy_of(one: Case) -> AnyObject:
    return traffic("fields", "api", **one.spec)


async def test_policies(mesh: E2eMesh) -> None:
    """One after the other, all ways of each side by side."""
    async with mesh.applied(*RULES.routes(), policy_of(CASES[0])), ways_of(mesh) as ways:
        for one in CASES:
            if one is not CASES[0]:
                await mesh.apply(policy_of(one))
            try:
                async with trio.open_nursery() as nursery:
                    for way in one.ways:
                        nursery.start_soon(one.check, Ask(ways, way, "anywhere"))
                    if one.check_tcp is not None:
                        nursery.start_soon(one.check_tcp, mesh)
            except ExceptionGroup as error:
                error.add_note(f"case {one.check.__name__}")
                raise


# -- RateLimitPolicy

LIMITED = Table()
LIMITS: list[dict[str, Any]] = []


def limited(**limit: Any) -> Callable[[Callable[[Ask], Awaitable[None]]], None]:
    """api-1 only: each instance has its own buckets."""

    def add(check: Callable[[Ask], Awaitable[None]]) -> None:
        name = check.__name__
        LIMITED.row(ONE_OF_PORT, {"backendRefs": [ONE]})(check)
        LIMITS.append({"limit": limit, "matches": [{"path": {"value": f"{at}{name}"}} for at in ("/f/", "/fields.")]})

    return add


async def until_refused(ask: Ask) -> tuple[int, int]:
    """How many were let through at once, and how many seconds who was not is to wait."""
    for count in range(10):
        answer = await ask()
        if answer.code != ask.well:
            assert answer.code == ("RESOURCE_EXHAUSTED" if ask.is_grpc else "429")
            return count, int(answer.header("retry-after")[0])
    raise AssertionError("never refused")


@limited(requests=1, unit="Minute", burst=3)
async def a_minute(ask: Ask) -> None:
    count, wait = await until_refused(ask)
    assert count == 3
    assert 30 < wait <= 60


@limited(requests=2, unit="Day")
async def a_day(ask: Ask) -> None:
    count, wait = await until_refused(ask)
    assert count == 2
    assert 11 * 3600 < wait <= 12 * 3600


@limited(requests=1, unit="Second", burst=2)
async def a_second(ask: Ask) -> None:
    count, wait = await until_refused(ask)
    assert count >= 2
    assert wait <= 1

    async def again() -> bool:
        return (await ask()).code == ask.well

    await eventually("one a second is let through", again)


def limits() -> tuple[AnyObject, ...]:
    connections = {"ports": [TCP], "limit": {"requests": 1, "unit": "Hour", "burst": 2}}
    return rate_limit("fields", *LIMITS, connections, on=["api"]), *LIMITED.routes(), tcp_route(ONE)


async def test_limits(mesh: E2eMesh) -> None:
    async with mesh.applied(*limits()):
        await all_hold(mesh, LIMITED)
        assert [await connected(mesh) for _ in range(3)] == ["api-1", "api-1", ""]
