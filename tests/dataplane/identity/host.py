"""One sidecar's host, for tests of its identity: disk, clock and join file, against a replica with real TLS."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio
import trio.testing

from dataplane.identity.client import ReplicaClient
from dataplane.identity.keeper import IdentityKeeper
from dataplane.identity.store import IdentityStore
from schemas.joinfile import JoinFile
from tests.dataplane.identity.fake_replica import FakeReplica

SECONDS = 20.0  # a bound for a busy machine


class Clock:
    """Seconds since 1970 that a test can move; TLS itself goes by the real time, so it starts there."""

    def __init__(self) -> None:
        self.offset = 0.0

    def __call__(self) -> float:
        return time.time() + self.offset


class Host:
    """One sidecar's host: its disk, clock and join file."""

    def __init__(self, directory: Path, replica: FakeReplica, clock: Clock) -> None:
        self.store = IdentityStore(directory)
        self.replica = replica
        self.clock = clock
        self.join: JoinFile | None = replica.join_file()

    @asynccontextmanager
    async def keeping(self) -> AsyncIterator[IdentityKeeper]:
        """A keeper that has its first identity, for the body."""
        async with self.starting() as (keeper, started):
            await started.wait()
            yield keeper

    @asynccontextmanager
    async def starting(self) -> AsyncIterator[tuple[IdentityKeeper, trio.Event]]:
        client = ReplicaClient(fraction=lambda: 0.5)
        keeper = IdentityKeeper(self.store, client, lambda: self.join, clock=self.clock, fraction=lambda: 0.5)
        started = trio.Event()

        async def run() -> None:
            await nursery.start(keeper.run)
            started.set()

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run)
                with trio.fail_after(SECONDS):
                    yield keeper, started
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise _only(group) from None
        finally:
            client.close()


def _only(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one fault in a nursery's group."""
    inner = group.exceptions[0]
    return _only(inner) if isinstance(inner, BaseExceptionGroup) else inner


async def let_pass(host: Host, keeper: IdentityKeeper, seconds: float) -> None:
    """Let time pass for this host, and spare the keeper its longest wait of a minute."""
    host.clock.offset += seconds
    await trio.testing.wait_all_tasks_blocked()
    keeper.look_again()
