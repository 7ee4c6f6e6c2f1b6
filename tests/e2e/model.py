"""Does an Envoy run what the compiler makes from scratch of what etcd holds? By Envoy's own ``/config_dump``."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from dataplane import config
from dataplane.compile.compiler import Compiler
from dataplane.compile.resources import ResourceKey
from dataplane.compile.workload import Credentials
from dataplane.identity.store import IdentityStore
from dataplane.inspection.differ import differences
from dataplane.inspection.running import modelled, running
from dataplane.snapshot.state import MeshState
from tests.e2e.mesh import KEYS, E2eMesh
from tests.states.build import listings

_SECONDS = 20.0


async def assert_runs_the_model(mesh: E2eMesh, *names: str) -> None:
    """Of each of the instances; waits a little for what is on its way. Private keys are not compared."""
    for name in names:
        deadline = time.monotonic() + _SECONDS
        while found := differences(await _running(mesh, name), await _model(mesh, name)):
            assert time.monotonic() < deadline, f"{name}: {chr(10).join(map(str, found))}"


async def _model(mesh: E2eMesh, name: str) -> dict[ResourceKey, Any]:
    instance = mesh.instances[name]
    async with mesh.etcd() as client:
        listing = await client.list(KEYS.data())
    state = MeshState(KEYS)
    revisions = {kv.key: kv.mod_revision for kv in listing.kvs}
    for one in listings({kv.key: kv.value for kv in listing.kvs}, listing.revision, revisions):
        state.apply(one)
    identity = IdentityStore(mesh.local.state_dir(instance)).load()
    assert identity is not None
    assert identity.spiffe_id.service is not None
    settings = config.load(mesh.local.settings_file(instance))
    workload = settings.workload(identity.spiffe_id.service, identity.spiffe_id.trust_domain)
    compiler = Compiler(workload, Credentials(identity.chain_pem, identity.key_pem), identity.bundle)
    compiler.rebuild(state)
    return modelled(compiler.resources())


async def _running(mesh: E2eMesh, name: str) -> Mapping[ResourceKey, Any]:
    return running(await mesh.admin(name).config_dump()).messages
