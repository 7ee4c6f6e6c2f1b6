"""Where a piece of configuration came from, as metadata of the namespace ``mesh`` that access logs and people can read.

A stamp is the etcd revision of the newest object that something was compiled from. It stands only where a change of
such an object makes the resource anew in any case: not in listeners, which would drain their connections for it.
"""

from collections.abc import Iterable, Mapping

from envoy.config.core.v3 import base_pb2

from dataplane.snapshot.state import MeshState
from schemas.objects import Object

NAMESPACE = "mesh"


def stamp(metadata: base_pb2.Metadata, **values: str | int | Mapping[str, str]) -> None:
    """Add `values` to what is there."""
    metadata.filter_metadata[NAMESPACE].update(values)


def newest(state: MeshState, objects: Iterable[Object | None]) -> int:
    """The newest mod revision of those that exist; 0 where none does."""
    return max((state.revision_of(one.ref) for one in objects if one is not None), default=0)


def source_of(state: MeshState, one: Object) -> str:
    """``BackendTrafficPolicy/shop/spread@1234``."""
    return f"{one.ref.kind}/{one.ref.namespace}/{one.ref.name}@{state.revision_of(one.ref)}"
