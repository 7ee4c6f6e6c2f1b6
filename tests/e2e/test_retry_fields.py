"""Timeouts, retries and sessions, through a whole mesh: by HTTP/1.1, HTTP/2, and gRPC, unary and with streams."""

from __future__ import annotations

from typing import Any

import trio

from dataplane.compile.http import UPGRADES
from tests.e2e.app import HTTP2
from tests.e2e.asking import CALLS, WEB_WAYS, Ask
from tests.e2e.lasting import web_socket
from tests.e2e.mesh import E2eMesh
from tests.e2e.rows import EVERY, ONE, TWO, Table, all_hold
from tests.e2e.test_route_fields import fault

TABLE = Table()
row = TABLE.row


@row(EVERY, {"timeouts": {"request": "2s"}})
async def timeout(ask: Ask) -> None:
    assert (await ask()).code == ask.well
    assert (await ask(plan="slow")).code in (("DEADLINE_EXCEEDED", "UNAVAILABLE") if ask.is_grpc else ("504",))


@row(EVERY, {"timeouts": {"request": "9s", "backendRequest": "1s"}, "retry": {"attempts": 1}})
async def timeout_of_a_try(ask: Ask) -> None:
    late = await ask(plan="slow")
    assert (late.code, late.tries) == (ask.well, 2)
    assert (await ask(plan="slow,slow")).code in (("DEADLINE_EXCEEDED", "UNAVAILABLE") if ask.is_grpc else ("504",))


@row(WEB_WAYS, {"retry": {"codes": [500, 418], "attempts": 2, "backoff": "1ms"}})
async def retry_codes(ask: Ask) -> None:
    for plan, code, tries in (("500,418", "200", 3), ("500,500,500", "500", 3), ("501", "501", 1)):
        answer = await ask(plan=plan)
        assert (answer.code, answer.tries) == (code, tries)


def trigger(name: str, **more: Any) -> dict[str, Any]:
    return {"retry": {"triggers": [name], "attempts": 1, "backoff": "1ms"}, **more}


async def tried_again(ask: Ask, word: str) -> bool:
    answer = await ask(plan=word)
    again = answer.code == ask.well
    assert answer.code in (ask.well, word)
    assert not again or answer.tries == 2
    return again


@row(WEB_WAYS, trigger("5xx"))
async def retry_5xx(ask: Ask) -> None:
    assert [await tried_again(ask, word) for word in ("501", "409")] == [True, False]


@row(WEB_WAYS, trigger("gateway-error"))
async def retry_gateway_error(ask: Ask) -> None:
    assert [await tried_again(ask, word) for word in ("502", "501")] == [True, False]


@row(WEB_WAYS, trigger("retriable-4xx"))
async def retry_retriable_4xx(ask: Ask) -> None:
    assert [await tried_again(ask, word) for word in ("409", "501")] == [True, False]


_A_SECOND = {"timeouts": {"backendRequest": "1s"}}


@row(EVERY, trigger("reset", **_A_SECOND))
async def retry_reset(ask: Ask) -> None:
    """As a try is that takes too long."""
    assert await tried_again(ask, "slow")


@row(CALLS, trigger("5xx", **_A_SECOND))
async def grpc_retry_5xx(ask: Ask) -> None:
    """Of HTTP, which gRPC apps don't say, but sidecars: here that of a try that takes too long."""
    assert await tried_again(ask, "slow")


@row(CALLS, trigger("gateway-error", **_A_SECOND))
async def grpc_retry_gateway_error(ask: Ask) -> None:
    assert await tried_again(ask, "slow")


@row(CALLS, {**trigger("retriable-4xx"), "backendRefs": [{**ONE, "port": HTTP2}]})
async def grpc_retry_retriable_4xx(ask: Ask) -> None:
    """From a server that takes a call for a request as any other."""
    plan = f"{ask.where}-{ask.way}"
    await ask(plan=f"{plan}:409")
    await ask.arrive(plan, {"api-1": 2})


GRPC_TRIGGERS = {
    "cancelled": "CANCELLED", "deadline-exceeded": "DEADLINE_EXCEEDED", "internal": "INTERNAL",
    "resource-exhausted": "RESOURCE_EXHAUSTED", "unavailable": "UNAVAILABLE",
}  # fmt: skip


