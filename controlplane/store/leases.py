"""[edge] A sidecar's life in etcd: a pair of leases, of which it keeps one alive and the other one holds its keys.

Current etcd lets nobody renew a lease who may not write every key under it, and a sidecar may write none. So it renews
a lease without keys, its *pulse*. Its endpoint and status lie under the *hold*, which lasts until a replica finds the
pulse gone and revokes it: all keys at once, by etcd itself. With every replica dead nobody is thrown out of discovery;
callers get past an instance that does not answer by trying another.
"""

import os

from controlplane.store.etcd import Store

# Seconds: 30 days. So long may all replicas be away before instances that live leave discovery.
HOLD_SECONDS = 30 * 24 * 3600
# Seconds from the foretold end of a pulse to the look whether it has ended; etcd expires leases each 0.5 s.
AFTER_END_S = 0.6


def pulse_of(hold: int) -> int:
    """The lease without keys that belongs to a hold: the pair differs in its last bit."""
    return hold | 1


async def grant_pair(store: Store, ttl: int) -> int:
    """A new pair: the hold's id. The pulse lives `ttl` seconds unless it is renewed."""
    hold = int.from_bytes(os.urandom(8)) >> 2 << 1  # positive for etcd's int64, and even
    await store.grant_lease(ttl, lease_id=pulse_of(hold))
    return await store.grant_lease(HOLD_SECONDS, lease_id=hold)
