"""What `meshadm apply` refuses: whole, with nothing written, in words that say what, where and what to do."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
import trio

from controlplane.exit_codes import ExitCode
from controlplane.meshadm.changes import put_of
from controlplane.meshadm.client import new_request_id
from schemas.api import mesh_pb2 as pb
from schemas.codec import Document
from schemas.errors import Conflict
from schemas.names import ObjectRef
from tests.e2e.mesh import KEYS, E2eMesh
from tests.states.build import port, service

GOOD = """\
apiVersion: mesh/v1
kind: Service
metadata: {name: innocent, namespace: shop}
spec: {ports: [{name: http, port: 80, protocol: http}]}
---
"""


def bad_service(name: str = "bad", **spec: object) -> str:
    content = {"ports": [{"name": "http", "port": 80, "protocol": "http"}], **spec}
    return json.dumps(
        {"apiVersion": "mesh/v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"}, "spec": content}
    )


def policy_text(**spec: object) -> str:
    return json.dumps(
        {
            "apiVersion": "mesh/v1",
            "kind": "AuthorizationPolicy",
            "metadata": {"name": "bad", "namespace": "shop"},
            "spec": spec,
        }
    )


# Text of the second document, and what the message must name: the field or line, and what is expected there.
REFUSED: dict[str, tuple[str, list[str]]] = {
    "malformed YAML": ("kind: [unclosed\n", ["shop.yaml:7:1", "not YAML", "remedy"]),
    "unknown kind": (bad_service().replace("Service", "Servise"), ["Servise", "Service"]),
    "unknown field": (bad_service(portz=[]), ["$.spec", "portz"]),
    "field of a wrong type": (
        bad_service(ports=[{"name": "http", "port": "eighty", "protocol": "http"}]),
        ["$.spec.ports[0].port", "expected a whole number", "'eighty'"],
    ),
    "number out of range": (
        bad_service(ports=[{"name": "http", "port": 65536, "protocol": "http"}]),
        ["$.spec.ports[0].port", "65535"],
    ),
    "name outside the grammar": (bad_service("Bad_Name"), ["$.metadata.name", "Bad_Name"]),
    "unknown schema version": (bad_service().replace("mesh/v1", "mesh/v9"), ["apiVersion", "mesh/v1"]),
    "service that does not exist": (
        bad_service(dependencies=[{"name": "nobody"}]),
        ["Service shop/bad", "$.spec.dependencies[0]", "Service shop/nobody", "create it in the same change set"],
    ),
    "policy for nothing": (
        policy_text(targetRefs=[{"name": "nobody"}]),
        ["AuthorizationPolicy shop/bad", "$.spec.targetRefs[0]", "Service shop/nobody"],
    ),
    "identity that is none": (
        policy_text(targetRefs=[{"name": "api"}], rules=[{"from": [{"identities": ["web"]}]}]),
        ["$.spec.rules[0].from[0].identities[0]", "SPIFFE ID"],
    ),
    "the same object twice": (GOOD.replace("---\n", ""), ["Service shop/innocent", "a second time"]),
}


async def keys_of(mesh: E2eMesh) -> dict[bytes, int]:
    """Every key but those that sidecars and replicas write of themselves, with the revision of its last change."""
    async with mesh.etcd("root") as client:
        listing = await client.list(b"/")
    of_replicas = (KEYS.replicas(), KEYS.beacon(""), KEYS.issuing_times(), KEYS.issuing_pulse())
    own = (KEYS.statuses(), KEYS.endpoints(), *of_replicas)
    return {kv.key: kv.mod_revision for kv in listing.kvs if not kv.key.startswith(own)}


async def apply(mesh: E2eMesh, file: Path, text: str, *options: str) -> tuple[int, str]:
    file.write_text(text)  # noqa: ASYNC240  (a few bytes, in a test)
    return await mesh.local.meshadm("apply", "-f", str(file), *options, check=False)


@pytest.mark.parametrize("what", REFUSED)
async def test_refused_whole_with_file_object_field_and_remedy(mesh: E2eMesh, tmp_path: Path, what: str) -> None:
    text, said = REFUSED[what]
    before = await keys_of(mesh)
    code, output = await apply(mesh, tmp_path / "shop.yaml", GOOD + text)
    assert code == ExitCode.BAD_INPUT, output
    assert "shop.yaml" in output
    for part in said:
        assert part in output
    assert "Traceback" not in output
    assert await keys_of(mesh) == before  # the good document beside it was not written either


async def test_all_problems_are_told_at_once(mesh: E2eMesh, tmp_path: Path) -> None:
    text = "---\n".join((bad_service("one", portz=1), bad_service("two", portz=2)))
    code, output = await apply(mesh, tmp_path / "shop.yaml", text)
    assert code == ExitCode.BAD_INPUT
    assert output.count("portz") == 2


@pytest.mark.fault(10)
async def test_what_etcd_could_not_take_is_refused_by_us(mesh: E2eMesh, tmp_path: Path) -> None:
    before = await keys_of(mesh)
    many = "---\n".join(bad_service(f"many-{number}") + "\n" for number in range(129))
    code, output = await apply(mesh, tmp_path / "many.yaml", many)
    assert code == ExitCode.BAD_INPUT, output
    assert "129 objects" in output
    assert "apply it in parts" in output

    large = json.loads(bad_service("large"))
    large["metadata"]["annotations"] = {"note": "x" * (1_600 * 1024)}
    code, output = await apply(mesh, tmp_path / "large.yaml", json.dumps(large))
    assert code == ExitCode.BAD_INPUT, output
    assert "bytes" in output
    assert len(output) < 2000  # it is named, not shown
    assert await keys_of(mesh) == before


async def test_who_edits_what_was_changed_meanwhile_is_told(mesh: E2eMesh, tmp_path: Path) -> None:
    ref = ObjectRef("Service", "shop", "edited")
    await mesh.apply(service("edited", port("http", 80)), wait=False)
    try:
        _, shown = await mesh.local.meshadm("get", "svc", "edited", "-n", "shop", "-o", "yaml")
        first = await apply(mesh, tmp_path / "first.yaml", shown.replace("port: 80", "port: 81"))
        second = await apply(mesh, tmp_path / "second.yaml", shown.replace("port: 80", "port: 82"))
        assert first[0] == ExitCode.OK, first
        assert second[0] == ExitCode.CONFLICT, second
        for part in ("second.yaml", "Service shop/edited", "expected at revision", "nothing was written", "read again"):
            assert part in second[1]
        _, now = await mesh.local.meshadm("get", "svc", "edited", "-n", "shop", "-o", "json")
        assert json.loads(now)["spec"]["ports"][0]["port"] == 81
    finally:
        await mesh.delete(ref)


@pytest.mark.fault(9)
async def test_two_replicas_write_one_object_and_no_update_is_lost(mesh: E2eMesh) -> None:
    """Each writer counts up what it has read; the one whose read is old is told, and reads again."""
    rounds = 60
    conflicts = 0
    start = service("counted", port("http", 80))
    await mesh.apply(start, wait=False)

    async def write(replica: str) -> None:
        nonlocal conflicts
        done = 0
        async with mesh.client(replica) as client:
            while done < rounds:
                stored = await client.get(start.ref)
                count = int(stored.object.metadata.annotations.get("count", "0"))
                metadata = msgspec.structs.replace(
                    stored.object.metadata, annotations={"count": str(count + 1)}, revision=stored.revision
                )
                value = msgspec.structs.replace(stored.object, metadata=metadata)
                request = pb.ApplyRequest(request_id=new_request_id(), changes=[put_of(Document("test", value))])
                try:
                    await client.apply(request, 10)
                except Conflict:
                    conflicts += 1
                else:
                    done += 1

    try:
        async with trio.open_nursery() as nursery:
            for replica in mesh.local.replicas:
                nursery.start_soon(write, replica)
        async with mesh.client() as client:
            stored = await client.get(start.ref)
    finally:
        await mesh.delete(start.ref)
    assert stored.object.metadata.annotations["count"] == str(2 * rounds)
    assert conflicts > 0  # they did meet


async def test_a_service_that_others_need_is_not_deleted(mesh: E2eMesh) -> None:
    before = await keys_of(mesh)
    code, output = await mesh.local.meshadm("delete", "svc", "api", "-n", "shop", check=False)
    assert code == ExitCode.BAD_INPUT
    for part in ("Service shop/api", "Service shop/web needs it", "AuthorizationPolicy shop/web-may needs it"):
        assert part in output
    assert await keys_of(mesh) == before
