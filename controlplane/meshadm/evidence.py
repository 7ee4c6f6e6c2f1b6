"""[edge] What a verdict about calls to one service is made of, as a replica has it, now or at a past revision."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from authz.judge import Outcome, Reason, Request, Verdict, judge
from authz.key_sources import keys_in_force
from authz.peers import mode_of
from authz.rules import MESH, PortRules, port_rules
from authz.stored import check_understood
from authz.tokens import applies as proves
from authz.verify import Refusal, verify
from controlplane.meshadm import output
from controlplane.meshadm.authz_cases import caller_of
from controlplane.meshadm.client import MeshClient
from controlplane.meshadm.table import printable
from schemas import codec
from schemas.api import mesh_pb2 as pb
from schemas.errors import Corrupt, InvalidInput, NotFound, Problem
from schemas.key_sets import place
from schemas.keys import KeySetRef
from schemas.names import SYSTEM_NAMESPACE, ObjectRef, ServiceRef, SpiffeId
from schemas.objects import AuthorizationPolicy, Mesh, PeerAuthentication, RequestAuthentication, Service
from schemas.objects.service import ServicePort
from schemas.records import Revocation

_Policy = AuthorizationPolicy | PeerAuthentication | RequestAuthentication


@dataclass(frozen=True, slots=True)
class Evidence:
    """revision: of etcd, at which policies and revocations were read; `revisions`: of each policy, its own."""

    service: Service
    trust_domain: str
    revision: int
    policies: tuple[AuthorizationPolicy, ...]
    unreadable: tuple[ObjectRef, ...]
    revoked: tuple[ServiceRef, ...]
    trusted: frozenset[str]
    """Trust domains that are federated with now: of them etcd's past is not asked."""
    modes: tuple[PeerAuthentication, ...] = ()
    mesh: Mesh | None = None
    authentications: tuple[RequestAuthentication, ...] = ()
    """Of the service's namespace."""
    key_sets: Mapping[KeySetRef, str] = field(default_factory=dict)
    """Keys that replicas have fetched, as they are now."""
    revisions: Mapping[ObjectRef, int] = field(default_factory=dict)

    @property
    def to(self) -> ServiceRef:
        return ServiceRef(self.service.metadata.namespace, self.service.metadata.name)

    def port(self, number: int | None) -> ServicePort:
        """None: the only one. Raises NotFound, InvalidInput."""
        ports = self.service.spec.ports
        found = [one for one in ports if number in (None, one.port)]
        if not found:
            raise NotFound(
                f"{self.service.ref} has no port {number}: it has {', '.join(str(one.port) for one in ports)}"
            )
        if len(found) > 1:
            remedy = f"name one with --port: {', '.join(str(one.port) for one in ports)}"
            raise InvalidInput(Problem(str(self.service.ref), "has several ports", remedy=remedy))
        return found[0]

    def verdict(self, number: int | None, request: Request) -> Verdict:
        """number: of the port, as for `port`."""
        port = self.port(number)
        return judge(self.rules(port, self.policies), port, request)

    def rules(
        self, port: ServicePort, policies: Iterable[AuthorizationPolicy], written: Collection[ObjectRef] = ()
    ) -> PortRules:
        """As they would be with these policies. written: those that are anew, and so are not unreadable any more."""
        return port_rules(
            self.to,
            port,
            policies,
            trust_domain=self.trust_domain,
            is_trusted=self.trusted.__contains__,
            unreadable=[
                one for one in self.unreadable if one.kind != PeerAuthentication.__name__ and one not in written
            ],
            revoked=self.revoked,
            plaintext=self.takes_plaintext(port),
            mesh=self.mesh,
        )

    def takes_plaintext(self, port: ServicePort) -> bool:
        return mode_of(self.to, port.port, self.modes, self.unreadable).permissive

    def proved(self, token: str, now: float) -> dict[str, Any] | Refusal | None:
        """The claims of a token that stands where its issuer's rule looks for it, or what the sidecar answers at a port
        of HTTP; None: nobody looks for tokens. now: seconds since 1970."""
        mine = (one for one in self.authentications if proves(one, self.to))
        rules = [rule for one in mine for rule in one.spec.jwt_rules]
        return verify(token, ((rule, keys_in_force(rule, self.key_sets.get)) for rule in rules), now) if rules else None

    def with_token(self, verdict: Verdict, token: dict[str, Any] | Refusal | None, port: ServicePort) -> Verdict:
        """`verdict`, but where a bad token is answered before any policy is asked."""
        if not isinstance(token, Refusal) or port.protocol == "tcp":
            return verdict
        if verdict.reason in (Reason.NOT_ADMITTED, Reason.PLAINTEXT, Reason.MALFORMED):
            return verdict
        return Verdict(Outcome.REFUSED, Reason.BAD_TOKEN, path=verdict.path, detail=f"{token.status}: {token.says}")

    def caller(self, text: str) -> SpiffeId | None:
        """``NAME.NAMESPACE`` of the own trust domain, a SPIFFE ID, or ``plaintext``, which is nobody."""
        return caller_of(text, self.trust_domain)


