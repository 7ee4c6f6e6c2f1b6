"""[edge] One replica, wired: no part knows another but here.

                          ┌──────────────── one nursery ─────────────────────────────────────────┐
     api    mTLS ────────▶│ caller ▸ authorize ▸ convert ▸ a service                             │
     join   TLS  ────────▶│                       │  Config    read ▸ validate ▸ plan ▸ write     │
     socket root ────────▶│                       │  Identity  attestor ▸ CA ▸ write              │──▶ etcd
                          │                       │  Tokens, Operators, Attestors  ▸ write        │   control/ data/
                          │                       │  Sidecars  lease ▸ write; reports in batches  │
                          │  follow: Mesh, data/trust, control/ca ▸ AuthorityKeeper ▸ CA, TLS     │◀── etcd
     bundle TLS  ────────▶│  BundleEndpoint;  Follower ▸ data/trust of other trust domains        │
                          │  KeySetFollower ▸ data/jwks, the keys of token issuers                │
                          │  follow: control/status ▸ StatusBoard;  data/config ▸ ConfigClock     │
                          │  watchdog, signals                                                    │
                          └──────────────────────────────────────────────────────────────────────┘

A replica holds nothing that etcd does not have, but for what a restore of etcd must not undo: any one may die at any
time, between any two instructions.
"""

import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import trio

import trio_etcd
from controlplane.address_keeper import give_addresses
from controlplane.api.attestor_service import AttestorService
from controlplane.api.attestors.expired_svid import ExpiredSvid
from controlplane.api.attestors.interface import Attestor
from controlplane.api.attestors.join_token import JoinTokenAttestor
from controlplane.api.attestors.x509_possession import X509Possession
from controlplane.api.caller import Listener
from controlplane.api.config_service import ConfigService
from controlplane.api.dispatch import Door, Rpc, methods
from controlplane.api.identity_service import IdentityService
from controlplane.api.issuing import Issuing, Told
from controlplane.api.log_level_service import LogLevelService
from controlplane.api.operator_service import OperatorService
from controlplane.api.operators import Operators
from controlplane.api.question_service import QuestionService
from controlplane.api.revocation_service import RevocationService
from controlplane.api.sidecar_service import SidecarService
from controlplane.api.svid_service import SvidService
from controlplane.api.token_service import TokenService
from controlplane.authority_keeper import AuthorityKeeper
from controlplane.ca.keystore import read_keks
from controlplane.ca_life import CaLife
from controlplane.config import ReplicaConfig
from controlplane.etcd_crl import keep_crl
from controlplane.federation_life import FederationLife
from controlplane.floors import Floors
from controlplane.issuing_beat import IssuingBeat
from controlplane.jwt_key_maker import make_jwt_key
from controlplane.key_sets_life import KeySetsLife
from controlplane.log import event
from controlplane.metrics import ReplicaMetrics
from controlplane.presence import replica_id, replica_name
from controlplane.restores import Restores
from controlplane.revocations import Revocations
from controlplane.rotation.upstream import UpstreamSigner
from controlplane.socket_path import prepare_socket
from controlplane.store.boards import ConfigClock, MeshView, StatusBoard
from controlplane.store.etcd import Store
from controlplane.store.follow import follow
from controlplane.store.lease_alarm import LeaseAlarm
from controlplane.store.requests import RequestWriter
from controlplane.store.server_version import Files, read_version
from controlplane.store.status_writer import StatusWriter
from controlplane.store.undertaker import Undertaker
from controlplane.store.version import judge
from schemas.errors import InvalidInput, MeshError, Problem
from schemas.keys import Keyspace
from telemetry.endpoint import serve_metrics
from telemetry.families import registry
from trio_grpc import TLS, BindError, serve
from trio_grpc import Listener as GrpcListener
from trio_systemd import Notifier

