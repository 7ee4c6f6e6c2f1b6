"""Whom a chain proves, lines 7, 8 and 9."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from schemas.names import SpiffeId
from spiffe.x509 import MAX_CHAIN_LENGTH, InvalidSvid, parse_chain, verify_chain
from tests.spiffe.certificates import (
    AUTHORITY,
    BOTH,
    CERT_SIGN,
    DIGITAL_SIGNATURE,
    HOUR,
    ID,
    NOW,
    Shape,
    Signer,
    new_key,
)

DAY = 24 * HOUR
ROOT = replace(AUTHORITY, end=NOW + DAY, path_length=1)
ISSUING = replace(AUTHORITY, common_name="issuing", path_length=0, end=NOW + DAY)


@pytest.fixture(scope="module")
def root() -> Signer:
    return Signer.root(ROOT)


@pytest.fixture(scope="module")
def issuing(root: Signer) -> Signer:
    return root.below(ISSUING)


@pytest.fixture(scope="module")
def leaf(issuing: Signer) -> x509.Certificate:
    return issuing.issue()


@pytest.mark.spiffe(8)
def test_a_chain_to_the_bundle_of_its_own_trust_domain_is_believed(
    root: Signer, issuing: Signer, leaf: x509.Certificate
) -> None:
    bundles = {"td.example": [root.certificate]}
    assert verify_chain([leaf, issuing.certificate], bundles, NOW) == SpiffeId.parse(ID)
    assert verify_chain([leaf, issuing.certificate, root.certificate], bundles, NOW) == SpiffeId.parse(ID)


@pytest.mark.spiffe(8)
def test_both_roots_of_a_rotation_are_believed(root: Signer, issuing: Signer, leaf: x509.Certificate) -> None:
    other = Signer.root(ROOT)
    for roots in ([other.certificate, root.certificate], [root.certificate, other.certificate]):
        assert verify_chain([leaf, issuing.certificate], {"td.example": roots}, NOW) == SpiffeId.parse(ID)


@pytest.mark.spiffe(8)
def test_only_the_bundle_of_its_own_trust_domain_counts(root: Signer, issuing: Signer, leaf: x509.Certificate) -> None:
    stranger = Signer.root(ROOT)
    cases: list[dict[str, list[x509.Certificate]]] = [
        {},
        {"td.example": []},
        {"other.example": [root.certificate]},
        {"td.example": [stranger.certificate], "other.example": [root.certificate]},
    ]
    for bundles in cases:
        with pytest.raises(InvalidSvid, match="not trusted"):
            verify_chain([leaf, issuing.certificate], bundles, NOW)


@pytest.mark.spiffe(8)
def test_an_authority_of_one_trust_domain_can_not_speak_for_another(root: Signer, issuing: Signer) -> None:
    foreign = issuing.issue(replace(Shape(), uris=("spiffe://victim.example/ns/shop/svc/orders",)))
    victim = Signer.root(ROOT)
    bundles = {"td.example": [root.certificate], "victim.example": [victim.certificate]}
    with pytest.raises(InvalidSvid, match="not trusted"):
        verify_chain([foreign, issuing.certificate], bundles, NOW)


@pytest.mark.spiffe(8)
def test_a_root_that_comes_with_the_chain_is_not_trusted_for_being_there(
    root: Signer, issuing: Signer, leaf: x509.Certificate
) -> None:
    stranger = Signer.root(replace(ROOT, common_name="stranger"))
    with pytest.raises(InvalidSvid, match="not trusted"):
        verify_chain([leaf, issuing.certificate, root.certificate], {"td.example": [stranger.certificate]}, NOW)


@pytest.mark.spiffe(8)
def test_a_missing_intermediate_and_a_forged_signature_are_refused(root: Signer, leaf: x509.Certificate) -> None:
    bundles = {"td.example": [root.certificate]}
    with pytest.raises(InvalidSvid, match="not trusted"):
        verify_chain([leaf], bundles, NOW)
    forged = Signer(root.certificate, new_key()).issue()  # the root's name, another key
    with pytest.raises(InvalidSvid, match="not trusted"):
        verify_chain([forged], bundles, NOW)


@pytest.mark.parametrize("at", [NOW - 61, NOW + HOUR + 1], ids=["before", "after"])
@pytest.mark.spiffe(8)
def test_outside_its_validity_a_leaf_is_refused(root: Signer, issuing: Signer, leaf: x509.Certificate, at: int) -> None:
    with pytest.raises(InvalidSvid, match="not trusted"):
        verify_chain([leaf, issuing.certificate], {"td.example": [root.certificate]}, at)


@pytest.mark.spiffe(8)
def test_expired_authorities_vouch_for_nobody() -> None:
    old_root = Signer.root(replace(ROOT, end=NOW - 1))
    issuing = old_root.below(ISSUING)
    with pytest.raises(InvalidSvid, match="not trusted"):
        verify_chain([issuing.issue(), issuing.certificate], {"td.example": [old_root.certificate]}, NOW)
    root = Signer.root(ROOT)
    old_issuing = root.below(replace(ISSUING, end=NOW - 1))
    with pytest.raises(InvalidSvid, match="not trusted"):
        verify_chain([old_issuing.issue(), old_issuing.certificate], {"td.example": [root.certificate]}, NOW)


UNKNOWN_CRITICAL = (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00"), True)
NOT_AN_ISSUER: list[Any] = [
    pytest.param({"ca": False, "path_length": None}, id="cA=false"),
    pytest.param({"ca": None}, id="no basic constraints"),
    pytest.param({"usage": (DIGITAL_SIGNATURE,)}, id="no keyCertSign"),
    pytest.param({"usage": None}, id="no key usage"),
    pytest.param({"usage_critical": False}, id="key usage not critical"),
    pytest.param({"purposes": (ExtendedKeyUsageOID.SERVER_AUTH,)}, id="limited to servers"),
    pytest.param({"extra": (UNKNOWN_CRITICAL,)}, id="unknown critical extension"),
    pytest.param(
        {"extra": ((x509.NameConstraints([x509.UniformResourceIdentifier("other.example")], None), True),)},
        id="constrained to other names",
    ),
]


@pytest.mark.parametrize("changed", NOT_AN_ISSUER)
@pytest.mark.spiffe(7)
def test_what_is_no_authority_can_not_issue(root: Signer, changed: dict[str, Any]) -> None:
    below = root.below(replace(ISSUING, **changed))
    with pytest.raises(InvalidSvid, match="not trusted"):
        verify_chain([below.issue(), below.certificate], {"td.example": [root.certificate]}, NOW)


@pytest.mark.spiffe(7)
def test_a_workload_can_not_issue_for_another(root: Signer, issuing: Signer) -> None:
    workload = issuing.below(Shape())
    victim = workload.issue(replace(Shape(), uris=("spiffe://td.example/control-plane",)))
    with pytest.raises(InvalidSvid, match="not trusted"):
        verify_chain([victim, workload.certificate, issuing.certificate], {"td.example": [root.certificate]}, NOW)


@pytest.mark.spiffe(7)
def test_path_length_is_kept(root: Signer, issuing: Signer) -> None:
    deeper = issuing.below(replace(ISSUING, common_name="deeper", path_length=None))
    with pytest.raises(InvalidSvid, match="not trusted"):
        verify_chain([deeper.issue(), deeper.certificate, issuing.certificate], {"td.example": [root.certificate]}, NOW)


@pytest.mark.spiffe(7)
@pytest.mark.spiffe(9)
def test_an_authority_never_authenticates(root: Signer, issuing: Signer) -> None:
    with pytest.raises(InvalidSvid):
        verify_chain([issuing.certificate], {"td.example": [root.certificate]}, NOW)
    with_path = issuing.issue(replace(Shape(), ca=True, usage=(DIGITAL_SIGNATURE, CERT_SIGN), purposes=BOTH))
    with pytest.raises(InvalidSvid):
        verify_chain([with_path, issuing.certificate], {"td.example": [root.certificate]}, NOW)


@pytest.mark.spiffe(8)
def test_a_leaf_in_the_bundle_does_not_vouch_for_itself(leaf: x509.Certificate) -> None:
    with pytest.raises(InvalidSvid, match="no bundle"):
        verify_chain([leaf], {"td.example": [leaf]}, NOW)


@pytest.mark.spiffe(8)
def test_an_unknown_critical_extension_in_the_leaf_is_refused(root: Signer, issuing: Signer) -> None:
    odd = issuing.issue(replace(Shape(), extra=(UNKNOWN_CRITICAL,)))
    with pytest.raises(InvalidSvid, match="not trusted"):
        verify_chain([odd, issuing.certificate], {"td.example": [root.certificate]}, NOW)


def test_a_weak_key_in_the_middle_is_refused(root: Signer) -> None:
    key = rsa.generate_private_key(65537, 1024).public_key()  # noqa: S505 -- what must be refused
    weak = root.issue(ISSUING, key)
    leaf = Signer(weak, new_key()).issue()
    with pytest.raises(InvalidSvid, match="public key"):
        verify_chain([leaf, weak], {"td.example": [root.certificate]}, NOW)


def test_a_chain_has_one_to_eight_certificates(root: Signer, issuing: Signer, leaf: x509.Certificate) -> None:
    for chain in ([], [leaf] + [issuing.certificate] * MAX_CHAIN_LENGTH):
        with pytest.raises(InvalidSvid, match="chain of"):
            verify_chain(chain, {"td.example": [root.certificate]}, NOW)
        with pytest.raises(InvalidSvid, match="chain of"):
            parse_chain([one.public_bytes(Encoding.DER) for one in chain])


@given(st.data())
def test_any_flipped_bit_of_what_is_signed_is_refused(data: st.DataObject) -> None:
    root, issuing, leaf = _MADE_ONCE
    signed = leaf.tbs_certificate_bytes
    position = data.draw(st.integers(0, len(signed) * 8 - 1))
    changed = bytearray(signed)
    changed[position // 8] ^= 1 << position % 8
    der = leaf.public_bytes(Encoding.DER).replace(signed, bytes(changed))
    with pytest.raises(InvalidSvid):
        verify_chain([*parse_chain([der]), issuing.certificate], {"td.example": [root.certificate]}, NOW)


def _make() -> tuple[Signer, Signer, x509.Certificate]:
    root = Signer.root(ROOT)
    issuing = root.below(ISSUING)
    return root, issuing, issuing.issue()


_MADE_ONCE = _make()  # hypothesis runs the test many times
