"""[edge] Follows other trust domains' bundles into ``data/trust/``, one replica at a time.

Every replica runs it; what is due follows from what etcd holds. The lock keeps replicas out of each other's way, and
its ownership is checked in the transaction of the effect, together with all that the decision rested upon.
"""

import enum
import logging
from collections.abc import Callable

import msgspec
import trio

from controlplane.federation.decide import Domain, Forget, Seed, Wait, next_action, next_try, seed_of
from controlplane.federation.fetch import Server, SpiffeServer, WebServer, fetch
from controlplane.federation.look import FederationLook, look
from controlplane.fetching import AGAIN_SECONDS, ASKED_SECONDS, AT_ONCE, IDLE_SECONDS
from controlplane.log import event
from controlplane.store.boards import Held
from controlplane.store.etcd import Store
from controlplane.store.lock import locked
from controlplane.store.ops import Delete, Guard, KeyGuard, LeaseGuard, Op, PrefixGuard, put_over
from schemas.errors import Conflict, MeshError, NotFound
from schemas.objects import federation
from schemas.records import FederationStatus, Record
from spiffe.federation import Taken, take
from spiffe.jwks import InvalidBundle, decode

logger = logging.getLogger("mesh.audit")


class FederationEvent(enum.StrEnum):
    """The audit's events. These names are all there are."""

    TAKEN = "federated bundle taken"
    EMPTY = "federated bundle is empty: nobody of it is trusted"
    REFUSED = "federated bundle refused"
    NOT_FETCHED = "federated bundle not fetched"
    FORGOTTEN = "federated bundle forgotten"


