"""The queue from trio to a thread: its bound, and that nobody who waits for room is forgotten."""

import pytest
import trio
import trio.testing

from trio_grpc.bridge import Outbox


async def drained(outbox: Outbox[int], count: int) -> list[int | None]:
    return await trio.to_thread.run_sync(lambda: [outbox.get() for _ in range(count)])


async def test_the_bound_holds_until_the_thread_takes_one() -> None:
    outbox: Outbox[int] = Outbox(trio.lowlevel.current_trio_token(), 2)
    outbox.put_nowait(1)
    outbox.put_nowait(2)
    with pytest.raises(trio.WouldBlock):
        outbox.put_nowait(3)
    assert await drained(outbox, 1) == [1]
    outbox.put_nowait(3)


async def test_every_waiting_sender_gets_its_turn() -> None:
    outbox: Outbox[int] = Outbox(trio.lowlevel.current_trio_token(), 2)
    count = 200
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            for number in range(count):
                nursery.start_soon(outbox.put, number)
            taken = await drained(outbox, count)
    assert sorted(item for item in taken if item is not None) == list(range(count))


async def test_the_end_frees_those_who_wait() -> None:
    outbox: Outbox[int] = Outbox(trio.lowlevel.current_trio_token(), 1)
    outbox.put_nowait(1)
    refused: list[int] = []

    async def send(number: int) -> None:
        try:
            await outbox.put(number)
        except trio.BrokenResourceError:
            refused.append(number)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send, 2)
        nursery.start_soon(send, 3)
        await trio.testing.wait_all_tasks_blocked()
        outbox.end()
    assert sorted(refused) == [2, 3]
    assert await drained(outbox, 2) == [1, None]
