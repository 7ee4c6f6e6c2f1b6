"""What all objects share: base classes, metadata, field types with their constraints."""

from typing import Annotated, Literal

import msgspec

from schemas.names import NAME_EXPECTED, NAME_PATTERN, SYSTEM_NAMESPACE, ObjectRef

API_VERSION = "mesh/v1"

Name = Annotated[str, msgspec.Meta(pattern=f"^{NAME_PATTERN}\\Z", description=f"a name of {NAME_EXPECTED}")]
Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
TrustDomain = Annotated[
    str, msgspec.Meta(pattern=r"^[a-z0-9._-]{1,255}\Z", description="1 to 255 of a-z, 0-9, '.', '_' and '-'")
]
# 256 bytes: labels and annotations are copied into every sidecar that depends on the object.
Label = Annotated[str, msgspec.Meta(max_length=256)]


class Part(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """A part of an object. Defaults are not stored: a field added later leaves old values' bytes as they were."""


class Metadata(Part, frozen=True, kw_only=True):
    name: Name
    namespace: Name = "default"
    labels: dict[Label, Label] = {}
    annotations: dict[Label, str] = {}
    revision: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] = 0  # etcd's revisions are of 64 bits
    """etcd's mod revision. Given on a write: apply only if the object is still at it. Never stored."""


class Object(msgspec.Struct, frozen=True, kw_only=True, rename="camel", tag_field="kind"):
    """An object of the desired state. `apiVersion` and `kind` are in each stored value."""

    api_version: Literal["mesh/v1"]
    metadata: Metadata

    @property
    def kind(self) -> str:
        return type(self).__name__

    @property
    def ref(self) -> ObjectRef:
        return ObjectRef(self.kind, self.metadata.namespace, self.metadata.name)


# Below the directory that the host's settings name: no object can ask for any other file of a host.
CertificatePath = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[A-Za-z0-9_*-][A-Za-z0-9._*@+-]*(/[A-Za-z0-9_*-][A-Za-z0-9._*@+-]*)*\Z",
        max_length=512,
        description="a relative path, none of whose parts begins with '.'",
    ),
]


class CertificateFiles(Part, frozen=True, kw_only=True, order=True):
    """PEM files of a sidecar's host, below `certificateDir` of its settings. They may be replaced at any time."""

    certificate: CertificatePath
    """The leaf first, then its intermediates."""
    key: CertificatePath
    """Not encrypted."""

    def __str__(self) -> str:
        return f"{self.certificate} with {self.key}"


class TargetRef(Part, frozen=True, kw_only=True):
    """What a policy attaches to, in the policy's own namespace (Gateway API: LocalPolicyTargetReference)."""

    kind: Literal["Service"] = "Service"
    name: Name


__all__ = [
    "API_VERSION",
    "SYSTEM_NAMESPACE",
    "CertificateFiles",
    "Label",
    "Metadata",
    "Name",
    "Object",
    "Part",
    "Port",
    "TargetRef",
    "TrustDomain",
]
