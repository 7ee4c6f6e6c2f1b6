"""A replica for tests of the sidecar's side: real TLS and gRPC, a test CA, answers that a test can spoil."""

from __future__ import annotations

import datetime
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from schemas import codec
from schemas.api import mesh_pb2
from schemas.joinfile import JoinFile
from schemas.names import CONTROL_PLANE_SERVER_NAME
from schemas.records import TrustBundle
from spiffe import possession
from spiffe.bundle import record
from spiffe.key_ids import naming
from spiffe.x509 import csr_public_key
from tests.support.pki import Authority
from trio_grpc import Context, Listener, Method, RpcAbort, ServerTLS, StatusCode, serve, unary

TRUST_DOMAIN = "mesh.test"
SPIFFE_ID = f"spiffe://{TRUST_DOMAIN}/ns/shop/svc/orders"
TOKEN = "mjt1.one.secret"
NONCE = b"n" * 56
HOUR = 3600


def sign(
    authority: Authority,
    key: ec.EllipticCurvePublicKey,
    *,
    uri: str | None,
    name: str = "",
    not_before: float,
    expires: float,
) -> x509.Certificate:
    """A leaf for a public key of somebody else, valid from and to any moment."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else [])
    usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
    purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(authority.certificate.subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.datetime.fromtimestamp(int(not_before), datetime.UTC))
        .not_valid_after(datetime.datetime.fromtimestamp(int(expires), datetime.UTC))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(naming(authority.certificate), critical=False)
    )
    if uri is not None:
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)])
        builder = builder.add_extension(names, critical=not name)
    return builder.sign(authority.key, hashes.SHA256())


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


def _spki(csr: bytes) -> bytes:
    return csr_public_key(csr).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@dataclass
class Mesh:
    """The authorities of a test mesh."""

    root: Authority = field(default_factory=lambda: Authority.create("mesh root"))
    etcd_ca: Authority = field(default_factory=lambda: Authority.create("etcd clients"))
    sequence: int = 1

    def __post_init__(self) -> None:
        self.issuing = self.root.intermediate("mesh issuing")

    @property
    def bundle(self) -> TrustBundle:
        return record(TRUST_DOMAIN, [self.root.certificate], self.sequence)

    def issue(
        self, csr: bytes, etcd_csr: bytes, *, not_before: float, expires: float, spiffe_id: str = SPIFFE_ID
    ) -> mesh_pb2.IdentityReply:
        """As a replica does, for the public keys of the two requests."""
        leaf = sign(self.issuing, csr_public_key(csr), uri=spiffe_id, not_before=not_before, expires=expires)
        etcd_leaf = sign(
            self.etcd_ca,
            csr_public_key(etcd_csr),
            uri=None,
            name="mesh-sidecar",
            not_before=not_before,
            expires=expires,
        )
        return mesh_pb2.IdentityReply(
            spiffe_id=spiffe_id,
            chain=[der(leaf), der(self.issuing.certificate)],
            trust_bundle=codec.encode(self.bundle),
            etcd_chain=[der(etcd_leaf)],
            etcd_ca=self.etcd_ca.pem,
            etcd_endpoints=["127.0.0.1:2379"],
            expires=int(expires),
            key_prefix="/mesh/v1",
        )

    def server_tls(self, *, client_ca: bool, dns: str = CONTROL_PLANE_SERVER_NAME) -> ServerTLS:
        leaf = self.issuing.issue(uri=f"spiffe://{TRUST_DOMAIN}/control-plane", dns=[dns])
        return ServerTLS(leaf.chain_pem, leaf.key_pem, self.root.pem if client_ca else None)


Spoil = Callable[[mesh_pb2.IdentityReply], mesh_pb2.IdentityReply]


@dataclass
class FakeReplica:
    """`now` is its clock, in seconds since 1970. Change any field while it runs."""

    mesh: Mesh
    now: Callable[[], float]
    lifetime: float = HOUR
    spoil: Spoil = lambda reply: reply
    failure: RpcAbort | None = None
    """Answers every join and renewal with this."""
    refuse_renewals: bool = False
    excuse: bool = False
    """Whether an expired SVID is renewed for whoever has its key."""
    lose_answers: int = 0
    """Of so many late renewals the answer is lost."""
    spiffe_id: str = SPIFFE_ID
    tokens: set[str] = field(default_factory=lambda: {TOKEN})
    calls: list[str] = field(default_factory=list)
    seen_keys: set[bytes] = field(default_factory=set)
    api_port: int = 0
    join_port: int = 0
    extra: dict[str, Method] = field(default_factory=dict)
    excused: dict[bytes, bytes] = field(default_factory=dict)
    """An expired SVID to the key that it was renewed for."""

    def join_file(self, **changes: object) -> JoinFile:
        values: dict[str, object] = {
            "trust_domain": TRUST_DOMAIN,
            "namespace": "shop",
            "service": "orders",
            "token": TOKEN,
            "expires": int(self.now()) + HOUR,
            "join_endpoints": (f"127.0.0.1:{self.join_port}",),
            "api_endpoints": (f"127.0.0.1:{self.api_port}",),
            "trust_bundle": codec.encode(self.mesh.bundle),
        }
        return JoinFile(**{**values, **changes})  # type: ignore[arg-type]  # a test's own values

    async def _challenge(self, request: mesh_pb2.ChallengeRequest, context: Context) -> mesh_pb2.ChallengeReply:
        return mesh_pb2.ChallengeReply(nonce=NONCE, trust_domain=TRUST_DOMAIN)

    async def _join(self, request: mesh_pb2.JoinRequest, context: Context) -> mesh_pb2.IdentityReply:
        if request.WhichOneof("evidence") == "expired":
            return self._renew_late(request)
        self._count("join")
        if request.token not in self.tokens:
            raise RpcAbort(StatusCode.UNAUTHENTICATED, "the token is unknown, used or expired")
        self.tokens.discard(request.token)
        return self._issue(request.csr, request.etcd_csr)

    def _renew_late(self, request: mesh_pb2.JoinRequest) -> mesh_pb2.IdentityReply:
        self._count("late")
        proof = request.expired
        signed = possession.expired_statement(
            trust_domain=TRUST_DOMAIN, nonce=NONCE, csr=request.csr, etcd_csr=request.etcd_csr, leaf=proof.leaf
        )
        assert proof.nonce == NONCE
        possession.check_signature(x509.load_der_x509_certificate(proof.leaf), proof.signature, signed)
        if not self.excuse:
            raise RpcAbort(StatusCode.UNAUTHENTICATED, "the mesh knows of no time without a replica that could issue")
        granted = _spki(request.csr)
        if self.excused.setdefault(proof.leaf, granted) != granted:
            raise RpcAbort(StatusCode.UNAUTHENTICATED, "this SVID was renewed after its end already")
        if self.lose_answers:
            self.lose_answers -= 1
            raise RpcAbort(StatusCode.UNAVAILABLE, "lost")
        return self._issue(request.csr, request.etcd_csr)

    async def _renew(self, request: mesh_pb2.RenewRequest, context: Context) -> mesh_pb2.IdentityReply:
        self._count("renew")
        assert context.peer_certificate is not None
        if self.refuse_renewals:
            raise RpcAbort(StatusCode.UNAUTHENTICATED, "your certificate has expired")
        return self._issue(request.csr, request.etcd_csr)

    def _count(self, call: str) -> None:
        self.calls.append(call)
        if self.failure is not None:
            raise self.failure

    def _issue(self, csr: bytes, etcd_csr: bytes) -> mesh_pb2.IdentityReply:
        for request in (csr, etcd_csr):
            spki = _spki(request)
            assert spki not in self.seen_keys, "a key was used twice"
            self.seen_keys.add(spki)
        now = self.now()
        reply = self.mesh.issue(csr, etcd_csr, not_before=now, expires=now + self.lifetime, spiffe_id=self.spiffe_id)
        reply.api_endpoints.append(f"127.0.0.1:{self.api_port}")
        reply.join_endpoints.append(f"127.0.0.1:{self.join_port}")
        return self.spoil(reply)

    @asynccontextmanager
    async def serving(self, dns: str = CONTROL_PLANE_SERVER_NAME) -> AsyncIterator[FakeReplica]:
        errors: list[Exception] = []
        encode = mesh_pb2.IdentityReply.SerializeToString
        challenge = mesh_pb2.ChallengeReply.SerializeToString
        join = {
            "/mesh.v1.Identity/Join": unary(self._join, mesh_pb2.JoinRequest.FromString, encode),
            "/mesh.v1.Identity/Challenge": unary(self._challenge, mesh_pb2.ChallengeRequest.FromString, challenge),
        }
        api = {"/mesh.v1.Identity/Renew": unary(self._renew, mesh_pb2.RenewRequest.FromString, encode), **self.extra}

        def on_error(path: str, error: Exception) -> None:
            errors.append(error)

        open_listener = Listener("127.0.0.1:0", self.mesh.server_tls(client_ca=False, dns=dns))
        mutual = Listener(f"127.0.0.1:{self.api_port}", self.mesh.server_tls(client_ca=True, dns=dns))
        async with (
            serve(join, [open_listener], on_error=on_error, grace=0) as joins,
            serve(api, [mutual], on_error=on_error, grace=0) as apis,
        ):
            (self.join_port,) = joins.bound_ports
            (self.api_port,) = apis.bound_ports
            yield self
        assert errors == []
