"""The objects that operators write, one module a kind. `KINDS` is the list that all else goes by."""

from schemas.objects.authorization import AuthorizationPolicy
from schemas.objects.common import API_VERSION, Metadata, Object, TargetRef
from schemas.objects.external import ExternalService
from schemas.objects.federation import TrustBundle
from schemas.objects.mesh import Mesh
from schemas.objects.service import Service
from schemas.objects.traffic import BackendTrafficPolicy

AnyObject = Mesh | Service | BackendTrafficPolicy | AuthorizationPolicy | ExternalService | TrustBundle

KINDS: dict[str, type[AnyObject]] = {
    kind.__name__: kind
    for kind in (Mesh, Service, BackendTrafficPolicy, AuthorizationPolicy, ExternalService, TrustBundle)
}

MESH_WIDE = frozenset({Mesh.__name__, TrustBundle.__name__})
"""Kinds of no namespace: they are stored in the mesh's own."""

__all__ = [
    "API_VERSION", "KINDS", "MESH_WIDE", "AnyObject", "AuthorizationPolicy", "BackendTrafficPolicy", "ExternalService",
    "Mesh", "Metadata", "Object", "Service", "TargetRef", "TrustBundle",
]  # fmt: skip
