"""Bundle documents: what is passed over, what refuses the document, and that ours are read as they were meant."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import Corrupt
from schemas.records import JwtAuthority, TrustBundle
from spiffe import bundle, jwks
from spiffe.jwks import InvalidBundle
from tests.spiffe.test_jwt import b64
from tests.support.pki import Authority

ROOT = Authority.create("root").certificate
DER = ROOT.public_bytes(Encoding.DER)
KEY = ec.generate_private_key(ec.SECP256R1()).public_key()
RSA = rsa.generate_private_key(65537, 2048).public_key()


def spki(key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def record(*authorities: JwtAuthority) -> TrustBundle:
    return bundle.record("example.org", [ROOT], 7, authorities)


def authority(kid: str = "k", key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey = KEY) -> JwtAuthority:
    return JwtAuthority(kid=kid, public_key=spki(key))


def ec_element(**changes: object) -> dict[str, Any]:
    numbers = KEY.public_numbers()
    x, y = (b64(number.to_bytes(32, "big")) for number in (numbers.x, numbers.y))
    element = {"kty": "EC", "use": "jwt-svid", "kid": "k", "crv": "P-256", "x": x, "y": y, **changes}
    return {name: value for name, value in element.items() if value is not None}


def x509_element(**changes: object) -> dict[str, Any]:
    element = {"kty": "EC", "use": "x509-svid", "x5c": [base64.b64encode(DER).decode()], **changes}
    return {name: value for name, value in element.items() if value is not None}


def decode(*elements: object, **more: object) -> jwks.Document:
    return jwks.decode(json.dumps({"keys": list(elements), **more}).encode(), "test")


def refused(*elements: object, match: str, **more: object) -> None:
    with pytest.raises(InvalidBundle, match=match):
        decode(*elements, **more)


# -- ours


@pytest.mark.spiffe(12)
@pytest.mark.spiffe(13)
def test_our_document_as_json() -> None:
    document = json.loads(jwks.encode(record(authority(), authority("r", RSA))))
    assert document["spiffe_sequence"] == 7
    assert document["spiffe_refresh_hint"] == 300
    of_x509, of_ec, of_rsa = document["keys"]
    assert of_x509["use"] == "x509-svid"
    assert "kid" not in of_x509
    assert [base64.b64decode(one) for one in of_x509["x5c"]] == [DER]
    public = ROOT.public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    assert (of_x509["kty"], of_x509["crv"]) == ("EC", "P-256")
    assert int.from_bytes(base64.urlsafe_b64decode(of_x509["x"] + "=="), "big") == public.public_numbers().x
    assert of_ec == ec_element()
    assert of_rsa == {
        "kty": "RSA",
        "use": "jwt-svid",
        "kid": "r",
        "n": b64(RSA.public_numbers().n.to_bytes(256, "big")),
        "e": "AQAB",
    }


@pytest.mark.spiffe(12)
def test_ours_comes_back() -> None:
    curves = (ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1())
    made = record(
        authority("r", RSA), *(authority(one.name, ec.generate_private_key(one).public_key()) for one in curves)
    )
    read = jwks.decode(jwks.encode(made), "ours")
    assert read == jwks.Document(made.x509_authorities, made.jwt_authorities, 7, 300)


@pytest.mark.spiffe(20)
def test_the_document_of_jwt_keys_has_nothing_else() -> None:
    document = json.loads(jwks.encode_jwt_keys(record(authority())))
    assert document == {"keys": [ec_element()]}
    assert json.loads(jwks.encode_jwt_keys(record())) == {"keys": []}


def test_short_coordinates_keep_their_length() -> None:
    """RFC 7518, 6.2.1.2: a leading zero octet stays."""
    while (key := ec.generate_private_key(ec.SECP256R1()).public_key()).public_numbers().x >> 248:
        pass
    (element,) = json.loads(jwks.encode_jwt_keys(record(authority("k", key))))["keys"]
    assert len(base64.urlsafe_b64decode(element["x"] + "==")) == 32


# -- theirs


@pytest.mark.spiffe(12)
def test_keys_must_be_there_and_may_be_empty() -> None:
    assert decode() == jwks.Document((), ())
    for bad in (b"{}", b'{"keys":null}', b'{"keys":{}}', b"[]", b"", b"{", b'{"keys":[],"keys":[]}', b"\xff"):
        with pytest.raises(InvalidBundle):
            jwks.decode(bad, "test")
    with pytest.raises(InvalidBundle, match="limit"):
        jwks.decode(b" " * (jwks.MAX_DOCUMENT_BYTES + 1), "test")


@pytest.mark.spiffe(12)
def test_an_empty_bundle_trusts_nobody() -> None:
    empty = bundle.record("example.org", [], 1)
    assert bundle.by_trust_domain([empty]) == {"example.org": ()}
    assert bundle.jwt_keys([empty]) == {"example.org": {}}


@pytest.mark.spiffe(12)
@pytest.mark.parametrize("name", ["spiffe_sequence", "spiffe_refresh_hint"])
def test_whole_numbers(name: str) -> None:
    values: list[object] = [1.5, "1", True, -1, [], {}]
    for bad in values:
        refused(match="whole number", **{name: bad})
    assert decode(**{name: 5}, something="else").x509_authorities == ()


@pytest.mark.spiffe(13)
@pytest.mark.parametrize(
    "element",
    [
        {},
        7,
        None,
        "x",
        ec_element(kty=None),
        ec_element(use=None),
        ec_element(kty="OKP"),
        ec_element(kty="oct", k="AAAA"),
        ec_element(use="sig"),
        ec_element(use="JWT-SVID"),
        ec_element(use=["jwt-svid"]),
        ec_element(kty=["EC"]),
        ec_element(crv="secp256k1"),
        x509_element(kty=None),
        x509_element(use="enc"),
        x509_element(x5c=None),
    ],
)
def test_what_is_not_known_is_passed_over(element: object) -> None:
    """And what stands beside it is not."""
    read = decode(element, ec_element(kid="other"), x509_element(unknown=1))
    assert [one.kid for one in read.jwt_authorities] == ["other"]
    assert read.x509_authorities == (DER,)


@pytest.mark.spiffe(13)
def test_only_the_first_certificate_of_an_element() -> None:
    other = Authority.create("other").certificate.public_bytes(Encoding.DER)
    both = [base64.b64encode(one).decode() for one in (DER, other)]
    assert decode(x509_element(x5c=both)).x509_authorities == (DER,)


@pytest.mark.spiffe(13)
@pytest.mark.parametrize("kid", [None, "", 1, ["k"], "x" * 257])
def test_a_jwt_key_has_a_kid(kid: object) -> None:
    refused(ec_element(kid=kid), match="kid")


@pytest.mark.spiffe(13)
def test_what_is_malformed_refuses_the_document() -> None:
    refused(ec_element(), ec_element(), match="two jwt-svid keys")
    refused(ec_element(x="AAAA", y="AAAA"), match="public key")
    refused(ec_element(x=None), match="needed")
    refused(ec_element(x="=="), match="base64url")
    refused({"kty": "RSA", "use": "jwt-svid", "kid": "k", "n": "AQAB", "e": "AQAB"}, match=r"public key|RSA")
    values: list[object] = [[], "x", [7], ["é"], ["AAAA"], {}]
    for x5c in values:
        refused(x509_element(x5c=x5c), match="x5c")


@given(
    st.lists(
        st.builds(
            lambda element, changes: {**element, **changes},
            st.sampled_from([ec_element(), x509_element(), {}]),
            st.dictionaries(
                st.sampled_from(["kty", "use", "kid", "crv", "x", "y", "n", "e", "x5c"]),
                st.none() | st.text(max_size=5) | st.integers() | st.lists(st.text(max_size=5), max_size=2),
            ),
        ),
        max_size=3,
    )
)
def test_any_document_is_read_or_refused(elements: list[dict[str, Any]]) -> None:
    try:
        read = decode(*elements)
    except InvalidBundle:
        return
    for der in read.x509_authorities:
        x509.load_der_x509_certificate(der)
    made = TrustBundle(
        trust_domain="example.org",
        sequence=1,
        x509_authorities=read.x509_authorities,
        jwt_authorities=read.jwt_authorities,
    )
    assert jwks.decode(jwks.encode(made), "again").jwt_authorities == read.jwt_authorities


# -- several


@pytest.mark.spiffe(14)
def test_bundles_are_never_merged() -> None:
    one, two = record(authority("a")), record(authority("b"))
    with pytest.raises(Corrupt, match="two of them"):
        bundle.jwt_keys([one, two])
    with pytest.raises(Corrupt, match="two JWT keys"):
        bundle.jwt_keys([record(authority("a"), authority("a", RSA))])
    with pytest.raises(Corrupt, match="can't be used"):
        bundle.jwt_keys([record(JwtAuthority(kid="a", public_key=b"\x30"))])
    other = TrustBundle(trust_domain="other.org", sequence=1, x509_authorities=(), jwt_authorities=two.jwt_authorities)
    assert {name: set(found) for name, found in bundle.jwt_keys([one, other]).items()} == {
        "example.org": {"a"},
        "other.org": {"b"},
    }
