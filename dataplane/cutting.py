"""[edge] Whoever is no longer allowed loses what is open: reports of open streams in, connections of Envoy shut.

    Envoy ─reports─▶ ads ─▶ Cutter ─(judged by the rules in force)─▶ connections to shut ─▶ EnvoyProcess

A connection belongs to one peer. Who may go on with one stream of it and not with another loses both.
"""

import logging
from collections.abc import Awaitable, Callable, Collection

import trio
from envoy.service.accesslog.v3 import als_pb2

from dataplane.compile.open_streams import Connection, OpenStream, reported
from dataplane.compile.resources import Resource
from dataplane.compile.verdict import Judge
from schemas.errors import PermissionDenied
from schemas.records import OpenStreams

# Milliseconds within which what is open and no longer allowed ends: until Envoy's next report, for which it gathers
# (GATHER_MS), and what a busy agent takes to judge it. Measured: 1.0 to 1.1 s (`make bench ARGS=revocation`).
BOUND_MS = 2000
# Milliseconds that Envoy may take to begin draining connections of a port that passes bytes when that port changes.
_SWAP_MS = 1000
# Seconds between looks whether connections can be shut: somebody may allow it on the host, or forbid it.
LOOK_EVERY_S = 5.0

log = logging.getLogger("mesh.cutting")


class Cutter:
    """routes: of a port by its name, as last compiled; None where there are none (yet): then nothing is judged.

    shut: ends connections, and says how many there were; may raise PermissionDenied. check: raises that where `shut`
    would; whether there is an Envoy. news: `problem` is another.
    """

    def __init__(
        self,
        routes: Callable[[str], Resource | None],
        shut: Callable[[Collection[Connection]], Awaitable[int]],
        check: Callable[[], bool],
        news: Callable[[], None],
    ) -> None:
        self._routes = routes
        self._shut = shut
        self._check = check
        self._news = news
        self._judge = Judge()
        self._denied: dict[Connection, tuple[str, OpenStream]] = {}
        self._arrived = trio.Event()
        # Known before the first report of an ack, so that no wait for it ends well where nothing is cut.
        self._refusal: str | None = None
        self._refusal = self._looked()

    @property
    def problem(self) -> str | None:
        """That what is denied goes on, and why."""
        return None if self._refusal is None else f"open streams that are denied go on: {self._refusal}"

    def open_streams(self, passing_drain_s: float | None) -> OpenStreams:
        """passing_drain_s: for how long Envoy drains a changed port, where any of ours passes bytes."""
        if self._refusal is not None:
            return OpenStreams(bound_ms=0, problem=self._refusal)
        passed = 0 if passing_drain_s is None else round(passing_drain_s * 1000) + _SWAP_MS
        return OpenStreams(bound_ms=BOUND_MS, passed_bound_ms=passed)

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
        if self._refusal is not None:
            log.error("%s", self.problem)
        while True:
            with trio.move_on_after(LOOK_EVERY_S) as waits:
                await self._arrived.wait()
            if waits.cancelled_caught:
                self._say(self._looked())
                continue
            self._arrived = trio.Event()
            denied, self._denied = self._denied, {}
            try:
                await self._shut(denied.keys())
            except PermissionDenied as error:
                self._say(str(error))
                continue
            for name, stream in denied.values():
                who = ", ".join(stream.identities) or "a peer without identity"
                log.info("closed a connection of %s to %s: it is no longer allowed", who, name)
            self._say(self._looked())

    def _looked(self) -> str | None:
        """Why connections could not be shut now. Where there is no Envoy, what was known of the last one: the next runs
        as whom it ran."""
        try:
            return None if self._check() else self._refusal
        except PermissionDenied as error:
            return str(error)

    def _say(self, refusal: str | None) -> None:
        if refusal != self._refusal:
            self._refusal = refusal
            if refusal is not None:
                log.error("%s", self.problem)
            self._news()
