"""What the Workload API hands out, used by OpenSSL and by Envoy."""

from __future__ import annotations

import json
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from dataplane.workload_api import workload_pb2 as pb
from tests.controlplane.ca import openssl
from tests.controlplane.rotation.upstream_ca import UpstreamCa
from tests.dataplane.workload_api.asking import certificates
from tests.dataplane.workload_api.stage import ORDERS_ID, Ca, Clock, Stage, running
from tests.support.envoy import envoy_path
from tests.support.net import eventually, free_ports


@dataclass
class Files:
    """An SVID as TLS programs read it."""

    directory: Path

    @classmethod
    async def of(cls, stage: Stage, directory: Path) -> Files:
        await trio.Path(directory).mkdir()
        (svid,) = (await stage.call("FetchX509SVID", pb.X509SVIDRequest(), pb.X509SVIDResponse)).svids
        files = cls(directory)
        files.chain.write_bytes(_pem(certificates(svid.x509_svid)))
        key = load_der_private_key(svid.x509_svid_key, password=None)
        files.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        files.bundle.write_bytes(_pem(certificates(svid.bundle)))
        return files

    @property
    def chain(self) -> Path:
        return self.directory / "chain.pem"

    @property
    def key(self) -> Path:
        return self.directory / "key.pem"

    @property
    def bundle(self) -> Path:
        return self.directory / "bundle.pem"


def _pem(of: list[x509.Certificate]) -> bytes:
    return b"".join(one.public_bytes(Encoding.PEM) for one in of)


@asynccontextmanager
async def two_meshes(directory: Path) -> AsyncIterator[tuple[Files, Files]]:
    """What the Workload API hands out below a company's CA; and what a stranger's mesh of the same name does."""
    found = []
    company = UpstreamCa()
    for name, seed, upstream in (("ours", 1, company), ("theirs", 9, None)):
        place = directory / f"{name}-api"
        place.mkdir()
        async with running(place, ca=await Ca.make(Clock(), seed=seed, upstream=upstream)) as stage:
            await stage.served()
            found.append(await Files.of(stage, directory / name))
    ours, theirs = found
    # Peers know the root alone, so the whole way to it has to be shown to them.
    shown = x509.load_pem_x509_certificates(ours.chain.read_bytes())
    assert (len(shown), shown[2]) == (3, company.intermediate)
    assert x509.load_pem_x509_certificates(ours.bundle.read_bytes()) == [company.root]
    yield ours, theirs


# -- OpenSSL


@openssl.available
@pytest.mark.spiffe(6)
@pytest.mark.spiffe(19)
async def test_openssl_verifies_the_chain_with_the_bundle(tmp_path: Path) -> None:
    async with running(tmp_path) as stage:
        await stage.served()
        (svid,) = (await stage.call("FetchX509SVID", pb.X509SVIDRequest(), pb.X509SVIDResponse)).svids
        chain = [one.public_bytes(Encoding.DER) for one in certificates(svid.x509_svid)]
        for purpose in ("sslserver", "sslclient"):
            said = openssl.verify(tmp_path, chain, certificates(svid.bundle), purpose, stage.clock())
            assert said.endswith(": OK"), said
        stranger = (await Ca.make(stage.clock, seed=9)).keys[0][0].authority.roots
        said = openssl.verify(tmp_path, chain, stranger, "sslserver", stage.clock())
        assert "unable to get" in said


@contextmanager
def _s_server(port: int, files: Files) -> Iterator[subprocess.Popen[bytes]]:
    command = [
        *("openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-quiet", "-Verify", "3", "-verify_return_error"),
        *("-cert", str(files.chain), "-cert_chain", str(files.chain), "-key", str(files.key)),
        *("-CAfile", str(files.bundle), "-no-CApath", "-www"),
    ]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout is not None
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


async def _s_client(port: int, files: Files) -> tuple[bool, str]:
    """Whether the server answered, and what was said."""
    command = [
        *("openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-verify", "3", "-verify_return_error", "-quiet"),
        *("-cert", str(files.chain), "-cert_chain", str(files.chain), "-key", str(files.key)),
        *("-CAfile", str(files.bundle), "-no-CApath"),
    ]
    with trio.fail_after(20):
        request = b"GET / HTTP/1.0\r\n\r\n"
        done = await trio.run_process(command, stdin=request, capture_stdout=True, capture_stderr=True, check=False)
    return b"200 ok" in done.stdout, (done.stdout + done.stderr).decode(errors="replace")