class Follower:
    """Feed `objects` by `follow`; then `run`. now: seconds since 1970; fraction: random numbers in [0, 1)."""

    def __init__(self, store: Store, replica: str, now: Callable[[], float], fraction: Callable[[], float]) -> None:
        self._store = store
        self._replica = replica
        self._now = now
        self._fraction = fraction
        self._wake = trio.Event()
        self._limit = trio.CapacityLimiter(AT_ONCE)
        self.objects = Held(lambda: self._wake.set())

    async def look(self) -> FederationLook:
        return await look(self._store)

    async def run(self) -> None:
        """For ever. Raises nothing: what fails is logged and tried again."""
        told = ""
        while True:
            self._wake = trio.Event()
            try:
                wait = await self.advance()
                told = ""
            except MeshError as error:
                wait = AGAIN_SECONDS
                if str(error) != told:
                    told = str(error)
                    event(logger, logging.WARNING, "federation is held up", why=told)
            with trio.move_on_after(wait * (0.75 + 0.5 * self._fraction())):
                await self._wake.wait()

    async def advance(self) -> float:
        """All that is due. Seconds until the next look."""
        seen = await self.look()
        now = int(self._now())
        soonest = now + IDLE_SECONDS
        due: list[str] = []
        for name, domain in seen.domains.items():
            action = next_action(domain, now)
            if not isinstance(action, Wait):
                due.append(name)
            elif action.until is not None:
                soonest = min(soonest, action.until)
        async with trio.open_nursery() as nursery:
            for name in due:
                nursery.start_soon(self._try, name)
        return AGAIN_SECONDS if due else max(1.0, soonest - now)

    async def fetch_now(self, trust_domain: str) -> Domain:
        """What there is afterwards, whether it could be had or not. Raises NotFound, Conflict, Unavailable."""
        seen = await self.look()
        domain = seen.domains.get(trust_domain)
        if domain is None or not domain.objects:
            raise NotFound(f"no TrustBundle object is of {trust_domain}: `meshadm get trustbundles`")
        if domain.object is not None and domain.object.spec.bundle_endpoint is None:
            raise NotFound(f"TrustBundle {domain.object.metadata.name} names no bundleEndpoint to fetch from")
        await self._take_steps(trust_domain, at_once=True, seconds=ASKED_SECONDS)
        return (await self.look()).domains[trust_domain]

    async def _try(self, trust_domain: str) -> None:
        async with self._limit:
            try:
                await self._take_steps(trust_domain)
            except Conflict:
                pass  # another replica is at it
            except MeshError as error:
                event(logger, logging.WARNING, "federation is held up", trust_domain=trust_domain, why=error)

    async def _take_steps(self, trust_domain: str, *, at_once: bool = False, seconds: float = 0.0) -> None:
        async with locked(self._store, f"federation-{trust_domain}", self._replica, seconds=seconds) as lock:
            while True:
                seen = await self.look()
                domain = seen.domains.get(trust_domain)
                action = next_action(domain, int(self._now()), at_once=at_once) if domain is not None else Wait(None)
                if domain is None or isinstance(action, Wait):
                    return
                if isinstance(action, Forget):
                    await self._forget(seen, domain, lock)
                    return
                if isinstance(action, Seed):
                    await self._seed(seen, domain, lock)  # then there may be something to fetch
                else:
                    await self._fetch(seen, domain, lock)
                    return

    # -- steps

    async def _seed(self, seen: FederationLook, domain: Domain, lock: LeaseGuard) -> None:
        assert domain.object is not None  # noqa: S101  (else there is no such action)
        given = domain.object.spec.bundle or ""
        before = domain.status or FederationStatus(trust_domain=domain.trust_domain)
        status = msgspec.structs.replace(before, seed=seed_of(given), object_revision=0, next=0, by=self._replica)
        try:
            document = decode(given.encode(), f"bundle of {domain.trust_domain}")
            taken = take(document, domain.trust_domain, domain.bundle, None, seen.own.x509_authorities, start_over=True)
        except InvalidBundle as error:
            await self._commit(seen, domain, lock, self._failed(domain, status, error, int(self._now())), None)
            return
        status = msgspec.structs.replace(status, served_sequence=taken.served_sequence, problem="")
        await self._commit(seen, domain, lock, status, taken)

    async def _fetch(self, seen: FederationLook, domain: Domain, lock: LeaseGuard) -> None:
        assert domain.object is not None  # noqa: S101  (else there is no such action)
        status = msgspec.structs.replace(
            domain.status or FederationStatus(trust_domain=domain.trust_domain),
            object_revision=domain.object_revision,
            by=self._replica,
        )
        try:
            url, server = _source(seen, domain.object)
            data = await fetch(url, server)
            document = decode(data, f"bundle of {domain.trust_domain}")
            taken = take(
                document, domain.trust_domain, domain.bundle, status.served_sequence, seen.own.x509_authorities
            )
        except MeshError as error:
            await self._commit(seen, domain, lock, self._failed(domain, status, error, int(self._now())), None)
            return
        now = int(self._now())
        status = msgspec.structs.replace(
            status,
            served_sequence=taken.served_sequence,
            tried=now,
            fetched=now,
            problem="",
            next=next_try(now, taken.record, failed=False),
        )
        await self._commit(seen, domain, lock, status, taken)

    async def _forget(self, seen: FederationLook, domain: Domain, lock: LeaseGuard) -> None:
        keys = self._keys(domain)
        revision = await self._store.transact(
            self._guards(seen, domain, lock), [Delete(key) for key in keys if key in seen.raw]
        )
        if revision is not None:
            event(logger, logging.INFO, FederationEvent.FORGOTTEN, trust_domain=domain.trust_domain, revision=revision)

    def _failed(self, domain: Domain, status: FederationStatus, error: MeshError, now: int) -> FederationStatus:
        """Told once for as long as it fails for the same reason."""
        if domain.status is None or domain.status.problem != str(error):
            what = FederationEvent.REFUSED if isinstance(error, InvalidBundle) else FederationEvent.NOT_FETCHED
            event(logger, logging.WARNING, what, trust_domain=domain.trust_domain, why=error)
        retry = next_try(now, domain.bundle, failed=True)
        return msgspec.structs.replace(status, tried=now, problem=str(error), next=retry)

    async def _commit(
        self, seen: FederationLook, domain: Domain, lock: LeaseGuard, status: FederationStatus, taken: Taken | None
    ) -> None:
        """Raises Conflict where the lock was lost, or something of what it rests upon has changed."""
        trust_key, status_key = self._keys(domain)
        ops = [self._put(seen, status_key, status)]
        new = taken is not None and taken.record != domain.bundle
        if taken is not None and new:
            ops.append(self._put(seen, trust_key, taken.record))
        revision = await self._store.transact(self._guards(seen, domain, lock), ops)
        if revision is None:
            raise Conflict(f"the bundle of {domain.trust_domain} was changed by somebody else; nothing was written")
        if taken is not None and new:
            what = FederationEvent.TAKEN if taken.record.x509_authorities else FederationEvent.EMPTY
            event(
                logger,
                logging.INFO if taken.record.x509_authorities else logging.WARNING,
                what,
                trust_domain=domain.trust_domain,
                sequence=taken.record.sequence,
                x509_authorities=len(taken.record.x509_authorities),
                jwt_authorities=len(taken.record.jwt_authorities),
                revision=revision,
            )

    # -- the transaction

    def _keys(self, domain: Domain) -> tuple[bytes, bytes]:
        keyspace = self._store.keyspace
        return keyspace.trust_bundle(domain.trust_domain), keyspace.federation_status(domain.trust_domain)

    def _guards(self, seen: FederationLook, domain: Domain, lock: LeaseGuard) -> list[Guard]:
        keyspace = self._store.keyspace
        objects = [keyspace.object(one.ref) for one, _ in domain.objects]
        own = keyspace.trust_bundle(seen.own.trust_domain)
        return [
            lock,
            PrefixGuard(keyspace.config_of_kind("TrustBundle"), seen.objects_revision),
            *(KeyGuard(key, seen.mod_revision(key)) for key in (*self._keys(domain), *objects, own)),
        ]

    def _put(self, seen: FederationLook, key: bytes, record: Record) -> Op:
        before = seen.raw.get(key)
        return put_over(key, record, before.value if before is not None else None)


def _source(seen: FederationLook, value: federation.TrustBundle) -> tuple[str, Server]:
    """Where to fetch from, and who must answer. Raises InvalidInput for an identity that is none."""
    endpoint = value.spec.bundle_endpoint
    assert endpoint is not None  # noqa: S101  (else there is nothing to fetch)
    if endpoint.profile == "https_web":
        return endpoint.url, WebServer(endpoint.web_ca)
    identity = value.endpoint_id
    if identity is None:
        raise NotFound(f"TrustBundle {value.metadata.name} names no endpointSpiffeId")
    return endpoint.url, SpiffeServer(identity, seen.authorities(identity.trust_domain))
