"""What tests ask of a Workload API, and how they read the answers."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_private_key

from dataplane.workload_api import workload_pb2 as pb
from spiffe.x509 import verify_chain
from tests.controlplane.ca.conftest import TRUST_DOMAIN
from tests.dataplane.workload_api.raw import RawClient
from tests.dataplane.workload_api.stage import Stage
from trio_grpc import RpcError, StatusCode

OWN = f"spiffe://{TRUST_DOMAIN}"
STREAMS: list[tuple[str, Any, Any]] = [
    ("FetchX509SVID", pb.X509SVIDRequest(), pb.X509SVIDResponse),
    ("FetchX509Bundles", pb.X509BundlesRequest(), pb.X509BundlesResponse),
    ("FetchJWTBundles", pb.JWTBundlesRequest(), pb.JWTBundlesResponse),
]
UNARY: list[tuple[str, Any, Any]] = [
    ("FetchJWTSVID", pb.JWTSVIDRequest(audience=["a"]), pb.JWTSVIDResponse),
    ("ValidateJWTSVID", pb.ValidateJWTSVIDRequest(audience="a", svid="x.y.z"), pb.ValidateJWTSVIDResponse),
]
ALL = STREAMS + UNARY


def certificates(ders: bytes) -> list[x509.Certificate]:
    """One after the other, as the Workload API has them."""
    found = []
    while ders:
        size = 4 + int.from_bytes(ders[2:4], "big")  # a SEQUENCE of 256 bytes to 64 KiB
        found.append(x509.load_der_x509_certificate(ders[:size]))
        ders = ders[size:]
    return found


def owner(svid: pb.X509SVID, bundle: bytes, now: float) -> str:
    """Whose it is, by `bundle`; the key must be its own."""
    chain = certificates(svid.x509_svid)
    key = load_der_private_key(svid.x509_svid_key, password=None)
    spki = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    assert key.public_key().public_bytes(*spki) == chain[0].public_key().public_bytes(*spki)
    return str(verify_chain(chain, {TRUST_DOMAIN: tuple(certificates(bundle))}, now))


async def code_of(stage: Stage, method: str, request: Any, reply: Any, **more: Any) -> StatusCode:
    with pytest.raises(RpcError) as error:
        await stage.call(method, request, reply, **more)
    return error.value.code


@asynccontextmanager
async def raw_client(stage: Stage) -> AsyncIterator[RawClient]:
    async with await trio.open_unix_socket(os.fspath(stage.socket)) as stream:
        yield RawClient(stream)
