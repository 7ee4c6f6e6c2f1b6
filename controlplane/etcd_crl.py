"""[edge] The file by which etcd refuses revoked sidecars' connections: written at each revocation, and every hour."""

import logging
from collections.abc import Sequence
from pathlib import Path

import trio

from controlplane import floor_file
from controlplane.api.issuing import Issuing
from controlplane.ca.etcd_revocation import revocation_list, revoked_serials
from controlplane.ca.sign import Issuer
from controlplane.log import event
from controlplane.revocations import Revocations
from schemas.errors import MeshError
from schemas.records import Revocation

# Long before the list says that it ends, so that an hour of trouble is nobody's outage.
RENEW_SECONDS = 3600.0
RETRY_SECONDS = 5.0
MODE = 0o644  # etcd runs as another user; serial numbers are no secret

logger = logging.getLogger(__name__)


async def keep_crl(path: Path, issuing: Issuing, revocations: Revocations) -> None:
    """For ever. etcd reads the file at each connection; what can't be written is said once, and tried again."""
    troubled = False
    while True:
        changed = revocations.changed_event
        now = issuing.now()
        try:
            authority = issuing.current_unfenced().authority
            await trio.to_thread.run_sync(_write, path, authority.etcd, revocations.records(), now)
            troubled = False
        except (MeshError, OSError) as error:
            if not troubled:
                event(logger, logging.ERROR, "can't write the list of revoked etcd clients", file=path, why=error)
            troubled = True
            await trio.sleep(RETRY_SECONDS)
            continue
        with trio.move_on_after(RENEW_SECONDS):
            await changed.wait()


def _write(path: Path, issuer: Issuer, records: Sequence[Revocation], now: float) -> None:
    """In a thread: for hundreds of identities it takes a second, and calls don't wait for it."""
    floor_file.replace(path, revocation_list(issuer, revoked_serials(records, now), now), MODE)
