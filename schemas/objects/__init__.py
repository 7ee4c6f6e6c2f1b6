"""The objects that operators write, one module a kind. `KINDS` is the list that all else goes by."""

from schemas.objects.authorization import AuthorizationPolicy
from schemas.objects.common import API_VERSION, Metadata, Object, TargetRef
from schemas.objects.mesh import Mesh
from schemas.objects.service import Service
from schemas.objects.traffic import BackendTrafficPolicy

AnyObject = Mesh | Service | BackendTrafficPolicy | AuthorizationPolicy

KINDS: dict[str, type[AnyObject]] = {
    kind.__name__: kind for kind in (Mesh, Service, BackendTrafficPolicy, AuthorizationPolicy)
}

__all__ = [
    "API_VERSION", "KINDS", "AnyObject", "AuthorizationPolicy", "BackendTrafficPolicy", "Mesh", "Metadata", "Object",
    "Service", "TargetRef",
]  # fmt: skip
