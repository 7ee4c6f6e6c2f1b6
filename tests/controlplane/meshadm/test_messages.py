from __future__ import annotations

from controlplane.meshadm.messages import plain
from schemas.api import mesh_pb2 as pb


def test_numbers_are_numbers_however_deep_and_the_defaults_too() -> None:
    found = plain(pb.AuthorityStatus(bundle_sequence=7, keys=[pb.CaKey(id="k", not_after=2**40), pb.CaKey()]))
    assert found["bundleSequence"] == 7
    assert [(one["id"], one["notBefore"], one["notAfter"]) for one in found["keys"]] == [("k", 0, 2**40), ("", 0, 0)]
    assert plain(pb.KeySetsReply(key_sets=[pb.KeySet(tried=3, keys=2)]))["keySets"][0]["tried"] == 3
