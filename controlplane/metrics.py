"""A replica's metrics. What it knows of sidecars and keys is asked for at each scrape."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from controlplane.api.issuing import Issuing
from controlplane.revocations import Revocations
from controlplane.rotation.expiry import lives_of_files
from controlplane.store.boards import MeshView, StatusBoard
from schemas.names import ServiceRef
from telemetry import families
from telemetry.families import Family


class ReplicaMetrics:
    """files: certificates on this host that nothing renews."""

    def __init__(
        self, issuing: Issuing, view: MeshView, board: StatusBoard, revocations: Revocations, files: Sequence[Path]
    ) -> None:
        self._issuing = issuing
        self._revocations = revocations
        self._view = view
        self._board = board
        self._files = tuple(files)

    def collect(self) -> Iterable[Family]:
        moments = {str(life.what): float(life.not_after) for life in lives_of_files(self._files)}
        for key in self._view.sealed_keys():
            if key.state == "active" and key.not_after:
                moments[key.role] = key.not_after
        if self._issuing.serving_until:
            moments["serving"] = self._issuing.serving_until
        yield families.expiries(moments)
        about = "Identities that this replica has issued to sidecars, joins and renewals together."
        yield families.counter("replica_issued_identities", about, self._issuing.issued)
        statuses = [status for ref in self._board.refs() if (status := self._board.status(ref)) is not None]
        yield families.gauge("replica_sidecars", "Sidecars with a live lease, as all replicas see them.", len(statuses))
        refusing = sum(bool(status.nacks) for status in statuses)
        yield families.gauge("replica_sidecars_refusing", "Those whose Envoy refuses something.", refusing)
        renewing = [one for one in statuses if not self._revocations.refuses(ServiceRef(one.namespace, one.service))]
        if renewing:
            soonest = min(status.svid_expires for status in renewing)
            about = "The soonest end of the SVID of a sidecar with a live lease that is not revoked."
            yield families.gauge("replica_soonest_svid_expiry_timestamp_seconds", about, soonest)
