"""Trust bundles between records and certificates; lines 12 and 14 as far as X.509 goes."""

from __future__ import annotations

import pytest
from cryptography import x509

from schemas import codec
from schemas.errors import Corrupt
from schemas.records import TrustBundle
from spiffe import bundle
from spiffe.x509 import authority_trust_domain
from tests.spiffe.certificates import Shape, Signer


def test_a_bundle_survives_the_store() -> None:
    roots = [Signer.root().certificate for _ in range(2)]
    stored = codec.decode(codec.encode(bundle.record("td.example", roots, 7)), TrustBundle, "test")
    assert (stored.trust_domain, stored.sequence) == ("td.example", 7)
    assert set(bundle.certificates(stored)) == set(roots)


def test_order_and_repetition_don_t_change_its_bytes() -> None:
    one, two = (Signer.root().certificate for _ in range(2))
    assert codec.encode(bundle.record("td", [one, two, one], 1)) == codec.encode(bundle.record("td", [two, one], 1))


@pytest.mark.spiffe(14)
def test_two_bundles_of_one_trust_domain_are_refused() -> None:
    one, two = (bundle.record("td", [Signer.root().certificate], sequence) for sequence in (1, 2))
    with pytest.raises(Corrupt, match="two of them"):
        bundle.by_trust_domain([one, two])


@pytest.mark.spiffe(12)
def test_an_empty_bundle_stays_empty() -> None:
    assert bundle.by_trust_domain([bundle.record("td", [], 1)]) == {"td": ()}


def test_a_bundle_with_one_bad_certificate_is_refused_whole() -> None:
    good = bundle.record("td", [Signer.root().certificate], 1).x509_authorities
    with pytest.raises(Corrupt, match="TrustBundle td"):
        bundle.certificates(TrustBundle(trust_domain="td", sequence=1, x509_authorities=(*good, b"\x30\x00")))


def test_pem_holds_all_of_them() -> None:
    roots = [Signer.root().certificate for _ in range(2)]
    assert x509.load_pem_x509_certificates(bundle.pem(roots)) == roots


@pytest.mark.spiffe(7)
def test_an_authority_speaks_for_the_trust_domain_it_names() -> None:
    assert authority_trust_domain(Signer.root().certificate) == "td.example"
    assert authority_trust_domain(Signer.root(Shape(uris=())).certificate) is None
    assert authority_trust_domain(Signer.root(Shape(uris=("spiffe://td.example/a",))).certificate) is None
    assert authority_trust_domain(Signer.root(Shape(uris=("https://td.example",))).certificate) is None
