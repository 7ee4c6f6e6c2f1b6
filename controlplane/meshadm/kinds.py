"""How people write a kind: ``Service``, ``services``, ``svc``. Pure."""

from schemas import checking
from schemas.errors import InvalidInput, Problem
from schemas.names import SYSTEM_NAMESPACE, ObjectRef, check_name
from schemas.objects import KINDS, MESH_WIDE

DEFAULT_NAMESPACE = "default"

SHORT_FORMS = {
    "Service": ("svc",),
    "HTTPRoute": ("http",),
    "GRPCRoute": ("grpc",),
    "TCPRoute": ("tcp",),
    "AuthorizationPolicy": ("authz",),
    "BackendTrafficPolicy": ("btp",),
    "RateLimitPolicy": ("rlp",),
    "RequestAuthentication": ("reqauth",),
    "PeerAuthentication": ("peerauth", "pa"),
    "Telemetry": ("tel",),
    "ExternalService": ("extsvc",),
    "Gateway": ("gtw",),
}


def plural(kind: str) -> str:
    """Lower case: ``authorizationpolicies``, ``meshes``."""
    word = kind.lower()
    if word.endswith("y") and not word.endswith(("ay", "ey", "oy")):
        return f"{word[:-1]}ies"
    return f"{word}es" if word.endswith(("sh", "ch", "s", "x")) else f"{word}s"


def words_of(kind: str) -> tuple[str, ...]:
    """All that stands for a kind, in lower case."""
    return (kind.lower(), plural(kind), *SHORT_FORMS.get(kind, ()))


_KIND_OF = {word: kind for kind in KINDS for word in words_of(kind)}


def kind_of(text: str) -> str:
    """Raises InvalidInput with the nearest word."""
    kind = _KIND_OF.get(text.lower())
    if kind is None:
        raise InvalidInput(Problem(f"kind {text!r}", "unknown", remedy=checking.nearest(text.lower(), _KIND_OF)))
    return kind


def is_namespaced(kind: str) -> bool:
    return kind not in MESH_WIDE


def ref_of(kind: str, namespace: str, name: str) -> ObjectRef:
    """`kind` in its full form. What is of no namespace lives in the mesh's own. Raises InvalidInput."""
    where = check_name(namespace, "namespace") if is_namespaced(kind) else SYSTEM_NAMESPACE
    return ObjectRef(kind, where, check_name(name, "name"))
