"""Each field of every kind, and each word of it, is in a state that has golden files, or it is told here why not."""

from __future__ import annotations

from collections.abc import Iterator

from dataplane.snapshot.reading import read
from schemas.errors import Corrupt
from schemas.names import ObjectRef
from schemas.objects import KINDS, AnyObject, Object
from tests.e2e.fields import fields_of, said_in
from tests.states.build import KEYS, State
from tests.states.examples import STATES

_OF_A_BACKEND = "a path is rewritten for a rule, not for one of its backends: replicas and sidecars refuse it"
_FETCHED = "replicas fetch the bundle, and put what they got under data/trust/"
WITHOUT_A_GOLDEN_FILE = {
    "GRPCRoute.rules.backendRefs.filters.urlRewrite.path": _OF_A_BACKEND,
    "HTTPRoute.rules.backendRefs.filters.urlRewrite.path": _OF_A_BACKEND,
    "Mesh.svidTtlSeconds": "the replicas' own: the CA goes by it",
    "Service.healthCheck": "the agent's own: it asks the app, and Envoy hears only of an instance that is gone",
    "TCPRoute.parentRefs.kind=Gateway": "a gateway's listeners take HTTP: such a route attaches nowhere",
    "TrustBundle.bundle": _FETCHED,
    "TrustBundle.bundleEndpoint": _FETCHED,
}
"""A path, with all below it -> why a sidecar's configuration doesn't go by it."""


def objects(state: State) -> Iterator[AnyObject]:
    """Those that can be read."""
    for key, value in state.values.items():
        ref = KEYS.parse(key)
        if isinstance(ref, ObjectRef):
            try:
                found = read(ref, value)
            except Corrupt:
                continue
            assert isinstance(found, Object)
            yield found


def test_no_field_is_left_out() -> None:
    said = {path for state in STATES for one in objects(state) for path in said_in(type(one).__name__, one.spec)}
    there_are = {path for kind in KINDS for path in fields_of(kind, KINDS[kind].__annotations__["spec"])}
    excepted = {path: exception(path) for path in there_are - said}
    assert not sorted(path for path, by in excepted.items() if by is None), "no state says them: add them to one"
    assert set(excepted.values()) == set(WITHOUT_A_GOLDEN_FILE), "a state says these, or there are no such fields"


def exception(path: str) -> str | None:
    return next((one for one in WITHOUT_A_GOLDEN_FILE if path == one or path.startswith((f"{one}.", f"{one}="))), None)
