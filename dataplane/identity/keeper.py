"""[edge] Keeps this sidecar's identity: loads it, joins for it, renews it, publishes each new one.

   disk ─┐                      ┌─▶ disk
         ├─▶ check ─▶ current ──┼─▶ client (new channels)
replica ─┘      ▲               └─▶ changed(): SDS, etcd client
                └── renew at half-life, retry with backoff; an expired identity goes on trying: by its attestor, or
                    by itself, where it could not be renewed in time since nobody could issue (`late.py`)
"""

import dataclasses
import logging
import math
from collections.abc import Callable

import trio

from dataplane.identity import renewal
from dataplane.identity.attest import HostSource
from dataplane.identity.check import UnacceptableIdentity, check, from_reply
from dataplane.identity.client import ReplicaClient
from dataplane.identity.joining import Joining, JoinSource
from dataplane.identity.late import LateRenewal
from dataplane.identity.material import Identity, key_to_pem, new_key, signing_request
from dataplane.identity.renewal import Attempts, Health, Validity
from dataplane.identity.store import IdentityStore
from schemas.errors import InvalidInput, MeshError, PermissionDenied, Unauthenticated, Unavailable
from schemas.joinfile import JoinFile
from schemas.names import ServiceRef
from schemas.records import TrustBundle

log = logging.getLogger("mesh.identity")


