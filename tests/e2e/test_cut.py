"""Whoever is no longer allowed loses what is open, of every kind, within the bound that the documentation states."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack

import pytest
import trio

from dataplane.compile.open_streams import GATHER_MS, REPORT_EVERY_S
from schemas.objects.authorization import HeaderMatch, Operation
from tests.e2e.lasting import API_PASSES, Echo, arrived, bytes_passed, grpc_chat, tunnel, web_socket
from tests.e2e.mesh import REPORTS_ID, WEB_ID, E2eMesh, caller
from tests.e2e.test_crashes import restart
from tests.states.build import policy, revocation, rule

# Seconds. `REPORT_EVERY_S` and `GATHER_MS` are by design; the rest is for a machine that is busy.
BOUND_S = REPORT_EVERY_S + GATHER_MS / 1000 + 5.0

BOTH_MAY = policy("web-may", "ALLOW", rule(caller(WEB_ID, REPORTS_ID)), on=["api"])
REPORTS_MAY = policy("web-may", "ALLOW", rule(caller(REPORTS_ID)), on=["api"])


async def ended(echo: Echo, name: str) -> None:
    """Returns with the last byte that passes: it asks again and again, as whoever is not willing to go would."""
    with trio.move_on_after(BOUND_S) as patience:
        while await echo(b"still?"):  # noqa: ASYNC110  (no event tells what passes; the pace spares the machine)
            await trio.sleep(0.01)
    assert not patience.cancelled_caught, f"{name} passes bytes after {BOUND_S} s"


async def all_ended(named: Sequence[tuple[str, Echo]]) -> None:
    async with trio.open_nursery() as nursery:
        for name, echo in named:
            nursery.start_soon(ended, echo, name)


@pytest.mark.fault(24)
async def test_a_policy_that_no_longer_allows_ends_what_is_open_and_nothing_of_others(mesh: E2eMesh) -> None:
    async with mesh.applied(BOTH_MAY), AsyncExitStack() as stack, trio.open_nursery() as nursery:
        webs = [
            (kind.__name__, await stack.enter_async_context(kind(mesh, "web-1")))
            for kind in (tunnel, web_socket, grpc_chat)
        ]
        others = [await stack.enter_async_context(kind(mesh, "reports-1")) for kind in (tunnel, web_socket)]
        answers: dict[str, int] = {}

        async def held(by: str) -> None:
            answers[by] = await mesh.status(f"/held/cut-{by}", by=by)

        for by in ("web-1", "reports-1"):
            nursery.start_soon(held, by)
            await arrived(mesh, f"cut-{by}")
        assert [await echo(b"open") for _, echo in webs] == [b"open"] * 3
        assert [await echo(b"open") for echo in others] == [b"open"] * 2

        await mesh.apply(REPORTS_MAY)
        await all_ended(webs)
        assert [await echo(b"open") for echo in others] == [b"open"] * 2
        for instance in ("api-1", "api-2"):
            for by in ("web-1", "reports-1"):
                await mesh.ask_app(instance, f"/release/cut-{by}")
        nursery.cancel_scope.deadline = trio.current_time() + 10
    assert answers == {"web-1": 503, "reports-1": 200}


@pytest.mark.fault(24)
async def test_a_revocation_ends_what_is_open_and_nothing_of_others(mesh: E2eMesh) -> None:
    async with mesh.applied(BOTH_MAY, API_PASSES), AsyncExitStack() as stack, mesh.etcd() as etcd:
        revoked = [
            (kind.__name__, await stack.enter_async_context(kind(mesh, "reports-1")))
            for kind in (tunnel, web_socket, bytes_passed)
        ]
        others = [
            await stack.enter_async_context(kind(mesh, "web-1"))
            for kind in (tunnel, web_socket, bytes_passed, grpc_chat)
        ]
        assert [await echo(b"open") for _, echo in revoked] == [b"open"] * 3
        assert [await echo(b"open") for echo in others] == [b"open"] * 4
        try:
            await etcd.put(*revocation("reports.back-office", 1))
            await all_ended(revoked)
        finally:
            await etcd.put(*revocation("reports.back-office", 2, revoked=False))
        assert [await echo(b"open") for echo in others] == [b"open"] * 4


@pytest.mark.fault(24)
async def test_what_stays_allowed_stays_open(mesh: E2eMesh) -> None:
    """Policies change, and nobody whose streams they allow notices; who has lost one of two paths loses that, and may
    go on with the other for the header that it began with."""
    red = (HeaderMatch(name="x-team", values=("red",)),)
    sockets, only_b = (
        policy("sockets", "ALLOW", rule(caller(REPORTS_ID), to=[Operation(paths=paths, headers=red)]), on=["api"])
        for paths in (("/a", "/b"), ("/b",))
    )
    async with mesh.applied(sockets), web_socket(mesh, "web-1") as stays:
        async with web_socket(mesh, "reports-1", "/a?q=1", header="x-team: red") as goes:
            assert await goes(b"open") == b"open"
            await mesh.apply(only_b)
            await ended(goes, "a web socket to a path that is denied")
        async with web_socket(mesh, "reports-1", "/b", header="X-Team: red") as again:
            # Longer than it takes to be reported: it is judged, and may go on.
            with trio.move_on_after(2 * REPORT_EVERY_S):
                while await again(b"open") == b"open":  # noqa: ASYNC110  (as above)
                    await trio.sleep(0.05)
                raise AssertionError("a web socket that is allowed was closed")
        assert await stays(b"open") == b"open"


@pytest.mark.fault(24)
async def test_an_agent_that_took_up_its_envoy_cuts_what_was_open_before(mesh: E2eMesh) -> None:
    async with mesh.applied(BOTH_MAY), tunnel(mesh, "web-1") as goes, tunnel(mesh, "reports-1") as stays:
        for name in ("api-1", "api-2"):
            await mesh.processes.kill(f"sidecar-{name}")
        await restart(mesh, "api-1", "api-2")
        assert await goes(b"open") == b"open"
        await mesh.apply(REPORTS_MAY)
        await ended(goes, "a tunnel")
        assert await stays(b"open") == b"open"
