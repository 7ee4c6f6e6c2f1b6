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


@dataclass(frozen=True, slots=True)
class _Taken:
    registered: Registered
    alive_until: float
    """Of trio's clock: etcd holds the lease at least until then."""


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
        taken: _Taken | None = None
        while True:
            if taken is None:
                taken = await self._until_taken()
            taken = await self._while_alive(taken)

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

    # -- from lease to lease

    async def _until_taken(self) -> _Taken:
        """Register the newest state under a new lease, for as long as it takes."""
        failures = 0
        while True:
            while self._status is None:
                await self._next_change()
            try:
                return await self._register(self._status, 0)
            except MeshError as error:
                failures += 1
                self._failed("register", error, failures)
            await trio.sleep(self._retry_delay(failures))

    async def _while_alive(self, taken: _Taken) -> _Taken | None:
        """Report changes until the lease is lost (None), or a replica has put us under another one."""
        following: _Taken | None = None
        left = max(0.0, taken.alive_until - trio.current_time())
        pulse = taken.registered.liveness_lease_id
        async with self._etcd.keep_alive(pulse, left) as lease, trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_when_lost, lease, nursery.cancel_scope)
            following = await self._report_changes(taken.registered.lease_id)
            nursery.cancel_scope.cancel()
        if following is None:
            self._registered = self._said = None
        return following

    async def _report_changes(self, lease_id: int) -> _Taken | None:
        """Returns where that lease is not ours any more: with the new one, or None where there is none."""
        failures = 0
        while True:
            while self._status is None or self._said == _Said(self._endpoint, self._status):
                await self._next_change()
            try:
                if self._said is not None and self._said.endpoint == self._endpoint:
                    await self._report(self._status, lease_id)
                else:
                    taken = await self._register(self._status, lease_id)
                    if taken.registered.lease_id != lease_id:
                        return taken
                failures = 0
                await trio.sleep(COALESCE_SECONDS)
            except NotFound as error:
                log.warning("registering anew: %s", error)
                return None
            except MeshError as error:
                failures += 1
                self._failed("report", error, failures)
                await trio.sleep(self._retry_delay(failures))

    # -- one call

    async def _report(self, status: SidecarStatus, lease_id: int) -> None:
        async with self._calling:
            endpoint = self._said.endpoint if self._said is not None else None
            await self._client.report(self._instance, lease_id, status)
            log.debug("reported: revision %d acked, %d problems", status.acked_revision, len(status.problems))
            self._said = _Said(endpoint, status)
        self.problem = None

    async def _register(self, status: SidecarStatus, lease_id: int) -> _Taken:
        """The replica may answer with another lease than `lease_id`, where that one has ended."""
        async with self._calling:
            endpoint = self._endpoint
            asked_at = trio.current_time()
            registered = await self._client.register(self._instance, endpoint, status, self._ttl_seconds, lease_id)
            self._registered, self._said = registered, _Said(endpoint, status)
            log.debug("registered at %s under lease %x", endpoint.address if endpoint else "-", registered.lease_id)
        if self.problem is not None:
            log.info("registered again")
        self.problem = None
        return _Taken(registered, asked_at + registered.ttl_seconds)

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


async def _cancel_when_lost(lease: Lease, scope: trio.CancelScope) -> None:
    log.warning("registering anew: %s", await lease.wait_lost())
    scope.cancel()
