"""A replica's metrics. What it knows of sidecars and keys is asked for at each scrape."""

import contextlib
from collections.abc import Iterable

import trio

from controlplane.api.issuing import Issuing
from controlplane.key_sets.places import Places
from controlplane.revocations import Revocations
from controlplane.rotation.expiry import Watch
from controlplane.store.boards import ConfigClock, MeshView, StatusBoard
from controlplane.store.lease_alarm import LeaseAlarm
from schemas.errors import Corrupt
from schemas.names import ServiceRef
from telemetry import families
from telemetry.families import Family
from trio_etcd import Link


class ReplicaMetrics:
    """link: to etcd. watch: knows what nothing of the mesh renews."""

    def __init__(
        self,
        issuing: Issuing,
        view: MeshView,
        board: StatusBoard,
        clock: ConfigClock,
        leases: LeaseAlarm,
        revocations: Revocations,
        link: Link,
        places: Places,
        watch: Watch,
    ) -> None:
        self._issuing = issuing
        self._revocations = revocations
        self._places = places
        self._view = view
        self._board = board
        self._clock = clock
        self._leases = leases
        self._link = link
        self._watch = watch

    def collect(self) -> Iterable[Family]:
        yield from self._of_certificates()
        yield from self._of_etcd()
        yield from self._of_sidecars()
        yield from self._of_key_sets()

    def _of_certificates(self) -> Iterable[Family]:
        moments = {str(life.what): float(life.not_after) for life in self._watch.not_renewed()}
        with contextlib.suppress(Corrupt):  # the log says it; a scrape tells the rest
            moments |= {key.role: key.not_after for key in self._view.sealed_keys() if key.state == "active"}
        moments = {name: moment for name, moment in moments.items() if moment}  # a bare key has no end
        if self._issuing.serving_until:
            moments["serving"] = self._issuing.serving_until
        yield families.expiries(moments)
        about = "Identities that this replica has issued to sidecars, joins and renewals together."
        yield families.counter("replica_issued_identities", about, self._issuing.issued)
        about = (
            "1: this replica could issue an identity now; 0: it has no CA that lives, or not heard from etcd for long."
        )
        yield families.gauge("replica_can_issue", about, float(self._issuing.possible))

    def _of_etcd(self) -> Iterable[Family]:
        link = self._link.state
        silent = 0.0 if link.connected else trio.current_time() - link.since
        yield families.gauge("replica_etcd_silent_seconds", "Since when etcd does not answer; 0: it does.", silent)
        yield families.gauge(
            "replica_config_revision", "The newest revision of the configuration.", self._clock.revision
        )
        if self._leases.leases is not None:
            yield families.gauge("replica_etcd_leases", "Leases in etcd, whoever has them.", self._leases.leases)
        about = "As many leases as the mesh can need: what is above that was made by somebody else."
        yield families.gauge("replica_etcd_leases_limit", about, self._leases.most)

    def _of_sidecars(self) -> Iterable[Family]:
        statuses = [status for ref in self._board.refs() if (status := self._board.status(ref)) is not None]
        yield families.gauge("replica_sidecars", "Sidecars with a live lease, as all replicas see them.", len(statuses))
        refusing = sum(bool(status.nacks) for status in statuses)
        yield families.gauge("replica_sidecars_refusing", "Those whose Envoy refuses something.", refusing)
        heard = [one for one in statuses if not self._revocations.refuses(ServiceRef(one.namespace, one.service))]
        unable = sum(status.open_streams is not None and status.open_streams.goes_on for status in heard)
        about = "Those that can't end what is open and no longer allowed, without the revoked."
        yield families.gauge("replica_sidecars_not_ending_open_streams", about, unable)
        behind = sum(status.acked_revision < self._clock.revision for status in heard)
        about = "Those that do not run the newest revision yet, without the revoked, whom nobody hears."
        yield families.gauge("replica_sidecars_behind", about, behind)
        if heard:
            soonest = min(status.svid_expires for status in heard)
            about = "The soonest end of the SVID of a sidecar with a live lease that is not revoked."
            yield families.gauge("replica_soonest_svid_expiry_timestamp_seconds", about, soonest)

    def _of_key_sets(self) -> Iterable[Family]:
        places = [one for one in self._places.all() if one.source is not None]
        yield families.gauge("replica_key_sets", "Places that keys of token issuers are fetched from.", len(places))
        failing = sum(one.status is not None and bool(one.status.failures) for one in places)
        yield families.gauge("replica_key_sets_failing", "Those whose last attempt failed.", failing)
        unknown = sum(not one.usable for one in places)
        yield families.gauge("replica_key_sets_unknown", "Those without keys: their tokens are refused.", unknown)
        fetched = [one.status.fetched for one in places if one.usable and one.status is not None]
        if fetched:
            about = "When the keys that were not fetched for longest were fetched."
            yield families.gauge("replica_oldest_key_set_timestamp_seconds", about, min(fetched))
