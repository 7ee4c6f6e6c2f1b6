"""[edge] Asks Envoy who comes in plaintext, for as long as a port takes it."""

import logging
import time
from collections.abc import Awaitable, Callable, Collection

import trio

from dataplane.plaintext_seen import PlaintextSeen, read
from schemas.errors import Unavailable
from schemas.records import PlaintextPort

# Seconds between two questions: what is answered is up to that old. One takes Envoy less than a millisecond.
ASK_EVERY_S = 1.0

log = logging.getLogger("mesh.plaintext")


class PlaintextWatch:
    """ports: of the Service, those that take plaintext now. ask: Envoy's counters; may raise Unavailable. news: there
    is something to tell. seen: what the agent before this one knew."""

    def __init__(
        self,
        ports: Callable[[], Collection[int]],
        ask: Callable[[], Awaitable[str]],
        news: Callable[[], None],
        seen: PlaintextSeen,
    ) -> None:
        self._ports = ports
        self._ask = ask
        self._news = news
        self._seen = seen
        self._open = trio.Event()
        self.problem: str | None = None
        """Why nobody knows who comes; then nothing is told of any port."""

    def look(self) -> None:
        """The configuration is another."""
        if self._ports():
            self._open.set()

    async def run(self) -> None:
        while True:
            await self._open.wait()
            while self._ports():
                await self._count()
                await trio.sleep(ASK_EVERY_S)
            self._open = trio.Event()

    async def _count(self) -> None:
        try:
            counts = read(await self._ask())
        except Unavailable as error:
            if self.problem is None:
                self.problem = f"Envoy does not say who sends plaintext: {error}"
                log.warning("%s", self.problem)
                self._news()
            return
        now = int(time.time())
        self._seen.open(self._ports(), now)
        if self._seen.take(counts, now) or self.problem is not None:
            self.problem = None
            self._news()

    def said(self) -> tuple[PlaintextPort, ...]:
        self._seen.open(self._ports(), int(time.time()))
        return self._seen.said() if self.problem is None else ()
