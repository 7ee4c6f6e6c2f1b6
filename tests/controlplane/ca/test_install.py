"""Chains from an external CA: what the mesh can issue with, and what it refuses."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from controlplane.ca.install import checked_chain
from controlplane.ca.make import signing_request
from schemas.errors import InvalidInput
from tests.spiffe.certificates import NOW, new_key

TRUST_DOMAIN = "mesh.example"
DAY = 24 * 3600
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def certificate(
    name: str,
    key: Key,
    issuer: x509.Certificate | None,
    issuer_key: Key,
    *,
    uri: str | None = None,
    ca: bool = True,
    path_length: int | None = None,
    signs: bool = True,
    starts: int = NOW - DAY,
    ends: int = NOW + 90 * DAY,
    permitted: str | None = None,
) -> x509.Certificate:
    """As a corporate PKI makes it, with OpenSSL's usual extensions."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.datetime.fromtimestamp(starts, datetime.UTC))
        .not_valid_after(datetime.datetime.fromtimestamp(ends, datetime.UTC))
        .add_extension(x509.BasicConstraints(ca, path_length), critical=True)
        .add_extension(
            x509.KeyUsage(not signs, False, False, False, False, signs, signs, False, False),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier(name.encode().ljust(20)), critical=False)
    )
    if uri is not None:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=False
        )
    if permitted is not None:
        names = x509.NameConstraints([x509.UniformResourceIdentifier(permitted)], None)
        builder = builder.add_extension(names, critical=True)
    return builder.sign(issuer_key, hashes.SHA256())


class Corporate:
    """Root (RSA, as they are), an intermediate, and a key of the mesh."""

    def __init__(self, **intermediate: int) -> None:
        self.root_key, self.middle_key = rsa.generate_private_key(65537, 2048), new_key()
        self.root = certificate("corp root", self.root_key, None, self.root_key, ends=NOW + 3650 * DAY)
        self.middle = certificate(
            "corp intermediate", self.middle_key, self.root, self.root_key, ends=NOW + 700 * DAY,
            path_length=intermediate.get("path_length"),
        )  # fmt: skip
        self.mesh_key = new_key()

    def issuing(self, **more: object) -> x509.Certificate:
        fields: dict[str, object] = {"uri": f"spiffe://{TRUST_DOMAIN}", **more}
        return certificate("mesh issuing", self.mesh_key, self.middle, self.middle_key, **fields)  # type: ignore[arg-type]  # fields by name

    def check(
        self,
        *chain: x509.Certificate,
        known: Sequence[x509.Certificate] = (),
        key: ec.EllipticCurvePrivateKey | None = None,
    ) -> None:
        ders = [one.public_bytes(Encoding.DER) for one in chain]
        checked_chain(ders, key or self.mesh_key, known, TRUST_DOMAIN, NOW)


@pytest.fixture(scope="module")
def corporate() -> Corporate:
    return Corporate()


def test_a_chain_with_its_root(corporate: Corporate) -> None:
    issuing = corporate.issuing()
    found = checked_chain(
        [one.public_bytes(Encoding.DER) for one in (issuing, corporate.middle, corporate.root)],
        corporate.mesh_key, (), TRUST_DOMAIN, NOW,
    )  # fmt: skip
    assert found.chain == (issuing, corporate.middle)
    assert found.root == corporate.root
    assert found.not_after == NOW + 90 * DAY


def test_a_root_that_the_mesh_knows_may_be_left_out(corporate: Corporate) -> None:
    corporate.check(corporate.issuing(), corporate.middle, known=[corporate.root])
    with pytest.raises(InvalidInput, match="no root above CN=corp intermediate"):
        corporate.check(corporate.issuing(), corporate.middle)


@pytest.mark.spiffe(7)
@pytest.mark.parametrize(
    ("what", "words"),
    [
        ({"uri": None}, "does not name the trust domain"),
        ({"uri": "spiffe://other.example"}, "does not name the trust domain"),
        ({"uri": f"spiffe://{TRUST_DOMAIN}/ns/shop/svc/web"}, "does not name the trust domain"),
        ({"ca": False, "signs": False}, "was not signed by|what it would sign is not valid"),
        ({"signs": False}, "what it would sign is not valid"),
        ({"ends": NOW + DAY}, "has expired or is about to"),
        ({"ends": NOW - 1, "starts": NOW - DAY}, "has expired or is about to"),
        ({"starts": NOW + 60}, "is not valid yet"),
    ],
)
def test_what_the_mesh_can_not_issue_with_is_refused(corporate: Corporate, what: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        corporate.check(corporate.issuing(**what), corporate.middle, corporate.root)


def test_a_path_length_that_leaves_no_room_is_refused() -> None:
    narrow = Corporate(path_length=0)
    with pytest.raises(InvalidInput, match="what it would sign is not valid"):
        narrow.check(narrow.issuing(), narrow.middle, narrow.root)


def test_another_key_a_wrong_order_and_a_foreign_intermediate_are_refused(corporate: Corporate) -> None:
    issuing = corporate.issuing()
    with pytest.raises(InvalidInput, match="not of the requested key"):
        corporate.check(issuing, corporate.middle, corporate.root, key=new_key())
    with pytest.raises(InvalidInput, match="not of the requested key"):
        corporate.check(corporate.middle, issuing, corporate.root)
    foreign = Corporate()
    with pytest.raises(InvalidInput, match="was not signed by CN=corp intermediate"):
        corporate.check(issuing, foreign.middle, foreign.root)
    with pytest.raises(InvalidInput, match="expected 1 to 8"):
        checked_chain([], corporate.mesh_key, (), TRUST_DOMAIN, NOW)


def test_the_request_asks_for_what_is_checked(corporate: Corporate) -> None:
    csr = x509.load_der_x509_csr(signing_request(TRUST_DOMAIN, "mesh-issuing-1", corporate.mesh_key))
    assert csr.is_signature_valid
    assert csr.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert csr.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    names = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [f"spiffe://{TRUST_DOMAIN}"]
