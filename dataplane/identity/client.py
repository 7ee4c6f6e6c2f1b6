"""[edge] A sidecar's calls to the replicas: join, renew, register, deregister, report; to whichever replica answers.

Who the replica is: its certificate must chain to the trust bundle and carry CONTROL_PLANE_SERVER_NAME, a DNS name that
only the CA's template for replicas sets. gRPC gives Python clients no look at the peer's other names, so this name
stands for the SPIFFE ID of the control plane.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import trio
from google.protobuf.message import DecodeError, Message

from dataplane.identity.attest import HostCertificate, prove_expired
from dataplane.identity.material import Identity, roots_pem
from dataplane.identity.replicas import ATTEMPT_SECONDS, Replicas
from schemas import codec
from schemas.api import mesh_pb2
from schemas.errors import InvalidInput, Problem, Unauthenticated, Unavailable
from schemas.joinfile import JoinFile
from schemas.names import CONTROL_PLANE_SERVER_NAME, ServiceRef
from schemas.questions import Answer
from schemas.records import Endpoint, SidecarStatus, TrustBundle
from spiffe.bundle import certificates
from trio_grpc import TLS, is_of_unknown_root

M = TypeVar("M", bound=Message)

CALL_SECONDS = 10.0  # for all replicas together: longer than an etcd leader election (2 s) on their side


@dataclass(frozen=True, slots=True)
class Registered:
    """`lease_id` holds the instance's keys; `revision` at which they were written.

    `liveness_lease_id` is the sidecar's to keep alive in etcd, within `ttl_seconds`.
    """

    lease_id: int
    liveness_lease_id: int
    ttl_seconds: int
    revision: int


class ReplicaClient:
    """Must be made inside a trio run; `use` gives it the identity that all calls but `join` need; `close` ends it.

    `fraction` yields random numbers in [0, 1): the replica that is asked first, so that sidecars spread.
    Every call raises Unavailable (no replica answered in time), Unauthenticated, PermissionDenied, InvalidInput,
    NotFound or Conflict; ``Unavailable.outcome_unknown`` tells that a replica may have acted all the same.
    """

    def __init__(self, *, fraction: Callable[[], float], server_name: str = CONTROL_PLANE_SERVER_NAME) -> None:
        self._fraction = fraction
        self._server_name = server_name
        self._replicas: Replicas | None = None

    def use(self, identity: Identity) -> None:
        """From now on call as `identity`, over new connections; calls in flight end on the old ones.

        Raises InvalidInput when `identity` trusts nobody or knows no replica.
        """
        tls = TLS(ca=_roots(identity.bundle, "identity"), cert=identity.chain_pem, key=identity.key_pem)
        before = self._replicas
        self._replicas = Replicas(identity.api_endpoints, tls, self._server_name, self._fraction())
        if before is not None:
            before.retire()

    def close(self) -> None:
        if self._replicas is not None:
            self._replicas.retire()
            self._replicas = None

    async def join(
        self,
        file: JoinFile,
        csr: bytes,
        etcd_csr: bytes,
        timeout: float = CALL_SECONDS,
        *,
        service: ServiceRef | None = None,
    ) -> mesh_pb2.IdentityReply:
        """With the join file's token; the replica is authenticated by the join file's trust bundle.

        service: which one, where the token is for several.
        """
        bundle = codec.decode(file.trust_bundle, TrustBundle, "trust bundle of the join file")
        replicas = Replicas(
            file.join_endpoints, TLS(ca=_roots(bundle, "join file")), self._server_name, self._fraction()
        )
        try:
            namespace, name = (service.namespace, service.name) if service else ("", "")
            request = mesh_pb2.JoinRequest(
                token=file.token, csr=csr, etcd_csr=etcd_csr, namespace=namespace, service=name
            )
            reply = await replicas.call("/mesh.v1.Identity/Join", request, timeout)
        except Unavailable as error:
            raise _explained(error, bundle) from error
        finally:
            replicas.retire()
        return _parse(mesh_pb2.IdentityReply(), reply, "Identity.Join")

    async def join_by_possession(
        self, file: JoinFile, host: HostCertificate, csr: bytes, etcd_csr: bytes, timeout: float = CALL_SECONDS
    ) -> mesh_pb2.IdentityReply:
        """With the host's certificate: a challenge, and its answer to the same replica."""
        bundle = codec.decode(file.trust_bundle, TrustBundle, "trust bundle of the join file")
        service = host.service

        def proof(nonce: bytes) -> mesh_pb2.JoinRequest:
            return mesh_pb2.JoinRequest(
                x509=host.proof(file.trust_domain, nonce, csr, etcd_csr),
                csr=csr,
                etcd_csr=etcd_csr,
                namespace=service.namespace,
                service=service.name,
            )

        return await self._prove(file.join_endpoints, bundle, "join file", proof, timeout)

    async def join_by_expired(
        self, identity: Identity, endpoints: Sequence[str], csr: bytes, etcd_csr: bytes, timeout: float = CALL_SECONDS
    ) -> mesh_pb2.IdentityReply:
        """With an SVID that ended while no replica could issue: a challenge, and its answer to the same replica.

        endpoints: of replicas, without a client certificate.
        """

        def proof(nonce: bytes) -> mesh_pb2.JoinRequest:
            return mesh_pb2.JoinRequest(
                expired=prove_expired(identity, nonce, csr, etcd_csr), csr=csr, etcd_csr=etcd_csr
            )

        return await self._prove(endpoints, identity.bundle, "identity", proof, timeout)

    async def _prove(
        self,
        endpoints: Sequence[str],
        bundle: TrustBundle,
        whose: str,
        proof: Callable[[bytes], mesh_pb2.JoinRequest],
        timeout: float,
    ) -> mesh_pb2.IdentityReply:
        """proof: the request that answers a challenge, by its nonce."""
        deadline, roots = trio.current_time() + timeout, _roots(bundle, whose)
        start = int(self._fraction() * len(endpoints))
        failures: list[str] = []
        for endpoint in (*endpoints[start:], *endpoints[:start]):
            left = deadline - trio.current_time()
            if left <= 0:
                break
            replica = Replicas((endpoint,), TLS(ca=roots), self._server_name, 0.0)
            try:
                return await _challenged(replica, proof, min(left, ATTEMPT_SECONDS))
            except Unavailable as error:
                failures.append(str(error))
            finally:
                replica.retire()
        raise _explained(Unavailable("; ".join(failures) or "no replica is known to join at"), bundle)

    async def renew(self, csr: bytes, etcd_csr: bytes, timeout: float = CALL_SECONDS) -> mesh_pb2.IdentityReply:
        request = mesh_pb2.RenewRequest(csr=csr, etcd_csr=etcd_csr)
        reply = await self._call("/mesh.v1.Identity/Renew", request, timeout)
        return _parse(mesh_pb2.IdentityReply(), reply, "Identity.Renew")

    async def issue_x509(self, csr: bytes, timeout: float = CALL_SECONDS) -> mesh_pb2.IssueX509Reply:
        """A further SVID of our own identity, for the key of `csr`."""
        reply = await self._call("/mesh.v1.Identity/IssueX509", mesh_pb2.IssueX509Request(csr=csr), timeout)
        return _parse(mesh_pb2.IssueX509Reply(), reply, "Identity.IssueX509")

    async def issue_jwt(self, audience: Sequence[str], timeout: float = CALL_SECONDS) -> mesh_pb2.IssueJwtReply:
        """A JWT-SVID of our own identity."""
        reply = await self._call("/mesh.v1.Identity/IssueJwt", mesh_pb2.IssueJwtRequest(audience=audience), timeout)
        return _parse(mesh_pb2.IssueJwtReply(), reply, "Identity.IssueJwt")

    async def register(
        self,
        instance: str,
        endpoint: Endpoint | None,
        status: SidecarStatus,
        ttl_seconds: int,
        lease_id: int = 0,
        timeout: float = CALL_SECONDS,
    ) -> Registered:
        """Write the instance (`endpoint` None: not to be discovered) and its status under a lease.

        `lease_id`: one got before, to take up again; 0: a new one. Raises NotFound when that lease has ended.
        """
        request = mesh_pb2.RegisterRequest(
            instance=instance,
            endpoint=codec.encode(endpoint) if endpoint else b"",
            status=codec.encode(status),
            ttl_seconds=ttl_seconds,
            lease_id=lease_id,
        )
        reply = _parse(
            mesh_pb2.RegisterReply(),
            await self._call("/mesh.v1.Sidecars/Register", request, timeout),
            "Sidecars.Register",
        )
        return Registered(reply.lease_id, reply.liveness_lease_id, reply.ttl_seconds, reply.revision)

    async def deregister(self, instance: str, lease_id: int, timeout: float = CALL_SECONDS) -> int:
        """Take the instance out of discovery; the revision at which that was written."""
        request = mesh_pb2.DeregisterRequest(instance=instance, lease_id=lease_id)
        reply = await self._call("/mesh.v1.Sidecars/Deregister", request, timeout)
        return int(_parse(mesh_pb2.DeregisterReply(), reply, "Sidecars.Deregister").revision)

    async def report(self, instance: str, lease_id: int, status: SidecarStatus, timeout: float = CALL_SECONDS) -> None:
        """Raises NotFound when the lease has ended: register again."""
        request = mesh_pb2.ReportRequest(instance=instance, lease_id=lease_id, status=codec.encode(status))
        await self._call("/mesh.v1.Sidecars/Report", request, timeout)

    async def answer(self, instance: str, question: str, answer: Answer, timeout: float = CALL_SECONDS) -> None:
        """Raises NotFound when nobody waits for it any more."""
        request = mesh_pb2.AnswerRequest(instance=instance, question=question, answer=codec.encode(answer))
        await self._call("/mesh.v1.Questions/Answer", request, timeout)

    async def _call(self, path: str, request: Message, timeout: float) -> bytes:
        if self._replicas is None:
            raise Unauthenticated("this sidecar has no identity yet: join first")
        return await self._replicas.call(path, request, timeout)


