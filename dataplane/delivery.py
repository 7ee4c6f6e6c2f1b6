"""[edge] The way of a change, from etcd to the Envoy of this sidecar.

    etcd ─▶ watch ─▶ pipeline (snapshot ▸ compile) ─▶ ads ─▶ Envoy
              ▲            │                           │
              └── wanted ──┤            demands ◀──────┤ what Envoy holds requests for
                           ▼                           ▼ acks, NACKs: `ads.state`
                       last good, on disk

Identity comes from aside: `set_identity` is a change like any other, only that it is in no revision.
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path

import trio

from dataplane import lastgood
from dataplane.ads.server import AdsServer, OnReport, open_ads_server
from dataplane.certificates.keeper import CertificateKeeper
from dataplane.certificates.store import PairStore
from dataplane.compile import passthrough
from dataplane.compile.on_demand import full
from dataplane.compile.resources import Update
from dataplane.compile.workload import Credentials
from dataplane.config import SidecarSettings
from dataplane.pace import Pace
from dataplane.pipeline import Demand, Pipeline
from dataplane.watch.events import Event
from dataplane.watch.follow import Follower
from schemas.records import TrustBundle
from trio_etcd import Client

log = logging.getLogger("mesh.agent")

# Seconds that a starting sidecar waits for etcd before it serves what was last known good.
LAST_GOOD_AFTER_S = 2.0
# Seconds between a change and its being saved: a burst of changes is one write.
SAVE_AFTER_S = 1.0
# Events that may wait between watch and pipeline; when it is full, etcd is read no further.
EVENT_QUEUE = 256


class Delivery:
    """One run of it. configured: set here, when ADS serves a first configuration.

    pushed: called after each change that goes to Envoy. on_report: of Envoy's access logs. fraction: random, in [0, 1).
    """

    def __init__(
        self,
        settings: SidecarSettings,
        pipeline: Pipeline,
        etcd: Client,
        *,
        envoy_node: str,
        configured: trio.Event,
        pushed: Callable[[], None],
        on_report: OnReport,
        fraction: Callable[[], float],
    ) -> None:
        self.pipeline = pipeline
        self.ads: AdsServer | None = None
        """None before there is something to serve."""
        self.applied_revision = 0
        self.from_last_good = False
        """What is in force was read from disk, not from etcd."""
        self.on_event: Callable[[Event | Demand], None] = lambda _: None
        """Called with each event that the state has taken in."""
        self._ads_socket, self._last_good_file = settings.ads_socket, settings.last_good_file
        directory = Path(settings.certificate_dir) if settings.certificate_dir is not None else None
        store = PairStore(Path(settings.state_dir) / "certificates")
        self.certificates = CertificateKeeper(directory, store, time.time, self._certificates_changed)
        """Those that objects name and that others make; not the own identity."""
        self._etcd = etcd
        self._envoy_node = envoy_node
        self._configured = configured
        self._pushed = pushed
        self._on_report = on_report
        self._fraction = fraction
        self.outside_closed_at: int | None = None
        """The revision at which the way to the world outside was closed, or may have been while no agent ran; None when
        what had been open there is known to have ended."""
        self._outside_closed = trio.Event()
        self._detours: list[tuple[int, list[str]]] = []
        """Authorities that wait for Envoy's ack of an update, by its sequence."""
        self._events, self._to_take = trio.open_memory_channel[Event | Demand](EVENT_QUEUE)
        self._unsaved = trio.Event()
        self._pace = Pace()

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._save_last_good)
            nursery.start_soon(self.certificates.run)
            await self._follow_configuration(nursery)

    def set_identity(self, credentials: Credentials, bundle: TrustBundle, *, expired: bool) -> bool:
        """True: it has gone to Envoy; False: it will, with the first configuration."""
        update = self.pipeline.set_identity(credentials, bundle, expired=expired)
        if update is None or self.ads is None:
            return False
        self._send(self.ads, update)
        return True

    def set_ends_open(self, ends_open: bool) -> None:
        """Whether the agent can end what is open, by now."""
        update = self.pipeline.set_ends_open(ends_open)
        if update is not None and self.ads is not None:
            self._send(self.ads, update)
            self._pushed()

    # -- etcd ▸ watch ▸ pipeline

    async def _follow_configuration(self, nursery: trio.Nursery) -> None:
        events = self._to_take
        follower = Follower(nursery, self._etcd, self._events, fraction=self._fraction)
        nursery.start_soon(self._follow_demands)
        follower.want(self.pipeline.wanted())
        patience = trio.current_time() + LAST_GOOD_AFTER_S
        has_last_good = bool(self.pipeline.state.stored)  # looked at before etcd can have said a part of what there is
        while True:
            first = None
            with trio.move_on_at(patience) as waited:
                first = await events.receive()
            if first is not None:
                await self._gather(first, events, follower)
            follower.list_again(self.pipeline.to_list_again())
            follower.want(self.pipeline.wanted())
            if waited.cancelled_caught and not has_last_good:
                log.warning("etcd does not answer, and there is no last known good: nothing is served before it does")
                patience, update = float("inf"), None
            elif waited.cancelled_caught:
                log.warning(
                    "etcd does not answer: serving the last known good, revision %d", self.pipeline.state.revision
                )
                self.from_last_good, patience = True, float("inf")
                update = self.pipeline.build(from_last_good=True)
            else:
                update = self.pipeline.build()
                if update is not None:
                    self.from_last_good, patience = False, float("inf")
                    self._unsaved.set()
            if update is not None:
                await self._push(await self._with_certificates(update), nursery)

    async def _gather(
        self, event: Event | Demand, events: trio.MemoryReceiveChannel[Event | Demand], follower: Follower
    ) -> None:
        """Takes it, and all that has come with it or, in a rush, comes before the next push is due."""
        behind = self.ads is not None and self.ads.acked_revision < self.applied_revision
        due, taken = self._pace.due(trio.current_time(), behind=behind), 0
        while True:
            self._take(event, follower)
            taken += 1
            if isinstance(event, Demand):
                due = float("-inf")  # Envoy holds a request meanwhile
            try:
                event = events.receive_nowait()
            except trio.WouldBlock:
                if trio.current_time() >= due:
                    break
                with trio.move_on_at(due) as waited:
                    event = await events.receive()
                if waited.cancelled_caught:
                    break
        self._pace.pushed(trio.current_time(), changes=taken)

    def _take(self, event: Event | Demand, follower: Follower) -> None:
        if self.pipeline.take(event):
            log.warning("etcd holds another epoch: it was restored; listing everything again")
            follower.list_again()
        self.on_event(event)

    async def _with_certificates(self, update: Update) -> Update:
        """What objects ask for of this host's files belongs to the same push: a listener is not taken away and put back
        because the agent has started anew."""
        wanted = self.pipeline.certificates_wanted
        if not self.certificates.wants(wanted):
            return update
        await self.certificates.want(wanted)
        return update.then(self.pipeline.set_certificates(self.certificates.pairs))

    # -- pipeline ▸ ads ▸ Envoy

    def _certificates_changed(self) -> None:
        if self.ads is not None:
            self._send(self.ads, self.pipeline.set_certificates(self.certificates.pairs))
            self._pushed()

    async def _push(self, update: Update, nursery: trio.Nursery) -> None:
        if self.ads is None:
            self.outside_closed_at = update.revision  # an Envoy that was taken up may have something open there
            # Not before there is something to serve: an Envoy that was taken up would be told that all is gone.
            self.ads = await nursery.start(self._serve_ads, update)
            sequence = 1
        else:
            sequence = self._send(self.ads, update)
        if log.isEnabledFor(logging.DEBUG):
            changed, gone = (", ".join(names) or "nothing" for names in _names(update))
            log.debug("revision %d goes to Envoy; changed: %s; removed: %s", update.revision, changed, gone)
        if learnt := self.pipeline.learnt():
            self._detours.append((sequence, learnt))
            self._open_detours()
        self.applied_revision = update.revision
        self._pushed()
        self._configured.set()

    def _send(self, ads: AdsServer, update: Update) -> int:
        """Whatever goes to Envoy while ADS serves."""
        if passthrough.KEY in update.removed:
            self.outside_closed_at = update.revision
            self._outside_closed.set()
        return ads.update(update)

    async def serving(self) -> AdsServer:
        """Returns when it serves a first configuration."""
        while self.ads is None:
            await self._configured.wait()  # set after it
        return self.ads

    async def outside_closes(self) -> None:
        """Returns when `outside_closed_at` says something."""
        while self.outside_closed_at is None:
            self._outside_closed = trio.Event()
            await self._outside_closed.wait()

    async def _serve_ads(self, first: Update, task_status: trio.TaskStatus[AdsServer]) -> None:
        async with open_ads_server(
            self._ads_socket, envoy_node=self._envoy_node, on_error=_report_fault, on_report=self._on_report
        ) as server:
            server.update(first)
            task_status.started(server)
            await trio.sleep_forever()

    # -- Envoy ▸ pipeline

    async def learn(self, authority: str) -> None:
        """Takes into scope what the app is about to call; returns when Envoy has all that belongs to it, or at once
        where that would be too many."""
        learnt, ads = self.pipeline.compiler.learnt, self.ads
        if ads is None or learnt.get(authority):
            return
        with ads.following_sequence():
            await self._events.send(Demand(authority))
            while not learnt.get(authority) and (authority in learnt or not full(learnt)):
                await ads.changed()
                self._open_detours()

    async def _follow_demands(self) -> None:
        """What Envoy holds requests for comes into scope; then what it holds is let go."""
        await self._configured.wait()
        demanded: frozenset[str] = frozenset()
        while self.ads is not None:
            held = self.ads.state.held_requests
            new, demanded = held - demanded, held
            for authority in sorted(new):
                await self._events.send(Demand(authority))
            self._open_detours()
            if self.ads.state.held_requests == held:
                await self.ads.changed()

    def _open_detours(self) -> None:
        if self.ads is None:
            return
        acked = self.ads.state.acked_sequence
        ready = [one for sequence, learnt in self._detours if sequence <= acked for one in learnt]
        if ready:
            self._detours = [(sequence, learnt) for sequence, learnt in self._detours if sequence > acked]
            self._send(self.ads, self.pipeline.open_detours(ready))
            self._unsaved.set()

    # -- last good

    async def _save_last_good(self) -> None:
        while True:
            await self._unsaved.wait()
            await trio.sleep(SAVE_AFTER_S)
            self._unsaved = trio.Event()
            await self._save_now()

    async def save_unsaved(self) -> None:
        """What has changed since the last time, at the end."""
        if self._unsaved.is_set():
            await self._save_now()

    async def _save_now(self) -> None:
        data = lastgood.dump(self.pipeline.state, self.pipeline.compiler.learnt, now=int(time.time()))
        try:
            await trio.to_thread.run_sync(lastgood.write_file, self._last_good_file, data)
        except OSError as error:
            log.error("the last known good could not be saved: %s", error)


def _names(update: Update) -> tuple[list[str], list[str]]:
    """Of what it changes, and of what it removes: ``Cluster outbound|api.shop|8080``."""
    keys = [one.key for one in update.changed], update.removed
    changed, removed = ([f"{key.type_url.rpartition('.')[2]} {key.name}" for key in some] for some in keys)
    return changed, removed


def _report_fault(method: str, error: Exception) -> None:
    log.error("a fault of ours in %s", method, exc_info=error)