def retried_by_status(table: Table) -> None:
    """A row for each."""
    for name, status in GRPC_TRIGGERS.items():

        async def check(ask: Ask, status: str = status) -> None:
            assert [await tried_again(ask, word) for word in (status, "ABORTED")] == [True, False]

        check.__name__ = f"retry_{status.lower()}"
        table.row(CALLS, trigger(name))(check)


retried_by_status(TABLE)

BY_HTTP = Table(by_http=True)
"""HTTPRoutes of a port for gRPC."""
retried_by_status(BY_HTTP)


@BY_HTTP.row(CALLS, {**fault(abort={"grpcStatus": 8})})
async def abort_by_http(ask: Ask) -> None:
    assert (await ask()).code == "RESOURCE_EXHAUSTED"


def waits(attempts: int, **how: str) -> dict[str, Any]:
    return {"retry": {"codes": [503], "triggers": ["unavailable"], "attempts": attempts, **how}}


def failing(ask: Ask, times: int) -> str:
    return ",".join(["UNAVAILABLE" if ask.is_grpc else "503"] * times)


@row(EVERY, {**waits(1, backoff="2s"), "backendRefs": [ONE]})
async def backoff(ask: Ask) -> None:
    """A wait is drawn from none to the whole: that of 4 none is above 0.1 s is once in 160,000 times. 25 ms without."""
    answers = await ask.together(4, plan=failing(ask, 1))
    assert {(answer.code, answer.tries) for answer in answers} == {(ask.well, 2)}
    assert max(answer.seconds for answer in answers) > 0.1


@row(EVERY, {**waits(4, backoff="250ms", maxBackoff="250ms"), "backendRefs": [TWO]})
async def max_backoff(ask: Ask) -> None:
    """Together 0.5 s on average; 2.6 s without it, as the bound doubles with each."""
    answers = await ask.together(4, plan=failing(ask, 4))
    assert {(answer.code, answer.tries) for answer in answers} == {(ask.well, 5)}
    assert sorted(answer.seconds for answer in answers)[1] < 1.8


@row(("http",), {"timeouts": {"request": "1s"}, "backendRefs": [TWO]})
async def upgrades(ask: Ask) -> None:
    """WebSockets and others, which no timeout of a request ends."""

    async def last(protocol: str) -> None:
        async with web_socket(ask.ways.mesh, "web-1", f"/f/{ask.where}", protocol=protocol) as echo:
            assert await echo(b"one") == b"one"
            await trio.sleep(1.2)
            assert await echo(b"two") == b"two"

    async with trio.open_nursery() as nursery:
        for protocol in UPGRADES:
            nursery.start_soon(last, protocol)


# -- sessions


def session(**how: Any) -> dict[str, Any]:
    return {"sessionPersistence": how}


async def keeps(ask: Ask, first: Any, **given: str) -> None:
    assert await ask.served(6, **given) == {first.instance: 6}


@row(EVERY, session())
async def session_cookie(ask: Ask) -> None:
    first = await ask()
    (cookie,) = first.header("set-cookie")
    assert cookie.startswith("mesh-session=")
    assert "Max-Age" not in cookie
    await keeps(ask, first, cookie=cookie.partition(";")[0])


@row(EVERY, session(absoluteTimeout="1h", sessionName="mine", cookieConfig={"lifetimeType": "Permanent"}))
async def session_permanent(ask: Ask) -> None:
    first = await ask()
    (cookie,) = first.header("set-cookie")
    assert cookie.startswith("mine=")
    assert "Max-Age=3600" in cookie
    await keeps(ask, first, cookie=cookie.partition(";")[0])


@row(EVERY, session(type="Header", sessionName="x-where"))
async def session_header(ask: Ask) -> None:
    first = await ask()
    (where,) = first.header("x-where")
    await keeps(ask, first, x_where=where)


async def test_rules(mesh: E2eMesh) -> None:
    """All of them in one change set."""
    async with mesh.applied(*TABLE.routes()):
        await all_hold(mesh, TABLE)


async def test_http_routes_of_grpc_calls(mesh: E2eMesh) -> None:
    async with mesh.applied(*BY_HTTP.routes()):
        await all_hold(mesh, BY_HTTP)