# Between two looks at an etcd that does not answer yet.
RETRY_SECONDS = 1.0
SERVING_OPTIONS = (
    # A peer that is gone without a word is noticed within 40 s, and holds no stream slot longer.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # Clients look after quiet streams in the same way; gRPC's default of 5 minutes would cut them off for it.
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # A quarter of the calls that a port takes at once: one connection that asks for all the world waits at its own end.
    ("grpc.max_concurrent_streams", 32),
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Serving:
    """Where a replica that is ready listens: ports as the kernel gave them."""

    api_port: int
    join_port: int
    bundle_port: int | None = None


async def run(
    config: ReplicaConfig,
    environ: Mapping[str, str],
    *,
    now: Callable[[], float] = time.time,
    random: Callable[[int], bytes] = os.urandom,
    stop: trio.Event | None = None,
    task_status: trio.TaskStatus[Serving] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until `stop`; calls in flight then get a bounded time. Started when all three doors are open.

    Waits, with a word in the log, for an etcd that does not answer and for a mesh that is not initialised. Raises
    InvalidInput, PermissionDenied, OSError (files), BindError (addresses): what waiting would not mend.
    """
    kek = read_keks(config.kek_paths(environ), environ, random)
    tls = _etcd_credentials(config)
    prepare_socket(Path(config.listen.socket))
    notifier = Notifier(environ)
    keyspace = Keyspace(config.etcd.prefix)
    told = Told(
        etcd_ca=tls.ca,
        etcd_endpoints=config.sidecar_etcd_endpoints,
        api_endpoints=config.advertised_api,
        join_endpoints=config.advertised_join,
        key_prefix=config.etcd.prefix,
    )
    stop = trio.Event() if stop is None else stop
    async with trio_etcd.open_etcd(config.etcd.endpoints, tls=tls) as client, trio.open_nursery() as nursery:
        nursery.start_soon(_cancel_unless_ready, stop, ready := trio.Event(), nursery.cancel_scope)
        starting = await nursery.start(_in_scope, notifier.extend_start)
        nursery.start_soon(notifier.ping_watchdog)
        store = Store(client, keyspace)
        notifier.status("waiting for etcd")
        await _wait_for_etcd(store, config)

        own_id = replica_id(replica_name(config.advertised_api[0]), config.listen.socket)
        restores = Restores(store, state_dir := config.state_path(environ), own_id, now, random)
        nursery.start_soon(follow, store, keyspace.tokens(), restores)
        nursery.start_soon(restores.run)
        view, board, clock = MeshView(keyspace), StatusBoard(keyspace), ConfigClock()
        issuing = Issuing(told, now, random)
        keeper = AuthorityKeeper(view, kek, issuing)
        writer, statuses = RequestWriter(store), StatusWriter(store)
        nursery.start_soon(follow, store, keyspace.config_of_kind("Mesh"), view.meshes)
        nursery.start_soon(follow, store, keyspace.trust(), view.bundles)
        nursery.start_soon(follow, store, keyspace.ca(), view.ca)
        nursery.start_soon(follow, store, keyspace.statuses(), board)
        nursery.start_soon(follow, store, keyspace.config(), clock)
        revocations = Revocations(store, state_dir, restores.notice)
        nursery.start_soon(follow, store, keyspace.revocations(), revocations)
        nursery.start_soon(revocations.run)
        floors = Floors(store, state_dir, restores.notice)
        for prefix, sink in floors.sinks.items():
            nursery.start_soon(follow, store, prefix, sink)
        nursery.start_soon(floors.run)
        nursery.start_soon(keeper.run)
        nursery.start_soon(statuses.run)
        nursery.start_soon(Undertaker(store, board, issuing.leaves_end).run)
        nursery.start_soon((leases := LeaseAlarm(store, board)).run)
        signer = config.upstream_signer
        life = CaLife(
            store, writer, kek, issuing, view, board,
            address=config.advertised_api[0], door=config.listen.socket,
            files=config.certificate_files, serves_bundle=config.bundle_endpoint is not None,
            vouching=floors.vouching,
            upstream=None if signer is None else UpstreamSigner(signer.command, signer.timeout_seconds),
        )  # fmt: skip
        federation = FederationLife(
            store, issuing, keeper, view, config.bundle_endpoint, address=config.advertised_api[0]
        )
        key_sets = KeySetsLife(store, issuing, config.token_keys.refused, address=config.advertised_api[0])
        life.drive(nursery)

        operators = Operators(store, floors)
        possession = X509Possession(store, lambda: issuing.current().authority.trust_domain, now, random, floors)
        attestors: dict[str, Attestor] = {
            "token": JoinTokenAttestor(store, now, random, restores),
            "x509": possession,
            "expired": ExpiredSvid(store, issuing, possession.challenges, view.sealed_keys, revocations.check_issued),
        }
        notifier.status("waiting for the mesh to be initialised")
        await keeper.wait_ready()
        await revocations.synced.wait()  # before anything is issued
        await floors.synced.wait()
        await restores.synced.wait()
        if config.etcd.client_crl is not None:
            nursery.start_soon(keep_crl, Path(config.etcd.client_crl), issuing, revocations)
        life.show(nursery)
        await nursery.start(IssuingBeat(store, issuing).run)  # before the first who asks why its SVID was not renewed
        nursery.start_soon(make_jwt_key, store, kek, issuing)
        nursery.start_soon(give_addresses, store, writer, now, random)

        issuing.check_service = revocations.check
        services = (
            RevocationService(store, writer, issuing, revocations),
            life.service,
            federation.service,
            key_sets.service,
            ConfigService(store, writer, now),
            IdentityService(issuing, attestors, possession),
            SvidService(issuing),
            TokenService(store, writer, issuing, operators),
            OperatorService(store, writer, issuing, operators, restores),
            AttestorService(store, writer, issuing, floors),
            SidecarService(store, board, clock, statuses, revocations, leases),
            LogLevelService(store, writer, now),
            QuestionService(store, board, revocations, random),
        )
        rpcs = {path: rpc for service in services for path, rpc in service.rpcs().items()}
        trust_domain = issuing.current().authority.trust_domain
        if config.metrics is not None:
            metrics = ReplicaMetrics(
                issuing, view, board, clock, leases, revocations, client.watch_link, key_sets.places, life.watch
            )
            await _serve_metrics(nursery, metrics, config.metrics)
        async with AsyncExitStack() as doors:
            ports = await _open_doors(
                doors,
                config,
                keeper,
                rpcs,
                lambda one: Door(one, trust_domain, now, operators, revocations.check_caller),
            )
            bundle_port = await federation.start(nursery)
            key_sets.start(nursery)
            starting.cancel()
            notifier.ready(f"serving {trust_domain}")
            event(logger, logging.INFO, "ready", trust_domain=trust_domain, api=ports[0], join=ports[1])
            ready.set()
            task_status.started(Serving(ports[0], ports[1], bundle_port))
            await stop.wait()
            notifier.stopping()
        nursery.cancel_scope.cancel()
        await life.goodbye()


async def _serve_metrics(nursery: trio.Nursery, metrics: ReplicaMetrics, address: str) -> None:
    try:
        await nursery.start(serve_metrics, registry(metrics.collect), address)
    except OSError as error:
        raise BindError(f"can't serve metrics on {address}: {error}") from error


async def _cancel_unless_ready(stop: trio.Event, ready: trio.Event, scope: trio.CancelScope) -> None:
    """Who is told to stop while still waiting for something has nothing to drain."""
    await stop.wait()
    if not ready.is_set():
        scope.cancel()


async def _in_scope(
    task: Callable[[], Awaitable[None]], task_status: trio.TaskStatus[trio.CancelScope] = trio.TASK_STATUS_IGNORED
) -> None:
    """A task that can be ended by itself."""
    with trio.CancelScope() as scope:
        task_status.started(scope)
        await task()


async def run_until_signal(config: ReplicaConfig, environ: Mapping[str, str]) -> None:
    """`run`, ended in good order by SIGTERM or SIGINT."""
    stop = trio.Event()
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:

            async def stop_on_signal() -> None:
                async for number in signals:
                    event(logger, logging.INFO, "stopping", signal=signal.Signals(number).name)
                    stop.set()

            nursery.start_soon(stop_on_signal)
            await run(config, environ, stop=stop)
            nursery.cancel_scope.cancel()


def _etcd_credentials(config: ReplicaConfig) -> TLS:
    return TLS(*(Path(path).read_bytes() for path in (config.etcd.ca, config.etcd.cert, config.etcd.key)))


async def _wait_for_etcd(store: Store, config: ReplicaConfig) -> None:
    """Until etcd answers as it must for a replica. Raises InvalidInput for a version whose access control has holes."""
    told = ""
    while True:
        try:
            await store.get(store.keyspace.epoch())
            break
        except MeshError as error:
            if str(error) != told:
                told = str(error)
                event(logger, logging.WARNING, "waiting for etcd", endpoints=",".join(config.etcd.endpoints), why=told)
            await trio.sleep(RETRY_SECONDS)
    files = Files(config.etcd.ca, config.etcd.cert, config.etcd.key)
    for endpoint in config.etcd.endpoints:
        try:
            version = await read_version(endpoint, files)
        except MeshError as error:  # another member serves; this one is judged when it is there at a start
            event(logger, logging.WARNING, "etcd's version is not known", why=str(error))
            continue
        judge_version(version, endpoint, config)


def judge_version(version: str, endpoint: str, config: ReplicaConfig) -> None:
    """Says what is known to be wrong with it. Raises InvalidInput where that makes access control worthless."""
    verdict = judge(trio_etcd.parse_version(version))
    if verdict.refuse and not config.etcd.allow_known_bad:
        remedy = "upgrade etcd, or set etcd.allowKnownBad: true for a mesh that protects nothing"
        raise InvalidInput(Problem(f"etcd at {endpoint}", verdict.refuse, remedy=remedy))
    for warning in filter(None, (verdict.refuse, verdict.warn)):
        event(logger, logging.WARNING, "etcd has a known weakness", endpoint=endpoint, why=warning)


async def _open_doors(
    doors: AsyncExitStack,
    config: ReplicaConfig,
    keeper: AuthorityKeeper,
    rpcs: Mapping[str, Rpc],
    door: Callable[[Listener], Door],
) -> Sequence[int]:
    """One gRPC server a listener, so that each call's listener is known. Gives the ports of api and join."""
    listeners = (
        (Listener.API, GrpcListener(config.listen.api, keeper.api_tls)),
        (Listener.JOIN, GrpcListener(config.listen.join, keeper.join_tls)),
        (Listener.SOCKET, GrpcListener(f"unix:{config.listen.socket}", mode=0o600)),
    )
    ports: list[int] = []
    for listener, grpc_listener in listeners:
        served = methods(rpcs, door(listener))
        server = await doors.enter_async_context(
            serve(served, [grpc_listener], on_error=_report, options=SERVING_OPTIONS)
        )
        ports += server.bound_ports
    return ports[:2]


def _report(path: str, error: Exception) -> None:
    logger.error("a call failed by a defect of ours", exc_info=error, extra={"fields": {"rpc": path}})
