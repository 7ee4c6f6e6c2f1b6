"""etcd as others see it: with etcdctl and a foreign MessagePack library; and what each user may read."""

from __future__ import annotations

import base64
import ipaddress
import json
from pathlib import Path
from typing import Any

import msgpack
import pytest
import trio

from dataplane.identity.store import IdentityStore
from deploy.etcd import find_etcd
from tests.e2e.mesh import API, KEYS, WEB_ID, WEB_MAY, E2eMesh
from tests.support.pki import TlsPaths

DENIED = "permission denied"


async def etcdctl(mesh: E2eMesh, certificate: TlsPaths, *arguments: str) -> tuple[int, str]:
    binary = find_etcd(report=lambda _: None)
    assert binary.etcdctl is not None
    done = await trio.run_process(
        [
            str(binary.etcdctl), "--endpoints", mesh.local.etcd_endpoint, "--cacert", str(certificate.ca),
            "--cert", str(certificate.cert), "--key", str(certificate.key), *arguments,
        ],
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )  # fmt: skip
    return done.returncode, (done.stdout if done.returncode == 0 else done.stdout + done.stderr).decode()


def user(mesh: E2eMesh, name: str) -> TlsPaths:
    files = mesh.local.etc / "etcd"
    return TlsPaths(files / f"{name}.crt", files / f"{name}.key", files / "ca.crt")


def stolen(mesh: E2eMesh, directory: Path) -> TlsPaths:
    """The etcd credential of web's sidecar, taken from its disk."""
    identity = IdentityStore(mesh.local.state_dir(mesh.instances["web-1"])).load()
    assert identity is not None
    paths = TlsPaths(directory / "stolen.crt", directory / "stolen.key", directory / "ca.crt")
    paths.cert.write_bytes(identity.etcd.cert_pem)
    paths.key.write_bytes(identity.etcd.key_pem)
    paths.ca.write_bytes(identity.etcd.ca_pem)
    return paths


async def read(mesh: E2eMesh, certificate: TlsPaths, prefix: str) -> dict[str, dict[str, Any]]:
    code, said = await etcdctl(mesh, certificate, "get", "--prefix", prefix, "-w", "json")
    assert code == 0, said
    found = {}
    for kv in json.loads(said).get("kvs", []):
        found[base64.b64decode(kv["key"]).decode()] = msgpack.unpackb(base64.b64decode(kv["value"]))
    return found


async def test_tooling_reads_every_value_under_data(mesh: E2eMesh) -> None:
    values = await read(mesh, user(mesh, "tooling"), "/mesh/v1/data/")
    assert {value["apiVersion"] for value in values.values()} == {"mesh/v1"}
    kinds = {key.split("/")[5] for key in values if key.startswith("/mesh/v1/data/config/")}
    assert kinds == {"Mesh", "Service", "AuthorizationPolicy"}
    api = values["/mesh/v1/data/config/Service/shop/api"]
    virtual = api["spec"].pop("virtualAddress")
    assert ipaddress.ip_address(virtual["ipv4"]) in ipaddress.ip_network(f"127.{mesh.local.block}.128.0/17")
    assert ipaddress.ip_address(virtual["ipv6"]) in ipaddress.ip_network("fd6d:6573:6800::/64")
    assert api == {
        "apiVersion": "mesh/v1",
        "kind": "Service",
        "metadata": {"name": "api", "namespace": "shop"},
        "spec": {
            "dependencies": [],
            "ports": [{"name": one.name, "port": one.port, "protocol": one.protocol} for one in API.spec.ports],
        },
    }
    policy = values[f"/mesh/v1/data/config/AuthorizationPolicy/shop/{WEB_MAY.metadata.name}"]
    assert policy["spec"]["rules"] == [{"from": [{"identities": [WEB_ID]}]}]
    endpoint = values["/mesh/v1/data/endpoints/shop/api/api-1"]
    assert (endpoint["kind"], endpoint["address"]) == ("Endpoint", mesh.instances["api-1"].advertised)
    assert endpoint["ports"] == {"http": 8080, "http2": 8081, "grpc": 9000, "tcp": 7000}
    bundle = values["/mesh/v1/data/trust/shop.example"]
    assert isinstance(bundle["x509Authorities"][0], bytes)
    assert isinstance(values["/mesh/v1/data/epoch"]["id"], str)


