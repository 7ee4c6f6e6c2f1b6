"""How many leases are too many, and what is said of it, once."""

from __future__ import annotations

import pytest

from controlplane.store.boards import StatusBoard
from controlplane.store.etcd import Store
from controlplane.store.lease_alarm import LEASES_PER_SIDECAR, LeaseAlarm
from schemas.keys import Keyspace, StatusRef
from trio_etcd import KeyValue, Listing

KEYS = Keyspace()


class Counted(Store):
    """An etcd that holds `leases`; None: more than can be listed."""

    leases: int | None = 0

    def __init__(self) -> None:
        pass

    async def count_leases(self) -> int | None:
        return self.leases


def board(sidecars: int) -> StatusBoard:
    result = StatusBoard(KEYS)
    keys = [KEYS.status(StatusRef("shop", f"orders.o{number}")) for number in range(sidecars)]
    result.listed(Listing(1, tuple(KeyValue(key, b"", 1, 1, 1, 0) for key in keys)))
    return result


async def test_from_twice_of_what_sidecars_need_and_the_spare_on(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    etcd = Counted()
    alarm = LeaseAlarm(etcd, board(3), spare=10)
    etcd.leases = 3 * LEASES_PER_SIDECAR + 10
    await alarm.look()
    assert (alarm.text, caplog.messages) == (None, [])
    for etcd.leases, said in ((23, "23 leases, and 3 sidecars need at most 22"), (None, "more leases than can be")):
        await alarm.look()
        assert said in (alarm.text or "")
    etcd.leases = 22
    await alarm.look()
    assert alarm.text is None
    assert caplog.messages == ["etcd is flooded with leases", "etcd is flooded with leases no more"]