class IdentityKeeper:
    """``await nursery.start(keeper.run)`` returns once there is a usable identity; from then on it is kept fresh.

    clock: seconds since 1970. fraction: random numbers in [0, 1). join: asked again whenever an identity is needed
    and there is none to renew with, so a new join file heals a sidecar whose identity has expired. host: the host's own
    certificate, shown instead of a token where it is given. wanted: the service that the settings name. news: called
    when `health`, `problem` or `clock_problem` may say something else.
    """

    def __init__(
        self,
        store: IdentityStore,
        client: ReplicaClient,
        join: JoinSource,
        *,
        clock: Callable[[], float],
        fraction: Callable[[], float],
        host: HostSource | None = None,
        wanted: ServiceRef | None = None,
        news: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._client = client
        self._late = LateRenewal(client, store)
        self._joining = Joining(client, join, clock=clock, host=host, wanted=wanted)
        self._clock = clock
        self._fraction = fraction
        self._tell = news
        self._known_bundle: TrustBundle | None = None
        self._current: Identity | None = None
        self._news = trio.Event()
        self._nudge = trio.Event()
        self._hurry = math.inf  # when to renew because the mesh issues with another key by now
        self._spread = fraction()  # drawn once a certificate: where around the half-life it is renewed
        self._attempts = Attempts()
        self._health = Health.GOOD
        self.renewals = {"ok": 0, "failed": 0}
        """How many ended how, since this process began."""
        self.problem: str | None = None
        """Why the last attempt to join or renew failed; None after one that did not."""
        self.clock_problem: str | None = None
        """By how much this host's clock and that of the replica that issued last differ; None: not by much."""

    @property
    def current(self) -> Identity | None:
        """The newest identity; after its end still that one, and `health` says so. None before the first."""
        return self._current

    @property
    def health(self) -> Health:
        """What the current identity is worth by the clock, now."""
        return Health.EXPIRED if self._current is None else renewal.health(_validity(self._current), self._clock())

    async def changed(self, since: Identity | None) -> Identity:
        """The current identity as soon as it is another than `since`."""
        await trio.lowlevel.checkpoint()
        while self._current is None or self._current is since:
            await self._news.wait()
        return self._current

    def look_again(self) -> None:
        """Decide anew at once: the host's clock was set, or a join file was put in place."""
        self._nudge.set()

    async def run(self, task_status: trio.TaskStatus[Identity] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled.

        Raises InvalidInput where there is neither a kept identity nor a usable join file; Unauthenticated,
        PermissionDenied or InvalidInput when the very first join is refused. Does not raise afterwards.
        """
        first = await self._first()
        self._publish(first)
        task_status.started(first)
        while True:
            current = await self.changed(None)
            decision = renewal.decide(_validity(current), self._attempts, self._clock(), self._spread, self._hurry)
            self._say(current, decision.health)
            if decision.renew:
                await self._renew(current)
            else:
                await self._sleep(decision.wait)

    async def kept_has_expired(self) -> bool:
        """Whether there is an identity on disk whose time is over. To be asked before `run`."""
        kept = await self._kept()
        return kept is not None and renewal.health(_validity(kept), self._clock()) is Health.EXPIRED

    async def adopt_bundle(self, bundle: TrustBundle) -> bool:
        """Trust a newer bundle of our own trust domain, as read from etcd; False for one that is not newer.

        Raises UnacceptableIdentity for one by which our own certificate could not be trusted.
        """
        current = self._current
        if current is None or bundle.trust_domain != current.bundle.trust_domain:
            return False
        if bundle.sequence <= current.bundle.sequence:
            return False
        fresh = dataclasses.replace(current, bundle=bundle)
        check(fresh, current.spiffe_id, self._clock())
        await self._keep(fresh)
        self._publish(fresh)
        self._nudge.set()  # it may say that the mesh issues with another key by now
        return True

    # -- the first

    async def _first(self) -> Identity:
        while True:
            kept = await self._kept()
            if kept is not None and self._acceptable(kept):
                log.info("took up the kept identity %s", kept.spiffe_id)
                return kept
            refusal: MeshError | None = None
            try:
                return await self._join_with(self._joining.file())
            except (InvalidInput, Unauthenticated, PermissionDenied) as error:
                if kept is None or renewal.health(_validity(kept), self._clock()) in _USABLE:
                    raise
                # The clock or a new join file can still make it good.
                problem = f"{_state_of(kept, self._clock())}, and this host can't join anew: {error}"
                if self._clock() >= kept.usable_until:
                    try:
                        return await self._renewed_late(kept)
                    except MeshError as late:
                        problem += f"; nor is it renewed after its end: {late}"
                        refusal = late
                self.problem = problem
            except MeshError as error:
                self.problem = str(error)
                refusal = error
            self._attempts = self._attempts.failed(self._clock(), refusal)
            log.error("no identity: %s; trying again", self.problem)
            await self._sleep(self._attempts.delay(self._fraction()))

    async def _kept(self) -> Identity | None:
        try:
            return await trio.to_thread.run_sync(self._store.load)
        except MeshError as error:
            log.warning("ignored the kept identity: %s", error)
            return None

    def _acceptable(self, kept: Identity) -> bool:
        self._known_bundle = kept.bundle
        try:
            check(kept, self._joining.expected_of(kept), self._clock())
        except UnacceptableIdentity as error:
            log.warning("ignored the kept identity: %s", error)
            return False
        return True

    # -- join

    async def _join_with(self, file: JoinFile) -> Identity:
        expected = self._joining.expected(file)
        joined = await self._joining.ask(file, self._known_bundle)
        self._compare_clocks(joined)
        # Where this host's clock is wrong, the identity is kept all the same: the token is used up, the clock will be
        # mended. It is not used outside of its time, which the second check sees to.
        check(joined, expected, min(max(self._clock(), joined.not_before), joined.expires - 1))
        await self._keep(joined)
        check(joined, expected, self._clock())
        log.info("joined as %s, valid for %d s", joined.spiffe_id, joined.expires - self._clock())
        return joined

    # -- renew

    async def _renew(self, current: Identity) -> None:
        try:
            fresh = await self._renewed(current)
        except MeshError as error:
            self.problem = str(error)
            self.renewals["failed"] += 1
            self._attempts = self._attempts.failed(self._clock(), error)
            log.warning("could not renew %s: %s", current.spiffe_id, error)
            self._tell()
        else:
            self.renewals["ok"] += 1
            log.info("renewed %s, valid for %d s", fresh.spiffe_id, fresh.expires - self._clock())
            self._publish(fresh)

    async def _renewed(self, current: Identity) -> Identity:
        key, etcd_key = new_key(), new_key()
        try:
            reply = await self._client.renew(signing_request(key), signing_request(etcd_key))
        except (Unauthenticated, Unavailable):
            # With an expired certificate no replica lets us in.
            if self.health is not Health.EXPIRED:
                raise
            file = self._joining.file_anew(current)
            if file is None:
                return await self._renewed_late(current)
            try:
                return await self._join_with(file)
            except (InvalidInput, Unauthenticated, PermissionDenied) as error:
                # What lets a host in for the first time is not asked for at a renewal.
                try:
                    return await self._renewed_late(current)
                except MeshError as late:
                    raise Unauthenticated(f"{error}; nor is it renewed after its end: {late}") from late
        return await self._accepted(from_reply(reply, key_to_pem(key), key_to_pem(etcd_key)), current)

    async def _renewed_late(self, expired: Identity) -> Identity:
        check(expired, self._joining.expected_of(expired), expired.usable_until - 1)
        fresh = await self._late.renew(expired, expired.join_endpoints or self._joining.endpoints())
        log.info("renewed %s after its end, since nobody could issue before", expired.spiffe_id)
        accepted = await self._accepted(fresh, expired)
        await self._late.done(accepted)
        return accepted

    async def _accepted(self, fresh: Identity, before: Identity) -> Identity:
        """Kept, if it is one that can be used."""
        self._compare_clocks(fresh)
        newest = self._current.bundle if self._current is not None else before.bundle
        if fresh.bundle.trust_domain == newest.trust_domain and fresh.bundle.sequence < newest.sequence:
            # That replica is behind. Its certificate is good only if what we know to be trusted by now vouches for it.
            fresh = dataclasses.replace(fresh, bundle=newest)
        check(fresh, before.spiffe_id, self._clock())
        await self._keep(fresh)
        return fresh

    def _compare_clocks(self, fresh: Identity) -> None:
        off = renewal.clock_off_by(fresh.not_before, self._clock())
        before, self.clock_problem = self.clock_problem, None
        if off:
            how = "ahead of" if off > 0 else "behind"
            self.clock_problem = f"this host's clock is about {abs(off):.0f} s {how} that of the replica that issues"
            if before is None:
                log.error("ALARM: %s; one of the two is wrong: set both by NTP", self.clock_problem)

    async def _keep(self, identity: Identity) -> None:
        try:
            await trio.to_thread.run_sync(self._store.save, identity)
        except Unavailable as error:
            # It is good in memory all the same; only a restart would miss it.
            log.error("%s", error)

    # -- telling

    def _publish(self, identity: Identity) -> None:
        self._client.use(identity)
        self._current = identity
        self._known_bundle = identity.bundle
        self._attempts = Attempts()
        self._spread = self._fraction()
        self._hurry = self._hurry_for(identity)
        self.problem = None
        news, self._news = self._news, trio.Event()
        news.set()

    def _hurry_for(self, identity: Identity) -> float:
        wanted = identity.bundle.issuing_key_id
        if not wanted or identity.issuer in (wanted, ""):  # a leaf that does not name its issuer tells nothing
            return math.inf
        return renewal.hurry_at(_validity(identity), self._clock(), self._fraction())

    def _say(self, current: Identity, health: Health) -> None:
        if renewal.worse(self._health, health):
            left = current.usable_until - self._clock()
            log.error(
                "ALARM: the identity %s is %s (%d s left); renewing fails: %s",
                current.spiffe_id,
                health.value,
                max(0, left),
                self.problem or "not tried yet",
            )
        if health is not self._health:
            self._health = health
            self._tell()

    async def _sleep(self, seconds: float) -> None:
        with trio.move_on_after(seconds):
            await self._nudge.wait()
        self._nudge = trio.Event()


_USABLE = (Health.GOOD, Health.EXPIRING)


def _state_of(kept: Identity, now: float) -> str:
    if now >= kept.usable_until:
        return f"the identity {kept.spiffe_id} expired {int(now - kept.usable_until)} s ago"
    return f"the identity {kept.spiffe_id} can't be used"


def _validity(identity: Identity) -> Validity:
    return Validity(identity.not_before, identity.usable_until)
