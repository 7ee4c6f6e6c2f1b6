"""Which certificates are X.509-SVIDs, lines 5, 6 and 9."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from schemas.names import SpiffeId
from spiffe.x509 import InvalidSvid, leaf_identity
from tests.spiffe.certificates import (
    BOTH,
    CERT_SIGN,
    CRL_SIGN,
    DIGITAL_SIGNATURE,
    ID,
    PublicKey,
    Shape,
    Signer,
)


@pytest.fixture(scope="module")
def root() -> Signer:
    return Signer.root()


@pytest.mark.spiffe(5)
@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({}, id="plain"),
        pytest.param({"dns": ("orders.shop",)}, id="with a DNS name beside it"),
        pytest.param({"common_name": "orders", "san_critical": False}, id="a subject, SAN not critical"),
        pytest.param({"ca": None}, id="no basic constraints"),
        pytest.param({"uris": ("SPIFFE://TD.example/ns/shop/svc/orders",)}, id="upper case where it does not count"),
        pytest.param({"purposes": (*BOTH, ExtendedKeyUsageOID.CODE_SIGNING)}, id="one purpose more"),
    ],
)
def test_a_leaf_names_its_identity(root: Signer, changed: dict[str, Any]) -> None:
    assert leaf_identity(root.issue(replace(Shape(), **changed))) == SpiffeId.parse(ID)


REFUSED = [
    pytest.param({"uris": ()}, "no subject alternative name", id="no SAN", marks=pytest.mark.spiffe(5)),
    pytest.param({"uris": (), "dns": ("a.b",)}, "0 URI SANs", id="DNS SAN only", marks=pytest.mark.spiffe(5)),
    pytest.param({"uris": (ID, ID + "2")}, "2 URI SANs", id="two URI SANs", marks=pytest.mark.spiffe(9)),
    pytest.param({"uris": (ID, ID)}, "2 URI SANs", id="the same URI twice", marks=pytest.mark.spiffe(9)),
    pytest.param({"san_critical": False}, "not critical", id="SAN not critical", marks=pytest.mark.spiffe(5)),
    pytest.param({"uris": ("spiffe://td.example",)}, "trust domain", id="root path", marks=pytest.mark.spiffe(9)),
    pytest.param({"uris": ("spiffe://td.example/",)}, "segment", id="slash path", marks=pytest.mark.spiffe(9)),
    pytest.param({"uris": ("https://td.example/a",)}, "scheme", id="another scheme", marks=pytest.mark.spiffe(9)),
    pytest.param({"uris": (ID + "\n",)}, "segment", id="trailing newline", marks=pytest.mark.spiffe(9)),
    pytest.param({"uris": (ID + "\x00x",)}, "segment", id="NUL in it", marks=pytest.mark.spiffe(9)),
    pytest.param({"ca": True}, "cA is true", id="cA", marks=pytest.mark.spiffe(9)),
    pytest.param({"usage": None}, "no key usage", id="no key usage", marks=pytest.mark.spiffe(6)),
    pytest.param({"usage_critical": False}, "critical", id="key usage not critical", marks=pytest.mark.spiffe(6)),
    pytest.param({"usage": ("key_agreement",)}, "digitalSignature", id="no signing", marks=pytest.mark.spiffe(6)),
    pytest.param({"usage": (DIGITAL_SIGNATURE, CERT_SIGN)}, "keyCertSign", id="signs", marks=pytest.mark.spiffe(9)),
    pytest.param({"usage": (DIGITAL_SIGNATURE, CRL_SIGN)}, "cRLSign", id="signs CRLs", marks=pytest.mark.spiffe(9)),
    pytest.param({"purposes": None}, "no extended", id="no purposes", marks=pytest.mark.spiffe(6)),
    pytest.param({"purposes": BOTH[:1]}, "clientAuth", id="server only", marks=pytest.mark.spiffe(6)),
    pytest.param({"purposes": BOTH[1:]}, "serverAuth", id="client only", marks=pytest.mark.spiffe(6)),
]


@pytest.mark.parametrize(("changed", "reason"), REFUSED)
def test_a_leaf_that_breaks_a_rule_is_refused(root: Signer, changed: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidSvid, match=reason):
        leaf_identity(root.issue(replace(Shape(), **changed)))


@pytest.mark.spiffe(9)
def test_an_authority_is_no_leaf(root: Signer) -> None:
    with pytest.raises(InvalidSvid):
        leaf_identity(root.certificate)


def test_keys_that_are_weak_or_unknown_are_refused(root: Signer) -> None:
    weak: list[PublicKey] = [
        rsa.generate_private_key(65537, 1024).public_key(),  # noqa: S505 -- what must be refused
        ec.generate_private_key(ec.SECP224R1()).public_key(),
        ec.generate_private_key(ec.SECP256K1()).public_key(),
    ]
    for key in weak:
        with pytest.raises(InvalidSvid, match="public key"):
            leaf_identity(root.issue(Shape(), key))
    strong: list[PublicKey] = [
        rsa.generate_private_key(65537, 2048).public_key(),
        ec.generate_private_key(ec.SECP384R1()).public_key(),
    ]
    for good in strong:
        assert str(leaf_identity(root.issue(Shape(), good))) == ID


def test_a_san_that_can_not_be_read_is_refused(root: Signer) -> None:
    garbage = x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, b"\x30\x03\x86\x01\xff")  # URI of byte 0xff
    with pytest.raises(InvalidSvid, match="can't be read"):
        leaf_identity(root.issue(replace(Shape(), uris=(), extra=((garbage, True),))))
