"""What leads outside ends once Envoy has the routes that forbid it, or does not say so."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import cast

import pytest
import trio
import trio.testing

from dataplane.ads.server import AdsServer
from dataplane.closing import AGAIN_S, PATIENCE_S, RETRY_S, end_what_leads_outside
from dataplane.delivery import Delivery
from schemas.errors import PermissionDenied

FORBIDDEN_AT = 7


class Agent:
    """Its Envoy, and what is said of it."""

    def __init__(self, *, refuses: bool = False) -> None:
        self.acked_revision = 0
        self.refuses = refuses
        self.shut_at: list[float] = []
        self.compiler = SimpleNamespace(leads_outside=False)
        self.state = SimpleNamespace(connected=True)
        pipeline = SimpleNamespace(compiler=self.compiler)
        closes = self.outside_closes
        self.delivery = SimpleNamespace(outside_closed_at=FORBIDDEN_AT, outside_closes=closes, pipeline=pipeline)
        self._changed = trio.Event()
        self._closed = trio.Event()

    async def outside_closes(self) -> None:
        await self._closed.wait()

    def forbids(self, revision: int) -> None:
        self.delivery.outside_closed_at = revision
        self._closed.set()
        self._closed = trio.Event()

    async def changed(self) -> None:
        await self._changed.wait()

    def acks(self, revision: int) -> None:
        self.acked_revision = revision
        self._changed.set()
        self._changed = trio.Event()

    async def shut(self) -> int:
        self.shut_at.append(trio.current_time() - self.began)
        if self.refuses:
            raise PermissionDenied("not allowed")
        return 1

    @asynccontextmanager
    async def runs(self) -> AsyncIterator[None]:
        self.began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(end_what_leads_outside, cast(Delivery, self.delivery), cast(AdsServer, self), self.shut)
            yield
            nursery.cancel_scope.cancel()


async def test_after_the_ack_and_once_more(autojump_clock: trio.testing.MockClock) -> None:
    agent = Agent()
    async with agent.runs():
        await trio.sleep(2)
        agent.acks(FORBIDDEN_AT - 1)
        await trio.sleep(2)
        assert not agent.shut_at, "Envoy would open others"
        agent.acks(FORBIDDEN_AT)
        await trio.sleep(3 * PATIENCE_S)
    assert agent.shut_at == pytest.approx([4, 4 + AGAIN_S])
    assert agent.delivery.outside_closed_at is None


async def test_an_envoy_that_refuses_something_else_keeps_nothing_open(
    autojump_clock: trio.testing.MockClock,
) -> None:
    agent = Agent()
    async with agent.runs():
        await trio.sleep(2 * (PATIENCE_S + AGAIN_S) + 1)
        assert agent.shut_at[0] == pytest.approx(PATIENCE_S)
        assert len(agent.shut_at) == 4, "again, since it may have opened others meanwhile"


async def test_what_is_allowed_again_stays(autojump_clock: trio.testing.MockClock) -> None:
    agent = Agent()
    agent.compiler.leads_outside = True
    async with agent.runs():
        agent.acks(FORBIDDEN_AT)
        await trio.sleep(PATIENCE_S)
        assert not agent.shut_at
        agent.compiler.leads_outside = False
        agent.forbids(FORBIDDEN_AT + 1)
        agent.acks(FORBIDDEN_AT + 1)
        await trio.sleep(PATIENCE_S)
    assert len(agent.shut_at) == 2


async def test_an_envoy_of_which_there_is_no_news(autojump_clock: trio.testing.MockClock) -> None:
    """Something that it refused before keeps its ack where it was, whatever it takes since."""
    agent = Agent()
    async with agent.runs():
        agent.acks(FORBIDDEN_AT)
        await trio.sleep(PATIENCE_S)
        assert len(agent.shut_at) == 2
        agent.forbids(FORBIDDEN_AT + 1)
        await trio.sleep(PATIENCE_S + 1)
    assert agent.shut_at[2] == pytest.approx(2 * PATIENCE_S)


async def test_one_that_is_not_connected_has_acked_nothing(autojump_clock: trio.testing.MockClock) -> None:
    agent = Agent()
    agent.state.connected = False
    async with agent.runs():
        agent.acks(FORBIDDEN_AT)  # so it said, of a state that a restore has taken back
        await trio.sleep(PATIENCE_S - 1)
        assert not agent.shut_at
        agent.state.connected = True
        agent.acks(FORBIDDEN_AT)
        await trio.sleep(2)
    assert len(agent.shut_at) == 2


async def test_an_agent_that_may_not_tries_again(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    agent = Agent(refuses=True)
    async with agent.runs():
        agent.acks(FORBIDDEN_AT)
        await trio.sleep(3 * RETRY_S)
        assert len(agent.shut_at) == 3
        assert len(caplog.records) == 1
        agent.refuses = False
        await trio.sleep(3 * RETRY_S)
    assert len(agent.shut_at) == 5
    assert agent.delivery.outside_closed_at is None
