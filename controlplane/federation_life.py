"""[edge] Federation in a replica, wired: our bundle endpoint, and the followers of others'.

data/trust of our own ─▶ BundleEndpoint ─▶ whoever asks       TrustBundle objects ─▶ Follower ─▶ data/trust of others
"""

import socket
from pathlib import Path
from random import SystemRandom

import trio

from controlplane.api.federation_service import FederationService
from controlplane.api.issuing import Issuing
from controlplane.authority_keeper import AuthorityKeeper
from controlplane.config import BundleEndpointConfig
from controlplane.federation.certificates import FileCertificate, SvidCertificate
from controlplane.federation.endpoint import BundleEndpoint, Certificate
from controlplane.federation.follower import Follower
from controlplane.store.boards import MeshView
from controlplane.store.etcd import Store
from controlplane.store.follow import follow
from schemas.errors import Unavailable
from schemas.records import TrustBundle


class FederationLife:
    """address: where this replica is reached. Raises InvalidInput for files that the endpoint can't serve with."""

    def __init__(
        self,
        store: Store,
        issuing: Issuing,
        keeper: AuthorityKeeper,
        view: MeshView,
        config: BundleEndpointConfig | None,
        *,
        address: str,
    ) -> None:
        self._store = store
        self._view = view
        self._config = config
        self._follower = Follower(store, f"{socket.gethostname()} {address}", issuing.now, SystemRandom().random)
        self.service = FederationService(self._follower)
        self._endpoint: BundleEndpoint | None = None
        if config is not None:
            certificate: Certificate = SvidCertificate(lambda: keeper.serving)
            if config.profile == "https_web":
                certificate = FileCertificate(Path(config.cert or ""), Path(config.key or ""))
            self._endpoint = BundleEndpoint(certificate, self._own_bundle, config.path)

    async def start(self, nursery: trio.Nursery) -> int | None:
        """When there is a CA in force. The port of the bundle endpoint; None: there is none.

        Raises OSError where it can't listen.
        """
        objects = self._store.keyspace.config_of_kind("TrustBundle")
        nursery.start_soon(follow, self._store, objects, self._follower.objects)
        nursery.start_soon(self._follower.run)
        if self._endpoint is None or self._config is None:
            return None
        host, _, port = self._config.listen.rpartition(":")
        bound: int = await nursery.start(self._endpoint.serve, host.strip("[]"), int(port))
        return bound

    def _own_bundle(self) -> TrustBundle:
        """As etcd has it now. Raises Corrupt, Unavailable."""
        mesh = self._view.mesh()
        bundle = self._view.bundle(mesh.spec.trust_domain) if mesh is not None else None
        if bundle is None:
            raise Unavailable("there is no trust bundle in etcd")
        return bundle