@openssl.available
@pytest.mark.spiffe(19)
async def test_openssl_speaks_mutual_tls_with_it(tmp_path: Path) -> None:
    async with two_meshes(tmp_path) as (ours, theirs):
        (port,) = free_ports(1)
        with _s_server(port, ours):
            await eventually("s_server listens", lambda: _listens(port))
            answered, said = await _s_client(port, ours)
            assert answered, said
            answered, said = await _s_client(port, theirs)
            assert not answered, said


async def _listens(port: int) -> bool:
    try:
        await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
    except OSError:
        return False
    return True


# -- Envoy

FILTERS = "type.googleapis.com/envoy.extensions.filters"


def _tls(files: Files, identity: str) -> dict[str, Any]:
    matcher = {"san_type": "URI", "matcher": {"exact": identity}}
    return {
        "tls_certificates": [
            {
                "certificate_chain": {"filename": str(files.chain)},
                "private_key": {"filename": str(files.key)},
            }
        ],
        "validation_context": {
            "trusted_ca": {"filename": str(files.bundle)},
            "match_typed_subject_alt_names": [matcher],
        },
    }


def _transport(direction: str, context: dict[str, Any], **more: Any) -> dict[str, Any]:
    kind = f"type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{direction}TlsContext"
    return {"name": "tls", "typed_config": {"@type": kind, "common_tls_context": context, **more}}


def _http(name: str, port: int, answer: dict[str, Any], transport: dict[str, Any] | None = None) -> dict[str, Any]:
    manager = {
        "@type": f"{FILTERS}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "route_config": {
            "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, **answer}]}]
        },
        "http_filters": [
            {
                "name": "router",
                "typed_config": {"@type": f"{FILTERS}.http.router.v3.Router"},
            }
        ],
    }
    chain: dict[str, Any] = {"filters": [{"name": "http", "typed_config": manager}]}
    if transport:
        chain["transport_socket"] = transport
    return {"name": name, "address": _address(port), "filter_chains": [chain]}


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _cluster(name: str, port: int, files: Files, identity: str) -> dict[str, Any]:
    endpoint = {"endpoint": {"address": _address(port)}}
    return {
        "name": name,
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
        "transport_socket": _transport("Upstream", _tls(files, identity)),
    }


@contextmanager
def _envoy(directory: Path, listeners: list[Any], clusters: list[Any]) -> Iterator[Path]:
    config = directory / "envoy.json"
    config.write_text(json.dumps({"static_resources": {"listeners": listeners, "clusters": clusters}}))
    log = directory / "envoy.log"
    command = [str(envoy_path()), "-c", str(config), "--disable-hot-restart", "--concurrency", "1", "-l", "warning"]
    with open(log, "wb") as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        yield log
    finally:
        process.kill()
        process.wait()


@pytest.mark.spiffe(19)
async def test_envoy_speaks_mutual_tls_with_it(tmp_path: Path) -> None:
    """One Envoy in both parts: it presents, and checks by bundle and exact identity, at both ends."""
    async with two_meshes(tmp_path) as (ours, theirs):
        secure, good, stranger, other = free_ports(4)
        identity = str(ORDERS_ID)
        listeners = [
            _http(
                "secure",
                secure,
                {"direct_response": {"status": 200, "body": {"inline_string": "secret"}}},
                _transport("Downstream", _tls(ours, identity), require_client_certificate=True),
            ),
            *(
                _http(name, port, {"route": {"cluster": name}})
                for name, port in (("good", good), ("stranger", stranger), ("other", other))
            ),
        ]
        clusters = [
            _cluster("good", secure, ours, identity),
            _cluster("stranger", secure, theirs, identity),
            _cluster("other", secure, ours, f"{identity}-2"),
        ]
        with _envoy(tmp_path, listeners, clusters) as log:
            async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
                await eventually("Envoy listens", lambda: _listens(good))
                answers = {
                    name: (await client.get(f"http://127.0.0.1:{port}/"))
                    for name, port in (("good", good), ("stranger", stranger), ("other", other))
                }
            assert answers["good"].text == "secret", (answers["good"].text, log.read_text())
            assert [answers[name].status_code for name in ("stranger", "other")] == [503, 503]
