"""Whatever a sidecar asks for: it gets SVIDs of its own identity, for the key that it has, or none."""

from __future__ import annotations

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.api.call import Call
from controlplane.api.caller import Caller, CallerKind
from controlplane.api.svid_service import SvidService
from schemas.api import mesh_pb2 as pb
from schemas.errors import MeshError
from schemas.names import ServiceRef, SpiffeId
from spiffe.x509 import verify_chain
from tests.controlplane.api.test_join_fuzz import TRUST_DOMAIN, authority, requests

services = st.builds(
    ServiceRef, st.sampled_from(["shop", "stock", "mesh-system"]), st.sampled_from(["orders", "payments"])
)


@pytest.mark.fault(16)
@pytest.mark.spiffe(5)
@pytest.mark.spiffe(6)
@settings(max_examples=100, deadline=None)
@given(service=services, csr=requests())
def test_an_x509_svid_is_of_the_caller_and_of_nobody_else(service: ServiceRef, csr: bytes) -> None:
    ca = authority()
    identity = SpiffeId.of_service(TRUST_DOMAIN, service)
    call = Call(Caller(CallerKind.SIDECAR, "ipv4:10.0.0.1:5", identity), seconds=5)
    try:
        reply = trio.run(SvidService(ca).issue_x509, pb.IssueX509Request(csr=csr), call)
    except MeshError:
        return
    assert reply.spiffe_id == str(identity)
    chain = [x509.load_der_x509_certificate(der) for der in reply.chain]
    assert verify_chain(chain, {TRUST_DOMAIN: ca.current().authority.roots}, ca.now()) == identity
    leaf = chain[0]
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(one.value) for one in names] == [str(identity)]
    assert not leaf.subject.rdns
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    usage = leaf.extensions.get_extension_for_class(x509.KeyUsage).value
    assert (usage.digital_signature, usage.key_cert_sign, usage.crl_sign) == (True, False, False)
    spki = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    asked = x509.load_der_x509_csr(csr).public_key()
    assert leaf.public_key().public_bytes(*spki) == asked.public_bytes(*spki)
