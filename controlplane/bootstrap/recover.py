"""[edge] The CA of etcd's clients, out of etcd: to make a file again that was lost or is near its end."""

import os

import trio_etcd
from controlplane.bootstrap import etcd_access
from controlplane.bootstrap.layout import Layout, Pair, how_to_start_etcd
from controlplane.bootstrap.options import InitOptions
from controlplane.ca.keystore import read_kek
from controlplane.ca.seal import unseal_key
from controlplane.ca.sign import Issuer
from controlplane.ca.states import active_key
from schemas import codec
from schemas.errors import InvalidInput, Problem
from schemas.keys import Keyspace
from schemas.records import SealedKey


async def sealed_etcd_ca(options: InitOptions, layout: Layout) -> Issuer:
    """Read with the administrator's or the replica's certificate, whichever is there; opened with the kek.

    Raises InvalidInput when neither is, Unavailable, PermissionDenied, NoAuthority and Corrupt as `init` does.
    """
    for pair in (layout.root, layout.replica):
        if pair.certificate.exists() and pair.key.exists():
            return await _read(options, layout, pair)
    raise InvalidInput(
        Problem(
            f"{layout.root.certificate} and {layout.replica.certificate}",
            "are both missing, and one of them is needed to fetch the key of etcd's CA",
            remedy="restore one of them with its key, from a backup or from the host where `meshadm init` ran",
        )
    )


async def _read(options: InitOptions, layout: Layout, pair: Pair) -> Issuer:
    tls = trio_etcd.TLS(
        ca=layout.ca.certificate.read_bytes(), cert=pair.certificate.read_bytes(), key=pair.key.read_bytes()
    )
    keyspace = Keyspace(options.prefix)
    async with trio_etcd.open_etcd(options.etcd, tls=tls, timeout=options.etcd_timeout_seconds) as client:
        with etcd_access.translated(how_to_start_etcd(options, layout)):
            listing = await client.list(keyspace.ca())
    records = [codec.decode(one.value, SealedKey, one.key.decode()) for one in listing.kvs]
    return await unseal_key(active_key(records, "etcd-client"), read_kek(layout.kek, os.environ))