async def evidence(client: MeshClient, to: ServiceRef, revision: int = 0, *, with_keys: bool = False) -> Evidence:
    """As a sidecar reads it that starts then. revision: of the past, 0: now. with_keys: those that replicas fetched
    too. Raises NotFound where there is no such service, or etcd does not keep that revision any more."""
    service, _ = await _object(client, ObjectRef(Service.__name__, to.namespace, to.name), revision)
    mesh, stored = await _object(client, MESH, revision)
    if not isinstance(service, Service) or not isinstance(mesh, Mesh):
        raise AssertionError("a replica answered with an object of another kind")
    policies, unreadable, revisions, seen = await _policies(client, to.namespace, revision)
    return Evidence(
        service=service,
        trust_domain=mesh.spec.trust_domain,
        revision=revision or seen,
        policies=tuple(one for one in policies if isinstance(one, AuthorizationPolicy)),
        modes=tuple(one for one in policies if isinstance(one, PeerAuthentication)),
        authentications=tuple(one for one in policies if isinstance(one, RequestAuthentication)),
        key_sets=await _key_sets(client, to.namespace) if with_keys else {},
        unreadable=tuple(unreadable),
        revoked=tuple(await _revoked(client, revision)),
        trusted=await _trusted(client),
        mesh=_understood(mesh, stored),
        revisions=revisions,
    )


def _understood(mesh: Mesh, stored: bytes) -> Mesh | None:
    """None: what it says of who is let in is not for this version to say."""
    try:
        check_understood(mesh, stored, str(MESH))
    except Corrupt as error:
        output.notice(printable(f"can't be read: {error}"))
        return None
    return mesh


async def _object(client: MeshClient, ref: ObjectRef, revision: int) -> tuple[object, bytes]:
    key = pb.ObjectKey(kind=ref.kind, namespace=ref.namespace, name=ref.name)
    stored = await client.call("/mesh.v1.Config/Get", pb.GetRequest(key=key, revision=revision), pb.StoredObject)
    return codec.decode_object(stored.value, ref.kind, str(ref)), stored.value


async def _policies(
    client: MeshClient, namespace: str, revision: int
) -> tuple[list[_Policy], list[ObjectRef], dict[ObjectRef, int], int]:
    """Those of a namespace and of the mesh, and which can't be read: as a sidecar reads them that starts then. The
    revision of each policy, and of the list."""
    found: list[_Policy] = []
    unreadable: list[ObjectRef] = []
    replies: list[pb.ListReply] = []
    for one_namespace in dict.fromkeys((namespace, SYSTEM_NAMESPACE)):
        for kind in (AuthorizationPolicy, PeerAuthentication):
            replies.append(await _list(client, kind.__name__, one_namespace, revision))
    replies.append(await _list(client, RequestAuthentication.__name__, namespace, revision))
    revisions: dict[ObjectRef, int] = {}
    for one in (each for reply in replies for each in reply.objects):
        ref = ObjectRef(one.key.kind, one.key.namespace, one.key.name)
        revisions[ref] = one.revision
        try:
            policy = codec.decode_object(one.value, ref.kind, str(ref))
            if not isinstance(policy, _Policy) or policy.ref != ref:
                raise Corrupt(Problem(str(ref), f"the key holds {policy.ref}", "$.metadata", "delete the key"))
            check_understood(policy, one.value, str(ref))
        except Corrupt as error:
            output.notice(printable(f"can't be read: {error}"))
            unreadable.append(ref)
        else:
            found.append(policy)
    return found, unreadable, revisions, min(reply.revision for reply in replies)


async def _list(client: MeshClient, kind: str, namespace: str, revision: int) -> pb.ListReply:
    request = pb.ListRequest(kind=kind, namespace=namespace, revision=revision)
    return await client.call("/mesh.v1.Config/List", request, pb.ListReply)


async def _key_sets(client: MeshClient, namespace: str) -> dict[KeySetRef, str]:
    request = pb.KeySetsRequest(namespace=namespace, with_keys=True)
    reply = await client.call("/mesh.v1.KeySets/Status", request, pb.KeySetsReply)
    return {place(one.uri, one.ca_sha256): one.jwks for one in reply.key_sets if one.keys}


async def _revoked(client: MeshClient, revision: int) -> list[ServiceRef]:
    request = pb.ListRevocationsRequest(revision=revision)
    reply = await client.call("/mesh.v1.Revocations/List", request, pb.ListRevocationsReply)
    records = [codec.decode(value, Revocation, "a revocation") for value in reply.revocations]
    return [ServiceRef(one.namespace, one.service) for one in records if one.revoked]


async def _trusted(client: MeshClient) -> frozenset[str]:
    """The trust domains that an object federates with and that have a bundle with an authority."""
    reply = await client.call("/mesh.v1.Federation/Status", pb.FederationStatusRequest(), pb.FederationStatusReply)
    return frozenset(one.trust_domain for one in reply.domains if one.objects and one.x509_authorities)
