"""The mesh issues with another key: a sidecar renews soon, and takes nothing that it knows to be out of date."""

from __future__ import annotations

import msgspec
import pytest

from dataplane.identity import renewal
from dataplane.identity.renewal import Attempts, Validity
from schemas import codec
from schemas.api import mesh_pb2
from schemas.records import TrustBundle
from spiffe.bundle import record
from spiffe.key_ids import subject_key_id
from tests.dataplane.identity.fake_replica import TRUST_DOMAIN, Mesh
from tests.dataplane.identity.host import Host
from tests.support.net import eventually

HOUR = 3600


def bundle(mesh: Mesh, sequence: int, issuing_key_id: str) -> TrustBundle:
    made = record(TRUST_DOMAIN, [mesh.root.certificate], sequence)
    return msgspec.structs.replace(made, issuing_key_id=issuing_key_id)


def test_it_hurries_within_a_sixtieth_of_the_lifetime() -> None:
    validity = Validity(1000, 1000 + HOUR)
    assert renewal.hurry_at(validity, 1100, 0.0) == 1100
    assert renewal.hurry_at(validity, 1100, 1.0) == 1160
    assert renewal.hurry_at(Validity(1000, 1000 + 7 * 24 * HOUR), 1100, 1.0) == 1160
    assert renewal.decide(validity, Attempts(), 1100, 0.5).wait > 0
    assert renewal.decide(validity, Attempts(), 1100, 0.5, hurry=1100).renew
    assert not renewal.decide(validity, Attempts(1, 1100), 1100, 0.5, hurry=1100).renew, "failures wait all the same"


@pytest.mark.fault(14)
async def test_a_bundle_that_names_another_issuer_makes_it_renew(host: Host) -> None:
    mesh = host.replica.mesh
    host.replica.lifetime = 60  # so that it hurries within a second
    async with host.keeping() as keeper:
        first = keeper.current
        assert first is not None
        # The same key as before is no reason.
        await keeper.adopt_bundle(bundle(mesh, 2, first.issuer))
        assert host.replica.calls == ["join"]
        mesh.issuing = mesh.root.intermediate("mesh issuing 2")
        assert first.issuer != subject_key_id(mesh.issuing.certificate)

        def say_so(reply: mesh_pb2.IdentityReply) -> mesh_pb2.IdentityReply:
            reply.trust_bundle = codec.encode(bundle(mesh, 3, subject_key_id(mesh.issuing.certificate)))
            return reply

        host.replica.spoil = say_so
        await keeper.adopt_bundle(bundle(mesh, 3, subject_key_id(mesh.issuing.certificate)))
        await eventually("it renews", lambda: "renew" in host.replica.calls)
        await eventually("it has the new one", lambda: keeper.current is not None and keeper.current is not first)


async def test_a_replica_that_is_behind_takes_no_newer_bundle_away(host: Host) -> None:
    mesh = host.replica.mesh
    async with host.keeping() as keeper:
        assert await keeper.adopt_bundle(bundle(mesh, 9, ""))
        host.clock.offset = HOUR * 0.6
        keeper.look_again()
        await eventually("it renews", lambda: "renew" in host.replica.calls)
        await eventually("it has the new one", lambda: keeper.problem is None)
        current = keeper.current
        assert current is not None
        assert current.bundle.sequence == 9
