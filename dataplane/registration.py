"""[edge] This instance in the mesh: registered through a replica, kept alive in etcd by ourselves.

    set_endpoint, set_status ─▶ newest state ─▶ Register ─▶ lease ─▶ kept alive in etcd ──┐
                                     │             ▲                                      │
                                     └─▶ Report    └────────────── lost ◀─────────────────┘

Only the newest state is ever sent: the first change at once, further ones at most every COALESCE_SECONDS. While no
replica answers it is tried again with backoff; the lease lives on in etcd meanwhile.
"""

import logging
import random
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

import trio

from dataplane.identity.client import Registered
from schemas.errors import MeshError, NotFound, Unavailable
from schemas.records import Endpoint, SidecarStatus

log = logging.getLogger("mesh.registration")

# Acks of one push come within a few ms of each other; replicas batch the statuses of all sidecars anyway.
COALESCE_SECONDS = 0.05
FIRST_RETRY_SECONDS = 0.1
MAX_RETRY_SECONDS = 5.0  # a third of the usual lease: a replica that comes back is found while the lease still lives
WITHDRAW_SECONDS = 3.0  # the end of the lease takes the instance out anyway


class Lease(Protocol):
    """As of `trio_etcd.KeepAlive`."""

    async def wait_lost(self) -> Exception: ...


class Leases(Protocol):
    """As of `trio_etcd.Client`: keeps alive a lease that somebody else granted."""

    def keep_alive(self, lease_id: int, ttl: float) -> AbstractAsyncContextManager[Lease]: ...


class Replicas(Protocol):
    """As of `dataplane.identity.client.ReplicaClient`."""

    async def register(
        self, instance: str, endpoint: Endpoint | None, status: SidecarStatus, ttl_seconds: int, lease_id: int = 0
    ) -> Registered: ...

    async def report(self, instance: str, lease_id: int, status: SidecarStatus) -> None: ...

    async def deregister(self, instance: str, lease_id: int) -> int: ...


@dataclass(frozen=True, slots=True)
class _Said:
    endpoint: Endpoint | None
    status: SidecarStatus


class Registration:
    """`run` it in a nursery; nothing is sent before the first `set_status`. fraction: random numbers in [0, 1)."""

    def __init__(
        self,
        client: Replicas,
        etcd: Leases,
        instance: str,
        *,
        ttl_seconds: int,
        fraction: Callable[[], float] = random.random,
    ) -> None:
        self._client = client
        self._etcd = etcd
        self._instance = instance
        self._ttl_seconds = ttl_seconds
        self._fraction = fraction
        self._endpoint: Endpoint | None = None
        self._status: SidecarStatus | None = None
        self._changed = trio.Event()
        self._said: _Said | None = None  # what the replicas have, under `_registered`
        self._registered: Registered | None = None
        self._leaving = False
        self._calling = trio.Lock()  # one call at a time: an older state never overtakes a newer one
        self.problem: str | None = None
        """Why the last call failed; None after one that did not."""

    @property
    def registered(self) -> bool:
        """Whether a replica took the registration and its lease is not known to be lost."""
        return self._registered is not None

    def set_endpoint(self, endpoint: Endpoint | None) -> None:
        """Where others reach this instance; None: not to be discovered. Without effect after `withdraw`."""
        if not self._leaving and endpoint != self._endpoint:
            self._endpoint = endpoint
            self._changed.set()

    def set_status(self, status: SidecarStatus) -> None:
        if status != self._status:
            self._status = status
            self._changed.set()

    async def run(self) -> None:
        """Until cancelled; registers anew whenever the lease is lost. Raises nothing of its own accord."""
        while True:
            async with trio.open_nursery() as nursery:
                registered, left = await self._until_taken()
                async with self._etcd.keep_alive(registered.lease_id, left) as lease:
                    nursery.start_soon(self._report_changes, nursery.cancel_scope)
                    try:
                        lost = await lease.wait_lost()
                        log.warning("registering anew: %s", lost)
                    finally:
                        self._registered = self._said = None
                nursery.cancel_scope.cancel()

    async def withdraw(self, timeout: float = WITHDRAW_SECONDS) -> None:
        """Take the instance out of discovery; returns when a replica has done so, or `timeout` is over.

        `run` may go on: the status is still reported, and a lost lease brings the instance back without an endpoint.
        """
        self._leaving = True
        self._endpoint = None
        failures = 0
        with trio.move_on_after(timeout):
            while True:
                async with self._calling:  # a registration in flight is waited for: it would bring the endpoint back
                    registered, said = self._registered, self._said
                    if registered is None or said is None or said.endpoint is None:
                        return
                    try:
                        await self._client.deregister(self._instance, registered.lease_id)
                    except NotFound:
                        return  # the lease has ended, and the instance with it
                    except Unavailable as error:
                        self.problem = str(error)
                    except MeshError as error:
                        log.error("could not leave discovery: %s; the end of the lease will do it", error)
                        return
                    else:
                        self._said = _Said(None, said.status)
                        return
                failures += 1
                await trio.sleep(self._retry_delay(failures))
        log.warning(
            "could not leave discovery within %g s (%s); the end of the lease will do it", timeout, self.problem
        )

    # -- the two loops

    async def _until_taken(self) -> tuple[Registered, float]:
        """A new lease with the newest state under it, and the seconds that it has left at least."""
        failures = 0
        while True:
            while self._status is None:
                await self._next_change()
            asked_at = trio.current_time()
            try:
                registered = await self._register(0)
                return registered, max(0.0, registered.ttl_seconds - (trio.current_time() - asked_at))
            except MeshError as error:
                failures += 1
                self._failed("register", error, failures)
            await trio.sleep(self._retry_delay(failures))

    async def _report_changes(self, session: trio.CancelScope) -> None:
        failures = 0
        while True:
            while not self._unsaid():
                await self._next_change()
            try:
                await self._say()
                failures = 0
                await trio.sleep(COALESCE_SECONDS)
            except NotFound as error:
                log.warning("registering anew: %s", error)
                self._registered = self._said = None
                session.cancel()
            except MeshError as error:
                failures += 1
                self._failed("report", error, failures)
                await trio.sleep(self._retry_delay(failures))

    # -- one call

    def _unsaid(self) -> bool:
        return self._said != _Said(self._endpoint, self._status) if self._status is not None else False

    async def _say(self) -> None:
        said, registered, status = self._said, self._registered, self._status
        if said is None or registered is None or status is None:
            return
        if said.endpoint != self._endpoint:
            await self._register(registered.lease_id)
            return
        async with self._calling:
            await self._client.report(self._instance, registered.lease_id, status)
            self._said = _Said(said.endpoint, status)
        self.problem = None

    async def _register(self, lease_id: int) -> Registered:
        async with self._calling:
            endpoint, status = self._endpoint, self._status
            if status is None:
                raise Unavailable("there is no status yet to register with")
            registered = await self._client.register(self._instance, endpoint, status, self._ttl_seconds, lease_id)
            self._registered, self._said = registered, _Said(endpoint, status)
        if self.problem is not None:
            log.info("registered again")
        self.problem = None
        return registered

    async def _next_change(self) -> None:
        await self._changed.wait()
        self._changed = trio.Event()

    def _failed(self, what: str, error: MeshError, failures: int) -> None:
        text = str(error)
        if text != self.problem or failures == 1:
            log.warning("could not %s, trying again: %s", what, text)
        self.problem = text

    def _retry_delay(self, failures: int) -> float:
        full = min(MAX_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2.0 ** min(failures - 1, 16))
        return full * (0.5 + self._fraction() / 2)
