"""What the compiler gives: xDS resources by type and name, each with the hash of its content as its version."""

import hashlib
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
ENDPOINTS = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
EXTENSION = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig"
"""A filter that is delivered apart from its listener, by Envoy's extension config discovery."""
LISTENER = "type.googleapis.com/envoy.config.listener.v3.Listener"
ROUTES = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
RUNTIME = "type.googleapis.com/envoy.service.runtime.v3.Runtime"
SECRET = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"  # noqa: S105  (a type's name)


class Message(Protocol):
    """A protobuf message, as far as we need one."""

    def SerializeToString(self, *, deterministic: bool = ...) -> bytes: ...  # noqa: N802  (protobuf's name)


class ResourceKey(NamedTuple):
    type_url: str
    name: str


@dataclass(frozen=True, slots=True)
class Resource:
    """One xDS resource, serialized. Equal version means equal bytes."""

    key: ResourceKey
    version: str
    body: bytes = field(repr=False)  # a Secret's body holds a private key

    @classmethod
    def of(cls, type_url: str, name: str, message: Message) -> "Resource":
        body = message.SerializeToString(deterministic=True)
        return cls(ResourceKey(type_url, name), hashlib.blake2b(body, digest_size=8).hexdigest(), body)


@dataclass(frozen=True, slots=True)
class Update:
    """What changed between two states of the configuration: the step from the one before to `revision`."""

    revision: int
    """The etcd revision whose every consequence this update completes."""
    changed: tuple[Resource, ...] = ()
    removed: tuple[ResourceKey, ...] = ()

    def then(self, later: "Update") -> "Update":
        """Both steps as one."""
        changed = {one.key: one for one in self.changed if one.key not in later.removed}
        changed |= {one.key: one for one in later.changed}
        removed = dict.fromkeys((*(key for key in self.removed if key not in changed), *later.removed))
        return Update(later.revision, tuple(changed.values()), tuple(removed))
