"""[edge] etcd's version without etcd's permission: its plain HTTP answer at /version, on the client port.

With authentication on, current etcd tells it over gRPC to the root user only (Maintenance.Status).
"""

import http.client
import json
import ssl
from dataclasses import dataclass

import trio

from schemas.errors import Unavailable

TIMEOUT_S = 5.0  # a read of a constant; more means that etcd does not serve at all


@dataclass(frozen=True, slots=True)
class Files:
    """Paths of PEM files: etcd's authority, and our certificate and key for etcd."""

    ca: str
    cert: str
    key: str


async def read_version(endpoint: str, files: Files) -> str:
    """As in ``3.5.33``. `endpoint` is host:port. Raises Unavailable."""
    return await trio.to_thread.run_sync(_read, endpoint, files)


def _read(endpoint: str, files: Files) -> str:
    try:
        context = ssl.create_default_context(cafile=files.ca)
        context.load_cert_chain(files.cert, files.key)
        connection = http.client.HTTPSConnection(endpoint, timeout=TIMEOUT_S, context=context)
        try:
            connection.request("GET", "/version")
            version = json.loads(connection.getresponse().read())["etcdserver"]
        finally:
            connection.close()
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
        raise Unavailable(f"etcd at {endpoint} does not tell its version: {error}") from error
    if not isinstance(version, str):
        raise Unavailable(f"etcd at {endpoint} does not tell its version")
    return version
