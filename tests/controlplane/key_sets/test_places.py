"""What of etcd's content the places of keys are told by."""

from __future__ import annotations

import msgspec
import pytest

from controlplane.key_sets.places import Naming
from schemas import codec
from schemas.keys import Keyspace
from tests.states.build import authentication
from tests.support.garbage import UNREADABLE, with_field
from trio_etcd import Event, KeyValue, Listing, WatchBatch

KEYS = Keyspace()
NAMES = authentication("people", {"issuer": "https://one.example", "jwksUri": "https://one.example/keys"})
KEY = KEYS.object(NAMES.ref)


@pytest.mark.fault(19)
@pytest.mark.parametrize("garbage", UNREADABLE)
def test_an_object_with_garbage_in_it_counts_for_what_it_last_said(garbage: bytes) -> None:
    good = codec.encode(NAMES)
    naming = Naming(KEYS, lambda: None)
    naming.listed(Listing(7, (KeyValue(KEY, good, 7),)))
    named = dict(naming.by_place)
    bad = KeyValue(KEY, with_field(good, "x", msgspec.Raw(garbage)), 8)
    naming.changed(WatchBatch(8, (Event(bad),)))
    assert naming.by_place == named != {}
    assert "not MessagePack" in naming.unreadable[KEY]
    naming.listed(Listing(9, (KeyValue(KEY, good, 9),)))
    assert naming.unreadable == {}
