"""Join tokens and signing requests, as an attacker uses them; and what the logs tell of it."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from deploy.demo.local_mesh import Instance
from schemas import codec, joinfile
from schemas.api import mesh_pb2 as pb
from schemas.joinfile import JoinFile
from schemas.names import CONTROL_PLANE_SERVER_NAME
from schemas.records import JoinToken
from spiffe.x509 import leaf_identity
from tests.controlplane.replica import bundle_pem, new_csr
from tests.e2e.mesh import API_ID, KEYS, WEB_ID, E2eMesh
from trio_grpc import TLS, Channel, RpcError, StatusCode

REFUSED = 6  # exit code of mesh-sidecar
BAD_SETTINGS = 2


async def new_token(mesh: E2eMesh, directory: Path, service: str = "web.shop", name: str = "new.join") -> JoinFile:
    path = directory / name
    await mesh.local.meshadm("token", "create", "--service", service, "--out", str(path))
    return joinfile.load(path.read_bytes(), str(path))


async def join(
    file: JoinFile, csr: bytes, etcd_csr: bytes | None = None, *, token: str | None = None
) -> pb.IdentityReply:
    """Straight to a replica's join door. Raises RpcError."""
    request = pb.JoinRequest(token=token or file.token, csr=csr, etcd_csr=etcd_csr or new_csr()[1])
    tls = TLS(ca=bundle_pem(file.trust_bundle))
    with Channel(file.join_endpoints[0], tls=tls, server_name=CONTROL_PLANE_SERVER_NAME) as channel:
        reply = await channel.unary("/mesh.v1.Identity/Join", request.SerializeToString(), timeout=10)
    return pb.IdentityReply.FromString(reply)


async def try_to_start(mesh: E2eMesh, name: str, file: JoinFile) -> tuple[int, str]:
    """A sidecar that has only this join file -> (exit code, what it said last)."""
    instance: Instance = mesh.local.instance("web.shop", name)
    path = mesh.local.etc / f"{name}.join"
    path.write_bytes(joinfile.dump(file))
    await mesh.local.write_sidecar_settings(instance)
    with trio.fail_after(30):
        done = await trio.run_process(
            [sys.executable, "-m", "dataplane", "--config", str(mesh.local.settings_file(instance))],
            check=False,
            capture_stdout=True,
            capture_stderr=True,
        )
    said = done.stderr.decode()
    mesh.processes.log(f"sidecar-{name}").write_text(said)  # where the search for secrets looks
    return done.returncode, said


def one_line(said: str) -> str:
    """The last line, which is for people; there is no traceback before it."""
    assert "Traceback" not in said
    return said.strip().splitlines()[-1]


@pytest.mark.fault(17)
async def test_a_used_token_joins_nobody(mesh: E2eMesh) -> None:
    used = joinfile.load((mesh.local.etc / "web-1.join").read_bytes(), "web-1.join")
    code, said = await try_to_start(mesh, "thief-used", used)
    assert code == REFUSED, said
    assert "has been used" in one_line(said)
    assert "meshadm token create" in one_line(said)


@pytest.mark.fault(17)
async def test_a_forged_token_joins_nobody(mesh: E2eMesh, tmp_path: Path) -> None:
    file = await new_token(mesh, tmp_path)
    head, _, secret = file.token.rpartition(".")
    forged = msgspec.structs.replace(
        file, token=f"{head}.{secret[:-4]}AAAA" if secret[-4:] != "AAAA" else f"{head}.B{secret[1:]}"
    )
    code, said = await try_to_start(mesh, "thief-forged", forged)
    assert code == REFUSED, said
    assert "unknown join token" in one_line(said)
    reply = await join(file, new_csr()[1])  # the attempt has not used it up
    assert reply.spiffe_id == WEB_ID


@pytest.mark.fault(17)
async def test_an_expired_token_joins_nobody(mesh: E2eMesh, tmp_path: Path) -> None:
    file = await new_token(mesh, tmp_path)
    key = KEYS.token(file.token.split(".")[1])
    async with mesh.etcd() as client:
        kv = await client.get(key)
        assert kv is not None
        stored = codec.decode(kv.value, JoinToken, "token")
        await client.put(key, codec.encode(msgspec.structs.replace(stored, expires=stored.created - 1)), lease=kv.lease)
    code, said = await try_to_start(mesh, "thief-expired", file)
    assert code == REFUSED, said
    assert "has expired" in one_line(said)
    # A host that can tell by itself does not even ask.
    code, said = await try_to_start(mesh, "late", msgspec.structs.replace(file, expires=stored.created - 1))
    assert code == BAD_SETTINGS, said
    assert "its token has expired" in one_line(said)


