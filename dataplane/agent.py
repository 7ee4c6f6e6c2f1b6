"""[edge] The sidecar's agent: wiring, and nothing else.

    etcd ─▶ watch ─▶ pipeline (snapshot ▸ compile) ─▶ ads ─▶ Envoy ◀──▶ app
              ▲            │         ▲                 │
              │            ▼         │ SVID            │ acks, NACKs
            wanted     last good   identity ◀─▶ replica ◀── registration (instance, status)

The first line, the way of a change, is run by `delivery`; what the sidecar says of itself by `reporter`.
One nursery. What may end by itself is bounded; everything else ends with the nursery. When it is cancelled or dies,
Envoy goes on; the next agent takes it up. On SIGTERM the instance leaves discovery, Envoy drains and ends.
"""

from __future__ import annotations

import gc
import logging
import random
import resource
import signal
import stat
import time
from collections.abc import AsyncIterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import trio
from envoy.service.accesslog.v3 import als_pb2

from dataplane import lastgood, status
from dataplane.closing import end_what_leads_outside
from dataplane.compile import flow_samples
from dataplane.compile.compiler import Compiler
from dataplane.compile.workload import Credentials
from dataplane.config import SidecarSettings, WorkloadApiSettings
from dataplane.cutting import Cutter
from dataplane.delivery import Delivery
from dataplane.envoy import access_log, bootstrap
from dataplane.envoy.lifecycle import DrainPlan
from dataplane.envoy.memory import own_memory
from dataplane.envoy.process import EnvoyProcess, EnvoySettings
from dataplane.envoy.process import Event as EnvoyEvent
from dataplane.flows import Flows
from dataplane.health.checker import AppHealth
from dataplane.health.plan import plan_of
from dataplane.identity.attest import HostSource, load_host_certificate
from dataplane.identity.check import UnacceptableIdentity
from dataplane.identity.client import ReplicaClient
from dataplane.identity.keeper import IdentityKeeper
from dataplane.identity.material import Identity
from dataplane.identity.store import IdentityStore
from dataplane.log_levels import LogLevelKeeper
from dataplane.pipeline import Pipeline
from dataplane.plaintext import PlaintextWatch
from dataplane.plaintext_seen import PlaintextSeen
from dataplane.questions import Questions, audit_counts, write_buckets
from dataplane.registration import Registration
from dataplane.reporter import News, Reporter
from dataplane.snapshot.state import MeshState
from schemas import joinfile
from schemas.errors import PermissionDenied
from schemas.keys import Keyspace, LogLevelRef
from schemas.records import Endpoint
from trio_etcd import TLS, Client, EtcdError, open_etcd
from trio_systemd import Notifier

if TYPE_CHECKING:  # whoever does not use it is not to wait for it
    from dataplane.workload_api.api import WorkloadApi

log = logging.getLogger("mesh.agent")

# Seconds between attempts to show etcd a new certificate; the old one is good for half its life still.
SHOW_AGAIN_S = 5.0
# Seconds after which the clock is read again while an SVID is good: somebody may have set it.
CLOCK_AGAIN_S = 60.0
# Seconds for leaving discovery when no replica answers; the lease ends the instance anyway.
WITHDRAW_S = 3.0


