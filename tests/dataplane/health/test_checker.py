"""The loop: when it asks, what it makes of the answers, what changes while it runs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import trio
import trio.testing

from dataplane.health.checker import AppHealth
from dataplane.health.plan import Plan
from dataplane.health.probes import Failed

PLAN = Plan("TCP", "127.0.0.1", 80, interval=3.0, timeout=1.0, unhealthy_threshold=2, healthy_threshold=2)


@dataclass
class App:
    """Answers as it is told; notes when it was asked."""

    well: bool = True
    asked: list[float] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    health: AppHealth = field(init=False)

    async def ask(self, plan: Plan) -> None:
        self.asked.append(trio.current_time())
        if not self.well:
            raise Failed("503")

    @asynccontextmanager
    async def checked(self, *, healthy: bool, plan: Plan | None = PLAN) -> AsyncIterator[AppHealth]:
        self.health = AppHealth(lambda: self.told.append(self.health.said), healthy=healthy, ask=self.ask)
        self.health.use(plan)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.health.run)
            yield self.health
            nursery.cancel_scope.cancel()


async def test_it_asks_at_once_and_then_every_interval(autojump_clock: trio.testing.MockClock) -> None:
    app, began = App(), trio.current_time()
    async with app.checked(healthy=True):
        await trio.sleep(7)
    assert [round(at - began) for at in app.asked] == [0, 3, 6]
    assert app.told == []


async def test_out_after_so_many_failures_and_back(autojump_clock: trio.testing.MockClock) -> None:
    app = App()
    async with app.checked(healthy=True) as health:
        await trio.sleep(1)
        app.well = False
        await trio.sleep(3)
        assert health.healthy
        await trio.sleep(3)
        assert not health.healthy
        app.well = True
        await trio.sleep(6)
        assert health.healthy
    assert app.told == ["unhealthy: 503", "healthy"]


async def test_a_new_reason_is_told(autojump_clock: trio.testing.MockClock) -> None:
    app = App(well=False)
    async with app.checked(healthy=False) as health:
        assert health.said == "unhealthy: not checked yet"
        await trio.sleep(10)
    assert app.told == ["unhealthy: 503"]


async def test_a_check_that_is_added_takes_nobody_out_before_it_has_failed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    app = App(well=False)
    async with app.checked(healthy=False, plan=None) as health:
        assert health.healthy
        assert health.said == ""
        health.use(PLAN)
        assert health.healthy
        await trio.sleep(1)
        assert health.healthy
        await trio.sleep(3)
        assert not health.healthy
        health.use(None)
        assert health.healthy


async def test_another_plan_counts_from_now_on(autojump_clock: trio.testing.MockClock) -> None:
    app = App()
    async with app.checked(healthy=True) as health:
        await trio.sleep(1)
        health.use(replace(PLAN))  # the same: it is not asked more often
        await trio.sleep(1)
        assert len(app.asked) == 1
        health.use(replace(PLAN, interval=0.5))
        await trio.sleep(0.9)
        assert len(app.asked) == 3


async def test_what_can_not_be_checked_is_said_and_stays_in(autojump_clock: trio.testing.MockClock) -> None:
    app = App()
    async with app.checked(healthy=True) as health:
        health.use("no such port")
        assert health.healthy
        assert health.said == "not checked: no such port"
