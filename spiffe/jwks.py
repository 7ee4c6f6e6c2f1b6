"""SPIFFE bundles as JWKS documents: what others fetch of ours, and what we fetch of theirs. Pure.

https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE_Trust_Domain_and_Bundle.md (section 4), RFC 7517.

An element that we can't use (unknown `kty`, `use` or curve) is passed over: then nobody is trusted for being in it. An
element that claims to be of a kind that we know, and is malformed, refuses the document: a bundle is believed whole or
not at all.
"""

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from schemas.errors import InvalidInput, Problem
from schemas.records import JwtAuthority, TrustBundle
from schemas.strict_json import NotStrict, load_object
from spiffe.bundle import certificates
from spiffe.jwt import (
    CURVES,
    InvalidKey,
    InvalidToken,
    PublicKey,
    check_public_key,
    decode_bytes,
    encode_bytes,
    load_public_key,
)
from spiffe.x509 import UNREADABLE

# A hundred RSA roots. What a stranger serves must be bounded before it is parsed.
MAX_DOCUMENT_BYTES = 1024 * 1024
X509_USE, JWT_USE = "x509-svid", "jwt-svid"
_MAX_KID = 256


class InvalidBundle(InvalidInput):
    """A document that is no SPIFFE bundle."""


@dataclass(frozen=True, slots=True)
class Document:
    """What a bundle document says. No authority of a kind: all SVIDs of that kind are untrusted."""

    x509_authorities: tuple[bytes, ...]
    """DER certificates."""
    jwt_authorities: tuple[JwtAuthority, ...]
    sequence: int | None = None
    refresh_hint_seconds: int | None = None


# -- encode


def encode(bundle: TrustBundle) -> bytes:
    """The whole bundle, as a bundle endpoint serves it. Raises Corrupt."""
    return _dump(
        {
            "keys": [*map(_x509_element, certificates(bundle)), *map(_jwt_element, bundle.jwt_authorities)],
            "spiffe_sequence": bundle.sequence,
            "spiffe_refresh_hint": bundle.refresh_hint_seconds,
        }
    )


def encode_jwt_keys(bundle: TrustBundle) -> bytes:
    """The JWT keys alone, as the Workload API hands them out (SPIFFE_Workload_API 6.2.2). Raises InvalidKey."""
    return _dump({"keys": [_jwt_element(one) for one in bundle.jwt_authorities]})


def _x509_element(certificate: x509.Certificate) -> dict[str, Any]:
    der = certificate.public_bytes(Encoding.DER)
    key = check_public_key(certificate.public_key())
    return {"use": X509_USE, **_key_parameters(key), "x5c": [base64.b64encode(der).decode()]}


def _jwt_element(authority: JwtAuthority) -> dict[str, Any]:
    return {"use": JWT_USE, "kid": authority.kid, **_key_parameters(load_public_key(authority.public_key))}


def _key_parameters(key: PublicKey) -> dict[str, str]:
    """RFC 7518, 6.2.1 and 6.3.1."""
    if isinstance(key, ec.EllipticCurvePublicKey):
        size = (key.curve.key_size + 7) // 8
        numbers = key.public_numbers()
        name = next(name for name, curve in CURVES.items() if isinstance(key.curve, curve))
        x, y = (encode_bytes(number.to_bytes(size, "big")) for number in (numbers.x, numbers.y))
        return {"kty": "EC", "crv": name, "x": x, "y": y}
    n, e = key.public_numbers().n, key.public_numbers().e
    return {"kty": "RSA", "n": _encode_integer(n), "e": _encode_integer(e)}


def _encode_integer(number: int) -> str:
    return encode_bytes(number.to_bytes((number.bit_length() + 7) // 8, "big"))


def _dump(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


# -- decode


def decode(data: bytes, subject: str) -> Document:
    """A bundle document; parameters that we don't know are passed over. Raises InvalidBundle, naming `subject`."""

    def refuse(why: str, path: str = "") -> InvalidBundle:
        return InvalidBundle(Problem(subject, why, path, "serve a SPIFFE bundle: a JWKS document in UTF-8"))

    if len(data) > MAX_DOCUMENT_BYTES:
        raise refuse(f"{len(data)} bytes, above the limit of {MAX_DOCUMENT_BYTES}")
    try:
        document = load_object(data)
    except NotStrict as error:
        raise refuse(str(error)) from error
    keys = document.get("keys")
    if not isinstance(keys, list):
        raise refuse("has no array of keys", "$.keys")
    authorities: dict[bytes, None] = {}
    jwt_authorities: dict[str, JwtAuthority] = {}
    for index, element in enumerate(keys):
        try:
            _add(element, authorities, jwt_authorities)
        except (InvalidKey, InvalidToken) as error:
            raise refuse(str(error), f"$.keys[{index}]") from error
    return Document(
        tuple(authorities),
        tuple(jwt_authorities.values()),
        _whole_number(document, "spiffe_sequence", refuse),
        _whole_number(document, "spiffe_refresh_hint", refuse),
    )


def _whole_number(document: Mapping[str, Any], name: str, refuse: Any) -> int | None:
    value = document.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise refuse("expected a whole number", f"$.{name}")
    return value


def _add(element: object, x509_authorities: dict[bytes, None], jwt_authorities: dict[str, JwtAuthority]) -> None:
    if not isinstance(element, dict) or element.get("kty") not in ("EC", "RSA"):
        return
    if element.get("use") == X509_USE:
        if "x5c" in element:
            x509_authorities[_certificate(element["x5c"])] = None
    elif element.get("use") == JWT_USE:
        _add_jwt(element, jwt_authorities)


def _certificate(x5c: object) -> bytes:
    """Only the first value is used (SPIFFE_Trust_Domain_and_Bundle 4.2.3)."""
    if not isinstance(x5c, list) or not x5c or not isinstance(x5c[0], str):
        raise InvalidKey("x5c is no array with a certificate")
    try:
        der = base64.b64decode(x5c[0], validate=True)
        x509.load_der_x509_certificate(der)
    except (binascii.Error, *UNREADABLE) as error:
        raise InvalidKey("x5c holds what is no certificate in base64") from error
    return der


def _add_jwt(element: Mapping[str, Any], jwt_authorities: dict[str, JwtAuthority]) -> None:
    kid = element.get("kid")
    if not isinstance(kid, str) or not 0 < len(kid) <= _MAX_KID:
        raise InvalidKey("a jwt-svid key has no kid that is text")
    if kid in jwt_authorities:
        raise InvalidKey(f"two jwt-svid keys have the kid {kid!r}")
    key = _public_key(element)
    if key is not None:
        der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        jwt_authorities[kid] = JwtAuthority(kid=kid, public_key=der)


def _public_key(element: Mapping[str, Any]) -> PublicKey | None:
    """None: on a curve that we don't know. Raises InvalidKey, InvalidToken."""
    try:
        if element["kty"] == "RSA":
            n, e = _integers(element, "n", "e")
            return check_public_key(rsa.RSAPublicNumbers(e, n).public_key())
        curve = CURVES.get(str(element.get("crv")))
        if curve is None:
            return None
        x, y = _integers(element, "x", "y")
        return check_public_key(ec.EllipticCurvePublicNumbers(x, y, curve()).public_key())
    except ValueError as error:
        raise InvalidKey(f"no public key: {error}") from error


def _integers(element: Mapping[str, Any], *names: str) -> Sequence[int]:
    values = [element.get(name) for name in names]
    if not all(isinstance(value, str) and value for value in values):
        raise InvalidKey(f"{' and '.join(names)} are needed")
    return [int.from_bytes(decode_bytes(str(value)), "big") for value in values]
