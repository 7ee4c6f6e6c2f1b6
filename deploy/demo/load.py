"""Requests that go on while things are broken, and a count of what became of each."""

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx
import trio

CONNECTIONS = 4
# Seconds between two requests of one connection: steady, and light enough for two cores that run a whole mesh.
PAUSE_S = 0.02


@dataclass(slots=True)
class Load:
    """`failures` holds the first words of what went wrong, with how often."""

    answered: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    seen: Counter[str] = field(default_factory=Counter)
    """Instances that served, by name."""
    _tick: trio.Event = field(default_factory=trio.Event)

    @property
    def failed(self) -> int:
        return sum(self.failures.values())

    async def wait_for(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Until `condition` holds, judged after each answer; False after `seconds`."""
        with trio.move_on_after(seconds):
            while not condition():
                await self._tick.wait()
        return condition()

    async def more(self, count: int, seconds: float = 20) -> bool:
        """Until `count` more answers have come."""
        goal = self.answered + count
        return await self.wait_for(lambda: self.answered >= goal, seconds)

    def _record(self, outcome: str | None, instance: str = "") -> None:
        if outcome is None:
            self.answered += 1
            self.seen[instance] += 1
        else:
            self.failures[outcome[:160]] += 1
        tick, self._tick = self._tick, trio.Event()
        tick.set()

    async def _run(self, client: httpx.AsyncClient, url: str) -> None:
        while True:
            try:
                answer = await client.post(url)
            except httpx.HTTPError as error:
                self._record(f"{type(error).__name__}: {error}")
            else:
                if answer.status_code == 201:
                    self._record(None, answer.json()["order"]["instance"])
                else:
                    self._record(f"{answer.status_code}: {answer.text.strip()}")
            await trio.sleep(PAUSE_S)


@asynccontextmanager
async def load(url: str) -> AsyncIterator[Load]:
    """Orders at the shop front for as long as the body runs."""
    result = Load()
    async with httpx.AsyncClient(timeout=10, trust_env=False) as client, trio.open_nursery() as nursery:
        for _ in range(CONNECTIONS):
            nursery.start_soon(result._run, client, url)
        yield result
        nursery.cancel_scope.cancel()
