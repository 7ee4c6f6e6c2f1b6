"""JWT-SVIDs: no more is accepted than the standard allows; vectors are made here, not by the code under test."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from schemas.names import SpiffeId
from spiffe import jwt
from spiffe.jwt import InvalidKey, InvalidToken, PublicKey, load_public_key

NOW = 1_800_000_000
SUBJECT = "spiffe://example.org/ns/shop/svc/orders"
ORDERS = SpiffeId.parse(SUBJECT)
CLAIMS: Mapping[str, Any] = {"sub": SUBJECT, "aud": ["billing"], "exp": NOW + 60}
HEADER: Mapping[str, Any] = {"alg": "ES256", "kid": "k"}
HASHES = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}
CURVES = {"256": ec.SECP256R1(), "384": ec.SECP384R1(), "512": ec.SECP521R1()}
ALGORITHMS = [f"{family}{size}" for family in ("RS", "ES", "PS") for size in HASHES]


@cache
def private_key(alg: str) -> ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey:
    if alg.startswith("ES"):
        return ec.generate_private_key(CURVES[alg[2:]])
    return rsa.generate_private_key(65537, 2048)


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signature(alg: str, data: bytes) -> bytes:
    """RFC 7518, 3.3 to 3.5."""
    key, digest = private_key(alg), HASHES[alg[2:]]
    if isinstance(key, ec.EllipticCurvePrivateKey):
        size = (key.key_size + 7) // 8
        return b"".join(part.to_bytes(size, "big") for part in decode_dss_signature(key.sign(data, ec.ECDSA(digest))))
    if alg.startswith("RS"):
        return key.sign(data, padding.PKCS1v15(), digest)
    return key.sign(data, padding.PSS(padding.MGF1(digest), digest.digest_size), digest)


def raw_token(header: bytes, payload: bytes, alg: str = "ES256") -> str:
    start = f"{b64(header)}.{b64(payload)}"
    return f"{start}.{b64(signature(alg, start.encode()))}"


def token(header: Mapping[str, Any] = HEADER, claims: Mapping[str, Any] = CLAIMS) -> str:
    """Signed with the key of ES256 whatever the header says."""
    return raw_token(json.dumps(dict(header)).encode(), json.dumps(dict(claims)).encode())


def keys(alg: str = "ES256", kid: str = "k", trust_domain: str = "example.org") -> dict[str, dict[str, PublicKey]]:
    return {trust_domain: {kid: private_key(alg).public_key()}}


def verify(text: str, *, audience: str = "billing", now: float = NOW, **more: Any) -> jwt.Verified:
    return jwt.verify(text, audience, more.get("keys", keys()), now)


def refused(text: str, why: str, **more: Any) -> None:
    with pytest.raises(InvalidToken, match=why):
        verify(text, **more)


# -- what is accepted


@pytest.mark.spiffe(10)
@pytest.mark.parametrize("alg", ALGORITHMS)
def test_the_nine_algorithms(alg: str) -> None:
    text = raw_token(json.dumps({"alg": alg, "kid": "k", "typ": "JOSE"}).encode(), json.dumps(CLAIMS).encode(), alg)
    assert verify(text, keys=keys(alg)).spiffe_id == ORDERS


@pytest.mark.parametrize(
    "header", [{"alg": "ES256"}, {"alg": "ES256", "typ": "JWT"}, {"alg": "ES256", "kid": "k", "typ": "JOSE"}]
)
def test_kid_and_typ_are_optional(header: dict[str, str]) -> None:
    assert verify(token(header)).claims == CLAIMS


@pytest.mark.parametrize("audience", ["billing", ["billing"], ["other", "billing"]])
def test_the_audience_is_a_text_or_several(audience: object) -> None:
    assert verify(token(claims={**CLAIMS, "aud": audience})).spiffe_id == ORDERS


def test_claims_that_the_standard_does_not_name_are_passed_on() -> None:
    claims = {**CLAIMS, "iss": "x", "nbf": NOW - 1, "deep": {"a": [1, None]}, "exp": NOW + 0.5}
    assert verify(token(claims=claims)).claims == claims


def test_what_we_sign_is_what_others_read() -> None:
    key = private_key("ES256")
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    text = jwt.sign(ORDERS, ["billing", "audit"], issued=NOW, expires=NOW + 300, kid="k", key=key)
    header, payload, _ = (base64.urlsafe_b64decode(part + "==") for part in text.split("."))
    assert json.loads(header) == {"alg": "ES256", "kid": "k", "typ": "JWT"}
    assert json.loads(payload) == {"sub": SUBJECT, "aud": ["billing", "audit"], "exp": NOW + 300, "iat": NOW}
    assert verify(text, audience="audit").spiffe_id == ORDERS
    for audience, who in (([], ORDERS), (["a"], SpiffeId("example.org", ""))):
        with pytest.raises(ValueError, match="audience"):
            jwt.sign(who, audience, issued=NOW, expires=NOW + 1, kid="k", key=key)


# -- form and header


@pytest.mark.spiffe(10)
def test_compact_form_only() -> None:
    good = token()
    header, payload, signed = good.split(".")
    as_json = json.dumps({"payload": payload, "protected": header, "signature": signed})
    for text in ("", ".", "..", f"{header}.{payload}", f"{good}.", f"{good}.x", as_json, f" {good}", f"{good}\n"):
        with pytest.raises(InvalidToken):
            verify(text)
    refused("a" * 9000, "longer")


@pytest.mark.spiffe(10)
@pytest.mark.parametrize(
    "more",
    [
        {"jku": "https://evil.example/keys"},
        {"jwk": {"kty": "EC"}},
        {"x5u": "https://evil.example/"},
        {"x5c": ["MII"]},
        {"crit": ["exp"]},
        {"b64": False},
        {"cty": "JWT"},
        {"zip": "DEF"},
        {"Kid": "k"},
    ],
)
def test_other_header_parameters(more: dict[str, object]) -> None:
    refused(token({**HEADER, **more}), "other parameters")


@pytest.mark.spiffe(10)
@pytest.mark.parametrize("alg", ["none", "None", "HS256", "es256", "EdDSA", "ES256K", "", None, 1, ["ES256"], {}])
def test_other_algorithms_are_refused_before_anything_else(alg: object) -> None:
    refused(token({"alg": alg, "jku": "x"}, {}), "alg is not one of")


@pytest.mark.spiffe(10)
def test_no_algorithm() -> None:
    refused(token({"kid": "k"}), "alg is not one of")


@pytest.mark.spiffe(10)
@pytest.mark.parametrize("typ", ["jwt", "at+jwt", "", None, 1])
def test_another_type(typ: object) -> None:
    refused(token({**HEADER, "typ": typ}), "typ")


@pytest.mark.spiffe(10)
def test_a_signature_without_a_key() -> None:
    """alg none, and an HMAC with the public key as its secret: the two classics."""
    header, payload, _ = token().split(".")
    refused(f"{header}.{payload}.", "not signed")
    unsigned = b64(json.dumps({"alg": "none"}).encode())
    refused(f"{unsigned}.{payload}.", "alg is not one of")


@pytest.mark.spiffe(10)
def test_an_algorithm_of_another_key() -> None:
    """A key on P-256 verifies ES256 only, one of RSA nothing of ECDSA."""
    for alg in ALGORITHMS:
        if alg != "ES256":
            refused(token({"alg": alg, "kid": "k"}), "not signed")
    rs = raw_token(b'{"alg":"RS256"}', json.dumps(CLAIMS).encode(), "RS256")
    refused(rs, "not signed", keys=keys("PS256"))
    as_pss = raw_token(b'{"alg":"PS256"}', json.dumps(CLAIMS).encode(), "RS256")
    refused(as_pss, "not signed", keys=keys("RS256"))


@pytest.mark.parametrize("kid", [1, None, ["k"], {}])
def test_a_kid_that_is_no_text(kid: object) -> None:
    refused(token({**HEADER, "kid": kid}), "kid")


def test_json_of_one_meaning() -> None:
    claims = json.dumps(CLAIMS).encode()
    twice = claims[:-1] + b', "sub": "spiffe://example.org/admin"}'
    refused(raw_token(b'{"alg":"none","alg":"ES256"}', claims), "twice")
    refused(raw_token(b'{"alg":"ES256"}', twice), "twice")
    for bad in (b"[]", b"", b"{", b"\xff{}", b'{"exp":NaN}', b"[" * 5000, b'"x"', b"\xef\xbb\xbf{}"):
        refused(raw_token(b'{"alg":"ES256"}', bad), "JSON")
        refused(raw_token(bad, claims), "JSON")


def test_base64url_of_one_form() -> None:
    header, payload, signed = token().split(".")
    last = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_".index(signed[-1])
    spare = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"[last ^ 1]
    for other in (signed + "==", signed.replace("-", "+") + "+", signed[:-1] + spare, signed + "é", signed + " "):
        refused(f"{header}.{payload}.{other}", "base64url")


# -- claims


@pytest.mark.spiffe(11)
@pytest.mark.parametrize(
    "subject",
    [
        "spiffe://example.org",
        "https://example.org/ns/shop/svc/orders",
        "spiffe://example.org/a/../b",
        "spiffe://example.org/a\n",
        "orders",
        "",
        None,
        7,
        [SUBJECT],
    ],
)
def test_the_subject_is_a_spiffe_id_of_a_workload(subject: object) -> None:
    refused(token(claims={**CLAIMS, "sub": subject}), "sub")


@pytest.mark.spiffe(11)
@pytest.mark.parametrize("audience", [None, [], "", "other", ["other"], ["Billing"], [["billing"]], {"billing": 1}, 1])
def test_the_audience_holds_the_validator(audience: object) -> None:
    refused(token(claims={**CLAIMS, "aud": audience}), "aud")


@pytest.mark.spiffe(11)
def test_an_empty_audience_is_nobody() -> None:
    refused(token(claims={**CLAIMS, "aud": [""]}), "audience", audience="")


@pytest.mark.spiffe(11)
@pytest.mark.parametrize("name", ["sub", "aud", "exp"])
def test_no_claim_of_the_three_may_be_missing(name: str) -> None:
    refused(token(claims={key: value for key, value in CLAIMS.items() if key != name}), name)


@pytest.mark.spiffe(11)
@pytest.mark.parametrize("expires", [NOW, NOW - 1, 0, -1, str(NOW + 60), None, True, [], 1e400])
def test_the_end_is_a_number_in_the_future(expires: object) -> None:
    text = json.dumps({**CLAIMS, "exp": expires}).replace("Infinity", "1e400")
    with pytest.raises(InvalidToken, match="exp"):
        verify(raw_token(json.dumps(dict(HEADER)).encode(), text.encode()))


def test_not_before_its_time() -> None:
    refused(token(claims={**CLAIMS, "nbf": NOW + 1}), "not valid yet")


@pytest.mark.spiffe(11)
def test_only_keys_of_the_subject_s_own_trust_domain() -> None:
    """The key of another trust domain verifies the signature, and must not be asked."""
    refused(token(), "no JWT key of trust domain example.org", keys=keys(trust_domain="other.org"))
    both = {"example.org": keys("ES384")["example.org"], "other.org": keys()["example.org"]}
    refused(token(), "not signed", keys=both)
    refused(token({"alg": "ES256"}), "not signed", keys=both)
    refused(token(), "no JWT key", keys={"example.org": {}})
    refused(token(), "no JWT key", keys={})
    refused(token(), "kid", keys=keys(kid="another"))


# -- keys


def test_keys_that_verify_nothing() -> None:
    short = rsa.generate_private_key(65537, 1024).public_key()  # noqa: S505  (weak on purpose)
    foreign = ec.generate_private_key(ec.SECP256K1()).public_key()
    for key in (short, foreign):
        with pytest.raises(InvalidKey, match="neither"):
            load_public_key(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(InvalidKey, match="DER"):
        load_public_key(b"\x30\x00")


# -- anything at all


@given(st.text() | st.binary().map(lambda data: data.decode("latin-1")))
def test_any_text_is_refused_and_nothing_else_happens(text: str) -> None:
    with pytest.raises(InvalidToken):
        verify(text)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "x"]), json_values),
    st.dictionaries(st.sampled_from(["sub", "aud", "exp", "nbf", "x"]), json_values),
)
def test_any_signed_json_is_refused_or_what_it_must_be(header: dict[str, Any], claims: dict[str, Any]) -> None:
    text = token({**HEADER, **header}, {**CLAIMS, **claims})
    try:
        verified = verify(text)
    except InvalidToken:
        return
    seen = {**CLAIMS, **claims}
    assert str(verified.spiffe_id) == SUBJECT == seen["sub"]
    assert "billing" in seen["aud"]
    assert seen["exp"] > NOW
    assert {**HEADER, **header}.keys() <= {"alg", "kid", "typ"}


@given(st.data())
def test_a_changed_character_is_seen(data: st.DataObject) -> None:
    good = token()
    place = data.draw(st.integers(0, len(good) - 1))
    changed: Callable[[str], str] = lambda one: good[:place] + one + good[place + 1 :]  # noqa: E731  (one use)
    other = changed(data.draw(st.characters(min_codepoint=33, max_codepoint=126).filter(lambda c: c != good[place])))
    with pytest.raises(InvalidToken):
        verify(other)
