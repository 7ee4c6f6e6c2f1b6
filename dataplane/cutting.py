"""[edge] Whoever is no longer allowed loses what is open: reports of open streams in, connections of Envoy shut.

    Envoy ─reports─▶ ads ─▶ Cutter ─(judged by the rules in force)─▶ connections to shut ─▶ EnvoyProcess

A connection belongs to one peer. Who may go on with one stream of it and not with another loses both.
"""

import logging
from collections.abc import Awaitable, Callable, Collection

import trio
from envoy.service.accesslog.v3 import als_pb2

from dataplane.compile.open_streams import REPORT_EVERY_S, Connection, OpenStream, reported
from dataplane.compile.resources import Resource
from dataplane.compile.verdict import Judge
from schemas.errors import PermissionDenied

# Seconds without a report of anything denied, after which nothing of that kind can be open any more.
QUIET_S = 3.0 * REPORT_EVERY_S

log = logging.getLogger("mesh.cutting")


class Cutter:
    """routes: of a port by its name, as last compiled; None where there are none (yet): then nothing is judged.

    shut: ends connections, and says how many there were; may raise PermissionDenied. news: `problem` is another.
    """

    def __init__(
        self,
        routes: Callable[[str], Resource | None],
        shut: Callable[[Collection[Connection]], Awaitable[int]],
        news: Callable[[], None],
    ) -> None:
        self._routes = routes
        self._shut = shut
        self._news = news
        self._judge = Judge()
        self._denied: dict[Connection, tuple[str, OpenStream]] = {}
        self._arrived = trio.Event()
        self.problem: str | None = None
        """Why what is denied goes on."""

    def take(self, name: str, report: als_pb2.StreamAccessLogsMessage) -> None:
        """What is open at the listener `name`. Never blocks."""
        routes = self._routes(name)
        if routes is None:
            return
        for stream in reported(report):
            if self._judge.denies(routes, stream):
                self._denied[stream.connection] = (name, stream)
        if self._denied:
            self._arrived.set()

    async def run(self) -> None:
        while True:
            with trio.move_on_after(QUIET_S if self.problem else float("inf")) as waits:
                await self._arrived.wait()
            if waits.cancelled_caught:
                self._say(None)
                continue
            self._arrived = trio.Event()
            denied, self._denied = self._denied, {}
            problem = None
            try:
                await self._shut(denied.keys())
            except PermissionDenied as error:
                problem = f"open streams that are denied go on: {error}"
                if problem != self.problem:
                    log.error("%s", problem)
            else:
                for name, stream in denied.values():
                    who = ", ".join(stream.identities) or "a peer without identity"
                    log.info("closed a connection of %s to %s: it is no longer allowed", who, name)
            self._say(problem)

    def _say(self, problem: str | None) -> None:
        if problem != self.problem:
            self.problem = problem
            self._news()