class Agent:
    """One run of the agent. `run` ends with SIGTERM or SIGINT in good order; a fault of ours cancels it whole."""

    reporter_class = Reporter

    def __init__(self, settings: SidecarSettings, envoy_path: str, environ: Mapping[str, str]) -> None:
        self._settings = settings
        self._notifier = Notifier(environ)
        self._state_dir = Path(settings.state_dir)
        self._runtime_dir = Path(settings.runtime_dir)
        self._node = f"sidecar/{settings.instance}"
        self._random = random.SystemRandom()
        self._news = News()
        self._client = ReplicaClient(fraction=self._random.random)
        self._keeper = IdentityKeeper(
            IdentityStore(self._state_dir),
            self._client,
            self._read_join_file,
            clock=time.time,
            fraction=self._random.random,
            host=self._host_source(settings),
            wanted=settings.attest.wanted,
            news=self._news.happened,
        )
        self._envoy = EnvoyProcess(self._envoy_settings(envoy_path), environ=environ, on_event=self._envoy_changed)
        self._log_levels = LogLevelKeeper(self._envoy, settings.envoy_log_level, self._news.happened)
        self._workload_api: WorkloadApi | None = None
        self._configured = trio.Event()
        self._flows = Flows(int(time.time()))
        # All of the following are set in `run` and `_serve`, in the order in which they come to be.
        self._health: AppHealth
        self._cutter: Cutter
        self._plaintext: PlaintextWatch
        self._etcd: Client
        self._registration: Registration
        self._delivery: Delivery
        self._reporter: Reporter

    async def run(self) -> None:
        """Raises MeshError or OSError with what is wrong, before it has said READY."""
        for directory in (self._state_dir, self._runtime_dir):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_private(self._runtime_dir)
        log_file = self._settings.access_log_path
        if log_file:
            access_log.make(Path(log_file))
        write_buckets(self._runtime_dir)
        async with trio.open_nursery() as nursery:
            adopted = await nursery.start(self._envoy.run)
            # An agent that took up its Envoy goes on from what it knew; else nobody is sent here before a first answer.
            before = status.last_health(self._settings.status_file) if adopted else False
            self._health = AppHealth(self._health_changed, healthy=before)
            nursery.start_soon(self._end_on_signal, nursery.cancel_scope)
            nursery.start_soon(self._notifier.ping_watchdog)
            nursery.start_soon(partial(self._log_levels.keep, adopted=adopted))
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

    # -- wiring

    async def _serve(self, identity: Identity) -> None:
        pipeline = self._new_pipeline(identity)
        self._cutter = Cutter(
            pipeline.compiler.inbound_routes, self._envoy.shut, self._envoy.check_shut, self._cutting_changed
        )
        pipeline.set_ends_open(self._cutter.problem is None)
        before = PlaintextSeen.restored(status.last_plaintext(self._settings.status_file))
        self._plaintext = PlaintextWatch(
            pipeline.permissive_ports, self._envoy.admin.plaintext, self._news.happened, before
        )
        tls = TLS(identity.etcd.ca_pem, identity.etcd.cert_pem, identity.etcd.key_pem)
        async with open_etcd(identity.etcd.endpoints, tls=tls) as self._etcd, trio.open_nursery() as nursery:
            self._registration = Registration(
                self._client, self._etcd, self._settings.instance, ttl_seconds=self._settings.lease_ttl_seconds
            )
            if self._settings.workload_api is not None:
                self._workload_api = self._new_workload_api(self._settings.workload_api, identity)
                nursery.start_soon(self._workload_api.run)
            self._delivery = self._new_delivery(pipeline)
            self._reporter = self._new_reporter()
            nursery.start_soon(self._follow_identity, identity)
            nursery.start_soon(self._follow_expiry, identity)
            nursery.start_soon(self._delivery.run)
            nursery.start_soon(self._cutter.run)
            nursery.start_soon(self._plaintext.run)
            keyspace, ref = pipeline.state.keyspace, pipeline.compiler.workload.service
            own = LogLevelRef(ref, self._settings.instance)
            nursery.start_soon(self._log_levels.follow, self._etcd, keyspace, own, self._random.random)
            ads = await self._delivery.serving()
            nursery.start_soon(self._reporter.run)
            nursery.start_soon(end_what_leads_outside, self._delivery, ads, self._envoy.shut_outside)
            if self._settings.names is not None:
                await self._serve_names(nursery)
            if self._settings.metrics is not None:
                await self._reporter.serve_metrics(nursery, self._settings.metrics)
            await self._envoy.ready()
            self._notifier.ready()
            # What is here by now stays: a full collection would look at all of it, for tens of ms, amid some change.
            gc.freeze()
            nursery.start_soon(self._health.run)
            nursery.start_soon(self._registration.run)
            nursery.start_soon(self._new_questions(pipeline).run)

    def _new_pipeline(self, identity: Identity) -> Pipeline:
        service = identity.spiffe_id.service
        if service is None:  # the keeper has checked it against the join file
            raise ValueError(f"{identity.spiffe_id} is no service")
        workload = self._settings.workload(service, identity.spiffe_id.trust_domain)
        state, learnt = MeshState(Keyspace(identity.key_prefix)), dict[str, bool]()
        saved = lastgood.read_file(self._settings.last_good_file)
        if saved is not None and saved.prefix == identity.key_prefix:
            state, learnt = lastgood.restore(saved), dict.fromkeys(saved.learnt, True)
            log.info("last known good: revision %d of %d s ago", saved.revision, time.time() - saved.saved)
        return Pipeline(state, Compiler(workload, _credentials(identity), identity.bundle, learnt))

    def _new_delivery(self, pipeline: Pipeline) -> Delivery:
        return Delivery(
            self._settings,
            pipeline,
            self._etcd,
            envoy_node=self._node,
            configured=self._configured,
            pushed=self._pushed,
            on_report=self._take_report,
            fraction=self._random.random,
        )

    def _new_reporter(self) -> Reporter:
        return self.reporter_class(
            settings=self._settings,
            news=self._news,
            delivery=self._delivery,
            registration=self._registration,
            keeper=self._keeper,
            envoy=self._envoy,
            health=self._health,
            cutter=self._cutter,
            plaintext=self._plaintext,
            log_levels=self._log_levels,
            link=self._etcd.watch_link,
            workload_api=self._workload_api,
            told=self._pass_trust_on,
        )

    def _new_questions(self, pipeline: Pipeline) -> Questions:
        return Questions(
            self._etcd,
            pipeline.state.keyspace,
            self._client,
            self._settings,
            pipeline.compiler.workload.service,
            self._flows,
            partial(audit_counts, self._envoy.admin, pipeline),
            fraction=self._random.random,
        )

    def _take_report(self, name: str, report: als_pb2.StreamAccessLogsMessage) -> None:
        """Of Envoy: samples of requests that have ended, or what is open."""
        if name.startswith(flow_samples.PREFIX):
            listener = name.removeprefix(flow_samples.PREFIX)
            self._flows.take(listener, flow_samples.samples(report), int(time.time()))
        else:
            self._cutter.take(name, report)

    def _cutting_changed(self) -> None:
        self._delivery.set_ends_open(self._cutter.problem is None)
        self._news.happened()

    def _new_workload_api(self, settings: WorkloadApiSettings, identity: Identity) -> WorkloadApi:
        from dataplane.workload_api.api import WorkloadApi

        return WorkloadApi(
            settings,
            self._state_dir,
            self._client,
            identity.spiffe_id,
            identity.bundle,
            clock=time.time,
            fraction=self._random.random,
            svid_changed=self._news.happened,
        )

    async def _serve_names(self, nursery: trio.Nursery) -> None:
        from dataplane.naming import Naming

        naming = Naming(self._settings, self._delivery, self._etcd, partial(self._random.getrandbits, 16))
        self._reporter.queries = naming.counts
        await nursery.start(naming.run)

    # -- what a change means for others

    def _pushed(self) -> None:
        self._reporter.offer()
        self._plaintext.look()
        self._check_health()
        self._registration.set_endpoint(self._endpoint())
        self._news.happened()

    def _endpoint(self) -> Endpoint | None:
        """Where others reach us; None while the own Service does not exist, and while the app is not well."""
        workload = self._delivery.pipeline.compiler.workload
        service = self._delivery.pipeline.state.service(workload.service)
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
        workload = self._delivery.pipeline.compiler.workload
        service = self._delivery.pipeline.state.service(workload.service)
        if service is not None:
            self._health.use(plan_of(service, self._settings.health_check, workload))

    def _health_changed(self) -> None:
        self._registration.set_endpoint(self._endpoint())
        self._news.happened()

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
            if (left <= 0) != self._delivery.pipeline.compiler.expired:
                if left <= 0:
                    log.error("%s has expired: nothing goes in or out before it is renewed", identity.spiffe_id)
                self._use(identity)
            with trio.move_on_after(min(left, CLOCK_AGAIN_S) if left > 0 else CLOCK_AGAIN_S):
                identity = await self._keeper.changed(identity)

    def _use(self, identity: Identity) -> None:
        expired = time.time() >= identity.expires
        if self._delivery.set_identity(_credentials(identity), identity.bundle, expired=expired):
            self._reporter.offer()
        self._news.happened()

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

    async def _pass_trust_on(self) -> None:
        """A newer trust bundle is kept for the next start, used in calls to replicas, and given to the app."""
        own, state = self._delivery.pipeline.compiler.workload.trust_domain, self._delivery.pipeline.state
        bundle = state.trust_bundle(own)
        if bundle is not None:
            try:
                await self._keeper.adopt_bundle(bundle)
            except UnacceptableIdentity as error:
                log.error("the trust bundle in etcd does not vouch for our own certificate: %s", error)
        if self._workload_api is not None and self._keeper.current is not None:
            self._workload_api.trust(self._keeper.current.bundle, state.trust_bundles(own))

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

    # -- Envoy

    def _envoy_changed(self, event: EnvoyEvent) -> None:
        self._log_levels.look_again()

    def _envoy_settings(self, executable: str) -> EnvoySettings:
        admin_socket = str(self._settings.admin_socket)
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[1]  # Envoy raises its own limit to the hard one
        given = bootstrap.BootstrapInput(
            node_id=self._node,
            cluster=self._settings.instance,
            ads_socket=str(self._settings.ads_socket),
            admin_socket=admin_socket,
            max_connections=bootstrap.connection_limit(descriptors),
            max_heap_bytes=bootstrap.heap_limit(own_memory()),
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
            await self._delivery.save_unsaved()
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
