"""[edge] The CA at work: what an identity consists of, and which CA, mesh object and bundle are in force."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import trio

from controlplane.api.call import Call
from controlplane.api.turns import Turns
from controlplane.ca.authority import Authority, expires
from controlplane.ca.etcd_revocation import client_serial
from controlplane.ca.facts import FENCE_SECONDS
from controlplane.ca.gates import silent_until
from controlplane.ca.jwt_key import JwtSigner
from controlplane.ca.sign import serial_number
from controlplane.ca.template import MIN_LEAF_SECONDS
from schemas import codec
from schemas.api import mesh_pb2 as pb
from schemas.errors import MeshError, Unavailable
from schemas.names import ServiceRef, SpiffeId
from schemas.objects import Mesh
from schemas.records import TrustBundle
from spiffe.x509 import csr_public_key

T = TypeVar("T")

ETCD_USER = "mesh-sidecar"
SERIAL_BYTES = 20  # what `serial_number` makes a serial of


@dataclass(frozen=True, slots=True)
class InForce:
    """What a replica signs with and says; replaced as a whole when etcd has something new."""

    authority: Authority
    mesh: Mesh
    bundle: TrustBundle
    jwt: JwtSigner | None = None
    """None: the mesh has no JWT key yet."""


@dataclass(frozen=True, slots=True)
class Pair:
    """An SVID and a client certificate for etcd: DER, leaf first."""

    chain: tuple[bytes, ...]
    etcd_chain: tuple[bytes, ...]
    expires: int
    """Seconds since 1970: the end of whichever ends first."""
    serial: str
    """Of the SVID, in hex: for the audit."""


@dataclass(frozen=True, slots=True)
class Told:
    """What every new identity is told beside its certificates."""

    etcd_ca: bytes
    """PEM: verifies etcd's own certificates."""
    etcd_endpoints: tuple[str, ...]
    api_endpoints: tuple[str, ...]
    join_endpoints: tuple[str, ...]
    key_prefix: str


class Issuing:
    """`in_force` is set by whoever follows etcd. `now`: seconds since 1970. `random(n)`: n unpredictable bytes."""

    def __init__(self, told: Told, now: Callable[[], float], random: Callable[[int], bytes]) -> None:
        self.told = told
        self.now = now
        self.random = random
        self.turns = Turns()
        self.serving_until = 0
        """Seconds since 1970: the end of the replica's own certificate."""
        self.issued = 0
        """Pairs of certificates for sidecars, since this process began."""
        self.confirmed: float | None = None
        """When etcd last heard of what this replica issues with; None: not yet."""
        self.check_service: Callable[[ServiceRef], None] = lambda service: None
        """Raises PermissionDenied for a service whose identity is revoked: it gets no certificate by any way."""
        self.changed = trio.Event()
        """Set, and replaced by a new one, whenever another CA is in force."""
        self._in_force: InForce | None = None

    @property
    def in_force(self) -> InForce | None:
        return self._in_force

    @in_force.setter
    def in_force(self, value: InForce) -> None:
        self._in_force = value
        changed, self.changed = self.changed, trio.Event()
        changed.set()

    def current(self) -> InForce:
        """Raises Unavailable before the mesh has been made and read, and when etcd has long been out of reach."""
        if self.confirmed is not None and self.now() - self.confirmed > FENCE_SECONDS:
            raise Unavailable(
                f"this replica has not reached etcd for {int(self.now() - self.confirmed)} s: it issues nothing, since "
                "its CA key may have been retired meanwhile"
            )
        return self.current_unfenced()

    @property
    def possible(self) -> bool:
        """Whether an SVID could be issued now."""
        try:
            authority = self.current().authority
        except MeshError:
            return False
        return self.now() + MIN_LEAF_SECONDS <= authority.issues_until

    def current_unfenced(self) -> InForce:
        """For what signs nothing. Raises Unavailable before the mesh has been made and read."""
        if self._in_force is None:
            raise Unavailable("this replica has no CA yet: is the mesh initialised (`meshadm init`)?")
        return self._in_force

    def leaves_end(self) -> int:
        """When every leaf that the key in force has signed for a sidecar by now has ended, by anybody's clock, unless
        it is renewed. Those of retired keys may live for longer: who decides by it (`rotation.Silent`) knows that.

        Seconds since 1970. Raises Unavailable before the mesh has been made and read.
        """
        return silent_until(int(self.now()), self.current_unfenced().authority.leaf_seconds)

    def serial(self) -> int:
        return serial_number(self.random(SERIAL_BYTES))

    async def in_turn(self, call: Call, work: Callable[[], T]) -> T:
        """`work`, which signs, when its turn has come. Raises Overloaded where that would be too late."""
        with self.turns.admitted(call.caller.where, call.seconds) as admitted:
            return await admitted.turn(work)

    def pair(self, service: ServiceRef, csr: bytes, etcd_csr: bytes) -> Pair:
        """Of each CSR the public key is taken and nothing else. Raises InvalidInput, AuthorityExpired, Unavailable."""
        self.check_service(service)
        key, etcd_key = csr_public_key(csr), csr_public_key(etcd_csr)
        in_force, now, serial = self.current(), self.now(), self.serial()
        ttl = in_force.mesh.spec.svid_ttl_seconds
        chain = in_force.authority.issue_workload(service, key, now, ttl, serial)
        # The same lifetime: the two are renewed together.
        etcd_chain = in_force.authority.issue_etcd_client(ETCD_USER, etcd_key, now, ttl, client_serial(service, now))
        self.issued += 1
        return Pair(chain, etcd_chain, min(expires(chain), expires(etcd_chain)), f"{serial:x}")

    def beside(self, service: ServiceRef) -> pb.IdentityReply:
        """What a service is told beside its certificates."""
        in_force = self.current()
        return pb.IdentityReply(
            spiffe_id=str(SpiffeId.of_service(in_force.authority.trust_domain, service)),
            trust_bundle=codec.encode(in_force.bundle),
            etcd_ca=self.told.etcd_ca,
            etcd_endpoints=self.told.etcd_endpoints,
            key_prefix=self.told.key_prefix,
            api_endpoints=self.told.api_endpoints,
            join_endpoints=self.told.join_endpoints,
        )

    def identity(self, service: ServiceRef, csr: bytes, etcd_csr: bytes) -> tuple[pb.IdentityReply, Pair]:
        """The certificates, and the answer that holds them. Raises as `pair` does."""
        pair, reply = self.pair(service, csr, etcd_csr), self.beside(service)
        reply.chain.extend(pair.chain)
        reply.etcd_chain.extend(pair.etcd_chain)
        reply.expires = pair.expires
        return reply, pair
