"""[edge] Keeps the app's X.509-SVID: from disk or a replica, renewed at half-life, served to its end.

As the sidecar's own identity, and with it: when the mesh issues with another key, this one is renewed soon too.
"""

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import trio

from dataplane.identity import renewal
from dataplane.identity.material import new_key, signing_request
from dataplane.identity.renewal import Attempts, Health
from dataplane.lastgood import write_file
from dataplane.workload_api.svid import UnacceptableSvid, WorkloadSvid, decode, encode, key_to_der
from schemas.api import mesh_pb2
from schemas.errors import MeshError
from schemas.names import SpiffeId
from schemas.records import TrustBundle

log = logging.getLogger("mesh.workload_api")


class X509Issuer(Protocol):
    """A replica, for this."""

    async def issue_x509(self, csr: bytes) -> mesh_pb2.IssueX509Reply: ...


class SvidKeeper:
    """`current` is None before the first and after the end of the last. `changed` is called at each change of it.

    clock: seconds since 1970. fraction: random numbers in [0, 1).
    """

    def __init__(
        self,
        path: Path,
        issuer: X509Issuer,
        spiffe_id: SpiffeId,
        bundle: TrustBundle,
        changed: Callable[[], None],
        *,
        clock: Callable[[], float],
        fraction: Callable[[], float],
    ) -> None:
        self._path = path
        self._issuer = issuer
        self._spiffe_id = spiffe_id
        self._bundle = bundle
        self._changed = changed
        self._clock = clock
        self._fraction = fraction
        self._spread = fraction()
        self._hurry = math.inf
        self._attempts = Attempts()
        self._health = Health.GOOD
        self._nudge = trio.Event()
        self.current: WorkloadSvid | None = None

    def set_bundle(self, bundle: TrustBundle) -> None:
        """The newest of the own trust domain; it may say that the mesh issues with another key by now."""
        if bundle != self._bundle:
            self._bundle = bundle
            self._hurry = self._hurry_for(self.current)
            self._nudge.set()

    async def run(self) -> None:
        """Until cancelled."""
        self._publish(await trio.to_thread.run_sync(self._load))
        while True:
            svid, now = self.current, self._clock()
            if svid is not None and now >= svid.expires:
                log.error("ALARM: the app's SVID has expired; the Workload API hands out none")
                self._publish(svid := None)
            wait = self._wait(svid, now)
            if wait == 0:
                await self._renew()
            else:
                with trio.move_on_after(wait):
                    await self._nudge.wait()
                self._nudge = trio.Event()

    def _wait(self, svid: WorkloadSvid | None, now: float) -> float:
        if svid is None:
            if not self._attempts.failures:
                return 0.0
            due = self._attempts.last + self._attempts.delay(self._spread)
            return min(max(0.0, due - now), renewal.MAX_RETRY_SECONDS)
        decision = renewal.decide(svid.validity, self._attempts, now, self._spread, self._hurry)
        if renewal.worse(self._health, decision.health):
            log.error("ALARM: the app's SVID is %s (%d s left)", decision.health.value, svid.expires - now)
        self._health = decision.health
        return min(decision.wait, max(0.001, svid.expires - now))

    async def _renew(self) -> None:
        key = new_key()
        try:
            reply = await self._issuer.issue_x509(signing_request(key))
            fresh = WorkloadSvid.checked(
                key_to_der(key), tuple(reply.chain), self._spiffe_id, self._bundle, self._clock()
            )
        except MeshError as error:
            self._attempts = self._attempts.failed(self._clock(), error)
            log.warning("could not renew the app's SVID: %s", error)
            return
        self._publish(fresh)
        try:
            await trio.to_thread.run_sync(write_file, self._path, encode(fresh))
        except OSError as error:  # good in memory all the same; only a restart would miss it
            log.error("the app's SVID can't be kept on disk: %s", error)

    def _load(self) -> WorkloadSvid | None:
        try:
            return decode(self._path.read_bytes(), self._spiffe_id, self._bundle, self._clock())
        except FileNotFoundError:
            return None
        except (OSError, UnacceptableSvid) as error:
            log.warning("ignored the kept SVID of the app: %s", error)
            return None

    def _publish(self, svid: WorkloadSvid | None) -> None:
        self.current = svid
        self._attempts = Attempts()
        self._spread = self._fraction()
        self._hurry = self._hurry_for(svid)
        self._changed()

    def _hurry_for(self, svid: WorkloadSvid | None) -> float:
        wanted = self._bundle.issuing_key_id
        if svid is None or not wanted or svid.issuer in (wanted, ""):
            return math.inf
        return renewal.hurry_at(svid.validity, self._clock(), self._fraction())
