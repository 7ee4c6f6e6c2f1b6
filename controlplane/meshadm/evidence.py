"""[edge] What a verdict about calls to one service is made of, as a replica has it, now or at a past revision."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from authz.judge import Request, Verdict, judge
from authz.peers import mode_of
from authz.rules import PortRules, port_rules
from authz.stored import check_understood
from controlplane.meshadm import output
from controlplane.meshadm.authz_cases import caller_of
from controlplane.meshadm.client import MeshClient
from controlplane.meshadm.table import printable
from schemas import codec
from schemas.api import mesh_pb2 as pb
from schemas.errors import Corrupt, InvalidInput, NotFound, Problem
from schemas.names import SYSTEM_NAMESPACE, ObjectRef, ServiceRef, SpiffeId
from schemas.objects import AuthorizationPolicy, Mesh, PeerAuthentication, RequestAuthentication, Service
from schemas.objects.service import ServicePort
from schemas.records import Revocation

_KINDS = AuthorizationPolicy | PeerAuthentication | RequestAuthentication


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
            plaintext=mode_of(self.to, port.port, self.modes, self.unreadable).permissive,
            mesh=self.mesh,
        )

    def caller(self, text: str) -> SpiffeId | None:
        """``NAME.NAMESPACE`` of the own trust domain, a SPIFFE ID, or ``plaintext``, which is nobody."""
        return caller_of(text, self.trust_domain)


async def evidence(client: MeshClient, to: ServiceRef, revision: int = 0) -> Evidence:
    """revision: of the past, 0: now. As a sidecar reads it that starts then. Raises NotFound where there is no such
    service, or etcd does not keep that revision any more."""
    service = await _object(client, ObjectRef(Service.__name__, to.namespace, to.name), revision)
    mesh = await _object(client, ObjectRef(Mesh.__name__, SYSTEM_NAMESPACE, "mesh"), revision)
    if not isinstance(service, Service) or not isinstance(mesh, Mesh):
        raise AssertionError("a replica answered with an object of another kind")
    policies, unreadable, revisions, seen = await _policies(client, to.namespace, revision)
    return Evidence(
        service=service,
        trust_domain=mesh.spec.trust_domain,
        revision=revision or seen,
        policies=tuple(one for one in policies if isinstance(one, AuthorizationPolicy)),
        modes=tuple(one for one in policies if isinstance(one, PeerAuthentication)),
        unreadable=tuple(unreadable),
        revoked=tuple(await _revoked(client, revision)),
        trusted=await _trusted(client),
        mesh=mesh,
        revisions=revisions,
    )


async def _object(client: MeshClient, ref: ObjectRef, revision: int) -> object:
    key = pb.ObjectKey(kind=ref.kind, namespace=ref.namespace, name=ref.name)
    stored = await client.call("/mesh.v1.Config/Get", pb.GetRequest(key=key, revision=revision), pb.StoredObject)
    return codec.decode_object(stored.value, ref.kind, str(ref))


async def _policies(
    client: MeshClient, namespace: str, revision: int
) -> tuple[list[AuthorizationPolicy | PeerAuthentication], list[ObjectRef], dict[ObjectRef, int], int]:
    """Those of a namespace and of the mesh, and which can't be read (RequestAuthentications too): as a sidecar reads
    them that starts then. The revision of each policy, and of the list."""
    found: list[AuthorizationPolicy | PeerAuthentication] = []
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
            if not isinstance(policy, _KINDS) or policy.ref != ref:
                raise Corrupt(Problem(str(ref), f"the key holds {policy.ref}", "$.metadata", "delete the key"))
            check_understood(policy, one.value, str(ref))
        except Corrupt as error:
            output.notice(printable(f"can't be read: {error}"))
            unreadable.append(ref)
        else:
            if not isinstance(policy, RequestAuthentication):
                found.append(policy)
    return found, unreadable, revisions, min(reply.revision for reply in replies)


async def _list(client: MeshClient, kind: str, namespace: str, revision: int) -> pb.ListReply:
    request = pb.ListRequest(kind=kind, namespace=namespace, revision=revision)
    return await client.call("/mesh.v1.Config/List", request, pb.ListReply)


async def _revoked(client: MeshClient, revision: int) -> list[ServiceRef]:
    request = pb.ListRevocationsRequest(revision=revision)
    reply = await client.call("/mesh.v1.Revocations/List", request, pb.ListRevocationsReply)
    records = [codec.decode(value, Revocation, "a revocation") for value in reply.revocations]
    return [ServiceRef(one.namespace, one.service) for one in records if one.revoked]


async def _trusted(client: MeshClient) -> frozenset[str]:
    """The trust domains that an object federates with and that have a bundle with an authority."""
    reply = await client.call("/mesh.v1.Federation/Status", pb.FederationStatusRequest(), pb.FederationStatusReply)
    return frozenset(one.trust_domain for one in reply.domains if one.objects and one.x509_authorities)
