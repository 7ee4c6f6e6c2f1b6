"""What is logged for a time, and that it ends: with clocks that are wrong, without etcd, with another Envoy."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from dataplane.log_levels import OURS, RETRY_S, LogLevelKeeper
from dataplane.log_orders import Orders
from dataplane.watch.events import Changes, Delete, Dropped, Event, Listing, Put
from schemas import codec
from schemas.errors import Unavailable
from schemas.keys import Keyspace, LogLevelRef
from schemas.log_levels import LogLevels
from schemas.names import ServiceRef
from schemas.records import LogLevel

KEYS = Keyspace()
WEB = ServiceRef("shop", "web")
OWN, OTHER = LogLevelRef(WEB, "web-1"), LogLevelRef(WEB, "web-10")
PREFIX = KEYS.log_levels_of(WEB)
NOW = 1_700_000_000.0


def put(revision: int, *, of: LogLevelRef = OWN, at: LogLevelRef = OWN, seconds: int = 600, **levels: object) -> Put:
    said = LogLevels(until=int(NOW) + seconds, **(levels or {"level": "debug"}))  # type: ignore[arg-type]  # by name
    record = LogLevel(
        namespace="shop", service="web", instance=of.instance, levels=said, seconds=seconds, at=int(NOW), by="anna"
    )
    return Put(KEYS.log_level(at), codec.encode(record), revision)


def changes(*events: Put | Delete) -> Changes:
    return Changes(PREFIX, 9, events)


def level_after(orders: Orders, monotonic: float) -> str | None:
    order = orders.current(monotonic)
    return order.levels.level if order is not None else None


def test_only_its_own_order_counts() -> None:
    orders = Orders(KEYS, OWN)
    orders.take(Listing(PREFIX, 3, (put(3, of=OTHER, at=OTHER),)), NOW, 0)
    assert orders.current(0) is None
    orders.take(changes(put(4), put(5, of=OTHER, at=OTHER, level="off")), NOW, 0)
    assert level_after(orders, 0) == "debug"
    orders.take(changes(Delete(KEYS.log_level(OTHER), 6)), NOW, 0)
    assert level_after(orders, 0) == "debug"
    orders.take(changes(Delete(KEYS.log_level(OWN), 7)), NOW, 0)
    assert orders.current(0) is None


@pytest.mark.parametrize("event", [Listing(PREFIX, 8, ()), Dropped(PREFIX)])
def test_what_is_not_listed_any_more_is_over(event: Event) -> None:
    orders = Orders(KEYS, OWN)
    orders.take(changes(put(4)), NOW, 0)
    orders.take(event, NOW, 1)
    assert orders.current(1) is None


@pytest.mark.parametrize(
    ("wall", "lasts"),
    [(NOW, 600), (NOW + 500, 100), (NOW + 600, 0), (NOW + 9999, 0), (NOW - 30, 600), (0.0, 600)],
    ids=["in time", "seen late", "seen at its end", "clock ahead", "clock behind", "clock never set"],
)
def test_it_ends_whatever_the_clock_says(wall: float, lasts: float) -> None:
    orders = Orders(KEYS, OWN)
    orders.take(changes(put(4)), wall, 50)
    assert orders.current(50 + lasts) is None
    if lasts:
        assert level_after(orders, 50 + lasts - 0.01) == "debug"


def test_listed_again_it_ends_no_later() -> None:
    orders = Orders(KEYS, OWN)
    orders.take(changes(put(4)), NOW, 0)
    orders.take(Listing(PREFIX, 9, (put(4),)), NOW - 1000, 500)
    assert orders.current(600) is None
    orders.take(Listing(PREFIX, 9, (put(5),)), NOW, 600)
    assert level_after(orders, 1199) == "debug"


@pytest.mark.parametrize("bad", [Put(KEYS.log_level(OWN), b"\xc1", 5), put(5, of=OTHER, at=OWN)])
def test_what_cannot_be_read_is_named_and_changes_nothing(bad: Put) -> None:
    orders = Orders(KEYS, OWN)
    orders.take(changes(put(4)), NOW, 0)
    orders.take(changes(bad), NOW, 0)
    assert orders.current(0) is None
    assert orders.problem is not None
    assert "LogLevel shop/web/web-1" in str(orders.problem)
    orders.take(changes(put(6)), NOW, 0)
    assert orders.problem is None


class FakeEnvoy:
    """Takes levels, unless it is starting."""

    def __init__(self) -> None:
        self.pid: int | None = 1
        self.starting = False
        self.levels = ""
        self.told = 0

    async def set_log_levels(self, general: str, of_loggers: Mapping[str, str]) -> frozenset[str]:
        await trio.lowlevel.checkpoint()
        self.told += 1
        if self.starting:
            raise Unavailable("no answer")
        self.levels = " ".join([general, *(f"{name}={level}" for name, level in of_loggers.items())])
        return frozenset({"http", "router"})


@pytest.fixture(autouse=True)
def agent_level() -> Iterator[logging.Logger]:
    logger = logging.getLogger(OURS)
    yield logger
    logger.setLevel(logging.NOTSET)


class Keeping:
    def __init__(self, nursery: trio.Nursery) -> None:
        self.envoy, self.news = FakeEnvoy(), 0
        self.keeper = LogLevelKeeper(self.envoy, "warning", self._happened)
        self.orders = self.keeper._orders = Orders(KEYS, OWN)
        self._nursery = nursery

    def _happened(self) -> None:
        self.news += 1

    async def start(self, *, adopted: bool = False) -> None:
        async def keep() -> None:
            await self.keeper.keep(adopted=adopted)

        self._nursery.start_soon(keep)
        await wait_all_tasks_blocked()

    async def take(self, event: Event) -> None:
        self.orders.take(event, NOW, trio.current_time())
        self.keeper.look_again()
        await wait_all_tasks_blocked()


async def test_it_goes_back_by_itself(
    nursery: trio.Nursery, autojump_clock: MockClock, agent_level: logging.Logger
) -> None:
    keeping = Keeping(nursery)
    await keeping.start()
    assert keeping.envoy.told == 0  # it was started by this agent, as the settings say
    await keeping.take(changes(put(4, level="info", components={"http": "trace", "agent": "debug"})))
    assert keeping.envoy.levels == "info http=trace"
    assert agent_level.level == logging.DEBUG
    assert keeping.keeper.running is not None
    assert str(keeping.keeper.running) == "info, agent=debug, http=trace"
    assert keeping.news == 1
    await trio.sleep(599)
    assert keeping.envoy.levels == "info http=trace"
    await trio.sleep(2)  # nobody says anything: etcd is out of reach
    assert keeping.envoy.levels == "warning"
    assert agent_level.level == logging.NOTSET
    assert keeping.keeper.running is None
    assert keeping.news == 2


async def test_an_envoy_that_is_taken_up_goes_back_at_once(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    keeping = Keeping(nursery)
    await keeping.start(adopted=True)
    assert keeping.envoy.levels == "warning"


async def test_another_envoy_is_told_too(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    keeping = Keeping(nursery)
    await keeping.start()
    await keeping.take(changes(put(4)))
    keeping.envoy.pid, keeping.envoy.levels, keeping.envoy.starting = 2, "warning", True
    keeping.keeper.look_again()
    await trio.sleep(3 * RETRY_S)
    keeping.envoy.starting = False
    await trio.sleep(2 * RETRY_S)
    assert keeping.envoy.levels == "debug"


async def test_an_order_is_logged_once_however_often_envoy_is_told(
    nursery: trio.Nursery, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    keeping = Keeping(nursery)
    await keeping.start()
    keeping.envoy.starting = True
    await keeping.take(changes(put(4)))
    await trio.sleep(20 * RETRY_S)
    assert keeping.envoy.told > 10
    said = [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]
    assert said == ["logging debug for 600 s, says anna"]
    await keeping.take(changes(put(5, level="trace")))
    keeping.envoy.starting = False
    await keeping.take(changes(Delete(KEYS.log_level(OWN), 6)))
    await trio.sleep(2 * RETRY_S)
    said = [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]
    assert said[1:] == ["logging trace for 600 s, says anna", "logging as the settings say again"]


async def test_the_agents_own_level_ends_without_an_envoy(
    nursery: trio.Nursery, autojump_clock: MockClock, agent_level: logging.Logger
) -> None:
    keeping = Keeping(nursery)
    await keeping.start()
    await keeping.take(changes(put(4, level="off")))
    assert not agent_level.isEnabledFor(logging.CRITICAL)
    keeping.envoy.starting = True
    await trio.sleep(601)
    assert agent_level.level == logging.NOTSET
    keeping.envoy.starting = False
    await trio.sleep(2 * RETRY_S)
    assert keeping.envoy.levels == "warning"


async def test_a_logger_that_envoy_does_not_have_is_named(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    keeping = Keeping(nursery)
    await keeping.start()
    await keeping.take(changes(put(4, components={"htp": "trace", "router": "info"})))
    (problem,) = keeping.keeper.problems()
    assert problem.remedy == "did you mean 'http'?"
    assert keeping.keeper.running is not None
    assert keeping.keeper.running.components == {"router": "info"}
    await keeping.take(changes(Delete(KEYS.log_level(OWN), 5)))
    assert keeping.keeper.problems() == []
