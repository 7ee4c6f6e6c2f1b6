"""What a `TrustBundle` must hold beyond its schema, and what others share with it. Pure."""

from collections.abc import Iterator

from controlplane.domain.known import After
from schemas.errors import InvalidInput, Problem
from schemas.names import SYSTEM_NAMESPACE, ObjectRef, SpiffeId
from schemas.objects import ExternalService, Mesh, Service, TrustBundle
from schemas.objects.federation import BundleEndpoint
from spiffe.federation import check_authorities
from spiffe.jwks import InvalidBundle, decode
from spiffe.pem import holds_certificates

MESH_REF = ObjectRef("Mesh", SYSTEM_NAMESPACE, "mesh")


def rival(value: Service | ExternalService) -> ObjectRef:
    """What callers would name alike."""
    other = "ExternalService" if isinstance(value, Service) else "Service"
    return ObjectRef(other, value.metadata.namespace, value.metadata.name)


def rival_problems(value: Service | ExternalService, after: After, subject: str) -> Iterator[Problem]:
    other = after.get(rival(value))
    if other is not None:
        message = f"callers would name {other.ref} alike"
        yield Problem(subject, message, "$.metadata.name", "give one of the two another name")


def identity_problems(identity: str, path: str, subject: str) -> Iterator[Problem]:
    """Of what is to name one identity exactly."""
    try:
        parsed = SpiffeId.parse(identity)
    except InvalidInput as error:
        yield from (Problem(subject, problem.message, path, problem.remedy) for problem in error.problems)
        return
    if not parsed.path:
        yield Problem(subject, f"{identity!r} names a trust domain, not a workload", path, "name one identity")
    elif str(parsed) != identity:
        # Certificates carry the canonical form: another form would match nothing, and deny nothing.
        yield Problem(subject, f"{identity!r} is not in canonical form", path, f"write {parsed}")


# -- TrustBundle


def trust_bundle_problems(value: TrustBundle, after: After, subject: str) -> Iterator[Problem]:
    spec = value.spec
    if value.metadata.namespace != SYSTEM_NAMESPACE:  # else an editor of any namespace could have anybody trusted
        yield Problem(subject, "is not of a namespace", "$.metadata.namespace", "leave it out")
    mesh = after.get(MESH_REF)
    if isinstance(mesh, Mesh) and mesh.spec.trust_domain == spec.trust_domain:
        message = f"{spec.trust_domain} is this mesh itself: its bundle is made of its own CA's keys"
        yield Problem(subject, message, "$.spec.trustDomain", "name the other trust domain")
    for other in after:
        if isinstance(other, TrustBundle) and other.ref != value.ref and other.spec.trust_domain == spec.trust_domain:
            message = f"{other.ref} is of {spec.trust_domain} already, and bundles are never merged"
            yield Problem(subject, message, "$.spec.trustDomain", "change that object, or delete it")
    if spec.bundle is not None:
        try:
            check_authorities(decode(spec.bundle.encode(), "bundle"), spec.trust_domain)
        except InvalidBundle as error:
            for problem in error.problems:
                yield Problem(subject, f"{problem.path or '$'}: {problem.message}", "$.spec.bundle", problem.remedy)
    if spec.bundle_endpoint is not None:
        yield from _endpoint_problems(value, spec.bundle_endpoint, subject)
    elif spec.bundle is None:
        remedy = "give the bundle itself, or where it is published"
        yield Problem(subject, "neither bundle nor bundleEndpoint", "$.spec", remedy)


def _endpoint_problems(value: TrustBundle, endpoint: BundleEndpoint, subject: str) -> Iterator[Problem]:
    path = "$.spec.bundleEndpoint"
    if endpoint.profile == "https_web":
        if endpoint.endpoint_spiffe_id is not None:
            remedy = "leave it out, or write profile: https_spiffe"
            message = "a server of profile https_web proves its name, not an identity"
            yield Problem(subject, message, f"{path}.endpointSpiffeId", remedy)
        if endpoint.web_ca is not None and not holds_certificates(endpoint.web_ca):
            yield Problem(subject, "holds no PEM certificates", f"{path}.webCa", "paste the CA's certificate in PEM")
        return
    if endpoint.web_ca is not None:
        yield Problem(subject, "says nothing with profile https_spiffe", f"{path}.webCa", "leave it out")
    if endpoint.endpoint_spiffe_id is None:
        message = "profile https_spiffe needs the identity of the server"
        yield Problem(subject, message, f"{path}.endpointSpiffeId", "ask whoever runs it; never take it from the URL")
        return
    found = list(identity_problems(endpoint.endpoint_spiffe_id, f"{path}.endpointSpiffeId", subject))
    yield from found
    if not found and value.spec.bundle is None and value.endpoint_id.trust_domain == value.spec.trust_domain:  # type: ignore[union-attr]  # not None, as just seen
        message = "the first fetch by https_spiffe is verified by a bundle that is here already"
        remedy = "paste the other side's `meshadm bundle show`, got in a way that you trust"
        yield Problem(subject, message, "$.spec.bundle", remedy)
