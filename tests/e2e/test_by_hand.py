"""Values that came into etcd past the replicas: set aside and reported, the rest goes on, and no door opens."""

from __future__ import annotations

import json
from collections.abc import Mapping

import msgpack
import pytest

from schemas import codec
from schemas.names import ObjectRef
from schemas.objects.authorization import Rule
from tests.e2e.mesh import API, KEYS, WEB_MAY, E2eMesh
from tests.states.build import policy, port, service
from tests.support.net import eventually

DENY_ALL = policy("closed", "DENY", Rule(), on=["api"])
WHOLE = msgpack.unpackb(codec.encode(API))


def changed(value: Mapping[str, object], **fields: object) -> bytes:
    packed: bytes = msgpack.packb({**value, **fields})
    return packed


UNREADABLE: dict[str, bytes] = {
    "no MessagePack": b"\xc1 not MessagePack",
    "cut short": codec.encode(API)[:-3],
    "deeply nested": b"\x91" * 200_000 + b"\xc0",
    "another kind": changed(WHOLE, kind="AuthorizationPolicy"),
    "a wrong type": changed(WHOLE, spec={"ports": "all"}),
    "a newer schema": changed(WHOLE, apiVersion="mesh/v9"),
    "another object's name": changed(WHOLE, metadata={"name": "other", "namespace": "shop"}),
    "oversize": changed(WHOLE, spec={"ports": [{"name": "p" * 1_200_000, "port": 1, "protocol": "tcp"}]}),
    "empty": b"",
}


async def reported(mesh: E2eMesh, text: str, *names: str) -> None:
    """These sidecars say so; every one where none is named."""

    async def told() -> bool:
        statuses = await mesh.statuses()
        return all(any(text in problem for problem in statuses[name].problems) for name in names or mesh.instances)

    await eventually(f"{names or 'every sidecar'} reports {text}", told)


@pytest.mark.fault(19)
@pytest.mark.parametrize("what", UNREADABLE)
async def test_an_unreadable_service_keeps_its_last_good_value(mesh: E2eMesh, what: str) -> None:
    async with mesh.put_by_hand(KEYS.object(API.ref), UNREADABLE[what]):
        await reported(mesh, "Service shop/api")
        assert await mesh.status() == 200


@pytest.mark.fault(19)
async def test_the_rest_goes_on_and_status_tells(mesh: E2eMesh) -> None:
    junk = ObjectRef("Service", "shop", "junk")
    async with mesh.put_by_hand(KEYS.object(junk), b"\xc1"):
        await reported(mesh, "Service shop/junk", "reports-1")  # the others don't depend on it
        await mesh.apply(service("news", port("http", 80)))  # waits for every ack
        code, output = await mesh.local.meshadm("status", check=False)
        assert "Service shop/junk" in output
        assert code == 0  # nothing is refused, stale or expired
        _, output = await mesh.local.meshadm("status", "-o", "json")
        sidecars = json.loads(output)["sidecars"]
        assert {one["state"] for one in sidecars} == {"current"}
        reports = {one["instance"] for one in sidecars if any("Service shop/junk" in text for text in one["problems"])}
        assert reports == {"reports-1"}
        await mesh.delete(ObjectRef("Service", "shop", "news"))
    statuses = await mesh.statuses()
    await eventually("nobody reports it any more", lambda: _no_problems(mesh))
    assert statuses.keys() == mesh.instances.keys()


async def _no_problems(mesh: E2eMesh) -> bool:
    return not any(status.problems for status in (await mesh.statuses()).values())


@pytest.mark.fault(20)
@pytest.mark.parametrize("value", [b"\xc1", changed(msgpack.unpackb(codec.encode(DENY_ALL)), apiVersion="mesh/v9")])
async def test_a_deny_that_became_unreadable_goes_on_denying(mesh: E2eMesh, value: bytes) -> None:
    async with mesh.applied(DENY_ALL):
        async with mesh.put_by_hand(KEYS.object(DENY_ALL.ref), value):
            await reported(mesh, "AuthorizationPolicy shop/closed")
            assert await mesh.status() == 403
            await mesh.apply(service("news", port("http", 80)))
            assert await mesh.status() == 403
            await mesh.delete(ObjectRef("Service", "shop", "news"))


@pytest.mark.fault(20)
@pytest.mark.parametrize(
    "value",
    [
        b"\xc1",
        changed(msgpack.unpackb(codec.encode(WEB_MAY)), apiVersion="mesh/v9"),
        changed(msgpack.unpackb(codec.encode(WEB_MAY)), spec={"rules": [{}], "unlessOnFridays": True}),
    ],
    ids=["no MessagePack", "a newer schema", "a condition that nobody here knows"],
)
async def test_a_policy_that_never_could_be_read_opens_nothing(mesh: E2eMesh, value: bytes) -> None:
    """It may be a DENY: its namespace is closed until it can be read or is gone."""
    ref = ObjectRef("AuthorizationPolicy", "shop", "riddle")
    async with mesh.put_by_hand(KEYS.object(ref), value):
        await reported(mesh, "AuthorizationPolicy shop/riddle")
        assert await mesh.status(by="reports-1") == 403
        assert await mesh.status(by="web-1") == 403
    assert await mesh.status(by="web-1") == 200
    assert await mesh.status(by="reports-1") == 403
