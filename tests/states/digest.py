"""All that is compiled for the example states, in one number."""

from __future__ import annotations

import hashlib

from tests.states.build import compiled, mesh_of
from tests.states.examples import STATES


def digest_of_all() -> str:
    digest = hashlib.sha256()
    for state in STATES:
        compiler = compiled(state.workload, mesh_of(state.values), learnt=state.learnt)
        for key, resource in sorted(compiler.resources().items()):
            digest.update(repr(key).encode() + resource.body)
    return digest.hexdigest()
