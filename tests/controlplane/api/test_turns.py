"""Turns at signing: one at a time, connections in rotation, and nobody waits for what would come too late."""

from __future__ import annotations

from collections import Counter
from functools import partial

import pytest
import trio
from trio.testing import MockClock

from controlplane.api.turns import FIRST_GUESS_SECONDS, MAX_WAIT_SECONDS, MIN_RETRY_SECONDS, SLICE_SECONDS, Turns
from schemas.errors import Overloaded

LONG = 60.0


async def sign(turns: Turns, connection: str, done: list[str], count: int = 1) -> None:
    with turns.admitted(connection, LONG, count) as admitted:
        for _ in range(count):
            await admitted.turn(lambda: done.append(connection))


async def test_a_batch_lets_others_in_between() -> None:
    turns, done = Turns(), []  # type: ignore[var-annotated]  # of names
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sign, turns, "batch", done, 50)
        while len(done) < 10:
            await trio.lowlevel.checkpoint()
        for one in "abc":
            nursery.start_soon(sign, turns, one, done)
    assert sorted(done) == sorted(["batch"] * 50 + ["a", "b", "c"])
    assert max(done.index(one) for one in "abc") < 20


async def test_connections_take_turns_whatever_each_has_waiting() -> None:
    turns, done = Turns(), []  # type: ignore[var-annotated]  # of names
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(sign, turns, "greedy", done)
        for one in "ab":
            nursery.start_soon(sign, turns, one, done)
    assert len(done) == 22
    assert max(done.index(one) for one in "ab") <= 4


async def test_between_two_slices_everything_else_runs(mock_clock: MockClock) -> None:
    turns, ran = Turns(), 0
    seen: list[int] = []

    async def other() -> None:
        nonlocal ran
        while True:
            await trio.lowlevel.checkpoint()
            ran += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)

        async def signing() -> None:
            with turns.admitted("x", LONG) as admitted:
                await admitted.turn(sign_once)

        def sign_once() -> None:
            seen.append(ran)
            mock_clock.jump(SLICE_SECONDS / 2)

        async with trio.open_nursery() as inner:
            for _ in range(30):
                inner.start_soon(signing)
        nursery.cancel_scope.cancel()
    # Two turns a slice; of two passes of the scheduler that follow each other, the other task has run in at least one
    # before the slice.
    assert len(seen) == 30
    assert max(Counter(seen).values()) <= 4


async def test_a_slice_holds_what_waits_and_each_gets_its_own(mock_clock: MockClock) -> None:
    turns, ran = Turns(), 0
    seen: list[int] = []
    got: list[int] = []

    def sign_once(number: int) -> int:
        seen.append(ran)
        if number == 2:
            raise ZeroDivisionError
        return number

    async def signing(number: int) -> None:
        nonlocal ran
        with turns.admitted(f"connection {number}", LONG) as admitted:
            try:
                got.append(await admitted.turn(partial(sign_once, number)))
            except ZeroDivisionError:
                got.append(-number)
        ran += 1

    async with trio.open_nursery() as nursery:
        for number in range(4):
            nursery.start_soon(signing, number)
    assert seen == [0, 0, 0, 0]
    assert sorted(got) == [-2, 0, 1, 3]


async def test_who_would_wait_too_long_is_told_when_to_come_again() -> None:
    turns = Turns()
    fit = int(MAX_WAIT_SECONDS / FIRST_GUESS_SECONDS)
    with turns.admitted("batch", LONG, fit * 2):
        with turns.admitted("other", LONG):  # one round is all that the batch is ahead
            assert turns.wait_for("third") == pytest.approx(3 * FIRST_GUESS_SECONDS)
        with pytest.raises(Overloaded) as caught, turns.admitted("batch", LONG):
            pass
        assert caught.value.retry_after == pytest.approx(2 * MAX_WAIT_SECONDS)
    with turns.admitted("batch", LONG):
        assert turns.wait_for("batch") == pytest.approx(2 * FIRST_GUESS_SECONDS)


async def test_a_caller_that_waits_too_short_costs_nothing() -> None:
    turns = Turns()
    with pytest.raises(Overloaded) as caught, turns.admitted("x", FIRST_GUESS_SECONDS * 9, 10):
        pass
    assert caught.value.retry_after == MIN_RETRY_SECONDS


async def test_the_cost_of_a_turn_is_measured(mock_clock: MockClock) -> None:
    """On a slow machine fewer are let in."""
    turns = Turns()
    with turns.admitted("x", LONG, 60) as admitted:
        for _ in range(60):
            await admitted.turn(lambda: mock_clock.jump(0.5))
    assert turns.wait_for("y") == pytest.approx(0.5, rel=0.01)
    with turns.admitted("a", LONG, 4), turns.admitted("b", LONG, 4), pytest.raises(Overloaded), \
            turns.admitted("c", 4.0, 3):  # fmt: skip
        pass


async def test_who_gives_up_or_fails_passes_its_turn_on() -> None:
    turns, done = Turns(), []  # type: ignore[var-annotated]  # of names

    def fail() -> None:
        raise ZeroDivisionError

    async def failing() -> None:
        with pytest.raises(ZeroDivisionError), turns.admitted("f", LONG) as admitted:
            await admitted.turn(fail)

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(failing)
            with trio.CancelScope() as scope:
                scope.cancel()
                await sign(turns, "gone", done)
        async with trio.open_nursery() as inner:
            inner.start_soon(sign, turns, "waits and goes", done)
            inner.start_soon(sign, turns, "waits and goes", done)
            inner.cancel_scope.cancel()
        nursery.start_soon(sign, turns, "last", done)
    assert done == ["last"]
    assert turns.wait_for("x") <= FIRST_GUESS_SECONDS