async def test_tooling_reads_what_sidecars_say_of_themselves(mesh: E2eMesh) -> None:
    values = await read(mesh, user(mesh, "tooling"), "/mesh/v1/control/status/")
    assert {key.rpartition("/")[2] for key in values} == {
        "web.web-1", "api.api-1", "api.api-2", "reports.reports-1",
    }  # fmt: skip
    status = values["/mesh/v1/control/status/shop/web.web-1"]
    assert (status["kind"], status["service"], status["instance"]) == ("SidecarStatus", "web", "web-1")
    assert status["ackedRevision"] == status["appliedRevision"] > 0


async def test_one_change_set_is_one_revision(mesh: E2eMesh) -> None:
    async with mesh.etcd("tooling") as client:
        listing = await client.list(KEYS.config())
    # All that the tests' fixture applied at first, except what tests have restored since.
    assert max(kv.mod_revision for kv in listing.kvs) <= listing.revision


@pytest.mark.parametrize("prefix", ["/mesh/v1/control/ca/", "/mesh/v1/control/tokens/", "/mesh/v1/control/", "/", ""])
async def test_tooling_reads_nothing_else(mesh: E2eMesh, prefix: str) -> None:
    code, said = await etcdctl(mesh, user(mesh, "tooling"), "get", "--prefix", prefix)
    assert code != 0
    assert DENIED in said


@pytest.mark.fault(25)
async def test_a_stolen_sidecar_credential_reads_data_only_and_writes_nothing(mesh: E2eMesh, tmp_path: Path) -> None:
    thief = stolen(mesh, tmp_path)
    assert await read(mesh, thief, "/mesh/v1/data/")
    refused = [
        ("get", "--prefix", "/mesh/v1/control/ca/"),
        ("get", "--prefix", "/mesh/v1/control/status/"),
        ("get", "--prefix", ""),
        ("get", "--from-key", "/mesh/v1/data/"),
        ("put", "/mesh/v1/data/config/Service/shop/api", "x"),
        ("del", "/mesh/v1/data/epoch"),
        ("put", "--prev-kv", "/mesh/v1/control/ca/x", "x"),
        ("user", "list"),
        ("role", "grant-permission", "mesh-sidecar", "readwrite", "/"),
    ]
    for arguments in refused:
        code, said = await etcdctl(mesh, thief, *arguments)
        assert code != 0, arguments
        assert DENIED in said, (arguments, said)


async def test_without_a_client_certificate_etcd_answers_nothing(mesh: E2eMesh) -> None:
    binary = find_etcd(report=lambda _: None)
    done = await trio.run_process(
        [
            str(binary.etcdctl), "--endpoints", mesh.local.etcd_endpoint, "--dial-timeout", "1s", "--command-timeout",
            "2s", "--cacert", str(mesh.local.etc / "etcd" / "ca.crt"), "get", "/mesh/v1/data/epoch",
        ],
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert not done.stdout


async def test_nothing_secret_lies_in_etcd_in_the_clear(mesh: E2eMesh) -> None:
    """As root, who reads all of it: no private key, no token, no key-encryption key."""
    async with mesh.etcd("root") as client:
        listing = await client.list(b"")
    kek = (mesh.local.etc / "kek").read_bytes()
    everything = b"\0".join(kv.value for kv in listing.kvs)
    assert b"control/ca/" in b"".join(kv.key for kv in listing.kvs)
    for secret in (b"PRIVATE KEY", b"mjt1.", kek, kek.hex().encode(), base64.b64encode(kek)):
        assert secret not in everything
    # A P-256 key in PKCS #8 or SEC 1 starts with one of these algorithm bytes; sealed, it does not show them.
    assert bytes.fromhex("301306072a8648ce3d020106082a8648ce3d030107041e") not in everything
