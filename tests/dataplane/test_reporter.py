"""When the sidecar tells what has happened: soon, but never in the way of a change."""

from __future__ import annotations

from itertools import pairwise

import pytest
import trio
from trio.testing import MockClock

from dataplane.reporter import TELL_AFTER_S, TELL_AT_LATEST_S, TELL_EVERY_S, News


@pytest.fixture
async def told(nursery: trio.Nursery, news: News) -> list[float]:
    """The times at which it is time to tell."""
    times: list[float] = []

    async def tell() -> None:
        while True:
            await news.to_tell()
            times.append(trio.current_time())

    nursery.start_soon(tell)
    return times


@pytest.fixture
def news() -> News:
    return News()


async def every(seconds: float, news: News, *, until: float) -> None:
    """News at that distance, from now on."""
    end = trio.current_time() + until
    while trio.current_time() < end:
        news.happened()
        await trio.sleep(seconds)


async def test_what_happens_alone_is_told_at_once(autojump_clock: MockClock, news: News, told: list[float]) -> None:
    for _ in range(3):
        begins = trio.current_time()
        news.happened()
        await trio.sleep(TELL_EVERY_S + TELL_AFTER_S)
        assert told.pop() == pytest.approx(begins + TELL_AFTER_S)
        assert told == []


async def test_nothing_is_told_while_one_change_follows_the_other(
    autojump_clock: MockClock, news: News, told: list[float]
) -> None:
    begins = trio.current_time()
    await every(TELL_AFTER_S / 4, news, until=0.8 * TELL_AT_LATEST_S)
    assert told == []
    last = trio.current_time() - TELL_AFTER_S / 4
    await trio.sleep(1)
    assert told == [pytest.approx(last + TELL_AFTER_S)]
    assert told[0] - begins < TELL_AT_LATEST_S


async def test_what_never_ends_is_told_all_the_same(autojump_clock: MockClock, news: News, told: list[float]) -> None:
    begins = trio.current_time()
    await every(TELL_AFTER_S / 4, news, until=10 * TELL_AT_LATEST_S)
    assert 9 <= len(told) <= 10
    assert all(later - earlier <= TELL_AT_LATEST_S + TELL_AFTER_S for earlier, later in pairwise([begins, *told]))


async def test_changes_with_pauses_between_them_are_not_told_one_by_one(
    autojump_clock: MockClock, news: News, told: list[float]
) -> None:
    await every(2 * TELL_AFTER_S, news, until=2)
    assert 2 / TELL_EVERY_S / 2 <= len(told) <= 2 / TELL_EVERY_S + 1
    assert all(later - earlier >= TELL_EVERY_S - 1e-6 for earlier, later in pairwise(told))
