"""[edge] The Workload API of one sidecar, wired: server, service, SVID, tokens."""

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

import trio

from dataplane.config import WorkloadApiSettings
from dataplane.workload_api.callers import Selector
from dataplane.workload_api.connection import ServerSettings, Usage
from dataplane.workload_api.limits import Limits
from dataplane.workload_api.messages import Trust, check_bundle
from dataplane.workload_api.server import open_server
from dataplane.workload_api.service import State, WorkloadService
from dataplane.workload_api.svid_keeper import SvidKeeper, X509Issuer
from dataplane.workload_api.tokens import JwtIssuer, Tokens
from schemas.errors import MeshError
from schemas.names import SpiffeId
from schemas.records import TrustBundle
from trio_grpc import BindError

log = logging.getLogger("mesh.workload_api")

# Soon after the directory of the socket is there, or the path is free; one line in the log each time.
BIND_AGAIN_SECONDS = 10.0
SVID_FILE = "workload-svid.msgpack"


class Replicas(X509Issuer, JwtIssuer, Protocol):
    """What is asked of them."""


class WorkloadApi:
    """`run` serves it until cancelled; `trust` is told of each change of the trust bundles.

    state_directory: where the app's SVID survives a restart. svid_changed: called at each change of that. clock:
    seconds since 1970. fraction: random numbers in [0, 1).
    """

    def __init__(
        self,
        settings: WorkloadApiSettings,
        state_directory: Path,
        replicas: Replicas,
        spiffe_id: SpiffeId,
        bundle: TrustBundle,
        *,
        clock: Callable[[], float],
        fraction: Callable[[], float],
        svid_changed: Callable[[], None] = lambda: None,
        limits: Limits | None = None,
    ) -> None:
        selectors = [
            Selector(one.uid, one.gid, one.unit, one.executable, one.sha256.lower() if one.sha256 else None)
            for one in settings.callers
        ]
        self._tell = svid_changed
        self._state = State(spiffe_id, Trust(bundle))
        self._keeper = SvidKeeper(
            state_directory / SVID_FILE,
            replicas,
            spiffe_id,
            bundle,
            self._svid_changed,
            clock=clock,
            fraction=fraction,
        )
        tokens = Tokens(replicas, spiffe_id, lambda: self._state.trust.jwt_keys(), clock)
        service = WorkloadService(self._state, tokens, selectors, clock)
        self._server = ServerSettings(
            Path(settings.socket),
            service.handle,
            service.knows,
            service.hash_decides,
            _report,
            limits=limits or Limits(),
        )

    @property
    def issuer(self) -> str:
        """Authority key identifier (hex) that the app's SVID names; empty: it has none."""
        return self._keeper.current.issuer if self._keeper.current else ""

    async def run(self, task_status: trio.TaskStatus[Usage] = trio.TASK_STATUS_IGNORED) -> None:
        """A socket that can't be had is tried again: the app's traffic does not depend on it."""
        while True:
            try:
                await self._serve(task_status)
            except BindError as error:
                log.error("ALARM: the Workload API is not served: %s", error)
            await trio.sleep(BIND_AGAIN_SECONDS)

    async def _serve(self, task_status: trio.TaskStatus[Usage]) -> None:
        async with open_server(self._server) as usage, trio.open_nursery() as nursery:
            log.info("the Workload API is at unix://%s", self._server.socket)
            task_status.started(usage)
            nursery.start_soon(self._keeper.run)

    def trust(self, own: TrustBundle, bundles: Iterable[TrustBundle]) -> None:
        """`own`: of the own trust domain; `bundles`: all that there are. One that can't be read leaves the last one."""
        before = self._state.trust
        federated: dict[str, TrustBundle] = {}
        for bundle in bundles:
            name = bundle.trust_domain
            if name != own.trust_domain and (good := _whole(bundle, before.federated.get(name))):
                federated[name] = good
        after = Trust(_whole(own, before.own) or before.own, federated)
        if after != before:
            self._state.trust = after
            self._keeper.set_bundle(after.own)
            self._state.changed()

    def _svid_changed(self) -> None:
        self._state.svid = self._keeper.current
        self._state.changed()
        self._tell()


def _whole(bundle: TrustBundle, before: TrustBundle | None) -> TrustBundle | None:
    if bundle == before:
        return before
    try:
        check_bundle(bundle)
    except MeshError as error:
        log.error("a trust bundle can't be used, the last good one stays: %s", error)
        return before
    return bundle


def _report(what: str, error: Exception) -> None:
    log.error("a fault of ours in the Workload API, %s", what, exc_info=error)