@pytest.mark.fault(17)
async def test_of_many_at_once_exactly_one_gets_in(mesh: E2eMesh, tmp_path: Path) -> None:
    file = await new_token(mesh, tmp_path)
    outcomes: Counter[str] = Counter()

    async def one(number: int) -> None:
        split = msgspec.structs.replace(file, join_endpoints=file.join_endpoints[number % 2 :])
        try:
            await join(split, new_csr()[1])
        except RpcError as error:
            outcomes[f"{error.code.name}: {error.details.partition(';')[0]}"] += 1
        else:
            outcomes["joined"] += 1

    async with trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(one, number)
    used = [count for said, count in outcomes.items() if said.startswith("UNAUTHENTICATED") and "has been used" in said]
    assert (outcomes["joined"], sum(used)) == (1, 49), outcomes


# -- signing requests

Builder = Callable[[x509.CertificateSigningRequestBuilder], x509.CertificateSigningRequestBuilder]


def uris(*values: str) -> Builder:
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(value) for value in values])
    return lambda builder: builder.add_extension(names, critical=False)


def subject(name: str) -> Builder:
    return lambda builder: builder.subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))


def as_ca(builder: x509.CertificateSigningRequestBuilder) -> x509.CertificateSigningRequestBuilder:
    return builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)


def signed_by(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, ask: Builder) -> bytes:
    builder = ask(x509.CertificateSigningRequestBuilder(subject_name=None))
    if builder._subject_name is None:
        builder = builder.subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


REQUESTS: dict[str, Builder] = {
    "someone else's identity": uris(API_ID),
    "two identities": uris(WEB_ID, API_ID),
    "the control plane's identity": uris("spiffe://shop.example/control-plane"),
    "extra DNS names": lambda builder: builder.add_extension(
        x509.SubjectAlternativeName([x509.DNSName("api.shop"), x509.DNSName(CONTROL_PLANE_SERVER_NAME)]), critical=False
    ),
    "a CA certificate": as_ca,
    "the etcd user root": subject("root"),
}


@pytest.mark.fault(16)
@pytest.mark.parametrize("what", REQUESTS)
async def test_a_request_gives_a_public_key_and_nothing_else(mesh: E2eMesh, tmp_path: Path, what: str) -> None:
    """Only the token's own identity is issued; the same request is tried for both certificates."""
    file = await new_token(mesh, tmp_path)
    key, etcd_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    reply = await join(file, signed_by(key, REQUESTS[what]), signed_by(etcd_key, REQUESTS[what]))
    leaf = x509.load_der_x509_certificate(reply.chain[0])
    assert reply.spiffe_id == str(leaf_identity(leaf)) == WEB_ID
    assert leaf.public_key() == key.public_key()
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [x509.UniformResourceIdentifier(WEB_ID)]
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    etcd_leaf = x509.load_der_x509_certificate(reply.etcd_chain[0])
    assert [one.value for one in etcd_leaf.subject] == ["mesh-sidecar"]
    assert not etcd_leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


@pytest.mark.fault(16)
async def test_bad_signatures_and_weak_keys_are_refused(mesh: E2eMesh, tmp_path: Path) -> None:
    file = await new_token(mesh, tmp_path)
    good = new_csr()[1]
    weak = rsa.generate_private_key(65537, 1024)  # noqa: S505  (that is the point)
    for request in (good[:-1] + bytes([good[-1] ^ 1]), signed_by(weak, uris(WEB_ID)), b"", b"not a request"):
        with pytest.raises(RpcError) as refused:
            await join(file, request)
        assert refused.value.code is StatusCode.INVALID_ARGUMENT
    assert (await join(file, good)).spiffe_id == WEB_ID


async def test_no_log_holds_a_secret(mesh: E2eMesh, tmp_path: Path) -> None:
    """After joins that succeeded and joins that were refused: no token, no private key, nothing sealed with."""
    file = await new_token(mesh, tmp_path)
    await join(file, new_csr()[1])
    with pytest.raises(RpcError):
        await join(file, new_csr()[1])
    mesh.assert_no_secret_in_logs(file.token)
    replicas = mesh.log("replica-a") + mesh.log("replica-b")
    assert f"token={file.token.split('.')[1]}" in replicas  # its name is there, so that uses can be traced
    assert "has been used" in replicas
    assert json.dumps(file.token) not in replicas