async def _challenged(
    replica: Replicas, proof: Callable[[bytes], mesh_pb2.JoinRequest], seconds: float
) -> mesh_pb2.IdentityReply:
    challenge = _parse(
        mesh_pb2.ChallengeReply(),
        await replica.call("/mesh.v1.Identity/Challenge", mesh_pb2.ChallengeRequest(), seconds),
        "Identity.Challenge",
    )
    reply = await replica.call("/mesh.v1.Identity/Join", proof(challenge.nonce), seconds)
    return _parse(mesh_pb2.IdentityReply(), reply, "Identity.Join")


def _explained(error: Unavailable, bundle: TrustBundle) -> Unavailable:
    """bundle: what the replica was judged by, the newest that join file and kept identity have."""
    if error.outcome_unknown or not is_of_unknown_root(str(error)):
        return error
    made = max(root.not_valid_before_utc for root in certificates(bundle))
    return Unavailable(
        f"{error}; the replica's certificate chains to no root that this host knows, by its join file or what it "
        f"keeps: the newest is that of trust bundle {bundle.sequence} of {bundle.trust_domain}, made {made:%Y-%m-%d}. "
        "The mesh's root was replaced since: make a new join file (`meshadm token create`, or `meshadm attestor "
        "join-file` for a host with a certificate of its own) and put it in the place of the old one"
    )


def _roots(bundle: TrustBundle, subject: str) -> bytes:
    """Never empty: gRPC would take the public authorities of the host instead."""
    roots = roots_pem(bundle)
    if not roots:
        raise InvalidInput(Problem(subject, "its trust bundle is empty", remedy="make a new join file"))
    return roots


def _parse(message: M, data: bytes, what: str) -> M:
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise Unavailable(f"a replica's answer to {what} can't be understood", outcome_unknown=True) from error
    return message
