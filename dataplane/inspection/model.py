"""[edge] The model of a sidecar from its own files: what was last saved, compiled from scratch.

It needs nobody alive: neither the agent, nor Envoy, nor etcd. What it makes is what the agent made by increments, or
something is wrong with the agent.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path

from dataplane import lastgood, status
from dataplane.certificates.store import PairStore
from dataplane.compile.compiler import Compiler
from dataplane.compile.workload import Credentials
from dataplane.config import SidecarSettings
from dataplane.identity.store import IdentityStore
from dataplane.snapshot.state import MeshState
from schemas.errors import NotFound


@dataclass(frozen=True, slots=True)
class Model:
    state: MeshState
    compiler: Compiler
    saved: int
    """Seconds since 1970."""


def load(settings: SidecarSettings, last_good: Path) -> Model:
    """Raises NotFound where nothing was saved yet, UnacceptableIdentity, and Unavailable when the disk refuses."""
    directory = Path(settings.state_dir)
    identity = IdentityStore(directory).load()
    if identity is None or identity.spiffe_id.service is None:
        raise NotFound(f"no identity in {directory}: this sidecar has not joined, or runs as another user")
    saved = lastgood.read_file(last_good)
    if saved is None or saved.prefix != identity.key_prefix:
        raise NotFound(f"no state in {last_good}: this sidecar has had no configuration yet; see its log")
    state = lastgood.restore(saved)
    workload = settings.workload(identity.spiffe_id.service, identity.spiffe_id.trust_domain)
    workload = replace(workload, ends_open=status.last_ends_open(settings.status_file))
    credentials = Credentials(identity.chain_pem, identity.key_pem)
    compiler = Compiler(workload, credentials, identity.bundle, dict.fromkeys(saved.learnt, True))
    compiler.expired = time.time() >= identity.expires  # then it is to run nothing but its closed doors
    compiler.rebuild(state)
    store = PairStore(directory / "certificates")
    pairs = {files: pair for files in compiler.certificates_wanted if (pair := store.pair(files)) is not None}
    compiler.set_certificates(state, pairs)
    return Model(state, compiler, saved.saved)
