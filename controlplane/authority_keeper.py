"""[edge] Keeps the CA in force as etcd has it, and the replica's own serving certificate fresh."""

import logging

import trio
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from controlplane.api.issuing import InForce, Issuing
from controlplane.ca.authority import expires
from controlplane.ca.jwt_key import open_signer
from controlplane.ca.keystore import open_authority
from controlplane.ca.seal import KeyEncryption
from controlplane.log import event
from controlplane.store.boards import MeshView
from schemas.errors import MeshError, Unavailable
from schemas.names import SpiffeId
from trio_grpc import ReloadableTLS, ServerTLS

# Until the next attempt when renewing failed; the certificate has half its life left then.
RETRY_SECONDS = 30.0
# A mesh whose CA lasts longer than this gets no warning in the log.
WARN_BEFORE_SECONDS = 14 * 24 * 3600

logger = logging.getLogger(__name__)
audit = logging.getLogger("mesh.audit")


class AuthorityKeeper:
    """`run` acts at each change in etcd, and at half of the certificate's life.

    `wait_ready` returns when there is a CA and a certificate to serve with.
    """

    def __init__(self, view: MeshView, kek: KeyEncryption, issuing: Issuing) -> None:
        self._view = view
        self._kek = kek
        self._issuing = issuing
        self._ready = trio.Event()
        self._renew_at = 0.0
        self.api_tls: ReloadableTLS | None = None
        """Asks for client certificates of the mesh."""
        self.join_tls: ReloadableTLS | None = None
        """Asks for none."""
        self.serving: ServerTLS | None = None
        """The replica's newest certificate and its key."""

    async def wait_ready(self) -> None:
        await self._ready.wait()

    async def run(self) -> None:
        """For ever. What can't be used is logged, and the last good CA stays in force."""
        await self._view.wait_synced()
        told = ""
        while True:
            version = self._view.version
            wait = RETRY_SECONDS
            try:
                await self._take_over()
                wait = max(1.0, self._renew_at - self._issuing.now())
                told = ""
            except MeshError as error:
                if str(error) != told:
                    told = str(error)
                    kept = "the last good one stays in force" if self._ready.is_set() else "waiting"
                    event(logger, logging.WARNING, "no usable CA", why=told, then=kept)
            with trio.move_on_after(wait):
                await self._view.wait_change(version)

    async def _take_over(self) -> None:
        mesh = self._view.mesh()
        if mesh is None:
            raise Unavailable("the mesh is not initialised: run `meshadm init`")
        bundle = self._view.bundle(mesh.spec.trust_domain)
        if bundle is None:
            raise Unavailable(f"there is no trust bundle of {mesh.spec.trust_domain} in etcd")
        keys = self._view.sealed_keys()
        authority = await open_authority(keys, self._kek)
        if authority.trust_domain != mesh.spec.trust_domain:
            raise Unavailable(f"the CA is of {authority.trust_domain}, the mesh of {mesh.spec.trust_domain}")
        in_force = InForce(authority, mesh, bundle, await open_signer(keys, self._kek))
        self._serve_with(in_force)
        self._issuing.in_force = in_force
        self._ready.set()
        left = authority.issues_until - self._issuing.now()
        if left < WARN_BEFORE_SECONDS:
            event(logger, logging.WARNING, "the CA ends soon", days=int(left // 86400))

    def _serve_with(self, in_force: InForce) -> None:
        """A new key and certificate; renewed at half of its life."""
        now = self._issuing.now()
        key = ec.generate_private_key(ec.SECP256R1())
        ttl = in_force.mesh.spec.svid_ttl_seconds
        serial = self._issuing.serial()
        chain = in_force.authority.issue_control_plane(key.public_key(), now, ttl, serial)
        chain_pem = b"".join(map(_pem, chain))
        key_pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        roots = b"".join(map(_pem, in_force.bundle.x509_authorities))
        self.serving = ServerTLS(chain_pem, key_pem)
        api, join = ServerTLS(chain_pem, key_pem, roots), self.serving
        if self.api_tls is None or self.join_tls is None:
            self.api_tls, self.join_tls = ReloadableTLS(api), ReloadableTLS(join)
        else:
            self.api_tls.replace(api)
            self.join_tls.replace(join)
        self._renew_at = now + (expires(chain) - now) / 2
        self._issuing.serving_until = expires(chain)
        event(
            audit,
            logging.INFO,
            "serving with a new certificate",
            caller="automatic",
            peer="this replica",
            identity=SpiffeId.of_control_plane(in_force.authority.trust_domain),
            serial=f"{serial:x}",
            bundle_sequence=in_force.bundle.sequence,
            expires=expires(chain),
        )


def _pem(der: bytes) -> bytes:
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)
