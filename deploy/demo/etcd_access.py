"""What the etcd credential of a sidecar is good for, tried out as a thief of its disk would."""

from pathlib import Path

from dataplane.identity.store import IdentityStore
from schemas.keys import Keyspace
from trio_etcd import TLS, Client, EtcdError, Get, PermissionDenied, Put, open_etcd


async def what_a_sidecar_may(state_dir: Path) -> tuple[bool, bool]:
    """(it reads data/, it is refused everything else that was tried)."""
    identity = IdentityStore(state_dir).load()
    if identity is None:
        return False, False
    keys = Keyspace(identity.key_prefix)
    etcd = identity.etcd
    async with open_etcd(etcd.endpoints, tls=TLS(etcd.ca_pem, etcd.cert_pem, etcd.key_pem)) as client:
        reads = bool((await client.list(keys.data())).kvs)
        refused = [
            await _refused(client, Get.prefix(keys.control())),
            await _refused(client, Get.prefix(b"")),
            await _refused(client, Put(keys.data() + b"intruder", b"x")),
            await _refused(client, Put(keys.trust_bundle(identity.spiffe_id.trust_domain), b"x")),
        ]
    return reads, all(refused)


async def _refused(client: Client, operation: Get | Put) -> bool:
    try:
        await client.txn([], [operation])
    except PermissionDenied:
        return True
    except EtcdError:
        return False
    return False
